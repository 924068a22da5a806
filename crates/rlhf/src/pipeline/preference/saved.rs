//! A preference oracle's folder: a Hugging Face classifier (or a bag of words), and `preference.json`,
//! which says how its numbers become a preference.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use rlhf_core::loss::gpm::GpmConfig;
use rlhf_core::number::Positive;
use rlhf_policy::config::ModelKind;
use rlhf_policy::hf;
use rlhf_policy::lora::Merged;
use rlhf_policy::tokenizer::Tokenizer;
use rlhf_policy::weights::parameters;
use rlhf_reward::cross_encoder::JointLayout;
use serde::{Deserialize, Serialize};

use super::{Gpm, Judge, Pairwise};
use crate::error::Error;
use crate::pipeline::models::{self, Reads, SavedBag, Scorer};
use crate::run::atomic;

/// The file's name in a model folder.
const FILE: &str = "preference.json";

/// `preference.json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Saved {
    /// `P = σ((r_a − r_b) / temperature)`.
    BradleyTerry { temperature: Positive },
    /// `P = σ(½ [f(a, b) − f(b, a)])`, f(a, b) the score at the separator less that at the end, rows laid out as `layout` says.
    Pairwise { layout: JointLayout },
    /// `P = σ(s / tau)` of embeddings.
    Gpm { tau: Positive },
}

/// An oracle as its folder holds it.
#[derive(Debug, Clone)]
pub struct LoadedJudge {
    /// The oracle.
    pub judge: Judge,
    /// The vocabulary of its tokens; a bag of words has none.
    pub tokenizer: Option<Tokenizer>,
}

impl Judge {
    /// Writes what the oracle is made of into `dir`. A rule has nothing to write.
    ///
    /// # Errors
    /// The disk.
    pub fn save(&self, dir: &Path, tokenizer: &Tokenizer) -> Result<(), Error> {
        let (saved, decoder) = match self {
            Self::Rule(_) => return Ok(()),
            Self::BradleyTerry(oracle) => {
                oracle.model.save(dir, tokenizer)?;
                (Saved::BradleyTerry { temperature: oracle.temperature }, None)
            }
            Self::Pairwise(p) => (Saved::Pairwise { layout: p.layout }, Some((&p.model, &p.config))),
            Self::Gpm(g) => (Saved::Gpm { tau: g.gpm.tau }, Some((&g.model, &g.config))),
        };
        if let Some((model, config)) = decoder {
            hf::save(dir, config, ModelKind::Classifier { labels: model.labels() }, &parameters(model))?;
            tokenizer.clone().with_max_length(config.max_position_embeddings()).save(dir)?;
        }
        let text = serde_json::to_vec_pretty(&saved).map_err(|e| Error::Failed(format!("{FILE}: {e}")))?;
        atomic::write(&dir.join(FILE), &text)
    }

    /// Reads an oracle's folder. A reward model's folder without `preference.json` is read by Bradley and
    /// Terry's law at temperature 1.
    ///
    /// # Errors
    /// A file that is missing or does not fit.
    pub fn load(dir: &Path, device: &Device) -> Result<LoadedJudge, Error> {
        let one = Positive::new(1.0).map_err(|e| Error::Failed(e.to_string()))?;
        let saved = read(dir)?.unwrap_or(Saved::BradleyTerry { temperature: one });
        if let (Some(bag), Saved::BradleyTerry { temperature }) = (SavedBag::load(dir)?, saved) {
            if bag.reads != Reads::Text {
                let (path, expected) = (dir.join(SavedBag::FILE), "text, prompt and completion");
                return Err(Error::record(path, 0, "reads", expected, "completion"));
            }
            let judge = Self::bradley_terry(Scorer::Bag(bag.bag), temperature);
            return Ok(LoadedJudge { judge, tokenizer: None });
        }
        let tokenizer = models::load_tokenizer(dir)?;
        let (eos, pad) = (tokenizer.eos(), tokenizer.pad());
        let Merged { model, config } = models::open_classifier(dir, device)?;
        models::check_vocabulary(dir, &tokenizer, &config)?;
        let labels = model.labels();
        let fits = match saved {
            Saved::BradleyTerry { .. } | Saved::Pairwise { .. } => labels == 1,
            Saved::Gpm { .. } => labels.is_multiple_of(2),
        };
        if !fits {
            let expected = "a head with one label, or for kind gpm an even number of them";
            return Err(Error::record(dir.join(FILE), 0, "kind", expected, format!("{labels} labels")));
        }
        let judge = match saved {
            Saved::BradleyTerry { temperature } => {
                let (model, config) = (Box::new(model), Box::new(config));
                Self::bradley_terry(Scorer::Transformer { model, config, eos, pad }, temperature)
            }
            Saved::Pairwise { layout } => {
                Self::Pairwise(Box::new(Pairwise { model, config, layout, pad, n_cut: 0 }))
            }
            Saved::Gpm { tau } => {
                Self::Gpm(Box::new(Gpm { model, config, gpm: GpmConfig { tau }, eos, pad }))
            }
        };
        Ok(LoadedJudge { judge, tokenizer: Some(tokenizer) })
    }
}

fn read(dir: &Path) -> Result<Option<Saved>, Error> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(|e| Error::io("reading", &path, e))?;
    let saved = serde_json::from_str(&text)
        .map_err(|e| Error::record(&path, e.line(), "(file)", "a preference oracle", e.to_string()))?;
    Ok(Some(saved))
}

/// Refuses a folder whose model has no reward of one text.
///
/// # Errors
/// [`Error::Failed`] for a pairwise or a GPM folder; a `preference.json` that cannot be read.
pub fn refuse_as_reward(dir: &Path) -> Result<(), Error> {
    let what = match read(dir)? {
        None | Some(Saved::BradleyTerry { .. }) => return Ok(()),
        Some(Saved::Pairwise { .. }) => "a pairwise preference model, which reads two answers at once",
        Some(Saved::Gpm { .. }) => {
            "a general preference model, whose numbers mean something for two answers only"
        }
    };
    let file = dir.join(FILE);
    Err(Error::Failed(format!("{}: kind: expected a reward of one text, found {what}", file.display())))
}
