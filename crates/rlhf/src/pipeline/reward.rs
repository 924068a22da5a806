//! Reward and preference models from pairs, with k-fold held-out accuracy, differences between them on
//! the same pairs, and the baselines that such a model must beat.

mod comparisons;
mod summary;

pub(crate) use comparisons::comparisons;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use rlhf_core::contract::{Candidate, Comparison};
use rlhf_core::loss::bradley_terry::BradleyTerryConfig;
use rlhf_core::loss::gpm::GpmConfig;
use rlhf_eval::stats::Tally;
use rlhf_policy::tokenizer::Tokenizer;
use rlhf_reward::bag::{BagConfig, BagOfWords};
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::fit::FitPlan;
use super::models;
use super::preference::{self, Blank, Judge, JudgeKind, JudgeTraining, TokenTriple};
use super::session::Session;
use crate::config::{ComparedKind, RewardPipeline};
use crate::error::Error;
use crate::task::Pair;

/// The last tokenizer, kept for the saved model.
const LAST: &str = "all";

/// Runs the pipeline to its report.
///
/// # Errors
/// Whatever stops it; the run folder then holds what `--resume` needs.
pub fn run(config: &RewardPipeline, mut session: Session) -> Result<Outcome, Error> {
    let given = comparisons(config)?;
    let some = |indices: &[usize]| -> Vec<&Pair> { indices.iter().map(|i| &given.pairs[*i]).collect() };
    let kinds = config.model.kind.list();
    for kind in &kinds {
        for (f, fold) in given.folds.iter().enumerate() {
            let (train, test) = (some(&fold.train), some(&fold.test));
            one_fold(config, &mut session, *kind, &f.to_string(), &train, &test)?;
        }
    }
    // The saved model learns from every pair; its accuracy is the folds'.
    if session.finished(LAST).is_none() {
        let all: Vec<&Pair> = given.pairs.iter().collect();
        let model = fitted(config, &mut session, kinds[0], LAST, &all)?;
        model.save(&session)?;
        session.finish_phase(LAST, Some(b"saved".to_vec()))?;
    }
    summary::write(config, session, &given)
}

/// A kind's name in the report.
fn name(kind: ComparedKind) -> &'static str {
    match kind {
        ComparedKind::Bag => "bag of words",
        ComparedKind::Transformer => "transformer",
        ComparedKind::Pairwise => "pairwise",
        ComparedKind::Gpm => "gpm",
    }
}

/// A fold's name in `steps.jsonl`, and the key of its figures.
fn phase(kind: ComparedKind, fold: &str) -> String {
    let kind = if kind == ComparedKind::Bag { "bag" } else { name(kind) };
    format!("reward/{kind}/fold={fold}")
}

/// What one fold showed on its held-out pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Fold {
    right: Tally,
    /// Mean log-odds of the chosen answer.
    margin: f64,
    /// A 1 or a 0 for each held-out pair.
    in_order: String,
}

fn one_fold(
    config: &RewardPipeline,
    session: &mut Session,
    kind: ComparedKind,
    fold: &str,
    train: &[&Pair],
    test: &[&Pair],
) -> Result<(), Error> {
    let phase = phase(kind, fold);
    if session.get::<Fold>(&phase)?.is_some() {
        return Ok(());
    }
    let mut model = fitted(config, session, kind, fold, train)?;
    let odds =
        model.log_odds(test).map_err(|e| Error::Failed(format!("step {}: {phase}: {e}", session.step())))?;
    let in_order: String = odds.iter().map(|x| if *x > 0.0 { '1' } else { '0' }).collect();
    let hits = in_order.bytes().filter(|b| *b == b'1').count() as u64;
    let right = Tally { hits, total: odds.len() as u64 };
    let margin = odds.iter().sum::<f64>() / odds.len() as f64;
    session.progress.say(&format!("{phase}: {} of {} held-out pairs right", right.hits, right.total));
    if let Model::Judge { judge, .. } = &model
        && judge.n_cut() > 0
    {
        session.progress.say(&format!("{phase}: {} held-out pairs were cut to fit", judge.n_cut()));
    }
    session.put(&phase, &Fold { right, margin, in_order })?;
    let values = BTreeMap::from([
        ("eval/accuracy".to_owned(), right.share()),
        ("eval/rewards/margins".to_owned(), margin),
    ]);
    session.log(&format!("{phase}/eval"), values, BTreeMap::new())?;
    session.finish_phase(&phase, None)
}

/// A fitted model, with its own tokenizer where it reads tokens.
enum Model {
    Bag(BagOfWords),
    Judge { judge: Box<Judge>, tokenizer: Box<Tokenizer> },
}

impl Model {
    /// log-odds(chosen ≻ rejected) of each pair.
    fn log_odds(&mut self, pairs: &[&Pair]) -> Result<Vec<f64>, Error> {
        match self {
            Self::Bag(bag) => {
                Ok(pairs.iter().map(|p| bag.reward(&p.chosen) - bag.reward(&p.rejected)).collect())
            }
            Self::Judge { judge, tokenizer } => {
                let ids: Vec<TokenTriple> = pairs.iter().map(|p| tokens(tokenizer, p)).collect();
                let comparisons: Vec<Comparison<'_>> =
                    pairs.iter().zip(&ids).map(|(pair, ids)| comparison(pair, ids)).collect();
                judge.log_odds(&comparisons)
            }
        }
    }

