//! Preference oracles as the pipelines use them: trained, kept, saved, read back, asked.
//!
//! | kind | what reads a comparison | may be cyclic |
//! | --- | --- | --- |
//! | rule | a function | yes |
//! | Bradley–Terry | a reward of each answer, any [`Scorer`] | no |
//! | pairwise | a cross-encoder of both answers in both orders ([`rlhf_reward::cross_encoder`]) | yes |
//! | GPM | embeddings and a skew-symmetric score ([`rlhf_reward::gpm`]) | yes |
//!
//! A trained kind is a decoder trunk with a linear head on its last token; only what is read, how wide
//! the head is and the loss differ.

mod saved;
mod train;

pub use saved::{LoadedJudge, refuse_as_reward};
pub use train::{Blank, JudgeTraining, TokenTriple, train, trained};
pub(in crate::pipeline) use train::{shown, thinned};

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rlhf_core::contract::{Candidate, Comparison, PreferenceOracle, RewardModel};
use rlhf_core::loss::gpm::GpmConfig;
use rlhf_core::number::{Positive, Prob};
use rlhf_policy::classifier::Classifier;
use rlhf_policy::config::DecoderConfig;
use rlhf_reward::cross_encoder::{self, BothOrders, JointLayout, Triple};
use rlhf_reward::gpm;
use rlhf_reward::oracle::{BradleyTerry, Distinct, Rule, from_log_odds};

use super::models::{Scorer, reward_row};
use crate::error::Error;

/// Rows read together.
const ROWS: usize = 64;

/// What a trained oracle is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum JudgeKind {
    /// One reward an answer.
    BradleyTerry,
    /// Both answers at once.
    Pairwise,
    /// So many numbers an answer, even.
    Gpm {
        /// Columns of an embedding, 2k.
        width: usize,
        /// τ.
        config: GpmConfig,
    },
}

impl JudgeKind {
    /// Rows of the head.
    pub fn labels(self) -> usize {
        match self {
            Self::BradleyTerry | Self::Pairwise => 1,
            Self::Gpm { width, .. } => width,
        }
    }
}

