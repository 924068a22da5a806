//! The two reward models, from disjoint comparisons or ratings, and how well each does on texts
//! that neither saw.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use rlhf_core::contract::{Candidate, RewardModel};
use rlhf_core::loss::bradley_terry::BradleyTerryConfig;
use rlhf_core::loss::regression::regression;
use rlhf_core::rng::stream;
use rlhf_eval::stats;
use rlhf_policy::classifier::Classifier;
use rlhf_policy::optim::Grads;
use rlhf_reward::bag::{BagConfig, BagOfWords};
use rlhf_reward::pairwise::{TokenPair, pairwise_loss};

use super::Setting;
use super::summary::RewardFigures;
use crate::config::{RewardKind, SuperhfPipeline};
use crate::error::Error;
use crate::pipeline::fit::{FitPlan, Shown, fit};
use crate::pipeline::ground::Start;
use crate::pipeline::models::{self, Scorer, reward_row};
use crate::pipeline::preference::{shown, thinned};
use crate::pipeline::session::Session;
use crate::task::{Pair, Rated};

/// Trains the proxy and the judge, or takes them from the checkpoint.
///
/// # Errors
/// Whatever stops a phase.
pub(super) fn train(
    config: &SuperhfPipeline,
    setting: &mut Setting,
    start: &Start,
    session: &mut Session,
) -> Result<(), Error> {
    let proxy = one(config, setting, start, session, "proxy", config.reward.proxy)?;
    let judge = one(config, setting, start, session, "judge", config.reward.judge)?;
    setting.proxy = Some(proxy);
    setting.judge = Some(judge);
    Ok(())
}

fn one(
    config: &SuperhfPipeline,
    setting: &Setting,
    start: &Start,
    session: &mut Session,
    role: &str,
    kind: RewardKind,
) -> Result<Scorer, Error> {
    let done = session.finished(role).map(<[u8]>::to_vec);
    let (pairs, rated) = match role {
        "proxy" => (&setting.ground.data.train_preferences, &setting.ground.data.train_rated),
        _ => (&setting.ground.data.judge_preferences, &setting.ground.data.judge_rated),
    };
    let scorer = match kind {
        RewardKind::Bag => Scorer::Bag(match &done {
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|e| Error::Failed(format!("checkpoint: {role}: {e}")))?,
            None => bag(pairs, rated, config.reward.l2.get())?,
        }),
        RewardKind::Transformer => {
            let trunk = config.reward.from_sft.then_some(&start.policy);
            let seed = config.seed.wrapping_add(if role == "proxy" { 1 } else { 2 });
            let blank = models::classifier_from(&setting.ground.decoder, 1, trunk, seed, &session.device)?;
            let model = match &done {
                Some(bytes) => models::filled(blank, bytes)?,
                None => transformer(config, setting, session, role, blank, pairs, rated)?,
            };
            Scorer::Transformer {
                model: Box::new(model.valid()),
                config: Box::new(setting.ground.decoder.clone()),
                eos: setting.ground.tokenizer.eos(),
                pad: setting.ground.tokenizer.pad(),
            }
        }
    };
    if done.is_none() {
        let mut scorer = scorer.clone();
        let figures = measure(setting, &mut scorer)
            .map_err(|e| Error::Failed(format!("step {}: {role} on held-out texts: {e}", session.step())))?;
        session.progress.say(&format!("{role} reward: {}", figures.sentence()));
        session.put(&format!("reward/{role}"), &figures)?;
        let bytes = match &scorer {
            Scorer::Bag(bag) => serde_json::to_vec(bag).map_err(|e| Error::Failed(format!("{role}: {e}")))?,
            Scorer::Transformer { model, .. } => models::bytes_of(model.as_ref())?,
            Scorer::Gold(_) => Vec::new(),
        };
        session.finish_phase(role, Some(bytes))?;
    }
    Ok(scorer)
}

fn bag(pairs: &[Pair], rated: &[Rated], l2: f64) -> Result<BagOfWords, Error> {
    let config = BagConfig { l2, ..BagConfig::default() };
    let fitted = if rated.is_empty() {
        let texts: Vec<(String, String)> = pairs
            .iter()
            .map(|p| (format!("{}{}", p.prompt, p.chosen), format!("{}{}", p.prompt, p.rejected)))
            .collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        BagOfWords::fit_pairs(&texts, config)
    } else {
        let texts: Vec<(&str, f64)> = rated.iter().map(|r| (r.text.as_str(), r.mean)).collect();
        BagOfWords::fit_ratings(&texts, config)
    };
    fitted.map_err(|e| Error::Failed(e.to_string()))
}