    /// Writes `model/`.
    fn save(&self, session: &Session) -> Result<(), Error> {
        let dir = session.paths().model();
        match self {
            Self::Bag(bag) => {
                models::SavedBag { reads: models::Reads::Completion, bag: bag.clone() }.save(&dir)
            }
            Self::Judge { judge, tokenizer } => judge.save(&dir, tokenizer),
        }
    }
}

fn tokens(tokenizer: &Tokenizer, pair: &Pair) -> TokenTriple {
    let [prompt, chosen, rejected] =
        [&pair.prompt, &pair.chosen, &pair.rejected].map(|text| tokenizer.encode(text));
    TokenTriple { prompt, chosen, rejected }
}

/// The chosen answer against the rejected one.
fn comparison<'a>(pair: &'a Pair, ids: &'a TokenTriple) -> Comparison<'a> {
    let side = |completion: &'a str, completion_ids: &'a [u32]| Candidate {
        prompt: &pair.prompt,
        completion,
        prompt_ids: &ids.prompt,
        completion_ids,
    };
    Comparison { a: side(&pair.chosen, &ids.chosen), b: side(&pair.rejected, &ids.rejected) }
}

fn fitted(
    config: &RewardPipeline,
    session: &mut Session,
    kind: ComparedKind,
    fold: &str,
    train: &[&Pair],
) -> Result<Model, Error> {
    let phase = phase(kind, fold);
    match kind {
        ComparedKind::Bag => Ok(Model::Bag(bag(config, train)?)),
        ComparedKind::Transformer => trunk(config, session, &phase, JudgeKind::BradleyTerry, train),
        ComparedKind::Pairwise => trunk(config, session, &phase, JudgeKind::Pairwise, train),
        ComparedKind::Gpm => {
            let (width, tau) = (config.model.gpm_width.get(), config.model.gpm_tau);
            trunk(config, session, &phase, JudgeKind::Gpm { width, config: GpmConfig { tau } }, train)
        }
    }
}

/// Words of the answers alone: the prompt is the same on both sides.
fn bag(config: &RewardPipeline, train: &[&Pair]) -> Result<BagOfWords, Error> {
    let pairs: Vec<(&str, &str)> = train.iter().map(|p| (&*p.chosen, &*p.rejected)).collect();
    let bag = BagConfig { l2: config.training.l2.get(), ..BagConfig::default() };
    BagOfWords::fit_pairs(&pairs, bag).map_err(|e| Error::Failed(e.to_string()))
}

/// A model on a decoder trunk from scratch, with a tokenizer trained on the fold's own texts. Trunk,
/// tokenizer, order of pairs and numbers of the optimiser are the same for every kind.
fn trunk(
    config: &RewardPipeline,
    session: &mut Session,
    phase: &str,
    kind: JudgeKind,
    train: &[&Pair],
) -> Result<Model, Error> {
    let texts: Vec<String> =
        train.iter().flat_map(|p| [p.prompt.clone(), p.chosen.clone(), p.rejected.clone()]).collect();
    let tokenizer = models::train_tokenizer(&texts, config.model.vocab_size.get())?;
    let pairs: Vec<TokenTriple> = train.iter().map(|p| tokens(&tokenizer, p)).collect();
    let decoder = config.model.decoder(&tokenizer, room(config, kind))?;
    let c = &config.training;
    let plan = FitPlan {
        phase: phase.to_owned(),
        seed: config.seed,
        n_rows: pairs.len(),
        n_epochs: c.num_train_epochs.get(),
        batch_size: c.batch_size,
        learning_rate: c.learning_rate.get(),
        schedule: c.lr_scheduler_type,
        warmup_ratio: c.warmup_ratio.get(),
        optim: config.adam.with(c.weight_decay, c.max_grad_norm),
        save_steps: config.checkpoint.save_steps,
    };
    let blank = Blank { config: &decoder, trunk: None, eos: tokenizer.eos(), pad: tokenizer.pad() };
    let center = BradleyTerryConfig { center_rewards_coefficient: c.center_rewards_coefficient };
    let how = JudgeTraining { kind, token_dropout: c.token_dropout, center };
    let judge = preference::train(session, &plan, &blank, &how, &pairs)?;
    Ok(Model::Judge { judge: Box::new(judge), tokenizer: Box::new(tokenizer) })
}

/// Tokens of a row: one text, or for a cross-encoder two and the marks behind them.
fn room(config: &RewardPipeline, kind: JudgeKind) -> NonZeroUsize {
    let one = config.data.max_length;
    if kind == JudgeKind::Pairwise {
        one.saturating_mul(NonZeroUsize::MIN.saturating_add(1)).saturating_add(2)
    } else {
        one
    }
}
