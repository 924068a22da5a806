//! Text to tokens and back: a Hugging Face `tokenizer.json`, loaded, trained or saved.
//!
//! Three habits differ from a bare `tokenizers::Tokenizer`:
//!
//! - [`Tokenizer::encode`] adds no token of its own, and reads the spelling of a special token in a
//!   text as plain text: no record of a data file can end a sequence by writing `<|endoftext|>`.
//!   (transformers calls that `split_special_tokens`, and has it off.)
//! - Truncation and padding that a file asks for are switched off: both happen where batches are
//!   made, and are counted there.
//! - Only BPE models are taken, the kind that decoder language models have: they encode every text.

use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
};

use crate::error::Error;

/// The spelling of the special tokens of a tokenizer that is trained here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specials {
    /// Ends a completion.
    pub eos: String,
    /// Fills rows of a batch; never scored.
    pub pad: String,
}

impl Specials {
    /// `<|endoftext|>`, GPT-2's end token, and `<|pad|>`.
    pub fn gpt2() -> Self {
        Self { eos: "<|endoftext|>".to_owned(), pad: "<|pad|>".to_owned() }
    }
}

/// A tokenizer with its special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// `tokenizer_config.json`, kept so that what was loaded is saved whole.
    config: Map<String, Value>,
    /// Highest token number plus one.
    vocab_size: usize,
    eos: u32,
    pad: u32,
    bos: Option<u32>,
    adds_bos: bool,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the vocabulary: it is long.
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("eos", &self.eos)
            .field("pad", &self.pad)
            .field("bos", &self.bos)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a folder with `tokenizer.json`, or that file itself.
    ///
    /// The special tokens come from `tokenizer_config.json` or, where that is silent,
    /// `special_tokens_map.json` beside it. Without a padding token the end token pads: padding is
    /// masked by place, not by value.
    ///
    /// # Errors
    /// A file that is missing or broken, a model other than BPE, no end token, a special token
    /// that the vocabulary lacks.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let bytes = fs::read(&file).map_err(|e| Error::file(&file, format!("reading the tokenizer: {e}")))?;
        let inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| {
            Error::file(&file, format!("expected a tokenizer of the tokenizers crate, found {e}"))
        })?;
        let config_file = file.with_file_name("tokenizer_config.json");
        let config = read_object(&config_file)?.unwrap_or_default();
        let map = read_object(&file.with_file_name("special_tokens_map.json"))?.unwrap_or_default();
        let named = |key: &str| content(&config, key).or_else(|| content(&map, key));
        let Some(eos) = named("eos_token") else {
            return Err(Error::file(&config_file, "eos_token: expected the text of a token, found none"));
        };
        let (pad, bos) = (named("pad_token"), named("bos_token"));
        Self::new(inner, config, &Names { eos: &eos, pad: pad.as_deref(), bos: bos.as_deref() }, &file)
    }

    /// Trains a byte-level BPE of at most `vocab_size` tokens on `texts`: the special tokens, the
    /// 256 bytes, then merges of pairs seen at least twice, the most frequent first. A small corpus
    /// gives fewer tokens. The result depends on the texts alone, not on their order, the run or
    /// the number of threads.
    ///
    /// # Errors
    /// A `vocab_size` below the bytes and special tokens, or special tokens that are equal or empty.
    pub fn train<I>(texts: I, vocab_size: usize, specials: &Specials) -> Result<Self, Error>
    where
        I: Iterator + Send,
        I::Item: AsRef<str> + Send,
    {
        check_request(vocab_size, specials)?;
        let added =
            [&specials.eos, &specials.pad].map(|text| AddedToken::from(text.clone(), true).normalized(false));
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size)
            // A pair seen once is a quotation, not a pattern.
            .min_frequency(2)
            .special_tokens(added.to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        // Space is part of the text: no prefix is added, so that decoding gives the same bytes.
        let bytes = ByteLevel::new(false, false, true);
        let failed = |e: tokenizers::Error| Error::file("tokenizer", format!("training: {e}"));
        let mut inner = TokenizerBuilder::<
            BPE,
            NormalizerWrapper,
            PreTokenizerWrapper,
            PostProcessorWrapper,
            DecoderWrapper,
        >::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(bytes.into()))
        .with_decoder(Some(bytes.into()))
        .build()
        .map_err(failed)?;
        inner.train(&mut trainer, texts).map_err(failed)?;
        let names = Names { eos: &specials.eos, pad: Some(&specials.pad), bos: None };
        Self::new(inner.into(), Map::new(), &names, Path::new("tokenizer"))
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        config: Map<String, Value>,
        names: &Names<'_>,
        file: &Path,
    ) -> Result<Self, Error> {
        check_model(inner.get_model(), file)?;
        let id = |field: &str, text: &str| {
            inner.token_to_id(text).ok_or_else(|| {
                Error::file(file, format!("{field}: expected a token of the vocabulary, found {text:?}"))
            })
        };
        let eos = id("eos_token", names.eos)?;
        let pad = names.pad.map_or(Ok(eos), |text| id("pad_token", text))?;
        let bos = names.bos.map(|text| id("bos_token", text)).transpose()?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::file(file, format!("truncation: {e}")))?;
        // Asked of the file's own post-processor, on a text that every vocabulary can spell.
        let dressed = inner.encode_fast("a", true).map_err(|e| Error::file(file, e))?;
        let adds_bos = bos.is_some() && dressed.get_ids().first().copied() == bos;
        inner.set_encode_special_tokens(true);
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let mut tokenizer = Self { inner, config, vocab_size, eos, pad, bos, adds_bos };
        tokenizer.describe(names);
        Ok(tokenizer)
    }

    /// Fills the keys of `tokenizer_config.json` that a loader of the saved folder looks for.
    fn describe(&mut self, names: &Names<'_>) {
        let config = &mut self.config;
        config.entry("tokenizer_class").or_insert(json!("PreTrainedTokenizerFast"));
        config.entry("clean_up_tokenization_spaces").or_insert(json!(false));
        for (key, name) in
            [("bos_token", names.bos), ("eos_token", Some(names.eos)), ("pad_token", names.pad)]
        {
            let entry = config.entry(key).or_insert(Value::Null);
            if entry.is_null() {
                *entry = json!(name);
            }
        }
    }

    /// The same tokenizer, with the longest input that its model takes, in tokens, written into
    /// `tokenizer_config.json` on saving. Nothing is truncated here.
    #[must_use]
    pub fn with_max_length(mut self, n_tokens: usize) -> Self {
        self.config.insert("model_max_length".to_owned(), json!(n_tokens));
        self
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into `dir`, which must exist, in the
    /// form that `AutoTokenizer` of transformers loads. The same tokenizer gives the same bytes.
    ///
    /// # Errors
    /// A disk that does not take them.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), Error> {
        let dir = dir.as_ref();
        let file = dir.join("tokenizer.json");
        let text = self.inner.to_string(true).map_err(|e| Error::file(&file, format!("writing: {e}")))?;
        write(&file, &text)?;
        let config = format!("{:#}\n", Value::Object(self.config.clone()));
        write(&dir.join("tokenizer_config.json"), &config)
    }

    /// The tokens of `text`, without start or end token.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let encoding =
            self.inner.encode_fast(text, false).expect("a BPE model, checked on load, takes any text");
        encoding.get_ids().to_vec()
    }

    /// The text of `ids`; special tokens and numbers outside the vocabulary are left out, and bytes
    /// that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).expect("the decoders of BPE models have no failing case")
    }

    /// How one token is spelled in the vocabulary; `None` outside it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Highest token number plus one: the fewest rows of an embedding that holds them all.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that ends a completion.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The token that fills rows of a batch.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The token that starts a sequence, where the tokenizer has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// What stands before every sequence: the start token if the file's own post-processor puts it
    /// there (as Llama's does), else nothing.
    pub fn start(&self) -> Option<u32> {
        self.bos.filter(|_| self.adds_bos)
    }
}

