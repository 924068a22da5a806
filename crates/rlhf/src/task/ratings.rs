//! Texts that people rated: a language model continues their first words, and reward models learn
//! what people like.
//!
//! | who | texts | ratings |
//! | --- | --- | --- |
//! | training reward model | 40 %: the proxy half | those at even places of the list |
//! | judge | another 40 %: the judge half | those at odd places |
//! | language model, training prompts | both halves, as plain text | none |
//! | perplexity, held-out correlation and pairs, evaluation prompts | the other 20 % | all |
//!
//! So the two reward models share neither texts nor ratings, and whatever measures a model has texts
//! that no model saw. Files name no raters; raters are told apart by their place in the list, which
//! is the only mark they have there.
//!
//! Before any split, texts are tidied ([`tidy`]) and duplicates removed ([`key`]); the first of equal
//! texts stays, with its own ratings. There is no exact gold reward: the judge stands for it
//! ([`Gold::Judge`]).

use std::collections::HashSet;
use std::path::Path;

use rand::Rng;
use rlhf_core::rng::stream;

use crate::data::{self, Layout, OnBadRecord, Rating, Scale};
use crate::error::Error;
use crate::task::{Example, Gold, Pair, Rated, Sizes, TaskData, first, shuffle};

/// Two texts make a pair when their means differ by more: one rater agrees with the order of the
/// means on 94.5 % of such pairs of movie snippets.
const MIN_GAP: f64 = 0.5;
/// How often the texts are paired anew before the pairs are as many as there can be.
const MAX_PASSES: u64 = 64;
/// Fewer distinct texts than this cannot be split into 40 %, 40 % and 20 % with a pair in each.
const MIN_TEXTS: usize = 10;

/// Where rated texts are and how they are read.
#[derive(Debug, Clone, Copy)]
pub struct RatingsFile<'a> {
    /// The file.
    pub path: &'a Path,
    /// Range of the ratings; each rating must stand in the file.
    pub scale: Scale,
    /// What a record at fault does.
    pub on_bad_record: OnBadRecord,
    /// Words of a text that make a prompt, at least 1.
    pub prompt_words: usize,
}

/// The task of a file.
///
/// # Errors
/// Those of the reader ([`data::ratings`]), and those of [`ratings`].
pub fn load(seed: u64, sizes: &Sizes, file: &RatingsFile<'_>) -> Result<TaskData, Error> {
    let loaded = data::ratings(file.path, &Layout::default(), file.scale)?.load(file.on_bad_record)?;
    let mut task = ratings(seed, sizes, file.prompt_words, &loaded.records)?;
    if let Some(found) = loaded.first_skipped {
        task.notes.insert(0, format!("{} bad records passed over, the first: {found}", loaded.skipped));
    }
    Ok(task)
}

/// The task of rated texts.
///
/// # Errors
/// [`Error::Config`] when `prompt_words` is 0, when fewer than ten distinct texts with two ratings
/// are left, or when a part has no pair or prompt.
pub fn ratings(seed: u64, sizes: &Sizes, prompt_words: usize, records: &[Rating]) -> Result<TaskData, Error> {
    if prompt_words == 0 {
        return Err(Error::config("task ratings", "task.prompt_words", "at least 1", "0"));
    }
    let mut task = TaskData::new("ratings", Gold::Judge);
    let mut texts = distinct(records, &mut task.notes)?;
    shuffle(&mut texts, &mut stream(seed, "ratings/split", 0, 0));
    let (proxy, rest) = texts.split_at(texts.len() * 2 / 5);
    let (judge, heldout) = rest.split_at(proxy.len());

    task.train_rated = proxy.iter().map(|t| t.rated(Raters::Even)).collect();
    task.judge_rated = judge.iter().map(|t| t.rated(Raters::Odd)).collect();
    task.heldout_rated = heldout.iter().map(|t| t.rated(Raters::All)).collect();
    let pairs = |purpose, rated: &[Rated]| pairs(seed, purpose, sizes.n_preferences, rated);
    task.train_preferences = pairs("ratings/train", &task.train_rated)?;
    task.judge_preferences = pairs("ratings/judge", &task.judge_rated)?;
    task.heldout_preferences = pairs("ratings/heldout", &task.heldout_rated)?;

    // Both halves in turn, so that a smaller `n_sft` takes as much of each.
    let read = proxy.iter().zip(judge).flat_map(|(a, b)| [a, b]);
    let examples: Vec<Example> = read.filter_map(|t| opening(&t.text, prompt_words)).collect();
    task.sft_heldout = heldout.iter().filter_map(|t| opening(&t.text, prompt_words)).collect();
    let none = HashSet::new();
    task.eval_prompts = prompts(&task.sft_heldout, sizes.n_eval_prompts, &none);
    task.train_prompts = prompts(&examples, sizes.n_prompts, &task.eval_prompts.iter().cloned().collect());
    task.sft = first(sizes.n_sft, examples);
    finish(task, prompt_words)
}

