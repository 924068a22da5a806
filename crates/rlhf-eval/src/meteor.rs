//! METEOR, as SuperHF uses it: how much alike two texts are.
//!
//! ```text
//! F = P R / (α P + (1 - α) R),   penalty = γ (c / m)^β,   METEOR = F (1 - penalty)
//! P = m / |hypothesis|,   R = m / |reference|
//! ```
//!
//! Where: m is the number of matched tokens, c the number of chunks: runs of matches that are adjacent and in
//! the same order in both texts. α = 0.9, β = 3, γ = 0.5. Tokens are separated by white space and compared in
//! lower case: first equal tokens, then equal Porter [stems](crate::stem) among what is left. Of all alignments
//! with the most matches of each stage the one with the fewest chunks counts.
//!
//! Paper: Banerjee and Lavie, *METEOR: An Automatic Metric for MT Evaluation with Improved Correlation with
//! Human Judgments*, ACL workshop 2005, section 2.2; the parameters are those of Lavie and Agarwal, *METEOR: An
//! Automatic Metric for MT Evaluation with High Levels of Correlation with Human Judgments*, 2007. The use as a
//! sign of reward hacking: Mukobi et al., *SuperHF: Supervised Iterative Learning from Human Feedback*,
//! arXiv:2310.16763.
//! Departures: no synonym stage, so values sit slightly below those that use WordNet.

mod align;

use std::collections::HashMap;

use self::align::Search;
use crate::stem::porter;

/// Weight of precision against recall.
const ALPHA: f64 = 0.9;
/// Exponent of the fragmentation.
const BETA: i32 = 3;
/// Largest penalty.
const GAMMA: f64 = 0.5;

/// METEOR of `hypothesis` against `reference`, in [0, 1); 0 where either is empty or nothing matches.
///
/// ```
/// // P = 2/3, R = 1, one chunk of two matches: 0.952381 (1 - 0.5/8)
/// let score = rlhf_eval::meteor::meteor("the cat", "the cat sat");
/// assert!((score - 0.892_857_142_857_142_9).abs() < 1e-15);
/// ```
pub fn meteor(reference: &str, hypothesis: &str) -> f64 {
    let mut words = Vocabulary::default();
    let (reference, hypothesis) = (words.encode(reference), words.encode(hypothesis));
    words.meteor(&reference, &hypothesis)
}

/// Mean of both directions of [`meteor`]: the order of the arguments does not matter.
pub fn meteor_symmetric(a: &str, b: &str) -> f64 {
    let mut words = Vocabulary::default();
    let (a, b) = (words.encode(a), words.encode(b));
    words.meteor_symmetric(&a, &b)
}

/// Numbers for words and for their stems, shared by the texts that are compared.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    words: HashMap<String, u32>,
    stems: HashMap<String, u32>,
    stem_of: Vec<u32>,
}

impl Vocabulary {
    /// The tokens of a text as word numbers.
    pub(crate) fn encode(&mut self, text: &str) -> Vec<u32> {
        text.split_whitespace().map(|token| self.word(token.to_lowercase())).collect()
    }

    fn word(&mut self, token: String) -> u32 {
        if let Some(&id) = self.words.get(&token) {
            return id;
        }
        let next_stem = index(self.stems.len());
        let stem = *self.stems.entry(porter(&token)).or_insert(next_stem);
        let id = index(self.stem_of.len());
        self.stem_of.push(stem);
        self.words.insert(token, id);
        id
    }

    /// METEOR of two encoded texts.
    pub(crate) fn meteor(&self, reference: &[u32], hypothesis: &[u32]) -> f64 {
        let mut search = Search::new(self, reference, hypothesis);
        let matches = search.n_matches;
        if matches == 0 {
            return 0.0;
        }
        let precision = matches as f64 / hypothesis.len() as f64;
        let recall = matches as f64 / reference.len() as f64;
        let f = precision * recall / (ALPHA * precision + (1.0 - ALPHA) * recall);
        let fragmentation = search.fewest_chunks() as f64 / matches as f64;
        f * (1.0 - GAMMA * fragmentation.powi(BETA))
    }

