//! What is measured: win rates against the start policy, length, diversity, distance to the start.

use std::collections::BTreeMap;

use rlhf_core::contract::{Comparison, PreferenceOracle};
use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_eval::bleu::self_bleu;
use rlhf_eval::text;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::generate;
use serde::{Deserialize, Serialize};

use super::Setting;
use super::oracles::comparison;
use crate::config::RspoPipeline;
use crate::error::Error;
use crate::pipeline::ground::{Answer, Ground, answer, generation, perplexity, sequence_kl};
use crate::pipeline::preference::Judge;
use crate::pipeline::session::Session;

/// The order of n-grams in self-BLEU, as in the authors' evaluation.
const ORDER: usize = 3;

/// Means over the evaluation prompts. Keys are those of `steps.jsonl` behind `eval/`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// By name: `win_rate/proxy` and `win_rate/true` (mean P(answer ≻ an answer of the start policy) under
    /// the oracle that trains and the one that judges), `completions/mean_length` (tokens),
    /// `completions/mean_words`, `completions/mean_characters`, `completions/ended` (share), `self_bleu_3`,
    /// `distinct_2`, `kl` (KL(π ‖ μ)) and `kl_forward` (KL(μ ‖ π)), exact along sampled sequences, in nats
    /// a sequence, `perplexity` (under the start policy).
    pub values: BTreeMap<String, f64>,
}

/// Figures after some iterations of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Iterations done; 0 is the start policy.
    pub iteration: u64,
    /// What was measured.
    pub figures: Figures,
    /// The first answers, for the report.
    pub samples: Vec<[String; 2]>,
}

/// Measures a policy on the evaluation prompts. `policy` lives on the plain device.
///
/// # Errors
/// A figure that is not finite.
pub(super) fn evaluate(
    config: &RspoPipeline,
    setting: &mut Setting,
    session: &Session,
    policy: &Decoder,
    seed: u64,
    iteration: u64,
) -> Result<Evaluation, Error> {
    let answers = answers(config, &setting.ground, session, policy, seed, "evaluation")?;
    if setting.baseline.as_ref().is_none_or(|(of, _)| *of != seed) {
        // Other random numbers than the policy's: two draws that share them are no two draws.
        let prior = &setting.ground.prior;
        let start = self::answers(config, &setting.ground, session, prior, seed, "evaluation/start")?;
        setting.baseline = Some((seed, start));
    }
    let mut values = BTreeMap::new();
    let Setting { ground, proxy, judge, baseline } = setting;
    let start = baseline.as_ref().map_or(&[][..], |(_, start)| start);
    for (key, oracle) in [("win_rate/proxy", proxy), ("win_rate/true", judge)] {
        values.insert(key.to_owned(), win_rate(oracle, ground, &answers, start)?);
    }
    describe(config, ground, &answers, &mut values)?;
    let common = config.common();
    let prior = &ground.prior;
    let kl = |models: [&Decoder; 2], purpose: &str| {
        sequence_kl(&common, ground, session, models, seed, purpose).map(|kl| kl.to_other)
    };
    values.insert("kl".to_owned(), kl([policy, prior], "evaluation/kl")?);
    values.insert("kl_forward".to_owned(), kl([prior, policy], "evaluation/kl_forward")?);
    let n = config.evaluation.num_generations.get();
    let shown = answers.iter().step_by(n).take(config.evaluation.samples);
    let samples = shown.map(|a| [ground.data.eval_prompts[a.prompt].clone(), a.text.clone()]).collect();
    Ok(Evaluation { iteration, figures: Figures { values }, samples })
}

/// Answers to every evaluation prompt, the prompts in order, each one's answers in a row. The random
/// numbers depend on seed, prompt and sample alone, so that policies are compared on the same ones.
fn answers(
    config: &RspoPipeline,
    ground: &Ground,
    session: &Session,
    policy: &Decoder,
    seed: u64,
    purpose: &str,
) -> Result<Vec<Answer>, Error> {
    let e = &config.evaluation;
    let sampling = Sampling { temperature: e.temperature.get(), top_p: e.top_p.get(), ..Sampling::plain() };
    let how = generation(&config.common(), ground, session, sampling, e.num_generations.get());
    let random = |p: usize, s: usize| stream(seed, purpose, p as u64, s as u64);
    let rollouts = generate(policy, &ground.eval_prompts, &how, &random, &session.plain)?;
    Ok(rollouts.iter().map(|r| answer(config.selfplay.trim, ground, r)).collect())
}

/// Mean P(answer ≻ the start policy's answer of the same prompt and place).
fn win_rate(oracle: &mut Judge, ground: &Ground, answers: &[Answer], start: &[Answer]) -> Result<f64, Error> {
    let pairs: Vec<Comparison<'_>> = answers
        .iter()
        .zip(start)
        .map(|(a, b)| comparison(&ground.data.eval_prompts[a.prompt], &ground.eval_prompts[a.prompt], a, b))
        .collect();
    let said = oracle.prefer(&pairs)?;
    Ok(said.iter().map(|p| p.get()).sum::<f64>() / pairs.len() as f64)
}

/// What the answers are like, whoever judges them.
fn describe(
    config: &RspoPipeline,
    ground: &Ground,
    answers: &[Answer],
    values: &mut BTreeMap<String, f64>,
) -> Result<(), Error> {
    let failed = |e: rlhf_eval::error::EvalError| Error::Failed(e.to_string());
    let n = answers.len() as f64;
    let texts: Vec<&str> = answers.iter().map(|a| a.text.as_str()).collect();
    let mut put = |key: &str, value: f64| values.insert(key.to_owned(), value);
    put("completions/mean_length", answers.iter().map(|a| a.ids.len() as f64).sum::<f64>() / n);
    put("completions/mean_words", texts.iter().map(|t| t.split_whitespace().count() as f64).sum::<f64>() / n);
    put(
        "completions/mean_characters",
        texts.iter().map(|t| t.trim().chars().count() as f64).sum::<f64>() / n,
    );
    put("completions/ended", answers.iter().filter(|a| a.ended).count() as f64 / n);
    let mut bleu = 0.0;
    let groups = texts.chunks(config.evaluation.num_generations.get());
    let n_groups = groups.len() as f64;
    for group in groups {
        bleu += self_bleu(group, ORDER).map_err(failed)?.mean / n_groups;
    }
    put("self_bleu_3", bleu);
    put("distinct_2", text::distinct_n(&texts, 2).map_or(0.0, |t| t.share()));
    put("perplexity", perplexity(ground, answers));
    Ok(())
}
