//! `rlhf logits`.

use std::io::Write;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rlhf_core::contract::PolicyModel as _;
use rlhf_policy::decoder::Decoder;
use serde::Deserialize;
use serde_json::json;

use super::{check_ids, emit, not_finite, read_text};
use crate::error::Error;
use crate::pipeline::models;

/// `{"input_ids":[[…]],"attention_mask":[[…]]}`; without a mask every token is real.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    input_ids: Vec<Vec<u32>>,
    #[serde(default)]
    attention_mask: Option<Vec<Vec<u8>>>,
}

/// Writes `{"logits":[[[…]]]}`; positions that the mask leaves out are rows of zeros. Padding may
/// stand on either side of a row.
///
/// # Errors
/// A model folder or an input that cannot be used: rows of unlike length, a token that the model has
/// not, a mask with a hole; logits that are not finite.
pub fn logits(model: &Path, input: &Path, device: &Device, out: &mut dyn Write) -> Result<(), Error> {
    let config = models::load_config(model)?;
    let given = read(input)?;
    let mut rows = Vec::with_capacity(given.input_ids.len());
    for i in 0..given.input_ids.len() {
        let real = real_positions(input, &given, i)?;
        let ids: Vec<u32> = real.iter().map(|t| given.input_ids[i][*t]).collect();
        check_ids(input, i + 1, &ids, &config)?;
        rows.push((real, ids));
    }
    let policy = models::open_decoder(model, device)?.model;
    let mut all = Vec::with_capacity(rows.len());
    for (i, (real, ids)) in rows.into_iter().enumerate() {
        let mut values = vec![vec![0.0f32; config.vocab_size()]; given.input_ids[i].len()];
        if !ids.is_empty() {
            for (t, found) in real.iter().zip(row_logits(&policy, &ids, device)) {
                // JSON has no NaN: it would become a null, and the defect the reader's.
                if let Some(value) = found.iter().find(|v| !v.is_finite()) {
                    let place = format!("row {}, position {}", i + 1, t + 1);
                    return Err(not_finite(model, "logits", &place, f64::from(*value)));
                }
                values[*t] = found;
            }
        }
        all.push(values);
    }
    emit(out, &json!({ "logits": all }))
}

fn read(input: &Path) -> Result<Input, Error> {
    let given: Input = serde_json::from_str(&read_text(input)?).map_err(|e| {
        let expected = "{\"input_ids\":[[…]],\"attention_mask\":[[…]]}";
        Error::record(input, e.line(), "(file)", expected, e.to_string())
    })?;
    let width = given.input_ids.first().map_or(0, Vec::len);
    if let Some(i) = given.input_ids.iter().position(|row| row.len() != width) {
        let expected = format!("rows of {width} tokens, as the first (attention_mask marks padding)");
        return Err(Error::record(input, i + 1, "input_ids", expected, given.input_ids[i].len().to_string()));
    }
    if let Some(mask) = given.attention_mask.as_ref().filter(|m| m.len() != given.input_ids.len()) {
        let expected = format!("{} rows, as input_ids", given.input_ids.len());
        return Err(Error::record(input, 0, "attention_mask", expected, mask.len().to_string()));
    }
    Ok(given)
}

/// The positions of row `i` that are no padding: one run.
fn real_positions(input: &Path, given: &Input, i: usize) -> Result<Vec<usize>, Error> {
    let n = given.input_ids[i].len();
    let Some(mask) = given.attention_mask.as_ref().map(|m| &m[i]) else { return Ok((0..n).collect()) };
    if mask.len() != n {
        let found = format!("{} in row {}", mask.len(), i + 1);
        return Err(Error::record(input, 0, "attention_mask", format!("{n} entries"), found));
    }
    if let Some(other) = mask.iter().find(|m| **m > 1) {
        return Err(Error::record(input, i + 1, "attention_mask", "0 or 1", other.to_string()));
    }
    let real: Vec<usize> = (0..n).filter(|t| mask[*t] == 1).collect();
    if real.windows(2).any(|pair| pair[1] != pair[0] + 1) {
        let expected = "padding before or behind a row only";
        return Err(Error::record(input, i + 1, "attention_mask", expected, format!("{mask:?}")));
    }
    Ok(real)
}

fn row_logits(policy: &Decoder, ids: &[u32], device: &Device) -> Vec<Vec<f32>> {
    let tokens: Vec<i64> = ids.iter().map(|t| i64::from(*t)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, ids.len()]), device);
    let logits = policy.logits(tokens);
    let v = logits.dims()[2];
    let flat: Vec<f32> = logits.into_data().convert::<f32>().iter::<f32>().collect();
    flat.chunks(v).map(<[f32]>::to_vec).collect()
}