/// Bradley–Terry on pairs, or least squares on ratings where there are any.
fn transformer(
    config: &SuperhfPipeline,
    setting: &Setting,
    session: &mut Session,
    role: &str,
    blank: Classifier,
    pairs: &[Pair],
    rated: &[Rated],
) -> Result<Classifier, Error> {
    let c = &config.reward;
    let plan = FitPlan {
        phase: format!("reward/{role}"),
        seed: config.seed,
        n_rows: if rated.is_empty() { pairs.len() } else { rated.len() },
        n_epochs: c.num_train_epochs.get(),
        batch_size: c.batch_size,
        learning_rate: c.learning_rate.get(),
        schedule: c.lr_scheduler_type,
        warmup_ratio: c.warmup_ratio.get(),
        optim: config.adam.with(c.weight_decay, c.max_grad_norm),
        save_steps: config.checkpoint.save_steps,
    };
    let (eos, pad, most) = (
        setting.ground.tokenizer.eos(),
        setting.ground.tokenizer.pad(),
        setting.ground.decoder.max_position_embeddings(),
    );
    let row = |prompt: &str, completion: &str| {
        reward_row(
            &setting.ground.reward_prompt_ids(prompt),
            &setting.ground.tokenizer.encode(completion),
            eos,
            most,
        )
    };
    let seed = config.seed;
    let drop = |ids: &[u32], step: u64, index: usize| {
        // Word dropout; the last token, at which the reward is read, stays.
        let (last, rest) = ids.split_last().expect("a row ends with a token");
        let rng = &mut stream(seed, &format!("reward/{role}/dropout"), step, index as u64);
        let mut kept = thinned(rest, c.token_dropout, rng);
        kept.push(*last);
        kept
    };
    if rated.is_empty() {
        let center = BradleyTerryConfig { center_rewards_coefficient: c.center_rewards_coefficient };
        let pairs: Vec<TokenPair> = pairs
            .iter()
            .map(|p| TokenPair { chosen: row(&p.prompt, &p.chosen), rejected: row(&p.prompt, &p.rejected) })
            .collect();
        return fit(session, &plan, blank, &mut |model, step, rows| {
            let pairs: Vec<TokenPair> = rows
                .iter()
                .map(|r| TokenPair {
                    chosen: drop(&pairs[*r].chosen, step, 2 * r),
                    rejected: drop(&pairs[*r].rejected, step, 2 * r + 1),
                })
                .collect();
            let pairs: Vec<&TokenPair> = pairs.iter().collect();
            shown(model, pairwise_loss(&|rows| model.scores(rows, pad), &pairs, center), pairs.len())
        });
    }
    let texts: Vec<(Vec<u32>, f64)> = rated.iter().map(|r| (row("", &r.text), r.mean)).collect();
    fit(session, &plan, blank, &mut |model, step, rows| {
        let texts: Vec<(Vec<u32>, f64)> =
            rows.iter().map(|r| (drop(&texts[*r].0, step, *r), texts[*r].1)).collect();
        rating_step(model, &texts.iter().collect::<Vec<_>>(), pad)
    })
}

/// One optimiser step's gradient of the mean squared error.
fn rating_step(model: &Classifier, texts: &[&(Vec<u32>, f64)], pad: u32) -> Shown {
    let rows: Vec<&[u32]> = texts.iter().map(|(ids, _)| ids.as_slice()).collect();
    let targets: Vec<f32> = texts.iter().map(|(_, y)| *y as f32).collect();
    let scores = model.scores(&rows, pad);
    let targets = Tensor::<1>::from_data(TensorData::new(targets, [rows.len()]), &scores.device());
    let loss = regression(scores, targets).mean();
    let value = f64::from(loss.clone().into_scalar::<f32>());
    Shown { grads: Grads::of(model, &loss.backward()), values: BTreeMap::from([("loss".to_owned(), value)]) }
}

/// Accuracy on held-out pairs and correlation with held-out mean ratings, where the task has them.
fn measure(setting: &Setting, scorer: &mut Scorer) -> Result<RewardFigures, Error> {
    let mut figures = RewardFigures::default();
    let pairs = &setting.ground.data.heldout_preferences;
    if !pairs.is_empty() {
        let chosen: Vec<(&str, &str)> =
            pairs.iter().map(|p| (p.prompt.as_str(), p.chosen.as_str())).collect();
        let rejected: Vec<(&str, &str)> =
            pairs.iter().map(|p| (p.prompt.as_str(), p.rejected.as_str())).collect();
        let a = score_texts(setting, scorer, &chosen)?;
        let b = score_texts(setting, scorer, &rejected)?;
        differing(&a, &b)?;
        let failed = |e: rlhf_eval::error::EvalError| Error::Failed(e.to_string());
        let right = stats::pairwise_accuracy(&a, &b).map_err(failed)?;
        figures.accuracy = Some(stats::wilson(right, stats::LEVEL_95).map_err(failed)?);
        figures.n_pairs = pairs.len();
    }
    let rated = &setting.ground.data.heldout_rated;
    if !rated.is_empty() {
        let texts: Vec<(&str, &str)> = rated.iter().map(|r| ("", r.text.as_str())).collect();
        let scores = score_texts(setting, scorer, &texts)?;
        differing(&scores, &[])?;
        let means: Vec<f64> = rated.iter().map(|r| r.mean).collect();
        figures.correlation = stats::pearson(&scores, &means).ok();
        figures.n_rated = rated.len();
    }
    Ok(figures)
}

/// A reward that is the same for every text chooses nothing: its training diverged or its data say
/// nothing.
fn differing(a: &[f64], b: &[f64]) -> Result<(), Error> {
    let mut all = a.iter().chain(b).map(|x| x.to_bits());
    let first = all.next();
    match first {
        Some(bits) if a.len() + b.len() > 1 && all.all(|x| x == bits) => Err(Error::Failed(format!(
            "reward model: expected scores that differ between {} held-out texts, found {} for all",
            a.len() + b.len(),
            f64::from_bits(bits)
        ))),
        _ => Ok(()),
    }
}

fn score_texts(setting: &Setting, scorer: &mut Scorer, texts: &[(&str, &str)]) -> Result<Vec<f64>, Error> {
    let ids: Vec<(Vec<u32>, Vec<u32>)> = texts
        .iter()
        .map(|(p, c)| (setting.ground.reward_prompt_ids(p), setting.ground.tokenizer.encode(c)))
        .collect();
    let items: Vec<Candidate<'_>> = texts
        .iter()
        .zip(&ids)
        .map(|((prompt, completion), (prompt_ids, completion_ids))| Candidate {
            prompt,
            completion,
            prompt_ids,
            completion_ids,
        })
        .collect();
    scorer.score(&items)
}
