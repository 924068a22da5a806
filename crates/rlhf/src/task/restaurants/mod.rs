//! Invented restaurants: a meaning in, a description out. Made by this code from a seed, so the
//! truth is known.
//!
//! A prompt is `name: The Blue Fig, type: pub, food: Thai, near: station =>`; a completion is one to
//! five short sentences. References are imperfect ([`Faults::REFERENCE`]), so that a model trained on
//! them has something left to learn; the gold reward ([`gold`]) is exact; the reward models see it
//! only through the comparisons of biased, noisy [`raters`].
//!
//! No prompt is in two splits, and no text is shared by the pairs of the two reward models and the
//! held-out ones.

use std::collections::HashSet;

use rand::{Rng, RngExt};
use rlhf_core::rng::stream;

use crate::error::Error;
use crate::task::{Example, Gold, Pair, Sizes, TaskData, shuffle};

pub mod gold;
pub mod grammar;
pub mod oracle;
pub mod raters;
pub mod words;

pub use gold::{GoldParts, GoldReward, PromptError, gold_parts};
pub use grammar::{Faults, describe};
pub use oracle::{OracleKind, RestaurantOracle};
pub use raters::Raters;
pub use words::{Fact, Meaning, Name, Slot};

/// A limit that keeps the search for new meanings short: there are 952,272 of them.
const MAX_SIZE: usize = 50_000;
/// Of the fine-tuning examples, one in so many more is made for the perplexity.
const HELD_OUT: usize = 10;
/// Of the pairs, one in so many more is made to measure both reward models.
const HELD_OUT_PAIRS: usize = 4;
/// The least gap of the gold reward in a held-out pair: what a mark too many costs.
const MIN_GAP: f64 = 0.25;

/// The task of a seed.
///
/// # Errors
/// A size that is 0 or above 50,000 ([`Error::Config`]).
pub fn restaurants(seed: u64, sizes: &Sizes) -> Result<TaskData, Error> {
    check(sizes)?;
    let mut maker = Maker { seed, meanings: HashSet::new(), texts: HashSet::new() };
    let mut task = TaskData::new("restaurants", Gold::Restaurants);
    task.eval_prompts = maker.prompts("restaurants/eval", sizes.n_eval_prompts);
    task.sft = maker.examples("restaurants/sft", sizes.n_sft);
    task.sft_heldout = maker.examples("restaurants/sft-heldout", sizes.n_sft.div_ceil(HELD_OUT));
    task.train_prompts = maker.prompts("restaurants/prompts", sizes.n_prompts);
    task.train_preferences =
        maker.pairs("restaurants/train", sizes.n_preferences, Order::Rated(Raters::TRAIN));
    task.judge_preferences =
        maker.pairs("restaurants/judge", sizes.n_preferences, Order::Rated(Raters::JUDGE));
    let n_heldout = sizes.n_preferences.div_ceil(HELD_OUT_PAIRS);
    task.heldout_preferences = maker.pairs("restaurants/heldout", n_heldout, Order::Gold);
    task.notes = notes(&task);
    Ok(task)
}

fn check(sizes: &Sizes) -> Result<(), Error> {
    let fields = [
        ("n_sft", sizes.n_sft),
        ("n_preferences", sizes.n_preferences),
        ("n_prompts", sizes.n_prompts),
        ("n_eval_prompts", sizes.n_eval_prompts),
    ];
    for (field, size) in fields {
        if size == 0 || size > MAX_SIZE {
            let expected = format!("1 to {MAX_SIZE}");
            return Err(Error::config(
                "task restaurants",
                format!("task.{field}"),
                expected,
                size.to_string(),
            ));
        }
    }
    Ok(())
}

/// What puts a pair in order.
#[derive(Clone, Copy)]
enum Order {
    /// Raters, with their bias and noise.
    Rated(Raters),
    /// The gold reward; pairs that it hardly tells apart are left out.
    Gold,
}

/// Makes splits that share nothing.
struct Maker {
    seed: u64,
    meanings: HashSet<Meaning>,
    texts: HashSet<String>,
}

impl Maker {
    /// A meaning that no split has yet.
    fn meaning(&mut self, rng: &mut impl Rng) -> Meaning {
        loop {
            let meaning = random_meaning(rng);
            if self.meanings.insert(meaning.clone()) {
                return meaning;
            }
        }
    }

    fn prompts(&mut self, purpose: &str, n: usize) -> Vec<String> {
        (0..n as u64).map(|i| self.meaning(&mut stream(self.seed, purpose, i, 0)).to_string()).collect()
    }

