//! Text to tokens and back: a Hugging Face `tokenizer.json`, loaded, trained or saved.
//!
//! Four habits differ from a bare `tokenizers::Tokenizer`:
//!
//! - [`Tokenizer::encode`] adds no token of its own, and reads the spelling of a special token in a
//!   text as plain text: no record of a data file can end a sequence by writing `<|endoftext|>`.
//!   (transformers calls that `split_special_tokens`, and has it off; [`Tokenizer::encode_special`]
//!   and [`Tokenizer::encode_with`] are its way.)
//! - Truncation and padding that a file asks for are switched off: both happen where batches are
//!   made, and are counted there. So is BPE dropout: tokens do not depend on chance.
//! - Only models that encode every text are taken: BPE, and of WordPiece, WordLevel and Unigram
//!   those with an unknown token. That is checked on loading, so that encoding has no failing case.
//! - Decoding gives the bytes back as they are: `clean_up_tokenization_spaces` is not obeyed.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
};

use crate::error::Error;

pub(crate) mod files;
mod load;
mod special;
mod stream;

use special::{Anchored, SpecialTokens};
pub use stream::TextStream;

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

/// What the spelling of a special token in a text stands for.
///
/// Only tokens that their file marks as special are meant. Other added tokens, such as Qwen 3's
/// `<think>`, are tokens wherever they are spelled. A model that has a special token among the pieces
/// it builds text from, as some Unigram models do, gets that spelling character by character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// For its characters: what users write cannot end a turn or start another.
    Text,
    /// For the token, as in transformers.
    Token,
}

/// Whether a file's own post-processor adds its tokens, such as Llama's start token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ends {
    /// The tokens of the text alone.
    Bare,
    /// With what the post-processor puts before and behind a single text.
    Added,
}

/// Tokens, and the text that each stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Bytes of the text, for each token: whole characters, so that tokens which share a character
    /// overlap. Empty for a token that was added.
    pub spans: Vec<Range<usize>>,
}

