//! A reward model from preference pairs, with k-fold held-out accuracy and the baselines that a
//! reward model must beat.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use rlhf_core::loss::bradley_terry::BradleyTerryConfig;
use rlhf_core::rng::stream;
use rlhf_eval::report::{self, Report, Section, Table};
use rlhf_eval::stats::{self, Interval, Tally};
use rlhf_policy::tokenizer::Tokenizer;
use rlhf_reward::bag::{BagConfig, BagOfWords};
use rlhf_reward::folds::folds;
use rlhf_reward::pairwise::TokenPair;
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::fit::{FitPlan, fit};
use super::models::{self, Scorer, reward_row};
use super::session::Session;
use super::superhf::pair_step;
use crate::config::{RewardKind, RewardKinds, RewardPipeline};
use crate::data::{self, Layout};
use crate::error::Error;
use crate::run::atomic;
use crate::task::{Pair, Sizes, restaurants};

/// Comparisons of the embedded task.
const EMBEDDED: usize = 2000;

/// Rows scored together.
const SCORE_ROWS: usize = 64;

/// The last tokenizer, kept for the saved model.
const LAST: &str = "all";

/// Runs the pipeline to its report.
///
/// # Errors
/// Whatever stops it; the run folder then holds what `--resume` needs.
pub fn run(config: &RewardPipeline, mut session: Session) -> Result<Outcome, Error> {
    let (pairs, notes) = comparisons(config)?;
    let mut rng = stream(config.seed, "reward/folds", 0, 0);
    let folds = folds(pairs.len(), config.data.folds.get(), &mut rng).map_err(|_| {
        let expected = format!("2 to {} (at most one a pair)", pairs.len());
        Error::config("config", "data.folds", expected, config.data.folds.to_string())
    })?;
    for kind in kinds(config.model.kind) {
        for (f, held_out) in folds.iter().enumerate() {
            let train: Vec<&Pair> =
                (0..pairs.len()).filter(|i| !held_out.contains(i)).map(|i| &pairs[i]).collect();
            let test: Vec<&Pair> = held_out.iter().map(|i| &pairs[*i]).collect();
            one_fold(config, &mut session, kind, &f.to_string(), &train, Some(&test))?;
        }
    }
    // The saved model learns from every pair; its accuracy is the folds'.
    let all: Vec<&Pair> = pairs.iter().collect();
    let kind = kinds(config.model.kind)[0];
    one_fold(config, &mut session, kind, LAST, &all, None)?;
    write(config, session, &pairs, folds.len(), notes)
}

fn kinds(kind: RewardKinds) -> Vec<RewardKind> {
    match kind {
        RewardKinds::Bag => vec![RewardKind::Bag],
        RewardKinds::Transformer => vec![RewardKind::Transformer],
        RewardKinds::Both => vec![RewardKind::Bag, RewardKind::Transformer],
    }
}

fn name(kind: RewardKind) -> &'static str {
    match kind {
        RewardKind::Bag => "bag of words",
        RewardKind::Transformer => "transformer",
    }
}

/// The pairs of the file, or of the embedded task, and what was counted while reading.
pub(crate) fn comparisons(config: &RewardPipeline) -> Result<(Vec<Pair>, Vec<String>), Error> {
    if config.data.path.is_empty() {
        let sizes = Sizes { n_sft: 1, n_preferences: EMBEDDED, n_prompts: 1, n_eval_prompts: 1 };
        let task = restaurants::restaurants(config.seed, &sizes)?;
        let note = format!("{} comparisons of invented restaurants.", task.train_preferences.len());
        return Ok((task.train_preferences, vec![note]));
    }
    super::ground::existing("data.path", &config.data.path)?;
    let path = Path::new(&config.data.path);
    let loaded = data::preferences(path, &Layout::default())?.load(config.data.on_bad_record)?;
    let mut notes = vec![format!("{} comparisons of {}.", loaded.records.len(), path.display())];
    if loaded.skipped > 0 {
        let first = loaded.first_skipped.unwrap_or_default();
        notes.push(format!("{} records at fault were left out, the first: {first}.", loaded.skipped));
    }
    let pairs =
        loaded.records.into_iter().map(|p| Pair { prompt: p.prompt, chosen: p.chosen, rejected: p.rejected });
    Ok((pairs.collect(), notes))
}

/// What one fold showed on its held-out pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Fold {
    right: Tally,
    margin: f64,
}

