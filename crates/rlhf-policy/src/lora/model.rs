//! Models with adapters: made, read, taken off, folded in.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;

use crate::classifier::Classifier;
use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::error::Error;
use crate::hf::{Checkpoint, load_decoder};
use crate::lora::attach::{Fill, attach};
use crate::lora::config::{ADAPTER_CONFIG, LoraConfig, Task};
use crate::lora::file::{AdapterFile, Part, key};
use crate::lora::output::{folded, save};
use crate::lora::plan::{CLASSIFIER_HEADS, Plan};
use crate::lora::sites::{Adaptable, Role, Slot};
use crate::projection::TiedAdapter;

/// A model read with its adapters.
#[derive(Debug, Clone)]
pub struct Adapted<M> {
    /// The base is frozen, the adapters have gradients where the device has any. With DoRA the adapters are
    /// folded in and nothing is frozen.
    pub model: M,
    /// The base's config; of a folded DoRA model its own.
    pub config: DecoderConfig,
    /// The adapter's settings.
    pub lora: LoraConfig,
}

/// A plain model with adapters folded into its weights.
#[derive(Debug, Clone)]
pub struct Merged<M> {
    /// Without adapters, nothing frozen.
    pub model: M,
    /// Its config: that of the base, but a head whose change is not its embedding's is no longer tied.
    pub config: DecoderConfig,
}

impl Decoder {
    /// This model with fresh adapters, everything else frozen: gradients, optimiser and checkpoints see the
    /// adapters only. The frozen tensors are those of `self`, in the same memory. An adapter's numbers depend
    /// on `seed` and its name alone.
    ///
    /// # Errors
    /// Settings that cannot be trained or name nothing in this model; a model that has adapters.
    pub fn with_adapters(&self, config: &DecoderConfig, lora: &LoraConfig, seed: u64) -> Result<Self, Error> {
        fresh(self, config, lora, seed)
    }

    /// The reference of a policy with adapters: the same frozen tensors in the same memory, no adapter. It
    /// carries no gradient; `valid()` of it lives on the plain device, again without a copy.
    #[must_use]
    pub fn without_adapters(&self) -> Self {
        let mut out = self.clone();
        let table = &mut out.model.embed_tokens;
        (table.head, table.tied) = (None, TiedAdapter::Separate);
        let bare = out.each(&mut |_, slot| {
            match slot {
                Slot::Linear(p) => {
                    p.lora = None;
                    if let Some(base) = p.base.take() {
                        (p.weight, p.bias) = (base.weight, base.bias);
                    }
                }
                Slot::Table(e) => {
                    e.lora = None;
                    if let Some(base) = e.base.take() {
                        e.weight = base.weight;
                    }
                }
                Slot::TiedHead(_) | Slot::Score(_) => {}
            }
            Ok(())
        });
        debug_assert!(bare.is_ok(), "taking adapters off cannot fail");
        out
    }

