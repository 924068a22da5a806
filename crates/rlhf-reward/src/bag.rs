//! A bag-of-words reward model: linear in which words and word pairs a text has.

use rlhf_core::contract::{Candidate, RewardModel};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::features::{Sparse, Vocabulary};
use crate::linear::{Example, Target, fit};

/// How a bag is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BagConfig {
    /// Ridge strength, in units of examples.
    pub l2: f64,
    /// Fewest training texts a term must stand in.
    pub min_count: usize,
}

impl Default for BagConfig {
    /// Ridge 1 (scikit-learn's default) and terms seen twice: one seen once is mostly noise.
    fn default() -> Self {
        Self { l2: 1.0, min_count: 2 }
    }
}

/// `r(text) = b + Σ w_c x_c(text)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BagOfWords {
    vocabulary: Vocabulary,
    weights: Vec<f64>,
    bias: f64,
}

impl BagOfWords {
    /// Least squares on rated texts; the bias is the mean rating.
    ///
    /// # Errors
    /// Fewer than two texts, or a rating that is not finite.
    pub fn fit_ratings(rated: &[(&str, f64)], config: BagConfig) -> Result<Self, Error> {
        enough("bag of words on ratings", rated.len())?;
        if let Some((index, (_, found))) = rated.iter().enumerate().find(|(_, (_, y))| !y.is_finite()) {
            return Err(Error::NotFinite { what: "rating", index, found: *found });
        }
        let bias = rated.iter().map(|(_, y)| y).sum::<f64>() / rated.len() as f64;
        let vocabulary = Vocabulary::new(rated.iter().map(|(t, _)| *t), config.min_count);
        let examples: Vec<Example> = rated
            .iter()
            .map(|(t, y)| Example { row: row(&vocabulary.encode(t)), target: Target::Rating(y - bias) })
            .collect();
        let weights = fit(&examples, vocabulary.len(), config.l2);
        Ok(Self { vocabulary, weights, bias })
    }

    /// Bradley–Terry on `(chosen, rejected)` texts; the bias is 0, since a difference has none.
    ///
    /// # Errors
    /// Fewer than two pairs.
    pub fn fit_pairs(pairs: &[(&str, &str)], config: BagConfig) -> Result<Self, Error> {
        enough("bag of words on pairs", pairs.len())?;
        let vocabulary = Vocabulary::new(pairs.iter().flat_map(|(a, b)| [*a, *b]), config.min_count);
        let examples: Vec<Example> = pairs
            .iter()
            .map(|(a, b)| Example {
                row: difference(&vocabulary.encode(a), &vocabulary.encode(b)),
                target: Target::Preferred,
            })
            .collect();
        let weights = fit(&examples, vocabulary.len(), config.l2);
        Ok(Self { vocabulary, weights, bias: 0.0 })
    }

    /// The reward of a text.
    pub fn reward(&self, text: &str) -> f64 {
        let x = self.vocabulary.encode(text);
        self.bias + x.value * x.columns.iter().map(|c| self.weights[*c as usize]).sum::<f64>()
    }
}

impl RewardModel for BagOfWords {
    type Error = Error;

    /// Scores the completions; the prompt, which all completions of a comparison share, is left out
    /// where the model was fitted on completions, and stands in front where it was fitted on whole
    /// texts: the caller says which by what it puts into `completion`.
    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        Ok(items.iter().map(|c| self.reward(c.completion)).collect())
    }
}

fn enough(what: &'static str, found: usize) -> Result<(), Error> {
    if found < 2 { Err(Error::TooFew { what, expected: 2, found }) } else { Ok(()) }
}

fn row(x: &Sparse) -> Vec<(u32, f64)> {
    x.columns.iter().map(|c| (*c, x.value)).collect()
}

/// `a − b`, merged by column.
fn difference(a: &Sparse, b: &Sparse) -> Vec<(u32, f64)> {
    let minus = b.columns.iter().map(|c| (*c, -b.value));
    let mut all: Vec<(u32, f64)> = row(a).into_iter().chain(minus).collect();
    all.sort_by_key(|(c, _)| *c);
    let mut out: Vec<(u32, f64)> = Vec::with_capacity(all.len());
    for (c, v) in all {
        match out.last_mut() {
            Some(last) if last.0 == c => last.1 += v,
            _ => out.push((c, v)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_teach_which_words_win() {
        let pairs = [("good plot", "bad plot"), ("good cast", "bad cast"), ("good end", "bad end")];
        let model = BagOfWords::fit_pairs(&pairs, BagConfig { l2: 0.1, min_count: 2 }).expect("three pairs");
        assert!(model.reward("good") > 0.0 && model.reward("bad") < 0.0);
        // Both words stand on one side of each pair, so their weights mirror each other.
        assert!((model.reward("good") + model.reward("bad")).abs() < 1e-9);
        assert!(model.reward("plot").abs() < 1e-9, "a word on both sides teaches nothing");
    }

    #[test]
    fn a_rating_that_is_no_number_is_named() {
        let error = BagOfWords::fit_ratings(&[("a", 1.0), ("b", f64::NAN)], BagConfig::default());
        assert_eq!(error.expect_err("NaN").to_string(), "rating 1: expected a finite number, found NaN");
    }

    #[test]
    fn the_file_gives_the_same_model() {
        let model =
            BagOfWords::fit_ratings(&[("a b", 1.0), ("a c", 0.1)], BagConfig::default()).expect("fits");
        let text = serde_json::to_string(&model).expect("serialises");
        assert_eq!(serde_json::from_str::<BagOfWords>(&text).expect("reads"), model);
    }
}
