//! From the data's text to rows of tokens, and between rows and the file's padded tensors.

use rlhf_policy::batch::Sequence;
use serde_json::Value;

use super::super::case::Array;
use super::Run;

impl Run<'_> {
    /// The tokens of one field of a row of the data.
    pub(super) fn tokens(&self, row: &Value, field: &str) -> Result<Vec<u32>, String> {
        let text = row[field].as_str().ok_or_else(|| format!("inputs.data: {field}: expected a text"))?;
        Ok(self.tokenizer.encode(text))
    }

    /// `start`, the prompt, a completion and the end token; the first `most` tokens of that.
    pub(super) fn sequence(
        &self,
        row: &Value,
        field: &str,
        start: Option<u32>,
        most: usize,
    ) -> Result<Sequence, String> {
        let prompt: Vec<u32> = start.into_iter().chain(self.tokens(row, "prompt")?).collect();
        let mut completion = self.tokens(row, field)?;
        completion.push(self.tokenizer.eos());
        Ok(first(Sequence::new(&prompt, &completion), most))
    }

    /// `of` every row of the data.
    pub(super) fn rows<T>(&self, of: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
        self.data.iter().map(of).collect()
    }
}

/// The first `most` tokens.
pub(super) fn first(mut sequence: Sequence, most: usize) -> Sequence {
    sequence.tokens.truncate(most);
    sequence.mask.truncate(most);
    sequence
}

/// The file's rows of tokens, without padding on either side.
pub(super) fn recorded(inputs: &Value, ids: &str, mask: &str) -> Result<Vec<Vec<u32>>, String> {
    let read = |name: &str| Array::read(&inputs[name]).map_err(|e| format!("inputs.{name}: {e}"));
    let (ids, mask) = (read(ids)?.rows(), read(mask)?.rows());
    let row = |(ids, mask): (&Vec<f64>, &Vec<f64>)| {
        ids.iter().zip(mask).filter(|(_, on)| **on > 0.0).map(|(id, _)| *id as u32).collect()
    };
    Ok(ids.iter().zip(&mask).map(row).collect())
}

/// Which of our rows a recorded one is.
pub(super) fn place<T>(ours: &[T], is: impl Fn(&T) -> bool) -> Result<usize, String> {
    ours.iter().position(is).ok_or_else(|| "micro_batches: expected a row of the data as tokens".to_owned())
}

/// Which side shorter rows are filled on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Left,
    Right,
}

/// Rows as one table, flattened.
pub(super) fn padded(rows: &[Vec<f64>], fill: f64, side: Side) -> Vec<f64> {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let row = |row: &Vec<f64>| {
        let fill = vec![fill; width - row.len()];
        match side {
            Side::Left => [fill, row.clone()].concat(),
            Side::Right => [row.clone(), fill].concat(),
        }
    };
    rows.iter().flat_map(row).collect()
}

pub(super) fn numbers(tokens: &[u32]) -> Vec<f64> {
    tokens.iter().map(|t| f64::from(*t)).collect()
}

/// A row of ones: the attention mask of one row.
pub(super) fn ones(n: usize) -> Vec<f64> {
    vec![1.0; n]
}

/// `input_ids` of sequences.
pub(super) fn ids(rows: &[&Sequence], pad: u32) -> Vec<f64> {
    padded(&rows.iter().map(|s| numbers(&s.tokens)).collect::<Vec<_>>(), f64::from(pad), Side::Right)
}

/// `attention_mask` of sequences.
pub(super) fn attention(rows: &[&Sequence]) -> Vec<f64> {
    padded(&rows.iter().map(|s| ones(s.tokens.len())).collect::<Vec<_>>(), 0.0, Side::Right)
}

/// `completion_mask` of sequences.
pub(super) fn scored(rows: &[&Sequence]) -> Vec<f64> {
    let row = |s: &&Sequence| s.mask.iter().map(|on| f64::from(u8::from(*on))).collect();
    padded(&rows.iter().map(row).collect::<Vec<_>>(), 0.0, Side::Right)
}

/// `labels` of sequences: the token where it is scored, else −100.
pub(super) fn labels(rows: &[&Sequence]) -> Vec<f64> {
    let row = |s: &&Sequence| {
        let label = |(t, on): (&u32, &bool)| if *on { f64::from(*t) } else { -100.0 };
        s.tokens.iter().zip(&s.mask).map(label).collect()
    };
    padded(&rows.iter().map(row).collect::<Vec<_>>(), -100.0, Side::Right)
}

/// The mean of each metric over micro-batches, which is what TRL logs of an accumulated step.
pub(super) fn averages(of_each: &[Vec<(&str, f64)>]) -> std::collections::BTreeMap<String, f64> {
    let n = of_each.len() as f64;
    let mut all = std::collections::BTreeMap::new();
    for (name, value) in of_each.iter().flatten() {
        *all.entry((*name).to_owned()).or_insert(0.0) += value / n;
    }
    all
}