/// A tokenizer with its special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    /// Reads the spelling of a special token as that token.
    inner: tokenizers::Tokenizer,
    specials: SpecialTokens,
    /// The same vocabulary, reading it as text; made when a text with such a spelling comes by.
    as_text: OnceLock<Arc<tokenizers::Tokenizer>>,
    /// The same vocabulary, in which special tokens go by names that no text can have.
    anchored: OnceLock<Arc<Anchored>>,
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
    /// `special_tokens_map.json` beside it. An end token that neither names is the first
    /// `eos_token_id` of `config.json` or `generation_config.json`. Without a padding token the end
    /// token pads: padding is masked by place, not by value.
    ///
    /// # Errors
    /// A file that is missing or broken, a model that cannot encode every text, no end token, a
    /// special token that the vocabulary lacks.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let bytes = fs::read(&file).map_err(|e| Error::file(&file, format!("reading the tokenizer: {e}")))?;
        let inner = load::parse(&bytes, &file)?;
        let named = files::Named::beside(&file)?;
        let Some(eos) = named.text("eos_token").map_or_else(|| files::eos(&file, &inner), |t| Ok(Some(t)))?
        else {
            return Err(Error::file(&named.file, "eos_token: expected the text of a token, found none"));
        };
        let (pad, bos) = (named.text("pad_token"), named.text("bos_token"));
        let names = Names { eos: &eos, pad: pad.as_deref(), bos: bos.as_deref() };
        Self::new(inner, named.config, &names, &file)
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
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let specials = SpecialTokens::of(&inner);
        let (as_text, anchored) = (OnceLock::new(), OnceLock::new());
        let mut tokenizer =
            Self { inner, specials, as_text, anchored, config, vocab_size, eos, pad, bos, adds_bos };
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

    /// The tokens of `text`, without start or end token; special tokens that it spells are text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.ids(text, Spelling::Text, Ends::Bare)
    }

    /// The tokens of `text`, without start or end token; special tokens that it spells are tokens.
    pub fn encode_special(&self, text: &str) -> Vec<u32> {
        self.ids(text, Spelling::Token, Ends::Bare)
    }

    /// The tokens of `text`. With [`Spelling::Token`] and [`Ends::Added`] they are those that
    /// calling a tokenizer of transformers gives.
    pub fn ids(&self, text: &str, spelling: Spelling, ends: Ends) -> Vec<u32> {
        if self.differs(text, spelling) {
            return self.encode_as_text(text, ends).ids;
        }
        let encoding = self.inner.encode_fast(text, ends == Ends::Added);
        encoding.expect(TAKES_ANY_TEXT).get_ids().to_vec()
    }

    /// As [`Tokenizer::ids`], with the place of each token in the text.
    pub fn encode_with(&self, text: &str, spelling: Spelling, ends: Ends) -> Encoding {
        if self.differs(text, spelling) {
            self.encode_as_text(text, ends)
        } else {
            read(&self.inner, text, ends)
        }
    }

    /// As [`Tokenizer::encode_with`] of bare tokens, except that what is spelled within the byte
    /// ranges `literal`, which are in order, is text.
    pub(crate) fn encode_guarded(&self, text: &str, literal: &[Range<usize>]) -> Encoding {
        if literal.is_empty() {
            return read(&self.inner, text, Ends::Bare);
        }
        self.anchored().encode(text, literal, &self.specials, Ends::Bare)
    }

    /// Whether the text must be read otherwise than `inner` does. Both readings agree on a text that
    /// spells no special token, and nearly all are such: only then is there no second copy of the
    /// vocabulary in memory.
    fn differs(&self, text: &str, spelling: Spelling) -> bool {
        spelling == Spelling::Text && !self.specials.surely_absent(text)
    }

    fn encode_as_text(&self, text: &str, ends: Ends) -> Encoding {
        let copy = self.as_text.get_or_init(|| {
            let mut copy = self.inner.clone();
            copy.set_encode_special_tokens(true);
            Arc::new(copy)
        });
        let encoding = read(copy, text, ends);
        let spelled = self.spelled(text);
        if !self.specials.forged(text, &encoding, &spelled) {
            return encoding;
        }
        // What could pass for an anchor is replaced by a character of as many bytes.
        let text = text.replace(special::ANCHOR_OPEN, "\u{fffd}");
        self.anchored().encode(&text, &spelled, &self.specials, ends)
    }

    fn anchored(&self) -> &Anchored {
        self.anchored.get_or_init(|| Arc::new(Anchored::new(&self.inner, &self.specials)))
    }

    /// The special tokens that `text` spells, as byte ranges.
    pub(crate) fn spelled(&self, text: &str) -> Vec<Range<usize>> {
        self.specials.find_all(text).into_iter().map(|found| found.range).collect()
    }

    /// The text of `ids`; special tokens and numbers outside the vocabulary are left out, and bytes
    /// that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).expect(DECODES)
    }

    /// As [`Tokenizer::decode`], with special tokens spelled out.
    pub fn decode_special(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).expect(DECODES)
    }

    /// Text as tokens come, one after the other.
    pub fn decode_stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// The number of a token, by its spelling in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Checks that an embedding of `n_rows` rows holds every token. More rows than tokens are
    /// common: they are rounded up for speed.
    ///
    /// # Errors
    /// A vocabulary with a token beyond the last row.
    pub fn fits(&self, n_rows: usize) -> Result<(), Error> {
        if self.vocab_size <= n_rows {
            return Ok(());
        }
        let expected = format!("at least {}, the tokens of the tokenizer", self.vocab_size);
        Err(Error::config("vocab_size", expected, n_rows))
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

    /// The tokens of a text behind the start token, where the tokenizer puts one there and the text has not
    /// spelled it already.
    pub fn behind_start(&self, ids: Vec<u32>) -> Vec<u32> {
        let start = self.start().filter(|id| ids.first() != Some(id));
        start.into_iter().chain(ids).collect()
    }
}

/// Why encoding cannot fail.
const TAKES_ANY_TEXT: &str = "a model, checked on load, that takes any text";

/// Why decoding cannot fail.
const DECODES: &str = "a decoder, checked on load, without a failing case";

fn read(inner: &tokenizers::Tokenizer, text: &str, ends: Ends) -> Encoding {
    let encoding = inner.encode(text, ends == Ends::Added).expect(TAKES_ANY_TEXT);
    let spans = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
    Encoding { ids: encoding.get_ids().to_vec(), spans }
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

fn write(file: &Path, text: &str) -> Result<(), Error> {
    fs::write(file, text).map_err(|e| Error::file(file, format!("writing: {e}")))
}

#[cfg(test)]
mod tests;