/// Texts of the special tokens.
struct Names<'a> {
    eos: &'a str,
    pad: Option<&'a str>,
    bos: Option<&'a str>,
}

fn check_request(vocab_size: usize, specials: &Specials) -> Result<(), Error> {
    let fault = |field: &str, expected: String, found: String| {
        Err(Error::file("tokenizer", format!("{field}: expected {expected}, found {found}")))
    };
    if vocab_size < 258 {
        return fault(
            "vocab_size",
            "at least 258 (256 bytes, 2 special tokens)".into(),
            vocab_size.to_string(),
        );
    }
    if specials.eos.is_empty() || specials.pad.is_empty() {
        return fault("specials", "two texts".into(), format!("{specials:?}"));
    }
    if specials.eos == specials.pad {
        return fault("pad", "a text other than the end token's".into(), format!("{:?}", specials.pad));
    }
    Ok(())
}

/// Only a BPE whose unknown token, if it names one, exists: that one encodes without failing.
fn check_model(model: &ModelWrapper, file: &Path) -> Result<(), Error> {
    let ModelWrapper::BPE(bpe) = model else {
        let kind = match model {
            ModelWrapper::WordLevel(_) => "WordLevel",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::Unigram(_) => "Unigram",
            ModelWrapper::BPE(_) => "BPE",
        };
        return Err(Error::file(file, format!("model.type: expected BPE, found {kind}")));
    };
    match bpe.get_unk_token() {
        Some(unk) if !bpe.get_vocab().contains_key(unk) => Err(Error::file(
            file,
            format!("model.unk_token: expected a token of the vocabulary, found {unk:?}"),
        )),
        _ => Ok(()),
    }
}

/// The object in `file`, or `None` where there is no such file.
fn read_object(file: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file(file, format!("reading: {e}"))),
    };
    let object = serde_json::from_str(&text);
    object.map(Some).map_err(|e| Error::file(file, format!("expected a JSON object, found {e}")))
}

/// A token's text, written as a string or as `{"content": "…", …}`.
fn content(config: &Map<String, Value>, key: &str) -> Option<String> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    fs::write(file, text).map_err(|e| Error::file(file, format!("writing: {e}")))
}

#[cfg(test)]
mod tests;