fn one_fold(
    config: &RewardPipeline,
    session: &mut Session,
    kind: RewardKind,
    fold: &str,
    train: &[&Pair],
    test: Option<&[&Pair]>,
) -> Result<(), Error> {
    let short = if kind == RewardKind::Bag { "bag" } else { "transformer" };
    let phase = format!("reward/{short}/fold={fold}");
    let done = match test {
        Some(_) => session.get::<Fold>(&phase)?.is_some(),
        None => session.finished(LAST).is_some(),
    };
    if done {
        return Ok(());
    }
    let mut model = match kind {
        RewardKind::Bag => Model::Bag(bag(config, train)?),
        RewardKind::Transformer => transformer(config, session, &phase, train)?,
    };
    let Some(test) = test else { return session.finish_phase(LAST, Some(model.save(session)?)) };
    let a = model.scores(&test.iter().map(|p| (&*p.prompt, &*p.chosen)).collect::<Vec<_>>());
    let b = model.scores(&test.iter().map(|p| (&*p.prompt, &*p.rejected)).collect::<Vec<_>>());
    if let Some(value) = a.iter().chain(&b).find(|s| !s.is_finite()) {
        let term = format!("{phase}: reward of a held-out answer");
        return Err(Error::NotFinite { step: session.step(), term, value: *value });
    }
    let right = stats::pairwise_accuracy(&a, &b).map_err(|e| Error::Failed(e.to_string()))?;
    let margin = a.iter().zip(&b).map(|(a, b)| a - b).sum::<f64>() / a.len() as f64;
    session.progress.say(&format!("{phase}: {} of {} held-out pairs right", right.hits, right.total));
    session.put(&phase, &Fold { right, margin })?;
    let values = BTreeMap::from([
        ("eval/accuracy".to_owned(), right.share()),
        ("eval/rewards/margins".to_owned(), margin),
    ]);
    session.log(&format!("{phase}/eval"), values, BTreeMap::new())?;
    session.finish_phase(&phase, None)
}

/// A fitted model of either kind, with its own tokenizer.
enum Model {
    Bag(BagOfWords),
    Transformer { scorer: Box<Scorer>, tokenizer: Box<Tokenizer> },
}

impl Model {
    fn scores(&mut self, texts: &[(&str, &str)]) -> Vec<f64> {
        match self {
            Self::Bag(bag) => texts.iter().map(|(_, completion)| bag.reward(completion)).collect(),
            Self::Transformer { scorer, tokenizer } => {
                let Scorer::Transformer { model, config, eos, pad } = scorer.as_ref() else {
                    return Vec::new();
                };
                let most = config.max_position_embeddings();
                let rows: Vec<Vec<u32>> =
                    texts.iter().map(|(p, c)| row(tokenizer, p, c, *eos, most)).collect();
                model.score_rows(&rows, *pad, SCORE_ROWS)
            }
        }
    }

    /// Writes `model/` and returns what the checkpoint keeps.
    fn save(&self, session: &Session) -> Result<Vec<u8>, Error> {
        let dir = session.paths().model();
        match self {
            Self::Bag(bag) => {
                models::SavedBag { reads: models::Reads::Completion, bag: bag.clone() }.save(&dir)?;
            }
            Self::Transformer { scorer, tokenizer } => scorer.save(&dir, tokenizer)?,
        }
        Ok(b"saved".to_vec())
    }
}

fn row(tokenizer: &Tokenizer, prompt: &str, completion: &str, eos: u32, most: usize) -> Vec<u32> {
    reward_row(&tokenizer.encode(prompt), &tokenizer.encode(completion), eos, most)
}

/// Words of the answers alone: the prompt is the same on both sides.
fn bag(config: &RewardPipeline, train: &[&Pair]) -> Result<BagOfWords, Error> {
    let pairs: Vec<(&str, &str)> = train.iter().map(|p| (&*p.chosen, &*p.rejected)).collect();
    let bag = BagConfig { l2: config.training.l2.get(), ..BagConfig::default() };
    BagOfWords::fit_pairs(&pairs, bag).map_err(|e| Error::Failed(e.to_string()))
}

