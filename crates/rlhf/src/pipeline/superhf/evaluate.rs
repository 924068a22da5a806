//! What is measured: rewards, distance to the prior, diversity, length.

use std::collections::BTreeMap;

use rlhf_core::contract::{Candidate, RewardModel};
use rlhf_core::host::sampling::Sampling;
use rlhf_core::host::select::top_k;
use rlhf_core::rng::stream;
use rlhf_eval::text::{self, Completion, Pairs};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::generate;
use serde::{Deserialize, Serialize};

use super::{Baseline, Setting};
use crate::config::SuperhfPipeline;
use crate::error::Error;
use crate::pipeline::ground::{Answer, answer, generation, perplexity, sequence_kl};
use crate::pipeline::models::Scorer;
use crate::pipeline::session::Session;

/// Scores answers to `prompts` (texts and tokens by index).
///
/// # Errors
/// A score that is not finite.
pub(super) fn score(
    scorer: &mut Scorer,
    prompts: &[String],
    prompt_ids: &[Vec<u32>],
    answers: &[Answer],
) -> Result<Vec<f64>, Error> {
    let items: Vec<Candidate<'_>> = answers
        .iter()
        .map(|a| Candidate {
            prompt: &prompts[a.prompt],
            completion: &a.text,
            prompt_ids: &prompt_ids[a.prompt],
            completion_ids: &a.ids,
        })
        .collect();
    scorer.score(&items)
}

/// Means over the evaluation prompts. Keys are those of `steps.jsonl` behind `eval/`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// By name: `reward/proxy`, `reward/judge`, `reward/gold`, each with `_std` over
    /// the prompts, `kl` (sequence KL to the prior,
    /// nats), `kl_prior` (per token, prior to policy), `self_similarity`, `distinct_1`,
    /// `distinct_2`, `completions/mean_length` (tokens), `completions/mean_characters`,
    /// `completions/ended` (share), `perplexity` (under the start policy).
    pub values: BTreeMap<String, f64>,
}

/// Figures after some rounds of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Rounds done.
    pub round: u64,
    /// What was measured.
    pub figures: Figures,
    /// The first answers, for the report.
    pub samples: Vec<[String; 2]>,
}

/// `n` answers to every evaluation prompt. The random numbers depend on the seed, the prompt and
/// the sample alone, so that policies are compared on the same ones.
fn answers(
    config: &SuperhfPipeline,
    setting: &Setting,
    session: &Session,
    policy: &Decoder,
    seed: u64,
    n: usize,
) -> Result<Vec<Answer>, Error> {
    let e = &config.evaluation;
    let sampling = Sampling { temperature: e.temperature.get(), top_p: e.top_p.get(), ..Sampling::plain() };
    let how = generation(&config.common(), &setting.ground, session, sampling, n);
    let random = |p: usize, s: usize| stream(seed, "evaluation", p as u64, s as u64);
    let rollouts = generate(policy, &setting.ground.eval_prompts, &how, &random, &session.plain)?;
    Ok(rollouts.iter().map(|r| answer(config.superhf.trim, &setting.ground, r)).collect())
}

/// Measures a policy on the evaluation prompts. `policy` lives on the plain device.
///
/// # Errors
/// A figure that is not finite.
pub(super) fn evaluate(
    config: &SuperhfPipeline,
    setting: &mut Setting,
    session: &Session,
    policy: &Decoder,
    seed: u64,
    round: u64,
) -> Result<Evaluation, Error> {
    let answers = answers(config, setting, session, policy, seed, 1)?;
    let mut figures = measure_answers(config, setting, &answers, seed)?;
    let (ground, both) = (&setting.ground, [policy, &setting.ground.prior]);
    let kl = sequence_kl(&config.common(), ground, session, both, seed, "evaluation/kl")?;
    figures.values.insert("kl".to_owned(), kl.to_other);
    figures.values.insert("kl_prior".to_owned(), kl.from_other_per_token);
    let samples = answers
        .iter()
        .take(config.evaluation.samples)
        .map(|a| [setting.ground.data.eval_prompts[a.prompt].clone(), a.text.clone()])
        .collect();
    Ok(Evaluation { round, figures, samples })
}

