//! `tokenizer.json` from untrusted bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{Model, ModelWrapper};

use crate::error::Error;

/// What must be known of the file itself, because the crate keeps it to itself.
#[derive(Deserialize)]
struct Peek {
    model: PeekModel,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct PeekModel {
    #[serde(default)]
    unk_id: Value,
}

/// A text with every kind of character that pre-tokenizers tell apart.
const PROBE: &str = "a Bé1, 東\u{1f642}\r\n\t'll _";

/// Reads a tokenizer, and refuses one that could not encode or decode some text.
pub(super) fn parse(bytes: &[u8], file: &Path) -> Result<tokenizers::Tokenizer, Error> {
    let broken = |e: &dyn std::fmt::Display| {
        Error::file(file, format!("expected a tokenizer of the tokenizers crate, found {e}"))
    };
    // Also checks the whole syntax: the crate panics on some files that are cut short.
    let peek: Peek = serde_json::from_slice(bytes).map_err(|e| broken(&e))?;
    check_decoder(&peek.decoder, file)?;
    // The crate takes files at their word in places: a template that names an unknown token, say,
    // panics when it is used. What does so on the probe is refused here.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
        inner.with_padding(None);
        inner.with_truncation(None)?;
        if let Some(model) = without_dropout(inner.get_model()) {
            inner.with_model(model);
        }
        Ok::<_, tokenizers::Error>(inner)
    }));
    let panicked = "one that its reader cannot handle";
    let inner = read.map_err(|_| broken(&panicked))?.map_err(|e| broken(&e))?;
    check_model(inner.get_model(), &peek.model, file)?;
    let used = catch_unwind(AssertUnwindSafe(|| {
        let encoding = inner.encode(PROBE, true)?;
        inner.decode(encoding.get_ids(), false)
    }));
    used.map_err(|_| broken(&panicked))?.map_err(|e| broken(&e))?;
    Ok(inner)
}

/// Dropout makes other tokens of the same text at each call.
fn without_dropout(model: &ModelWrapper) -> Option<ModelWrapper> {
    let ModelWrapper::BPE(bpe) = model else { return None };
    bpe.dropout?;
    let mut bpe = bpe.clone();
    bpe.dropout = None;
    Some(bpe.into())
}

/// The unknown token must exist where the model needs one: with it, encoding has no failing case.
fn check_model(model: &ModelWrapper, peek: &PeekModel, file: &Path) -> Result<(), Error> {
    let unk = match model {
        // Without one, characters that are not in the vocabulary are left out.
        ModelWrapper::BPE(bpe) => bpe.get_unk_token().as_deref(),
        ModelWrapper::WordPiece(words) => Some(words.unk_token.as_str()),
        ModelWrapper::WordLevel(words) => Some(words.unk_token.as_str()),
        // Its number was compared with the vocabulary when the model was built.
        ModelWrapper::Unigram(_) if peek.unk_id.is_u64() => None,
        ModelWrapper::Unigram(_) => {
            let what = format!("model.unk_id: expected the number of a token, found {}", peek.unk_id);
            return Err(Error::file(file, what));
        }
    };
    match unk {
        Some(unk) if model.token_to_id(unk).is_none() => {
            let what = format!("model.unk_token: expected a token of the vocabulary, found {unk:?}");
            Err(Error::file(file, what))
        }
        _ => Ok(()),
    }
}

/// The crate's Strip decoder reads before the beginning of a token shorter than `stop`.
fn check_decoder(decoder: &Value, file: &Path) -> Result<(), Error> {
    if let Some(parts) = decoder["decoders"].as_array() {
        return parts.iter().try_for_each(|part| check_decoder(part, file));
    }
    let stop = &decoder["stop"];
    if decoder["content"].is_string() && !stop.is_null() && stop.as_u64() != Some(0) {
        return Err(Error::file(file, format!("decoder: Strip.stop: expected 0, found {stop}")));
    }
    Ok(())
}
