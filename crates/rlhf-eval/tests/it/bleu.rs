//! BLEU and self-BLEU against nltk 3.10.4 (`sentence_bleu`, `method1`) and sacrebleu 2.6.0 (`corpus_bleu`).

use rlhf_eval::bleu::{
    Tokens, Translation, corpus_bleu, self_bleu, self_bleu_by_prompt, self_bleu_tokens, sentence_bleu,
};
use rlhf_eval::error::EvalError;

fn close(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < 1e-12, "{what}: expected {expected}, found {found}");
}

fn bleu(n: usize, text: &str, references: &[&str]) -> f64 {
    let words = |text: &'_ str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let references: Vec<Vec<String>> = references.iter().map(|r| words(r)).collect();
    let references: Vec<&[String]> = references.iter().map(Vec::as_slice).collect();
    sentence_bleu(&words(text), &references, n).expect("a reference")
}

#[test]
fn sentences_score_as_in_nltk() {
    let guide =
        "It is a guide to action which ensures that the military always obeys the commands of the party";
    let guides = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ];
    let cat = ["the cat is on the mat", "there is a cat on the mat"];
    let cases: [(usize, &str, &[&str], f64); 14] = [
        // Shorter than n: the missing order counts as 0.1 of 1.
        (3, "the cat", &["the cat sat on the mat"], 0.062_817_073_946_488_43),
        (3, "the cat", &["the cat"], 0.464_158_883_361_278),
        (5, "a b c", &["a b c", "a b c d"], 0.398_107_170_553_497_26),
        // A word counts no more often than in one reference.
        (1, "the the the the the the the", &cat, 2.0 / 7.0),
        (4, "a a a b", &["a a b b a a", "b b a"], 0.472_870_804_501_587_9),
        // Each run has its own reference.
        (2, "of the", &["It is a guide to action", "the guiding of the troops"], 0.223_130_160_148_429_82),
        (4, guide, &guides, 0.504_566_684_005_848_5),
        // The closest length, and of two the shorter.
        (3, "a b c d e f g", &["a b c d e f g h", "a b c d e f"], 1.0),
        (3, "a b c d e f g", &["a b c d e f g h i", "a b c d e f g h"], 0.866_877_899_750_181_7),
        (3, "a dog ran", &["The dog ran", "a dog"], 0.464_158_883_361_278),
        (3, "a b c", &["", "a c b"], 0.170_997_594_667_669_73),
        // Nothing in common, nothing said.
        (2, "x y z", &["a b c"], 0.0),
        (3, "", &["a b"], 0.0),
        (3, "a b c", &[""], 0.0),
    ];
    for (n, text, references, expected) in cases {
        close(bleu(n, text, references), expected, text);
    }
}

#[test]
fn four_sentences_resemble_each_other() {
    let texts = [
        "the cat sat on the mat",
        "the cat sat on a mat",
        "a dog ran in the park",
        "the cat sat on the mat today",
    ];
    let found = self_bleu(&texts, 3).expect("four texts");
    let expected = [1.0, 0.669_432_950_082_169_5, 0.055_032_120_814_910_44, 0.829_826_533_366_243_5];
    for (found, expected) in found.scores.iter().zip(expected) {
        close(*found, expected, "self-BLEU-3");
    }
    close(found.mean, 0.638_572_901_065_830_9, "mean");
    // Two prompts: the second is twice the same text.
    let prompts = [texts.to_vec(), vec!["a b c"; 2]];
    let spread = self_bleu_by_prompt(&prompts, 3).expect("two prompts");
    close(spread.mean, (found.mean + 1.0) / 2.0, "mean over prompts");
    assert_eq!(spread.n, 2);
    // Token ids do as well as words.
    let ids = [vec![7, 8, 9], vec![7, 8, 9, 4]];
    let words = self_bleu(&["seven eight nine", "seven eight nine four"], 3).expect("two texts");
    assert_eq!(self_bleu_tokens(&ids, 3), Ok(words));
}

#[test]
fn the_order_of_texts_and_references_is_nothing() {
    let texts = ["a b c d", "b c d a b", "d a", ""];
    let forward = self_bleu(&texts, 4).expect("four texts");
    let backward = self_bleu(&texts.map(str::to_owned).into_iter().rev().collect::<Vec<_>>(), 4);
    let mut scores = backward.expect("four texts").scores;
    scores.reverse();
    assert_eq!(forward.scores, scores);
}