    fn examples(&mut self, purpose: &str, n: usize) -> Vec<Example> {
        let example = |i| {
            let mut rng = stream(self.seed, purpose, i, 0);
            let meaning = self.meaning(&mut rng);
            let completion = describe(&meaning, &Faults::REFERENCE, &mut rng);
            Example { prompt: meaning.to_string(), completion }
        };
        (0..n as u64).map(example).collect()
    }

    fn pairs(&mut self, purpose: &str, n: usize, order: Order) -> Vec<Pair> {
        (0..n as u64).map(|i| self.pair(order, &mut stream(self.seed, purpose, i, 0))).collect()
    }

    /// Two new texts of a new meaning. A name or a fact that is left out can make a text that another
    /// meaning has too: such pairs are drawn again.
    fn pair(&mut self, order: Order, rng: &mut impl Rng) -> Pair {
        let meaning = self.meaning(rng);
        loop {
            let texts = [(); 2].map(|()| describe(&meaning, &Faults::COMPARED, rng));
            if texts[0] == texts[1] || texts.iter().any(|t| self.texts.contains(t)) {
                continue;
            }
            let [chosen, rejected] = match order {
                Order::Rated(raters) => raters.order(&meaning, texts, rng),
                Order::Gold => match by_gold(&meaning, texts) {
                    Some(ordered) => ordered,
                    None => continue,
                },
            };
            self.texts.extend([chosen.clone(), rejected.clone()]);
            return Pair { prompt: meaning.to_string(), chosen, rejected };
        }
    }
}

fn by_gold(meaning: &Meaning, [a, b]: [String; 2]) -> Option<[String; 2]> {
    let gap = gold_parts(meaning, &a).total() - gold_parts(meaning, &b).total();
    (gap.abs() >= MIN_GAP).then_some(if gap > 0.0 { [a, b] } else { [b, a] })
}

/// A name and two to four facts, all equally likely.
fn random_meaning(rng: &mut impl Rng) -> Meaning {
    let name = Name {
        adjective: rng.random_range(0..words::ADJECTIVES.len()),
        noun: rng.random_range(0..words::NOUNS.len()),
    };
    let mut slots = Slot::ALL;
    shuffle(&mut slots, rng);
    let n = rng.random_range(2..=4);
    slots[..n].sort();
    let facts = slots[..n].iter().map(|&slot| Fact { slot, value: rng.random_range(0..slot.values().len()) });
    Meaning { name, facts: facts.collect() }
}

/// What the report says of the data: all of it counted, nothing assumed.
fn notes(task: &TaskData) -> Vec<String> {
    let parts: Vec<GoldParts> =
        task.sft.iter().filter_map(|e| GoldReward.parts(&e.prompt, &e.completion)).collect();
    let n = parts.len() as f64;
    let mean = |f: fn(&GoldParts) -> f64| parts.iter().map(f).sum::<f64>() / n;
    let right = 100.0 * mean(|p| f64::from(u8::from(p.all_right())));
    let (words, gold) = (mean(|p| p.words as f64), mean(GoldParts::total));
    vec![
        format!(
            "{} references: {right:.1} % have every slot right; mean {words:.1} words, mean gold {gold:.3}",
            task.sft.len()
        ),
        agreement("training", &task.train_preferences),
        agreement("judge's", &task.judge_preferences),
        format!("{} held-out pairs in the order of the gold reward", task.heldout_preferences.len()),
        "the gold reward is an exact rule: 2 S + B/2 + T/2 − R/2 (slots, brevity, tone, repetition)"
            .to_owned(),
    ]
}

/// How often a group of raters follows the gold reward and how often it takes the longer text.
fn agreement(whose: &str, pairs: &[Pair]) -> String {
    let share = |gaps: Vec<f64>| {
        let told: Vec<&f64> = gaps.iter().filter(|g| g.abs() > 1e-9).collect();
        100.0 * told.iter().filter(|g| ***g > 0.0).count() as f64 / told.len().max(1) as f64
    };
    let gap = |f: fn(&GoldParts) -> f64| {
        let value = |p: &Pair, text: &str| GoldReward.parts(&p.prompt, text).map_or(0.0, |x| f(&x));
        pairs.iter().map(|p| value(p, &p.chosen) - value(p, &p.rejected)).collect::<Vec<f64>>()
    };
    format!(
        "{} {whose} pairs: the raters follow the gold reward in {:.1} % and take the longer text in {:.1} %",
        pairs.len(),
        share(gap(GoldParts::total)),
        share(gap(|p| p.words as f64)),
    )
}

#[cfg(test)]
mod tests;
