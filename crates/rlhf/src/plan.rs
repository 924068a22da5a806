//! What a run will do and cost, before it starts.

use std::time::Instant;

use burn::tensor::Device;
use rlhf_policy::config::DecoderConfig;
use rlhf_selfplay::method::Rows;

use crate::bench::{self, peak_mib};
use crate::config::{
    Common, Effective, Pipeline, PreferenceKind, RewardKind, RewardPipeline, RspoPipeline, SuperhfPipeline,
};
use crate::device;
use crate::error::Error;
use crate::pipeline::superhf::Cell;
use crate::task::{Example, Pair, TaskData};

mod grpo;

/// Bytes of a parameter while it is trained: weight, gradient, two moments, and the copy on the
/// plain device.
const TRAINED: usize = 5 * 4;

/// Parameters up to which the rates are measured: seconds, not minutes.
const MOST_PROBED: usize = 30_000_000;

/// Characters a token, roughly, of a byte-level BPE of a few thousand entries on English.
const CHARACTERS_A_TOKEN: f64 = 3.5;

/// Lines for the terminal. Rates and memory are measured on this machine with the config's own
/// model, for a few seconds; no step of the run is made and nothing is written.
///
/// # Errors
/// Data or a device that cannot be used.
pub fn plan(effective: &Effective) -> Result<Vec<String>, Error> {
    match &effective.pipeline {
        Pipeline::Superhf(config) => superhf(config),
        Pipeline::Grpo(config) => grpo::plan(config),
        Pipeline::Rspo(config) => rspo(config),
        Pipeline::Reward(config) => reward(config),
    }
}

fn superhf(c: &SuperhfPipeline) -> Result<Vec<String>, Error> {
    let Basis { data, parameters, probe, sft } = basis(&c.common(), &c.device, c.threads.get())?;
    let rated = |r: &[crate::task::Rated]| r.iter().map(|r| r.text.len()).sum::<usize>();
    let one_reward = |pairs: &[Pair], ratings: &[crate::task::Rated]| {
        let text = if ratings.is_empty() { pairs.iter().map(pair).sum() } else { rated(ratings) };
        c.reward.num_train_epochs.get() as f64 * tokens(text)
    };
    let rewards = one_reward(&data.train_preferences, &data.train_rated)
        + one_reward(&data.judge_preferences, &data.judge_rated);
    let cells = Cell::all(c);
    let rounds = (cells.len() * c.superhf.n_rounds.get()) as f64;
    let longest = c.sampling.max_completion_length.get() as f64;
    let per_prompt = c.superhf.prompts_per_round.get() as f64;
    let samples: f64 =
        cells.iter().map(|x| x.n as f64).sum::<f64>() * c.superhf.n_rounds.get() as f64 * per_prompt;
    let evaluations = (cells.len() * c.superhf.n_rounds.get().div_ceil(c.evaluation.eval_rounds.get())
        + c.sweep.seeds.get()) as f64;
    let best = c.evaluation.best_of_n.iter().map(|n| n.get()).max().unwrap_or(0) as f64;
    let eval_samples =
        data.eval_prompts.len() as f64 * (2.0 * evaluations + best * c.sweep.seeds.get() as f64);
    let generated = (samples + eval_samples) * longest;
    let updated = rounds * per_prompt * c.superhf.keep.get() as f64 * (longest + 20.0);
    let pairs = |p: usize, r: usize| if r == 0 { p } else { r };
    let per_reward = [
        pairs(data.train_preferences.len(), data.train_rated.len()),
        pairs(data.judge_preferences.len(), data.judge_rated.len()),
    ];
    let reward_steps: Vec<usize> = [c.reward.proxy, c.reward.judge]
        .into_iter()
        .zip(per_reward)
        .filter(|(kind, _)| *kind == RewardKind::Transformer)
        .map(|(_, n)| steps(c.reward.num_train_epochs.get(), n, c.reward.batch_size.get()))
        .collect();
    let sft_steps = steps(c.sft.num_train_epochs, data.sft.len(), c.sft.batch_size.get());
    let mut lines = vec![
        format!("task           {}", data.name),
        format!("policy         {parameters} parameters"),
        format!("sft            {sft_steps} steps, about {sft:.0} tokens read"),
        format!("rewards        steps of transformers {reward_steps:?}, about {rewards:.0} tokens read"),
        format!(
            "superhf        {} runs of {} rounds, {samples:.0} samples, at most {:.0} tokens drawn",
            cells.len(),
            c.superhf.n_rounds,
            samples * longest
        ),
        format!("evaluation     {evaluations:.0} times on {} prompts", data.eval_prompts.len()),
    ];
    let work = Work { trained: sft + rewards + updated, generated, scored: generated };
    lines.extend(cost(probe, &work, parameters));
    lines.extend(data.notes.iter().map(|note| format!("data           {note}")));
    Ok(lines)
}

/// What a few seconds of this model's own work show.
struct Probe {
    generate: f64,
    score: f64,
    update: f64,
    peak_mib: Option<usize>,
}

fn probe(decoder: &DecoderConfig, device: &Device) -> Result<Probe, Error> {
    let mut bench = bench::Probe::new(decoder, device)?;
    let mut rate = |part: &str| -> Result<f64, Error> {
        bench.once(part)?;
        let started = Instant::now();
        let tokens = bench.once(part)?;
        Ok(tokens as f64 / started.elapsed().as_secs_f64())
    };
    let (generate, score, update) = (rate("generate")?, rate("score")?, rate("update")?);
    Ok(Probe { generate, score, update, peak_mib: peak_mib() })
}