/// Which of the ratings count.
#[derive(Clone, Copy)]
enum Raters {
    Even,
    Odd,
    All,
}

struct Text<'a> {
    text: String,
    ratings: &'a [f64],
}

impl Text<'_> {
    fn rated(&self, raters: Raters) -> Rated {
        let (start, step) = match raters {
            Raters::Even => (0, 2),
            Raters::Odd => (1, 2),
            Raters::All => (0, 1),
        };
        let of: Vec<f64> = self.ratings.iter().skip(start).step_by(step).copied().collect();
        let mean = of.iter().sum::<f64>() / of.len() as f64;
        Rated { text: self.text.clone(), mean, n_ratings: of.len() }
    }
}

/// A text as it should be read: typewriter quotes for the doubled and curly ones that old files
/// have, `&` for its entity, one space between words.
pub fn tidy(text: &str) -> String {
    let text = text.replace("''", "\"").replace("&amp;", "&").replace(['`', '’', '‘'], "'");
    text.split_whitespace().collect::<Vec<&str>>().join(" ")
}

/// What makes two texts the same: letters and digits in lower case, nothing else.
pub fn key(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The texts that can be used, each once.
fn distinct<'a>(records: &'a [Rating], notes: &mut Vec<String>) -> Result<Vec<Text<'a>>, Error> {
    let (mut seen, mut texts) = (HashSet::new(), Vec::new());
    let (mut n_blank, mut n_alone, mut n_duplicate) = (0, 0, 0);
    for record in records {
        let text = tidy(&record.text);
        let key = key(&text);
        if key.is_empty() {
            n_blank += 1;
        } else if record.ratings.len() < 2 {
            n_alone += 1;
        } else if seen.insert(key) {
            texts.push(Text { text, ratings: &record.ratings });
        } else {
            n_duplicate += 1;
        }
    }
    let found = format!(
        "{} texts: {n_duplicate} duplicates removed, {n_alone} with fewer than two ratings, {n_blank} without a letter or digit; {} left",
        records.len(),
        texts.len()
    );
    if texts.len() < MIN_TEXTS {
        let expected = format!("at least {MIN_TEXTS} distinct texts with two ratings each");
        return Err(Error::config("task ratings", "task.path", expected, found));
    }
    notes.push(found);
    Ok(texts)
}

/// The first words as prompt and the rest as completion; none where nothing is left to say.
fn opening(text: &str, prompt_words: usize) -> Option<Example> {
    let (cut, _) = text.match_indices(' ').nth(prompt_words - 1)?;
    Some(Example { prompt: text[..cut].to_owned(), completion: text[cut..].to_owned() })
}

/// The first `n` distinct prompts (all for 0) that are not in `taken`.
fn prompts(examples: &[Example], n: usize, taken: &HashSet<String>) -> Vec<String> {
    let mut seen = taken.clone();
    let new = examples.iter().filter(|e| seen.insert(e.prompt.clone())).map(|e| e.prompt.clone());
    if n == 0 { new.collect() } else { new.take(n).collect() }
}