/// A function of a comparison that more than one owner may call.
#[derive(Clone)]
pub struct SharedRule(Arc<dyn Fn(&Comparison<'_>) -> f64 + Send + Sync>);

impl SharedRule {
    /// The oracle that answers `rule`, P(a ≻ b).
    pub fn new(rule: impl Fn(&Comparison<'_>) -> f64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(rule))
    }
}

impl fmt::Debug for SharedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRule").finish_non_exhaustive()
    }
}

/// A cross-encoder with all it needs to read a comparison.
#[derive(Debug, Clone)]
pub struct Pairwise {
    /// On the plain device, one label.
    pub model: Classifier,
    /// Its `config.json`.
    pub config: DecoderConfig,
    /// How a comparison becomes a row.
    pub layout: JointLayout,
    /// Stands behind shorter rows.
    pub pad: u32,
    /// Comparisons so far that did not fit into a row and were cut.
    pub n_cut: u64,
}

/// An embedding with all it needs to read a candidate.
#[derive(Debug, Clone)]
pub struct Gpm {
    /// On the plain device, 2k labels.
    pub model: Classifier,
    /// Its `config.json`.
    pub config: DecoderConfig,
    /// τ.
    pub gpm: GpmConfig,
    /// Ends every text.
    pub eos: u32,
    /// Stands behind shorter ones.
    pub pad: u32,
}

/// A preference oracle of a pipeline. Texts' tokens are those of the vocabulary that it was trained with.
#[derive(Debug, Clone)]
pub enum Judge {
    /// A function.
    Rule(SharedRule),
    /// A reward model and a temperature.
    BradleyTerry(Box<BradleyTerry<Scorer>>),
    /// A cross-encoder.
    Pairwise(Box<Pairwise>),
    /// Embeddings.
    Gpm(Box<Gpm>),
}

impl Judge {
    /// A rule.
    pub fn rule(rule: impl Fn(&Comparison<'_>) -> f64 + Send + Sync + 'static) -> Self {
        Self::Rule(SharedRule::new(rule))
    }

    /// Bradley and Terry's law over `model`, with rewards in units of `temperature`.
    pub fn bradley_terry(model: Scorer, temperature: Positive) -> Self {
        Self::BradleyTerry(Box::new(BradleyTerry { model, temperature }))
    }

    /// Comparisons so far whose texts found no room in a row and were cut; only a cross-encoder counts,
    /// the other trained kinds read the last tokens of each text, as reward models do.
    pub fn n_cut(&self) -> u64 {
        match self {
            Self::Pairwise(pairwise) => pairwise.n_cut,
            Self::Rule(_) | Self::BradleyTerry(_) | Self::Gpm(_) => 0,
        }
    }

    /// log-odds(a ≻ b) of each pair, in order; of a rule they may be infinite.
    ///
    /// # Errors
    /// A number that is none, with the prompt and both answers.
    pub fn log_odds(&mut self, pairs: &[Comparison<'_>]) -> Result<Vec<f64>, Error> {
        let odds = match self {
            Self::Rule(_) => {
                let found = self.prefer(pairs)?;
                return Ok(found.iter().map(|p| p.get().ln() - (-p.get()).ln_1p()).collect());
            }
            Self::BradleyTerry(oracle) => {
                let mut oracle =
                    BradleyTerry { model: Unchecked(&mut oracle.model), temperature: oracle.temperature };
                return oracle.log_odds(pairs).map_err(failed);
            }
            Self::Pairwise(pairwise) => pairwise.log_odds(pairs),
            Self::Gpm(gpm) => gpm.log_odds(pairs),
        };
        // Named with its pair by the same words as a preference.
        from_log_odds(pairs, &odds).map_err(failed)?;
        Ok(odds)
    }
}

impl PreferenceOracle for Judge {
    type Error = Error;

    fn prefer(&mut self, pairs: &[Comparison<'_>]) -> Result<Vec<Prob>, Error> {
        if let Self::Rule(SharedRule(rule)) = self {
            return Rule(|pair: &Comparison<'_>| rule(pair)).prefer(pairs).map_err(failed);
        }
        let odds = self.log_odds(pairs)?;
        from_log_odds(pairs, &odds).map_err(failed)
    }
}

fn failed(e: impl fmt::Display) -> Error {
    Error::Failed(e.to_string())
}

/// A scorer whose rewards the oracle checks, which can name the pair.
struct Unchecked<'a>(&'a mut Scorer);

impl RewardModel for Unchecked<'_> {
    type Error = Error;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        self.0.unchecked(items)
    }
}

impl Pairwise {
    fn log_odds(&mut self, pairs: &[Comparison<'_>]) -> Vec<f64> {
        let rows: Vec<BothOrders> = pairs
            .iter()
            .map(|pair| {
                let (prompt, a, b) = (pair.a.prompt_ids, pair.a.completion_ids, pair.b.completion_ids);
                self.layout.rows(Triple { prompt, a, b })
            })
            .collect();
        self.n_cut += rows.iter().filter(|r| r.n_cut > 0).count() as u64;
        let (model, pad) = (&self.model, self.pad);
        let mut scores = |rows: &[&[u32]]| once(rows, |distinct| model.score_rows(distinct, pad, ROWS));
        cross_encoder::log_odds(&mut scores, &rows.iter().collect::<Vec<_>>())
    }
}

/// Asks for each distinct row once: (a, b) in one order is (b, a) in the other, and a's beginning is the same
/// before any b.
fn once(rows: &[&[u32]], ask: impl Fn(&[Vec<u32>]) -> Vec<f64>) -> Vec<f64> {
    let mut distinct: Vec<Vec<u32>> = Vec::new();
    let mut known: HashMap<&[u32], usize> = HashMap::new();
    let places: Vec<usize> = rows
        .iter()
        .map(|row| {
            *known.entry(row).or_insert_with(|| {
                distinct.push(row.to_vec());
                distinct.len() - 1
            })
        })
        .collect();
    let found = ask(&distinct);
    places.into_iter().map(|place| found[place]).collect()
}

impl Gpm {
    fn log_odds(&self, pairs: &[Comparison<'_>]) -> Vec<f64> {
        let distinct = Distinct::of(pairs);
        let most = self.config.max_position_embeddings();
        let row = |c: &Candidate<'_>| reward_row(c.prompt_ids, c.completion_ids, self.eos, most);
        let rows: Vec<Vec<u32>> = distinct.candidates.iter().map(row).collect();
        let v = self.model.logit_rows(&rows, self.pad, ROWS);
        distinct.places.iter().map(|[a, b]| gpm::log_odds(self.gpm, &v[*a], &v[*b])).collect()
    }
}

#[cfg(test)]
mod tests;
