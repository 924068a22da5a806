//! Words and pairs of words as sparse features.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

/// Features of one text: distinct columns in rising order, all of the same value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sparse {
    /// Columns that are not zero.
    pub columns: Vec<u32>,
    /// The value of each: `1 / √n`, so that a text's length does not change its norm.
    pub value: f64,
}

/// The words and pairs of adjacent words of a training set that stand in at least `min_count`
/// texts, by their column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    columns: BTreeMap<String, u32>,
}

impl Vocabulary {
    /// Collects the terms of `texts`; columns follow their alphabetical order.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>, min_count: usize) -> Self {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for text in texts {
            for term in terms(text) {
                *counts.entry(term).or_default() += 1;
            }
        }
        let kept: BTreeMap<String, u32> =
            counts.into_iter().filter(|(_, n)| *n >= min_count).map(|(t, _)| (t, 0)).collect();
        let columns = kept.into_keys().zip(0..).collect();
        Self { columns }
    }

    /// How many columns there are.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether no term was frequent enough.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The features of a text; unknown terms count for nothing.
    pub fn encode(&self, text: &str) -> Sparse {
        let mut columns: Vec<u32> = terms(text).iter().filter_map(|t| self.columns.get(t).copied()).collect();
        columns.sort_unstable();
        let value = if columns.is_empty() { 0.0 } else { 1.0 / (columns.len() as f64).sqrt() };
        Sparse { columns, value }
    }
}

/// Distinct words and pairs of adjacent words of a text, in lower case.
fn terms(text: &str) -> HashSet<String> {
    let words = words(text);
    let pairs = words.windows(2).map(|w| format!("{} {}", w[0], w[1]));
    pairs.chain(words.iter().cloned()).collect()
}

/// Runs of letters, digits and apostrophes in lower case; every other visible character alone.
pub fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut open = false;
    for c in text.chars().flat_map(char::to_lowercase) {
        let inside = c.is_alphanumeric() || c == '\'';
        if c.is_whitespace() {
            open = false;
        } else if let Some(word) = out.last_mut().filter(|_| inside && open) {
            word.push(c);
        } else {
            out.push(c.to_string());
            open = inside;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punctuation_stands_alone_and_apostrophes_do_not_split() {
        assert_eq!(words("Don't stop!!  NOW"), ["don't", "stop", "!", "!", "now"]);
    }

    #[test]
    fn a_text_has_norm_one_and_rare_terms_are_dropped() {
        let v = Vocabulary::new(["a b", "a b c"], 2);
        // "a", "b" and "a b" stand in both texts; "c" and "b c" in one.
        assert_eq!(v.len(), 3);
        let x = v.encode("b a a b c");
        assert_eq!(x.columns, [0, 1, 2]);
        assert!((x.value * x.value * 3.0 - 1.0).abs() < 1e-15);
        assert_eq!(v.encode("z").value.to_bits(), 0.0f64.to_bits());
    }
}