/// How rated texts become pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pairing {
    /// The means of a pair differ by more.
    pub min_gap: f64,
    /// Pairs for each text of a part, at least 1.
    pub pairs_per_text: usize,
}

/// Pairs of one part of the texts.
#[derive(Debug, Clone, PartialEq)]
pub struct PairedPart {
    /// The better text of each pair is the chosen one; there is no prompt.
    pub pairs: Vec<Pair>,
    /// So many of them, the first, share no text with each other.
    pub n_apart: usize,
}

/// Distinct texts in `n_parts` parts of equal size, each with pairs of its own: no text is in two parts,
/// so that what learns from some parts has never seen the texts of the others. All ratings of a text
/// count. Every model that is to be compared learns from the same pairs.
///
/// # Errors
/// [`Error::Config`] when fewer than ten distinct texts with two ratings are left, or when a part has no
/// pair.
pub fn paired_parts(
    seed: u64,
    n_parts: usize,
    how: Pairing,
    records: &[Rating],
    notes: &mut Vec<String>,
) -> Result<Vec<PairedPart>, Error> {
    let mut texts = distinct(records, notes)?;
    shuffle(&mut texts, &mut stream(seed, "ratings/parts", 0, 0));
    let part = |p: usize| {
        let rated: Vec<Rated> = texts.iter().skip(p).step_by(n_parts).map(|t| t.rated(Raters::All)).collect();
        let n = rated.len() * how.pairs_per_text;
        gathered(seed, &format!("ratings/part={p}"), n, how.min_gap, &rated)
    };
    (0..n_parts).map(part).collect()
}

/// At most `n` pairs (for 0: as many as texts), of means more than [`MIN_GAP`] apart.
fn pairs(seed: u64, purpose: &str, n: usize, rated: &[Rated]) -> Result<Vec<Pair>, Error> {
    let n = if n == 0 { rated.len() } else { n };
    Ok(gathered(seed, purpose, n, MIN_GAP, rated)?.pairs)
}

/// Neighbours of a random order that differ enough, and of another order until there are `n`. So each
/// text is in about as many pairs as any other.
fn gathered(seed: u64, purpose: &str, n: usize, min_gap: f64, rated: &[Rated]) -> Result<PairedPart, Error> {
    let mut order: Vec<usize> = (0..rated.len()).collect();
    let (mut seen, mut pairs, mut n_apart) = (HashSet::new(), Vec::new(), 0);
    for pass in 0..MAX_PASSES {
        pass_over(&mut order, &mut stream(seed, purpose, pass, 0), |a, b| {
            let (better, worse) = if rated[a].mean > rated[b].mean { (a, b) } else { (b, a) };
            let differ = rated[better].mean - rated[worse].mean > min_gap;
            if differ && pairs.len() < n && seen.insert((better, worse)) {
                let [chosen, rejected] = [better, worse].map(|i| rated[i].text.clone());
                pairs.push(Pair { prompt: String::new(), chosen, rejected });
            }
        });
        if pass == 0 {
            n_apart = pairs.len();
        }
    }
    if pairs.is_empty() {
        let expected = format!("two texts whose means differ by more than {min_gap}");
        let found = format!("none among {} ({purpose})", rated.len());
        return Err(Error::config("task ratings", "task.path", expected, found));
    }
    Ok(PairedPart { pairs, n_apart })
}

fn pass_over(order: &mut [usize], rng: &mut impl Rng, mut visit: impl FnMut(usize, usize)) {
    shuffle(order, rng);
    for pair in order.chunks_exact(2) {
        visit(pair[0], pair[1]);
    }
}