/// A decoder from scratch, with a tokenizer trained on the fold's own texts.
fn transformer(
    config: &RewardPipeline,
    session: &mut Session,
    phase: &str,
    train: &[&Pair],
) -> Result<Model, Error> {
    let texts: Vec<String> =
        train.iter().flat_map(|p| [p.prompt.clone(), p.chosen.clone(), p.rejected.clone()]).collect();
    let tokenizer = models::train_tokenizer(&texts, config.model.vocab_size.get())?;
    let (eos, pad, most) = (tokenizer.eos(), tokenizer.pad(), config.data.max_length.get());
    let decoder = config.model.decoder(&tokenizer, config.data.max_length)?;
    let pairs: Vec<TokenPair> = train
        .iter()
        .map(|p| TokenPair {
            chosen: row(&tokenizer, &p.prompt, &p.chosen, eos, most),
            rejected: row(&tokenizer, &p.prompt, &p.rejected, eos, most),
        })
        .collect();
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
    let center = BradleyTerryConfig { center_rewards_coefficient: c.center_rewards_coefficient };
    let blank = models::classifier_from(&decoder, None, config.seed, &session.device)?;
    let model = fit(session, &plan, blank, &mut |model, _, rows| {
        pair_step(model, &rows.iter().map(|r| &pairs[*r]).collect::<Vec<_>>(), center, pad)
    })?;
    let scorer = Scorer::Transformer { model: Box::new(model.valid()), config: Box::new(decoder), eos, pad };
    Ok(Model::Transformer { scorer: Box::new(scorer), tokenizer: Box::new(tokenizer) })
}

/// Share of pairs whose chosen answer is the shorter one, and the longer one; in characters, equal
/// lengths count for neither.
fn length_baselines(pairs: &[Pair]) -> [Tally; 2] {
    let n = |text: &str| text.chars().count();
    let total = pairs.len() as u64;
    let shorter = pairs.iter().filter(|p| n(&p.chosen) < n(&p.rejected)).count() as u64;
    let longer = pairs.iter().filter(|p| n(&p.chosen) > n(&p.rejected)).count() as u64;
    [Tally { hits: shorter, total }, Tally { hits: longer, total }]
}

fn write(
    config: &RewardPipeline,
    session: Session,
    pairs: &[Pair],
    n_folds: usize,
    notes: Vec<String>,
) -> Result<Outcome, Error> {
    let failed = |e: rlhf_eval::error::EvalError| Error::Failed(e.to_string());
    let mut rows: Vec<(String, Interval, Option<Interval>)> = Vec::new();
    for kind in kinds(config.model.kind) {
        let short = if kind == RewardKind::Bag { "bag" } else { "transformer" };
        let mut shares = Vec::new();
        let mut all = Tally { hits: 0, total: 0 };
        for f in 0..n_folds {
            if let Some(fold) = session.get::<Fold>(&format!("reward/{short}/fold={f}"))? {
                shares.push(fold.right.share());
                all = Tally { hits: all.hits + fold.right.hits, total: all.total + fold.right.total };
            }
        }
        let over_pairs = stats::wilson(all, stats::LEVEL_95).map_err(failed)?;
        let over_folds = stats::mean_interval(&shares, stats::LEVEL_95).map_err(failed)?;
        rows.push((name(kind).to_owned(), over_pairs, Some(over_folds)));
    }
    for (name, tally) in ["shorter wins", "longer wins"].into_iter().zip(length_baselines(pairs)) {
        rows.push((name.to_owned(), stats::wilson(tally, stats::LEVEL_95).map_err(failed)?, None));
    }
    let subtitle = format!("{n_folds} folds, device {}, {} threads", config.device, config.threads);
    let mut report = Report::new("Reward model", subtitle);
    let mut section = Section::new("Held-out accuracy");
    let mut table = Table::new(
        "Share of held-out pairs whose chosen answer scores higher; ties count as wrong.",
        ["model", "all pairs (Wilson 95 %)", "mean of folds (Student t 95 %)"],
    );
    let mut summary = Vec::new();
    for (name, pairs, folds) in rows {
        let folds_text = folds.map_or_else(String::new, |f| {
            format!("; mean of folds {:.4} [{:.4}, {:.4}]", f.estimate, f.low, f.high)
        });
        summary.push(format!(
            "{name:<14} {:.4} [{:.4}, {:.4}]{folds_text}",
            pairs.estimate, pairs.low, pairs.high
        ));
        table.rows.push(vec![name.into(), pairs.into(), folds.map_or_else(|| "–".into(), Into::into)]);
    }
    section.push(table);
    for note in notes {
        section.paragraph(note);
    }
    report.sections.push(section);
    let failed = |e: rlhf_eval::error::ReportError| Error::Failed(format!("report: {e}"));
    atomic::write(&session.paths().report_json(), report::to_json(&report).map_err(failed)?.as_bytes())?;
    let page = report::html(std::slice::from_ref(&report)).map_err(failed)?;
    atomic::write(&session.paths().report_html(), page.as_bytes())?;
    summary.push(format!("report: {}", session.paths().report_html().display()));
    summary.push(format!("model:  {}", session.paths().model().display()));
    session.close()?;
    Ok(Outcome { summary })
}
