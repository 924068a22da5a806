//! Policies and reward models as the pipelines use them: made, loaded, asked on text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use rlhf_core::contract::{Candidate, RewardModel};
use rlhf_policy::chat::ChatTemplate;
use rlhf_policy::classifier::Classifier;
use rlhf_policy::config::{DecoderConfig, ModelKind};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::hf::{self, Checkpoint};
use rlhf_policy::lora::{LoraConfig, Merged};
use rlhf_policy::tokenizer::{Specials, Tokenizer};
use rlhf_policy::weights::{HostTensor, parameters, replaced, scratch};
use rlhf_reward::bag::BagOfWords;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::task::restaurants::GoldReward;

/// Rows scored together.
const SCORE_ROWS: usize = 64;

/// A language model's folder in memory.
#[derive(Debug, Clone)]
pub struct Language {
    /// `config.json`.
    pub config: DecoderConfig,
    /// `tokenizer.json`.
    pub tokenizer: Tokenizer,
    /// The weights.
    pub policy: Decoder,
}

impl Language {
    /// Reads a Hugging Face folder.
    ///
    /// # Errors
    /// A file that is missing or does not fit.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Error> {
        let tokenizer = load_tokenizer(dir)?;
        check_vocabulary(dir, &tokenizer, &load_config(dir)?)?;
        let Merged { model: policy, config } = open_decoder(dir, device)?;
        Ok(Self { config, tokenizer, policy })
    }

    /// Writes a Hugging Face folder.
    ///
    /// # Errors
    /// The disk.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        hf::save(dir, &self.config, ModelKind::Causal, &parameters(&self.policy))?;
        Ok(self.tokenizer.clone().with_max_length(self.config.max_position_embeddings()).save(dir)?)
    }
}

/// The folder that the file `name` of `dir` is in: `dir`, or of an adapter's folder without one its base.
///
/// # Errors
/// An adapter whose base is not there.
pub fn folder_of(dir: &Path, name: &str) -> Result<PathBuf, Error> {
    if dir.join(name).exists() || !LoraConfig::is_in(dir) {
        return Ok(dir.to_owned());
    }
    Ok(LoraConfig::load(dir)?.base_folder(dir, None)?)
}

/// The config of a folder; of an adapter's folder that of its base.
///
/// # Errors
/// A file that is missing or does not fit.
pub fn load_config(dir: &Path) -> Result<DecoderConfig, Error> {
    if LoraConfig::is_in(dir) {
        return Ok(DecoderConfig::load(&LoraConfig::load(dir)?.base_folder(dir, None)?)?);
    }
    Ok(DecoderConfig::load(dir)?)
}

/// The language model of a folder; of an adapter's folder its base with the adapter folded in.
///
/// # Errors
/// A file that is missing or does not fit.
pub fn open_decoder(dir: &Path, device: &Device) -> Result<Merged<Decoder>, Error> {
    if LoraConfig::is_in(dir) {
        let adapted = Decoder::load_with_adapter(dir, None, device)?;
        return Ok(adapted.model.merged(&adapted.config)?);
    }
    let config = DecoderConfig::load(dir)?;
    Ok(Merged { model: load_decoder(dir, &config, device)?, config })
}

/// The classifier of a folder; of an adapter's folder its base with the adapter folded in.
///
/// # Errors
/// A file that is missing or does not fit.
pub fn open_classifier(dir: &Path, device: &Device) -> Result<Merged<Classifier>, Error> {
    if LoraConfig::is_in(dir) {
        let adapted = Classifier::load_with_adapter(dir, None, device)?;
        return Ok(adapted.model.merged(&adapted.config)?);
    }
    let config = DecoderConfig::load(dir)?;
    Ok(Merged { model: load_classifier(dir, &config, device)?, config })
}

/// The chat template of a folder; of an adapter's folder without one, its base's.
///
/// # Errors
/// A folder without a template, a template that is no Jinja.
pub fn load_template(dir: &Path) -> Result<ChatTemplate, Error> {
    Ok(ChatTemplate::load(folder_of(dir, "tokenizer_config.json")?)?)
}

/// The tokenizer of a folder; of an adapter's folder without one, its base's.
///
/// # Errors
/// A file that is missing or does not fit.
pub fn load_tokenizer(dir: &Path) -> Result<Tokenizer, Error> {
    Ok(Tokenizer::load(folder_of(dir, "tokenizer.json")?)?)
}

