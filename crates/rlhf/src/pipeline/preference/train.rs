//! Training of a preference oracle: one phase of optimiser steps, for each kind.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use rand::{Rng, RngExt};
use rlhf_core::loss::bradley_terry::BradleyTerryConfig;
use rlhf_core::number::{Positive, Prob};
use rlhf_core::rng::stream;
use rlhf_policy::classifier::Classifier;
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::Grads;
use rlhf_reward::cross_encoder::{BothOrders, JointLayout, Triple, cross_encoder_loss};
use rlhf_reward::gpm::gpm_loss;
use rlhf_reward::pairwise::{PairwiseLoss, TokenPair, pairwise_loss};

use super::{Gpm, Judge, JudgeKind, Pairwise};
use crate::error::Error;
use crate::pipeline::fit::{FitPlan, Shown, fit};
use crate::pipeline::models::{self, Scorer, reward_row};
use crate::pipeline::session::Session;

/// Share of the learning rate at which a trained reward becomes a cross-encoder. Such a model from scratch
/// remembers the pairs that it learns from: see the figures of argument pairs in `docs/results.md`.
const JOINT_RATE: f64 = 0.1;

/// A judged pair as tokens, in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTriple {
    /// What both answer, with whatever token starts a text; may be empty.
    pub prompt: Vec<u32>,
    /// The better answer, without end token.
    pub chosen: Vec<u32>,
    /// The other.
    pub rejected: Vec<u32>,
}

/// What an oracle is before it is trained.
#[derive(Debug, Clone, Copy)]
pub struct Blank<'a> {
    /// Its trunk's `config.json`, with the room of its rows.
    pub config: &'a DecoderConfig,
    /// Weights of the trunk; from scratch without.
    pub trunk: Option<&'a Decoder>,
    /// Ends every text, and parts the answers of a joint row.
    pub eos: u32,
    /// Stands behind shorter rows.
    pub pad: u32,
}

/// How an oracle is trained, beside the plan of its steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgeTraining {
    /// What it is.
    pub kind: JudgeKind,
    /// Share of a text's tokens that a step leaves out, drawn anew each step (word dropout: Iyyer et al.,
    /// *Deep Unordered Composition Rivals Syntactic Methods for Text Classification*, ACL 2015). Marks
    /// stay; both orders of a pair lack the same tokens.
    pub token_dropout: Prob,
    /// Of Bradley and Terry's loss; the other kinds have no common level to centre.
    pub center: BradleyTerryConfig,
}

impl Blank<'_> {
    /// Trunk and scratch head; both from (`seed`), which `labels` does not change for the trunk.
    fn classifier(&self, kind: JudgeKind, seed: u64, device: &Device) -> Result<Classifier, Error> {
        models::classifier_from(self.config, kind.labels(), self.trunk, seed, device)
    }

    fn layout(&self) -> Result<JointLayout, Error> {
        let most = self.config.max_position_embeddings();
        JointLayout::new(self.eos, self.eos, most).map_err(|e| Error::Failed(e.to_string()))
    }

    /// The trained model with what it needs to be asked.
    fn judge(&self, kind: JudgeKind, model: &Classifier) -> Result<Judge, Error> {
        let (model, config, pad) = (model.valid(), self.config.clone(), self.pad);
        Ok(match kind {
            JudgeKind::BradleyTerry => {
                let (model, config) = (Box::new(model), Box::new(config));
                let one = Positive::new(1.0).map_err(|e| Error::Failed(e.to_string()))?;
                Judge::bradley_terry(Scorer::Transformer { model, config, eos: self.eos, pad }, one)
            }
            JudgeKind::Pairwise => {
                Judge::Pairwise(Box::new(Pairwise { model, config, layout: self.layout()?, pad, n_cut: 0 }))
            }
            JudgeKind::Gpm { config: gpm, .. } => {
                Judge::Gpm(Box::new(Gpm { model, config, gpm, eos: self.eos, pad }))
            }
        })
    }
}

/// Trains an oracle through `plan`, or takes it from the checkpoint, where it is kept under the plan's
/// phase.
///
/// # Errors
/// As [`train`]; a checkpoint of another shape.
pub fn trained(
    session: &mut Session,
    plan: &FitPlan,
    blank: &Blank<'_>,
    how: &JudgeTraining,
    pairs: &[TokenTriple],
) -> Result<Judge, Error> {
    if let Some(bytes) = session.finished(&plan.phase) {
        let model = blank.classifier(how.kind, plan.seed, &session.device)?;
        return blank.judge(how.kind, &models::filled(model, bytes)?);
    }
    let judge = train(session, plan, blank, how, pairs)?;
    let bytes = match &judge {
        Judge::Pairwise(pairwise) => models::bytes_of(&pairwise.model)?,
        Judge::Gpm(gpm) => models::bytes_of(&gpm.model)?,
        Judge::BradleyTerry(oracle) => match &oracle.model {
            Scorer::Transformer { model, .. } => models::bytes_of(model.as_ref())?,
            Scorer::Bag(_) | Scorer::Gold(_) => Vec::new(),
        },
        Judge::Rule(_) => Vec::new(),
    };
    session.finish_phase(&plan.phase, Some(bytes))?;
    Ok(judge)
}

