//! Lengths, variety and self-similarity on texts small enough to count by hand.

use approx::assert_abs_diff_eq;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use rlhf_eval::error::EvalError;
use rlhf_eval::meteor::{meteor, meteor_symmetric};
use rlhf_eval::stats::Tally;
use rlhf_eval::text::*;

const NONE: [&str; 0] = [];

fn rng() -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(11)
}

/// Twelve prompts, the first of them three times, with texts that differ in length and overlap.
fn completions() -> Vec<(String, String)> {
    let words = ["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "home"];
    (0..14)
        .map(|i: usize| {
            let text: Vec<&str> = (0..3 + i % 5).map(|k| words[(i * 3 + k * k) % 10]).collect();
            (format!("prompt {}", i.saturating_sub(2)), text.join(" "))
        })
        .collect()
}

fn borrowed(owned: &[(String, String)]) -> Vec<Completion<'_>> {
    owned.iter().map(|(prompt, text)| Completion { prompt, text }).collect()
}

#[test]
fn lengths_in_words_and_characters() {
    let found = lengths(&["naïve  idea", "", "one two three"]).unwrap();
    assert_abs_diff_eq!(found.words.mean, 5.0 / 3.0, epsilon = 1e-12); // 2, 0, 3
    assert_abs_diff_eq!(found.words.sd, (7.0_f64 / 3.0).sqrt(), epsilon = 1e-12);
    assert_abs_diff_eq!(found.characters.mean, 8.0, epsilon = 1e-12); // 11, 0, 13
    assert_abs_diff_eq!(found.characters.max, 13.0, epsilon = 1e-12);
    assert_abs_diff_eq!(found.words.min, 0.0, epsilon = 1e-12);
    assert_eq!(found.words.n, 3);
    assert_abs_diff_eq!(lengths(&["one"]).unwrap().words.sd, 0.0, epsilon = 1e-12);
    assert!(matches!(lengths(&NONE), Err(EvalError::TooFew { .. })));
}

#[test]
fn distinct_runs() {
    assert_eq!(distinct_n(&["a b a", "b A"], 1).unwrap(), Tally { hits: 3, total: 5 }); // a b A
    assert_eq!(distinct_n(&["a b a b", "a b c"], 2).unwrap(), Tally { hits: 3, total: 5 });
    // No run crosses from one text into the next.
    assert_eq!(distinct_n(&["a", "b c"], 2).unwrap(), Tally { hits: 1, total: 1 });
    assert!(matches!(distinct_n(&["a b"], 3), Err(EvalError::TooFew { .. })));
    assert!(matches!(distinct_n(&["a b"], 0), Err(EvalError::Range { .. })));
}

#[test]
fn repeated_runs() {
    // "a b a b a": ab ba ab ba, two of them seen before; the second text starts afresh.
    assert_eq!(repetition(&["a b a b a", "a b"], 2).unwrap(), Tally { hits: 2, total: 5 });
    assert_eq!(repetition(&["very very very good"], 1).unwrap(), Tally { hits: 2, total: 4 });
    assert!(matches!(repetition(&NONE, 1), Err(EvalError::TooFew { .. })));
}

#[test]
fn all_pairs_are_the_pairs_of_different_prompts() {
    let owned = completions();
    let list = borrowed(&owned);
    let found = self_similarity_all(&list).unwrap();
    let mut scores = Vec::new();
    for (i, a) in list.iter().enumerate() {
        for b in list.iter().skip(i + 1).filter(|b| b.prompt != a.prompt) {
            scores.push(meteor_symmetric(a.text, b.text));
        }
    }
    assert_eq!((found.n, scores.len()), (88, 88)); // 14·13/2 - 3 within the first prompt
    let mean = scores.iter().sum::<f64>() / 88.0;
    assert_abs_diff_eq!(found.mean, mean, epsilon = 1e-12);
    // The mean over ordered pairs in one direction each is the same.
    let ordered = self_similarity(&list, Pairs::Ordered(usize::MAX), &mut rng()).unwrap();
    assert_eq!(ordered.n, 176);
    assert_abs_diff_eq!(ordered.mean, mean, epsilon = 1e-12);
    let unordered = self_similarity(&list, Pairs::Unordered(1000), &mut rng()).unwrap();
    assert_eq!(unordered.n, 88);
    assert_abs_diff_eq!(unordered.mean, mean, epsilon = 1e-12);
}

#[test]
fn drawn_pairs_come_from_the_rng_alone() {
    let owned = completions();
    let list = borrowed(&owned);
    for pairs in [Pairs::Unordered(16), Pairs::Ordered(16), Pairs::Unordered(80)] {
        let draw = |seed| self_similarity(&list, pairs, &mut ChaCha12Rng::seed_from_u64(seed)).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}

/// Over many seeds the drawn mean averages to the mean over all pairs, whichever way the pairs are drawn.
#[test]
fn drawn_pairs_are_unbiased() {
    let owned = completions();
    let list = borrowed(&owned);
    let all = self_similarity_all(&list).unwrap();
    for (pairs, n) in [(Pairs::Unordered(20), 20.0), (Pairs::Unordered(60), 60.0), (Pairs::Ordered(20), 20.0)]
    {
        let seeds = 300;
        let sum: f64 = (0..seeds)
            .map(|seed| self_similarity(&list, pairs, &mut ChaCha12Rng::seed_from_u64(seed)).unwrap().mean)
            .sum();
        // Four standard errors; a direction drawn at random adds a little to the spread, hence five.
        let bound = 5.0 * all.sd / (n * seeds as f64).sqrt();
        assert!((sum / seeds as f64 - all.mean).abs() < bound, "{pairs:?}");
    }
}

#[test]
fn two_completions() {
    let list = [("x", "the cat"), ("y", "the cat sat")].map(|(prompt, text)| Completion { prompt, text });
    let found = self_similarity(&list, Pairs::Unordered(5), &mut rng()).unwrap();
    assert_abs_diff_eq!(found.mean, 0.769_704_43, epsilon = 5e-9);
    let one = self_similarity(&list, Pairs::Ordered(1), &mut rng()).unwrap().mean;
    let ways = [meteor("the cat", "the cat sat"), meteor("the cat sat", "the cat")];
    assert!(ways.iter().any(|way| (way - one).abs() < 1e-12));
}

#[test]
fn nothing_to_compare() {
    let same = [("x", "a"), ("x", "b")].map(|(prompt, text)| Completion { prompt, text });
    for list in [&same[..], &same[..1], &[]] {
        let expected = "self-similarity, pairs of completions to different prompts: \
                        expected at least 1 values, found 0";
        assert_eq!(self_similarity_all(list).unwrap_err().to_string(), expected);
        assert_eq!(self_similarity(list, Pairs::Unordered(4), &mut rng()).unwrap_err().to_string(), expected);
    }
    let asked = self_similarity(&same, Pairs::Ordered(0), &mut rng());
    assert!(matches!(asked, Err(EvalError::TooFew { .. })));
}