/// Whether the model has a row for every token.
///
/// # Errors
/// A tokenizer with a larger vocabulary than the embedding.
pub fn check_vocabulary(dir: &Path, tokenizer: &Tokenizer, config: &DecoderConfig) -> Result<(), Error> {
    if tokenizer.vocab_size() <= config.vocab_size() {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{}: vocabulary: expected at most {} tokens (vocab_size of {}), found {}",
        dir.join("tokenizer.json").display(),
        config.vocab_size(),
        dir.join("config.json").display(),
        tokenizer.vocab_size()
    )))
}

/// A folder of the other kind is told by its kind, not by the first tensor that it lacks.
fn check_kind(dir: &Path, config: &DecoderConfig, expected: &str, holds: bool) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    let found = match config.kind() {
        ModelKind::Causal => "a language model",
        ModelKind::Classifier { .. } => "a classifier",
    };
    let file = dir.join("config.json");
    Err(Error::Failed(format!("{}: architectures: expected {expected}, found {found}", file.display())))
}

/// The decoder of a Hugging Face folder.
///
/// # Errors
/// A tensor that is missing, unknown or of another shape.
pub fn load_decoder(dir: &Path, config: &DecoderConfig, device: &Device) -> Result<Decoder, Error> {
    check_kind(dir, config, "a language model", config.kind() == ModelKind::Causal)?;
    Ok(hf::load_decoder(dir, config, device)?)
}

/// The reward model or classifier of a Hugging Face folder, with as many labels as its head has rows.
///
/// # Errors
/// A tensor that is missing, unknown or of another shape; a config with another number of labels.
pub fn load_classifier(dir: &Path, config: &DecoderConfig, device: &Device) -> Result<Classifier, Error> {
    let mut checkpoint = Checkpoint::open(dir, config.family())?;
    check_kind(dir, config, "a reward model or classifier", checkpoint.shape("score.weight").is_some())?;
    let labels = checkpoint.shape("score.weight").and_then(|s| s.first().copied()).unwrap_or(1);
    if let Some(said) = config.labels().filter(|said| *said != labels) {
        return Err(Error::Failed(format!(
            "{}: num_labels: expected {labels}, the rows of score.weight, found {said}",
            dir.join("config.json").display()
        )));
    }
    let mut source = |name: &str, shape: &[usize]| checkpoint.tensor(name, shape);
    let model = Classifier::with_labels(config, labels, &mut source, device)?;
    checkpoint.finish()?;
    Ok(model)
}

/// A scratch decoder, each tensor from a stream of its own.
///
/// # Errors
/// A config this decoder lacks.
pub fn scratch_decoder(config: &DecoderConfig, seed: u64, device: &Device) -> Result<Decoder, Error> {
    Ok(Decoder::build(config, &mut scratch(seed, config), device)?)
}

/// A scratch classifier, each tensor from a stream of its own.
///
/// # Errors
/// A config this decoder lacks.
pub fn scratch_classifier(
    config: &DecoderConfig,
    labels: usize,
    seed: u64,
    device: &Device,
) -> Result<Classifier, Error> {
    Ok(Classifier::with_labels(config, labels, &mut scratch(seed, config), device)?)
}

/// A classifier whose trunk is `trunk`'s, or scratch, and whose head, with `labels` rows, is scratch.
///
/// # Errors
/// A trunk of another shape.
pub fn classifier_from(
    config: &DecoderConfig,
    labels: usize,
    trunk: Option<&Decoder>,
    seed: u64,
    device: &Device,
) -> Result<Classifier, Error> {
    let model = scratch_classifier(config, labels, seed, device)?;
    let Some(trunk) = trunk else { return Ok(model) };
    let mut all = parameters(&model);
    for (name, tensor) in parameters(trunk) {
        if all.contains_key(&name) {
            all.insert(name, tensor);
        }
    }
    Ok(replaced(model, &all)?)
}

/// A module's parameters as bytes, and back into a module of the same shape.
///
/// # Errors
/// Bytes of another module.
pub fn filled<M: Module>(module: M, bytes: &[u8]) -> Result<M, Error> {
    Ok(replaced(module, &hf::deserialize(bytes)?)?)
}

/// A tokenizer with `vocab_size` entries at most, trained on `texts`.
///
/// # Errors
/// A vocabulary too small for bytes and special tokens.
pub fn train_tokenizer(texts: &[String], vocab_size: usize) -> Result<Tokenizer, Error> {
    Ok(Tokenizer::train(texts.iter(), vocab_size, &Specials::gpt2())?)
}