fn corpus<const R: usize>(
    texts: &[&'static str],
    references: [&[&'static str]; R],
) -> Vec<Translation<&'static str>> {
    let of = |i: usize| references.iter().map(|r| r[i]).collect();
    texts.iter().enumerate().map(|(i, text)| Translation { text: *text, references: of(i) }).collect()
}

#[test]
fn a_corpus_scores_as_in_sacrebleu() {
    let three = corpus(
        &["The cat sat on the mat, didn't it?", "It costs $3.50 (about 4-5 euros).", "a dog"],
        [
            &["The cat sat on a mat, didn't it?", "It costs $3.50, about 4-5 euros.", "the dog ran"],
            &["A cat was sitting on the mat.", "The price: $3.50 (4-5 euros)", "a dog is running"],
        ],
    );
    let plain = corpus_bleu(&three, Tokens::WhiteSpace).expect("three texts");
    close(plain.bleu, 0.354_122_143_011_927_4, "white space");
    close(plain.brevity_penalty, (-1.0 / 16.0f64).exp(), "brevity penalty");
    assert_eq!((plain.length, plain.reference_length), (16, 17));
    for (found, expected) in plain.precisions.iter().zip([14.0 / 16.0, 8.0 / 13.0, 0.3, 0.125]) {
        close(*found, expected, "precision");
    }
    let wmt = corpus_bleu(&three, Tokens::Wmt13a).expect("three texts");
    close(wmt.bleu, 0.731_216_196_843_013_1, "13a");
    assert_eq!((wmt.length, wmt.reference_length), (24, 24));
    // Three orders without a match: ½, ¼ and ⅛ of one.
    let halved =
        corpus(&["the big cat", "no match here now"], [&["the large cat sat", "some other words stand"]]);
    let halved = corpus_bleu(&halved, Tokens::WhiteSpace).expect("two texts");
    close(halved.bleu, 0.113_860_506_605_569_3, "smoothed");
    for (found, expected) in halved.precisions.iter().zip([2.0 / 7.0, 0.1, 0.25 / 3.0, 0.125]) {
        close(*found, expected, "precision");
    }
}

#[test]
fn a_corpus_without_long_runs_or_matches_scores_nothing() {
    let zero = |texts: &[&'static str], references: &[&'static str]| {
        corpus_bleu(&corpus(texts, [references]), Tokens::WhiteSpace).expect("a text").bleu
    };
    assert!(zero(&["a b c"], &["a b c"]).abs() <= 0.0, "no run of four");
    assert!(zero(&["a b c d e"], &["f g h i j"]).abs() <= 0.0);
    assert!(zero(&[""], &["f g"]).abs() <= 0.0 && zero(&[""], &[""]).abs() <= 0.0);
}

#[test]
fn the_13a_rule_parts_punctuation_as_wmt_does() {
    for (text, expected) in [
        ("(see [1])", "( see [ 1 ] )"),
        ("&quot;x&quot; &amp; y &lt;b&gt;", "\" x \" & y < b >"),
        ("A.B.C. wait...", "A . B . C . wait . . ."),
        ("foo-bar 10-20 -5", "foo-bar 10 - 20 -5"),
        ("a dash-\nbreak and\nline<skipped>", "a dashbreak and line"),
        ("3.5% of 1,000. {~}", "3.5 % of 1,000 . { ~ }"),
        ("", ""),
    ] {
        assert_eq!(Tokens::Wmt13a.cut(text).join(" "), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_scored_is_an_error() {
    let one = self_bleu(&["alone"], 3).expect_err("one text");
    assert_eq!(one.to_string(), "self-BLEU, texts of one prompt: expected at least 2 values, found 1");
    let bare = sentence_bleu(&["a"], &[], 3).expect_err("no reference");
    assert!(matches!(bare, EvalError::TooFew { expected: 1, found: 0, .. }));
    let n = self_bleu(&["a", "b"], 0).expect_err("runs of none");
    assert_eq!(n.to_string(), "n of the runs of words: expected at least 1, found 0");
    let bare =
        [Translation { text: "a", references: vec!["a"] }, Translation { text: "b", references: vec![] }];
    assert_eq!(
        corpus_bleu(&bare, Tokens::WhiteSpace).expect_err("no reference").to_string(),
        "corpus BLEU, references of a text: expected at least one, found 0 at index 1"
    );
    assert!(corpus_bleu::<&str>(&[], Tokens::Wmt13a).is_err());
}
