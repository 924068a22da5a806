//! What is measured: the whole policy's answers to the evaluation prompts, greedy and sampled.

use std::collections::BTreeMap;

use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_eval::bleu::{Tokens, Translation, corpus_bleu};
use rlhf_eval::stats::{LEVEL_95, Tally, wilson};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::generate;
use rlhf_policy::trim::Trim;
use serde::{Deserialize, Serialize};

use super::Setting;
use super::cell::Loop;
use crate::error::Error;
use crate::pipeline::ground::{Answer, answer, generation, sequence_kl};
use crate::pipeline::page::mean;
use crate::pipeline::session::Session;
use crate::task::Verdict;

/// Figures by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Of an evaluation, under `greedy/` and `sampled/`: `reward`; `accuracy`, the share that is right in every
    /// part, with the ends of its 95 % Wilson interval as `accuracy_low` and `accuracy_high` (of samples as if
    /// those of one prompt were independent); `pass`, the share of prompts with a right sample; `verifier/…`;
    /// `bleu` where there are references (corpus BLEU-4, lower case); `mean_length` in tokens, the end not counted; `ended`, the
    /// share that came to its end. And `kl`, KL(π ‖ start) of a sequence, nats.
    pub values: BTreeMap<String, f64>,
}

/// Figures after some rollout batches of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Rollout batches done; 0 is the start policy.
    pub batch: u64,
    /// What was measured.
    pub figures: Figures,
    /// Means over the rollout batches since the evaluation before: their own figures.
    pub rollouts: Figures,
    /// The first greedy answers, for the report.
    pub samples: Vec<[String; 2]>,
}

/// Sums of figures over rollout batches.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Sums {
    by_name: BTreeMap<String, [f64; 2]>,
}

impl Sums {
    /// One batch more.
    pub(super) fn add(&mut self, figures: &BTreeMap<String, f64>) {
        for (name, value) in figures {
            let [sum, n] = self.by_name.entry(name.clone()).or_default();
            *sum += value;
            *n += 1.0;
        }
    }

    /// The mean of each figure over the batches that have it.
    pub(super) fn means(&self) -> BTreeMap<String, f64> {
        self.by_name.iter().map(|(name, [sum, n])| (name.clone(), sum / n)).collect()
    }
}

/// Measures a policy on the evaluation prompts. `policy` lives on the plain device. Random numbers depend on
/// seed, prompt and sample alone, so that policies are compared on the same ones.
///
/// # Errors
/// A verifier that fails, a figure that is not finite.
pub(super) fn evaluate(
    it: &Loop<'_>,
    setting: &Setting,
    session: &Session,
    policy: &Decoder,
    batch: u64,
) -> Result<Evaluation, Error> {
    let e = &it.config.evaluation;
    let mut values = BTreeMap::new();
    let greedy = answers(it, setting, session, policy, Sampling::greedy(), 1)?;
    describe(setting, "greedy", &greedy, &mut values)?;
    let how = Sampling { temperature: e.temperature.get(), top_p: e.top_p.get(), ..Sampling::plain() };
    let sampled = answers(it, setting, session, policy, how, e.num_generations.get())?;
    let verdicts = describe(setting, "sampled", &sampled, &mut values)?;
    let groups = verdicts.chunks(e.num_generations.get());
    let solved: Vec<f64> = groups.map(|g| f64::from(u8::from(g.iter().any(|v| v.correct)))).collect();
    values.insert("sampled/pass".to_owned(), mean(&solved));
    let models = [policy, &setting.ground.prior];
    let kl = sequence_kl(&it.config.common(), &setting.ground, session, models, it.seed, "evaluation/kl")?;
    values.insert("kl".to_owned(), kl.to_other);
    let shown = greedy.iter().take(e.samples);
    let samples =
        shown.map(|a| [setting.ground.data.eval_prompts[a.prompt].clone(), a.text.clone()]).collect();
    Ok(Evaluation { batch, figures: Figures { values }, rollouts: Figures::default(), samples })
}

/// Answers to every evaluation prompt, the prompts in order, each one's answers in a row.
fn answers(
    it: &Loop<'_>,
    setting: &Setting,
    session: &Session,
    policy: &Decoder,
    sampling: Sampling,
    n: usize,
) -> Result<Vec<Answer>, Error> {
    let ground = &setting.ground;
    let how = generation(&it.config.common(), ground, session, sampling, n);
    let seed = it.seed;
    let random = |p: usize, s: usize| stream(seed, "evaluation", p as u64, s as u64);
    let rollouts = generate(policy, &ground.eval_prompts, &how, &random, &session.plain)?;
    Ok(rollouts.iter().map(|r| answer(Trim::None, ground, r)).collect())
}

/// Figures of answers under `kind/`, and what the verifier said of each.
fn describe(
    setting: &Setting,
    kind: &str,
    answers: &[Answer],
    values: &mut BTreeMap<String, f64>,
) -> Result<Vec<Verdict>, Error> {
    let data = &setting.ground.data;
    let verdict = |a: &Answer| setting.verify.verdict(&data.eval_prompts[a.prompt], &a.text);
    let verdicts: Vec<Verdict> = answers.iter().map(verdict).collect::<Result<_, _>>()?;
    let failed = |e: rlhf_eval::error::EvalError| Error::Failed(format!("evaluation: {e}"));
    let mut put = |key: &str, value: f64| values.insert(format!("{kind}/{key}"), value);
    put("reward", mean(&verdicts.iter().map(|v| v.reward).collect::<Vec<_>>()));
    let hits = verdicts.iter().filter(|v| v.correct).count() as u64;
    let right = wilson(Tally { hits, total: verdicts.len() as u64 }, LEVEL_95).map_err(failed)?;
    put("accuracy", right.estimate);
    put("accuracy_low", right.low);
    put("accuracy_high", right.high);
    for (i, part) in verdicts.first().map(|v| v.parts.as_slice()).unwrap_or_default().iter().enumerate() {
        let all: Vec<f64> = verdicts.iter().map(|v| v.parts[i].value).collect();
        put(&format!("verifier/{}", part.name), mean(&all));
    }
    let n = answers.len() as f64;
    put("mean_length", answers.iter().map(|a| a.n_drawn as f64).sum::<f64>() / n);
    put("ended", answers.iter().filter(|a| a.ended).count() as f64 / n);
    if !data.eval_references.is_empty() {
        let of = |a: &Answer| Translation {
            text: a.text.trim().to_lowercase(),
            references: data.eval_references[a.prompt].iter().map(|r| r.trim().to_lowercase()).collect(),
        };
        let corpus: Vec<Translation<String>> = answers.iter().map(of).collect();
        put("bleu", corpus_bleu(&corpus, Tokens::Wmt13a).map_err(failed)?.bleu);
    }
    Ok(verdicts)
}