fn reward(c: &RewardPipeline) -> Result<Vec<String>, Error> {
    device::named(&c.device)?;
    let n = crate::pipeline::reward::comparisons(c)?.pairs.len();
    let train = n - n / c.data.folds.get();
    let per_fold = steps(c.training.num_train_epochs.get(), train, c.training.batch_size.get());
    Ok(vec![
        format!("comparisons    {n}"),
        format!("folds          {}, then one model on all pairs", c.data.folds),
        format!("models         {:?}", c.model.kind.list()),
        format!("steps          {per_fold} a fold for a trunk's model; a bag of words is solved in one go"),
    ])
}

/// What every plan over a language model begins with.
struct Basis {
    data: TaskData,
    parameters: usize,
    probe: Option<Probe>,
    /// Tokens that supervised fine-tuning reads.
    sft: f64,
}

fn basis(c: &Common<'_>, device: &str, threads: usize) -> Result<Basis, Error> {
    let plain = device::named(device)?;
    device::threads(threads)?;
    let data = crate::pipeline::ground::task_data(c.task, c.verifier, c.seed)?;
    let decoder = if c.policy.path.is_empty() {
        c.policy.decoder(c.policy.vocab_size.get(), 0, 1)?
    } else {
        DecoderConfig::load(&crate::hub::model(std::path::Path::new(&c.policy.path))?)?
    };
    let parameters = decoder.architecture().n_parameters().unwrap_or(usize::MAX);
    let probe = if parameters <= MOST_PROBED { Some(probe(&decoder, &plain)?) } else { None };
    let example = |e: &Example| e.prompt.len() + e.completion.len();
    let sft = c.sft.num_train_epochs as f64 * tokens(data.sft.iter().map(example).sum());
    Ok(Basis { data, parameters, probe, sft })
}

fn tokens(characters: usize) -> f64 {
    characters as f64 / CHARACTERS_A_TOKEN
}

fn pair(p: &Pair) -> usize {
    2 * p.prompt.len() + p.chosen.len() + p.rejected.len()
}

/// Tokens by what is done with them.
struct Work {
    trained: f64,
    generated: f64,
    scored: f64,
}

/// Rates, memory and time where a probe was made.
fn cost(probe: Option<Probe>, work: &Work, parameters: usize) -> Vec<String> {
    let Some(p) = probe else {
        return vec![format!(
            "memory         at least {} MiB; rates are not measured on a model of this size",
            (parameters * TRAINED) >> 20
        )];
    };
    let seconds = work.trained / p.update + work.generated / p.generate + work.scored / p.score;
    let mut lines = vec![format!(
        "rates here     generate {:.0}, score {:.0}, update {:.0} tokens/s, measured on this model",
        p.generate, p.score, p.update
    )];
    if let Some(peak) = p.peak_mib {
        lines.push(format!("memory         about {peak} MiB, the peak of that measurement"));
    }
    lines.push(format!(
        "time           at most about {} (completions that end early save time)",
        clock(seconds)
    ));
    lines
}

fn rspo(c: &RspoPipeline) -> Result<Vec<String>, Error> {
    let Basis { data, parameters, probe, sft } = basis(&c.common(), &c.device, c.threads.get())?;
    let trunk = |kind| !matches!(kind, PreferenceKind::Rule | PreferenceKind::Bag);
    let read = |kind, pairs: &[Pair]| {
        let epochs = c.preference.num_train_epochs.get() as f64;
        if trunk(kind) { epochs * tokens(pairs.iter().map(pair).sum()) } else { 0.0 }
    };
    let compared =
        read(c.preference.proxy, &data.train_preferences) + read(c.preference.judge, &data.judge_preferences);
    let s = &c.selfplay;
    let (k, longest) = (s.num_generations.get(), c.sampling.max_completion_length.get() as f64);
    let cells = c.variants.len() * c.evaluation.seeds.get();
    let groups = (cells * s.n_iterations.get() * s.prompts_per_iteration.get()) as f64;
    let evaluated = (cells * (s.n_iterations.get() / c.evaluation.eval_iterations.get() + 1)) as f64
        * data.eval_prompts.len() as f64
        * (c.evaluation.num_generations.get() + 2) as f64;
    let generated = (groups * k as f64 + evaluated) * longest;
    let rows = if s.rows == Rows::BestWorst { 2 } else { k };
    let learned = groups * rows as f64 * (longest + 20.0);
    let judged = if trunk(c.preference.proxy) { groups * (k * (k - 1)) as f64 * 2.0 * longest } else { 0.0 };
    let mut lines = vec![
        format!("task           {}", data.name),
        format!("policy         {parameters} parameters"),
        format!("sft            about {sft:.0} tokens read"),
        format!(
            "preferences    {:?} trains, {:?} judges, about {compared:.0} tokens read",
            c.preference.proxy, c.preference.judge
        ),
        format!(
            "self-play      {cells} runs of {} iterations of {} prompts, {:.0} samples, at most {:.0} tokens drawn",
            s.n_iterations,
            s.prompts_per_iteration,
            groups * k as f64,
            groups * k as f64 * longest
        ),
        format!("evaluation     {evaluated:.0} samples on {} prompts", data.eval_prompts.len()),
    ];
    // Two frozen models read what is learned, too.
    let trained = sft + compared + s.num_train_epochs.get() as f64 * learned;
    let work = Work { trained, generated, scored: 2.0 * learned + judged + evaluated * longest };
    lines.extend(cost(probe, &work, parameters));
    lines.extend(data.notes.iter().map(|note| format!("data           {note}")));
    Ok(lines)
}

fn steps(epochs: usize, rows: usize, batch: usize) -> usize {
    epochs * rows.div_ceil(batch)
}

fn clock(seconds: f64) -> String {
    let s = seconds.ceil() as u64;
    if s < 90 { format!("{s} s") } else { format!("{} min", s.div_ceil(60)) }
}