    /// This model with its adapters folded in, `W + s A B`; `config` is the base's.
    ///
    /// # Errors
    /// None but a config that cannot be untied.
    pub fn merged(&self, config: &DecoderConfig) -> Result<Merged<Self>, Error> {
        folded(self, config, &BTreeMap::new())
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` as PEFT has them into `dir`, which is
    /// made. `lora` are the settings that made the adapters.
    ///
    /// # Errors
    /// Settings of other adapters than this model's; a file that cannot be written.
    pub fn save_adapter(&self, dir: &Path, config: &DecoderConfig, lora: &LoraConfig) -> Result<(), Error> {
        save(self, dir, config, lora)
    }

    /// This model with the adapters of the folder `dir`.
    ///
    /// # Errors
    /// A file that is missing or no adapter for this model: an absent, unknown or misshapen tensor is named.
    pub fn load_adapter(&self, dir: &Path, config: &DecoderConfig) -> Result<Adapted<Self>, Error> {
        load(self, dir, config)
    }

    /// Reads an adapter's folder and the model it was made for: the one in `base`, or the one that
    /// `base_model_name_or_path` names.
    ///
    /// # Errors
    /// A base that is not there, or what [`Decoder::load_adapter`] and [`Checkpoint`] refuse.
    pub fn load_with_adapter(
        dir: &Path,
        base: Option<&Path>,
        device: &Device,
    ) -> Result<Adapted<Self>, Error> {
        let folder = LoraConfig::load(dir)?.base_folder(dir, base)?;
        let config = DecoderConfig::load(&folder)?;
        load_decoder(&folder, &config, device)?.load_adapter(dir, &config)
    }
}

impl Classifier {
    /// As [`Decoder::with_adapters`]; the head `score` is trained too.
    ///
    /// # Errors
    /// As [`Decoder::with_adapters`].
    pub fn with_adapters(&self, config: &DecoderConfig, lora: &LoraConfig, seed: u64) -> Result<Self, Error> {
        fresh(self, config, &for_classifier(lora), seed)
    }

    /// As [`Decoder::merged`].
    ///
    /// # Errors
    /// None.
    pub fn merged(&self, config: &DecoderConfig) -> Result<Merged<Self>, Error> {
        folded(self, config, &BTreeMap::new())
    }

    /// As [`Decoder::save_adapter`]; the head is saved as a whole.
    ///
    /// # Errors
    /// As [`Decoder::save_adapter`].
    pub fn save_adapter(&self, dir: &Path, config: &DecoderConfig, lora: &LoraConfig) -> Result<(), Error> {
        save(self, dir, config, &for_classifier(lora))
    }

    /// As [`Decoder::load_adapter`].
    ///
    /// # Errors
    /// As [`Decoder::load_adapter`].
    pub fn load_adapter(&self, dir: &Path, config: &DecoderConfig) -> Result<Adapted<Self>, Error> {
        load(self, dir, config)
    }

    /// As [`Decoder::load_with_adapter`]. The base may be a language model: the head is the adapter's.
    ///
    /// # Errors
    /// As [`Decoder::load_with_adapter`].
    pub fn load_with_adapter(
        dir: &Path,
        base: Option<&Path>,
        device: &Device,
    ) -> Result<Adapted<Self>, Error> {
        let folder = LoraConfig::load(dir)?.base_folder(dir, base)?;
        let config = DecoderConfig::load(&folder)?;
        let mut file = AdapterFile::open(dir, config.family())?;
        let mut checkpoint = Checkpoint::open(&folder, config.family())?;
        let head = key(config.family(), "score", Role::Score, Part::Weight);
        let labels = file.shape(&head).and_then(|s| s.first().copied());
        let of_base = || checkpoint.shape("score.weight").and_then(|s| s.first().copied());
        let labels = labels.or_else(of_base).unwrap_or(1);
        let mut source = |name: &str, shape: &[usize]| match name {
            "score.weight" if file.shape(&head).is_some() => file.tensor(&head, shape),
            _ => checkpoint.tensor(name, shape),
        };
        let model = Self::with_labels(&config, labels, &mut source, device)?;
        if let Some(shape) = checkpoint.shape("score.weight") {
            // Where the adapter has a head, the base's is none that is left over.
            checkpoint.tensor("score.weight", &shape)?;
        }
        checkpoint.finish()?;
        model.load_adapter(dir, &config)
    }
}

/// The settings with what PEFT adds for a classifier.
fn for_classifier(lora: &LoraConfig) -> LoraConfig {
    let mut lora = lora.clone();
    lora.task_type.get_or_insert(Task::Classifier);
    for head in CLASSIFIER_HEADS {
        if !lora.modules_to_save.iter().any(|name| name == head) {
            lora.modules_to_save.push(head.to_owned());
        }
    }
    lora
}

fn fresh<M: Adaptable>(base: &M, config: &DecoderConfig, lora: &LoraConfig, seed: u64) -> Result<M, Error> {
    lora.check_trainable()?;
    let mut fill = Fill::Seed { seed, init: lora.init_lora_weights };
    let plan = Plan::new(lora, config.family(), base)?;
    attach(base, config.family(), plan, &mut fill)
}

fn load<M: Adaptable>(base: &M, dir: &Path, config: &DecoderConfig) -> Result<Adapted<M>, Error> {
    let mut lora = LoraConfig::load(dir)?;
    let file = AdapterFile::open(dir, config.family())?;
    if file.has_old_head() {
        lora.rename(&config.family().disk_name("lm_head"), "lm_head");
    }
    let in_file = |e: Error| match e {
        Error::File { what, .. } => Error::file(dir.join(ADAPTER_CONFIG), what),
        other => other,
    };
    let plan = Plan::new(&lora, config.family(), base).map_err(in_file)?;
    let mut fill = Fill::File { file, dora: lora.use_dora, magnitudes: BTreeMap::new() };
    let model = attach(base, config.family(), plan, &mut fill).map_err(|e| match e {
        // The plan's own words, which know no folder.
        Error::File { path, what } if path == Path::new(ADAPTER_CONFIG) => {
            in_file(Error::File { path, what })
        }
        other => other,
    })?;
    let Fill::File { file, magnitudes, .. } = fill else { unreachable!("filled from a file") };
    file.finish()?;
    if lora.use_dora {
        let Merged { model, config } = folded(&model, config, &magnitudes)?;
        return Ok(Adapted { model, config, lora });
    }
    Ok(Adapted { model, config: config.clone(), lora })
}