/// A trained reward model with all it needs to read a candidate.
#[derive(Debug, Clone)]
pub enum Scorer {
    /// Words and word pairs of prompt and completion.
    Bag(BagOfWords),
    /// Tokens of prompt and completion, then the end token, through a trunk and a head.
    Transformer {
        /// On the plain device.
        model: Box<Classifier>,
        /// Its `config.json`.
        config: Box<DecoderConfig>,
        /// Ends every text.
        eos: u32,
        /// Stands behind shorter ones.
        pad: u32,
    },
    /// The embedded task's exact rule.
    Gold(GoldReward),
}

impl Scorer {
    /// Writes what the scorer is made of: a Hugging Face folder, or `bag.json`.
    ///
    /// # Errors
    /// The disk.
    pub fn save(&self, dir: &Path, tokenizer: &Tokenizer) -> Result<(), Error> {
        match self {
            Self::Bag(bag) => SavedBag { reads: Reads::Text, bag: bag.clone() }.save(dir),
            Self::Transformer { model, config, .. } => {
                hf::save(dir, config, ModelKind::REWARD, &parameters(model.as_ref()))?;
                Ok(tokenizer.clone().with_max_length(config.max_position_embeddings()).save(dir)?)
            }
            Self::Gold(_) => Ok(()),
        }
    }
}

/// What of a candidate a bag of words was fitted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// Prompt and completion.
    Text,
    /// The completion alone.
    Completion,
}

/// `bag.json`: a bag of words and what it reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBag {
    /// Which text.
    pub reads: Reads,
    /// The model.
    pub bag: BagOfWords,
}

impl SavedBag {
    /// Its file's name in a model folder.
    pub const FILE: &str = "bag.json";

    /// Writes `DIR/bag.json`.
    ///
    /// # Errors
    /// The disk.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("making", dir, e))?;
        let bytes = serde_json::to_vec(self).map_err(|e| Error::Failed(format!("bag.json: {e}")))?;
        crate::run::atomic::write(&dir.join(Self::FILE), &bytes)
    }

    /// Reads `DIR/bag.json`; `None` where there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read or is no bag.
    pub fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(Self::FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("reading", &path, e))?;
        let bag = serde_json::from_str(&text)
            .map_err(|e| Error::record(&path, e.line(), "(file)", "a bag of words", e.to_string()))?;
        Ok(Some(bag))
    }
}

/// A text's tokens as a reward model reads them: the last `max_length` of prompt, completion and
/// end token.
pub fn reward_row(prompt: &[u32], completion: &[u32], eos: u32, max_length: usize) -> Vec<u32> {
    let mut row: Vec<u32> = prompt.iter().chain(completion).copied().collect();
    if row.last() != Some(&eos) {
        row.push(eos);
    }
    row.split_off(row.len().saturating_sub(max_length))
}

impl Scorer {
    /// As [`RewardModel::score`], without the check: a caller that can name the texts checks for itself.
    ///
    /// # Errors
    /// Those of the embedded task's rule.
    pub fn unchecked(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        Ok(match self {
            Self::Bag(bag) => {
                items.iter().map(|c| bag.reward(&format!("{}{}", c.prompt, c.completion))).collect()
            }
            Self::Transformer { model, config, eos, pad } => {
                let most = config.max_position_embeddings();
                let rows: Vec<Vec<u32>> =
                    items.iter().map(|c| reward_row(c.prompt_ids, c.completion_ids, *eos, most)).collect();
                model.score_rows(&rows, *pad, SCORE_ROWS)
            }
            Self::Gold(rule) => rule.score(items).map_err(|e| Error::Failed(e.to_string()))?,
        })
    }
}

impl RewardModel for Scorer {
    type Error = Error;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        let scores = self.unchecked(items)?;
        match scores.iter().find(|s| !s.is_finite()) {
            Some(value) => Err(Error::Failed(format!("reward model: expected finite scores, found {value}"))),
            None => Ok(scores),
        }
    }
}

/// The parameters of a module as safetensors bytes.
///
/// # Errors
/// A weight that is not finite: nothing that is kept or saved may be spoilt.
pub fn bytes_of<M: Module>(module: &M) -> Result<Vec<u8>, Error> {
    let all: BTreeMap<String, HostTensor> = parameters(module);
    for (name, tensor) in &all {
        if let Some(value) = tensor.data.iter().find(|x| !x.is_finite()) {
            return Err(Error::Failed(format!("weight {name}: expected finite numbers, found {value}")));
        }
    }
    Ok(hf::serialize(&all)?)
}