fn finish(mut task: TaskData, prompt_words: usize) -> Result<TaskData, Error> {
    for (what, n) in [
        ("training prompts", task.train_prompts.len()),
        ("evaluation prompts", task.eval_prompts.len()),
        ("texts to learn from", task.sft.len()),
    ] {
        if n == 0 {
            let expected = format!("texts of more than {prompt_words} words, for {what}");
            return Err(Error::config("task ratings", "task.prompt_words", expected, "none"));
        }
    }
    task.notes.extend([
        format!(
            "texts: {} for the training reward model (ratings at even places), {} for the judge (odd places), {} held out (all ratings)",
            task.train_rated.len(),
            task.judge_rated.len(),
            task.heldout_rated.len()
        ),
        format!(
            "pairs with means more than {MIN_GAP} apart: {} training, {} judge's, {} held out",
            task.train_preferences.len(),
            task.judge_preferences.len(),
            task.heldout_preferences.len()
        ),
        format!(
            "language model: {} texts of the two halves; prompts are their first {prompt_words} words: {} to train, {} to evaluate, from the held-out texts",
            task.sft.len(),
            task.train_prompts.len(),
            task.eval_prompts.len()
        ),
        "no exact gold reward: the judge, fitted to other texts and other raters, stands for it".to_owned(),
    ]);
    Ok(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { n_sft: 0, n_preferences: 30, n_prompts: 0, n_eval_prompts: 5 };

    /// Text i, rated i mod 7 − 3 at even places and one less at odd ones.
    fn records(n: usize) -> Vec<Rating> {
        let record = |i: usize| {
            let even = (i % 7) as f64 - 3.0;
            let ratings = vec![even, even - 1.0, even, even - 1.0];
            Rating { id: i.to_string(), text: format!("Film{i} is  number {i}."), ratings, mean: even - 0.5 }
        };
        (0..n).map(record).collect()
    }

    #[test]
    fn old_quotes_and_entities_are_tidied() {
        assert_eq!(tidy("the  ''new''\tPB&amp;J `film' it’s"), "the \"new\" PB&J 'film' it's");
        assert_eq!(key("The ''New''  film!"), key("the new film"));
        assert_eq!(key("a b-C 1"), "abc1");
    }

    #[test]
    fn duplicates_go_before_the_split() {
        let mut all = records(50);
        all.push(Rating { text: "FILM3 is number 3".to_owned(), ..all[9].clone() });
        all.push(Rating { text: "film3, is number: 3!".to_owned(), ..all[9].clone() });
        all.push(Rating { ratings: vec![1.0], text: "alone".to_owned(), ..all[9].clone() });
        let task = ratings(0, &SIZES, 2, &all).expect("enough texts");
        assert_eq!(
            task.notes[0],
            "53 texts: 2 duplicates removed, 1 with fewer than two ratings, 0 without a letter or digit; 50 left"
        );
        assert_eq!((task.train_rated.len(), task.judge_rated.len(), task.heldout_rated.len()), (20, 20, 10));
    }

    #[test]
    fn halves_share_neither_texts_nor_ratings() {
        let all = records(100);
        let task = ratings(3, &SIZES, 2, &all).expect("enough texts");
        let number = |text: &str| -> usize {
            text.rsplit(' ').next().and_then(|w| w.trim_end_matches('.').parse().ok()).expect("our text")
        };
        let mut seen = HashSet::new();
        for (rated, shift, n) in
            [(&task.train_rated, 0.0, 2), (&task.judge_rated, -1.0, 2), (&task.heldout_rated, -0.5, 4)]
        {
            for text in rated {
                let i = number(&text.text);
                assert!(seen.insert(i), "{i} twice");
                assert_eq!(text.mean.to_bits(), ((i % 7) as f64 - 3.0 + shift).to_bits());
                assert_eq!(text.n_ratings, n);
            }
        }
        assert_eq!(seen.len(), 100);
        let heldout: HashSet<usize> = task.heldout_rated.iter().map(|r| number(&r.text)).collect();
        assert!(task.sft.iter().all(|e| !heldout.contains(&number(&e.completion))));
        assert!(task.sft_heldout.iter().all(|e| heldout.contains(&number(&e.completion))));
        let train: HashSet<&String> = task.train_prompts.iter().collect();
        assert_eq!((task.eval_prompts.len(), train.len()), (5, 80));
        assert!(task.eval_prompts.iter().all(|p| !train.contains(p)));
    }

    #[test]
    fn pairs_differ_enough_and_none_comes_twice() {
        let task = ratings(1, &SIZES, 2, &records(100)).expect("enough texts");
        let mean = |text: &str| task.train_rated.iter().find(|r| r.text == text).expect("of this half").mean;
        assert_eq!(task.train_preferences.len(), 30);
        assert!(task.train_preferences.iter().all(|p| mean(&p.chosen) - mean(&p.rejected) > MIN_GAP));
        let distinct: HashSet<&Pair> = task.train_preferences.iter().collect();
        assert_eq!(distinct.len(), 30);
    }

    #[test]
    fn parts_share_no_text_and_their_first_pairs_neither() {
        let how = Pairing { min_gap: 1.5, pairs_per_text: 2 };
        let parts = paired_parts(4, 3, how, &records(90), &mut Vec::new()).expect("enough texts");
        let texts = |pairs: &[Pair]| -> Vec<String> {
            pairs.iter().flat_map(|p| [p.chosen.clone(), p.rejected.clone()]).collect()
        };
        let number = |text: &str| -> usize { text[4..text.find(' ').expect("words")].parse().expect("ours") };
        let mut before: HashSet<String> = HashSet::new();
        for part in &parts {
            assert_eq!(part.pairs.len(), 60);
            let apart = texts(&part.pairs[..part.n_apart]);
            assert_eq!(apart.iter().collect::<HashSet<_>>().len(), 2 * part.n_apart);
            assert!(part.n_apart > 5 && part.n_apart <= 15, "{}", part.n_apart);
            let own: HashSet<String> = texts(&part.pairs).into_iter().collect();
            assert!(own.is_disjoint(&before));
            before.extend(own);
            assert!(part.pairs.iter().all(|p| number(&p.chosen) % 7 > number(&p.rejected) % 7 + 1));
        }
    }

    #[test]
    fn a_prompt_and_its_completion_are_the_text() {
        let example = opening("Film7 is number 7.", 2).expect("four words");
        assert_eq!((example.prompt.as_str(), example.completion.as_str()), ("Film7 is", " number 7."));
        assert_eq!(opening("Film7 is", 2), None);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let digest = |seed| {
            let task = ratings(seed, &SIZES, 2, &records(60)).expect("enough texts");
            blake3::hash(&serde_json::to_vec(&task).expect("plain data")).to_hex()[..16].to_owned()
        };
        assert_eq!(digest(5), "cf9b4aeab9bab41f");
        assert_ne!(digest(6), digest(5));
    }

    #[test]
    fn too_little_is_an_error_that_counts() {
        let error = ratings(0, &SIZES, 2, &records(9)).expect_err("nine texts");
        assert_eq!(
            error.to_string(),
            "task ratings: task.path: expected at least 10 distinct texts with two ratings each, found 9 texts: \
             0 duplicates removed, 0 with fewer than two ratings, 0 without a letter or digit; 9 left"
        );
        assert!(ratings(0, &SIZES, 0, &records(20)).is_err());
        let error = ratings(0, &SIZES, 4, &records(20)).expect_err("four words each");
        assert!(error.to_string().contains("texts of more than 4 words"), "{error}");
        let flat: Vec<Rating> =
            records(20).into_iter().map(|r| Rating { ratings: vec![1.0, 1.0], ..r }).collect();
        let error = ratings(0, &SIZES, 2, &flat).expect_err("no pair differs");
        assert!(error.to_string().contains("none among 8 (ratings/train)"), "{error}");
    }
}