    /// Mean of both directions.
    pub(crate) fn meteor_symmetric(&self, a: &[u32], b: &[u32]) -> f64 {
        f64::midpoint(self.meteor(a, b), self.meteor(b, a))
    }
}

fn index(n: usize) -> u32 {
    u32::try_from(n).expect("a text in memory has fewer than 2^32 distinct words")
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    fn close(found: f64, expected: f64) {
        assert_abs_diff_eq!(found, expected, epsilon = 1e-12);
    }

    #[test]
    fn identical_texts() {
        close(meteor("a b c d", "a b c d"), 0.992_187_5); // 1 - 0.5 (1/4)^3
        close(meteor("a", "a"), 0.5); // 1 - 0.5 (1/1)^3
    }

    #[test]
    fn both_directions() {
        close(meteor("the cat", "the cat sat"), 25.0 / 28.0); // (2/3)/(0.6+0.1) (1 - 1/16)
        close(meteor("the cat sat", "the cat"), 75.0 / 116.0); // (2/3)/(0.9+0.1·2/3) (1 - 1/16)
        // The digits of the published example.
        assert_abs_diff_eq!(meteor("the cat", "the cat sat"), 0.892_857_14, epsilon = 5e-9);
        assert_abs_diff_eq!(meteor("the cat sat", "the cat"), 0.646_551_72, epsilon = 5e-9);
        assert_abs_diff_eq!(meteor_symmetric("the cat", "the cat sat"), 0.769_704_43, epsilon = 5e-9);
        let mean = f64::midpoint(25.0 / 28.0, 75.0 / 116.0);
        close(meteor_symmetric("the cat", "the cat sat"), mean);
        close(meteor_symmetric("the cat sat", "the cat"), mean);
    }

    #[test]
    fn reversed_is_one_chunk_a_token() {
        close(meteor("a b c d", "d c b a"), 0.5); // F = 1, penalty = 0.5 (4/4)^3
    }

    #[test]
    fn nothing_in_common_or_empty() {
        for (a, b) in [("a b", "c d"), ("", "a"), ("a", ""), ("", ""), (" \n", "a")] {
            close(meteor(a, b), 0.0);
        }
    }

    #[test]
    fn stems_and_case_match() {
        close(meteor("The cats sat", "the cat SAT"), 1.0 - 0.5 / 27.0); // three matches, one chunk
    }

    #[test]
    fn equal_tokens_go_before_stems() {
        // Both stages give two matches. Equal first forces cat-cat and then cats-cat's other form:
        // reference "cat cats", hypothesis "cats cat" crosses, so two chunks, not one.
        close(meteor("cat cats", "cats cat"), 0.5);
        // A stem match may not take a place that an equal match needs.
        close(meteor("cats", "cat cats"), (0.5 / (0.45 + 0.1)) * 0.5);
    }

    #[test]
    fn fewest_chunks_of_all_alignments() {
        // "a" may go to either a; only the second keeps "a c" together: matches 2, chunks 1.
        let f = 1.0 * (2.0 / 4.0) / (0.9 + 0.1 * 0.5);
        close(meteor("a b a c", "a c"), f * (1.0 - 0.5 / 8.0));
        // Two hypothesis copies for one place: the one before "c" is the better.
        let f = (2.0 / 4.0) / (0.45 + 0.1);
        close(meteor("a c", "a b a c"), f * (1.0 - 0.5 / 8.0));
    }

    #[test]
    fn very_repetitive_texts_end() {
        let (a, b) = ("the the a ".repeat(60), "a the the b the ".repeat(40));
        let score = meteor(&a, &b);
        assert!(score > 0.0 && score < 1.0);
        close(meteor(&a, &b), score);
        // A long text of one word: one chunk, and neither the stack nor the time runs out.
        let long = "the ".repeat(20_000);
        close(meteor(&long, &long), 1.0 - 0.5 * 20_000_f64.powi(-3));
    }
}