/// Trains an oracle through `plan`, whose rows are `pairs`. Continues where an earlier process stopped.
///
/// A cross-encoder learns in two passes through the plan: first its trunk and head as a reward by Bradley and
/// Terry's law, then both answers at once, at `JOINT_RATE` of the learning rate.
///
/// # Errors
/// A loss or gradient that is not finite, the disk, [`Error::Interrupted`] after saving, rows without
/// room for two answers.
pub fn train(
    session: &mut Session,
    plan: &FitPlan,
    blank: &Blank<'_>,
    how: &JudgeTraining,
    pairs: &[TokenTriple],
) -> Result<Judge, Error> {
    let blank_model = blank.classifier(how.kind, plan.seed, &session.device)?;
    let alone = |m: &Classifier, left: &[TokenTriple]| apart(m, blank, how, left);
    if how.kind != JudgeKind::Pairwise {
        let model = phase(session, plan, blank_model, (pairs, how.token_dropout), &alone)?;
        return blank.judge(how.kind, &model);
    }
    let layout = blank.layout()?;
    say_cut(session, &plan.phase, &layout, pairs);
    let first = FitPlan { phase: format!("{}/start", plan.phase), ..plan.clone() };
    let started = match session.finished(&first.phase).filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => models::filled(blank_model, bytes)?,
        None => {
            let model = phase(session, &first, blank_model, (pairs, how.token_dropout), &alone)?;
            session.finish_phase(&first.phase, Some(models::bytes_of(&model)?))?;
            model
        }
    };
    let second = FitPlan { learning_rate: JOINT_RATE * plan.learning_rate, ..plan.clone() };
    let both = |m: &Classifier, left: &[TokenTriple]| joint(m, &layout, blank.pad, left);
    let model = phase(session, &second, started, (pairs, how.token_dropout), &both)?;
    // No later checkpoint needs the weights that this began with.
    session.finish_phase(&first.phase, Some(Vec::new()))?;
    blank.judge(how.kind, &model)
}

/// Says how many training pairs find no room in a joint row.
fn say_cut(session: &Session, phase: &str, layout: &JointLayout, pairs: &[TokenTriple]) {
    let rows = pairs.iter().map(|p| layout.rows(Triple { prompt: &p.prompt, a: &p.chosen, b: &p.rejected }));
    let n = rows.filter(|r| r.n_cut > 0).count();
    if n > 0 {
        let (of, most) = (pairs.len(), layout.max_length());
        session.progress.say(&format!("{phase}: {n} of {of} pairs are cut to {most} tokens"));
    }
}

/// One pass through a plan: pairs, the share of their tokens that is left out, and the loss of a batch.
fn phase(
    session: &mut Session,
    plan: &FitPlan,
    start: Classifier,
    data: (&[TokenTriple], Prob),
    loss: &dyn Fn(&Classifier, &[TokenTriple]) -> PairwiseLoss,
) -> Result<Classifier, Error> {
    let (pairs, dropout) = data;
    let purpose = format!("{}/dropout", plan.phase);
    fit(session, plan, start, &mut |model, step, rows| {
        let thin = |row: usize, part: u64, ids: &[u32]| {
            thinned(ids, dropout, &mut stream(plan.seed, &purpose, step, 3 * row as u64 + part))
        };
        let left: Vec<TokenTriple> = rows
            .iter()
            .map(|r| TokenTriple {
                prompt: thin(*r, 0, &pairs[*r].prompt),
                chosen: thin(*r, 1, &pairs[*r].chosen),
                rejected: thin(*r, 2, &pairs[*r].rejected),
            })
            .collect();
        shown(model, loss(model, &left), left.len())
    })
}

/// The loss of a kind that reads both answers at once.
fn joint(model: &Classifier, layout: &JointLayout, pad: u32, pairs: &[TokenTriple]) -> PairwiseLoss {
    let row = |p: &TokenTriple| layout.rows(Triple { prompt: &p.prompt, a: &p.chosen, b: &p.rejected });
    let both: Vec<BothOrders> = pairs.iter().map(row).collect();
    cross_encoder_loss(&|rows| model.scores(rows, pad), &both.iter().collect::<Vec<_>>())
}

/// The loss of a kind that reads one answer at a time.
fn apart(model: &Classifier, blank: &Blank<'_>, how: &JudgeTraining, pairs: &[TokenTriple]) -> PairwiseLoss {
    let most = blank.config.max_position_embeddings();
    let row = |prompt: &[u32], answer: &[u32]| reward_row(prompt, answer, blank.eos, most);
    let texts: Vec<TokenPair> = pairs
        .iter()
        .map(|p| TokenPair { chosen: row(&p.prompt, &p.chosen), rejected: row(&p.prompt, &p.rejected) })
        .collect();
    let texts: Vec<&TokenPair> = texts.iter().collect();
    match how.kind {
        JudgeKind::Gpm { config, .. } => gpm_loss(&|rows| model.logits(rows, blank.pad), &texts, config),
        _ => pairwise_loss(&|rows| model.scores(rows, blank.pad), &texts, how.center),
    }
}

/// The gradient of the mean loss, and the figures of a step.
pub(in crate::pipeline) fn shown(model: &Classifier, found: PairwiseLoss, n: usize) -> Shown {
    let n = n as f64;
    let loss = found.sum.div_scalar(n);
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let right = found.margins.iter().filter(|m| **m > 0.0).count() as f64;
    Shown {
        grads: Grads::of(model, &loss.backward()),
        values: BTreeMap::from([
            ("loss".to_owned(), value),
            ("accuracy".to_owned(), right / n),
            ("margin".to_owned(), found.margins.iter().sum::<f64>() / n),
        ]),
    }
}

/// `ids` without each of them with probability `share`.
pub(in crate::pipeline) fn thinned(ids: &[u32], share: Prob, rng: &mut impl Rng) -> Vec<u32> {
    ids.iter().copied().filter(|_| !rng.random_bool(share.get())).collect()
}