/// Everything that can be said of one answer a prompt, whoever chose it.
fn measure_answers(
    config: &SuperhfPipeline,
    setting: &mut Setting,
    answers: &[Answer],
    seed: u64,
) -> Result<Figures, Error> {
    let failed = |e: rlhf_eval::error::EvalError| Error::Failed(e.to_string());
    let mut figures = Figures::default();
    let mut put = |key: &str, value: f64| figures.values.insert(key.to_owned(), value);
    let n = answers.len() as f64;
    let (prompts, ids) = (&setting.ground.data.eval_prompts, &setting.ground.eval_prompts);
    let roles = [("proxy", &mut setting.proxy), ("judge", &mut setting.judge), ("gold", &mut setting.gold)];
    for (role, scorer) in roles {
        if let Some(scorer) = scorer {
            let scores = score(scorer, prompts, ids, answers)?;
            let spread = text::spread(&scores).map_err(failed)?;
            put(&format!("reward/{role}"), spread.mean);
            put(&format!("reward/{role}_std"), spread.sd);
        }
    }
    let texts: Vec<&str> = answers.iter().map(|a| a.text.as_str()).collect();
    let owned: Vec<Completion<'_>> =
        answers.iter().map(|a| Completion { prompt: &prompts[a.prompt], text: &a.text }).collect();
    let pairs = Pairs::Unordered(config.evaluation.similarity_pairs.get());
    let mut random = stream(seed, "similarity", 0, 0);
    let similarity = text::self_similarity(&owned, pairs, &mut random).map_err(failed)?;
    put("self_similarity", similarity.mean);
    put("distinct_1", text::distinct_n(&texts, 1).map_or(0.0, |t| t.share()));
    put("distinct_2", text::distinct_n(&texts, 2).map_or(0.0, |t| t.share()));
    put("completions/mean_length", answers.iter().map(|a| a.ids.len() as f64).sum::<f64>() / n);
    let characters = |a: &Answer| a.text.trim().chars().count() as f64;
    put("completions/mean_characters", answers.iter().map(characters).sum::<f64>() / n);
    put("completions/ended", answers.iter().filter(|a| a.ended).count() as f64 / n);
    put("perplexity", perplexity(&setting.ground, answers));
    Ok(figures)
}

/// The start policy, and the best of N of its answers by the proxy reward, on the evaluation
/// prompts: no training.
///
/// # Errors
/// A figure that is not finite, the disk, an interrupt.
pub(super) fn baselines(
    config: &SuperhfPipeline,
    setting: &mut Setting,
    session: &mut Session,
) -> Result<(), Error> {
    if session.get::<Vec<Baseline>>("baselines")?.is_some() {
        return Ok(());
    }
    let prior = setting.ground.prior.clone();
    let mut all = Vec::new();
    for s in 0..config.sweep.seeds.get() as u64 {
        if session.asked_to_stop() {
            // The last phase is saved; these measurements are made again.
            return Err(session.stopped());
        }
        let seed = config.seed.wrapping_add(s);
        let start = evaluate(config, setting, session, &prior, seed, 0)?;
        session.put(&format!("start/{s}"), &start)?;
        let most = config.evaluation.best_of_n.iter().map(|n| n.get()).max().unwrap_or(1);
        session.progress.begin(&format!("best of {most} at inference, seed {s}"), "prompt", 1);
        let answers = answers(config, setting, session, &prior, seed, most)?;
        let Some(proxy) = &mut setting.proxy else { continue };
        let scores = score(proxy, &setting.ground.data.eval_prompts, &setting.ground.eval_prompts, &answers)?;
        for n in &config.evaluation.best_of_n {
            let best: Vec<Answer> = (0..setting.ground.eval_prompts.len())
                .map(|p| {
                    let from = p * most;
                    let best = top_k(&scores[from..from + n.get()], 1);
                    answers[from + best[0]].clone()
                })
                .collect();
            let figures = measure_answers(config, setting, &best, seed)?;
            all.push(Baseline { n: n.get(), seed: s, figures });
        }
        session.progress.advance(1);
    }
    session.put("baselines", &all)?;
    session.finish_phase("baselines", None)
}
