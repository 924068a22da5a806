//! What an iteration learns from: answers of the policy, what the oracle says of them, and what the frozen
//! models say.

use std::collections::BTreeMap;
use std::time::Instant;

use rlhf_core::contract::{Comparison, PreferenceOracle};
use rlhf_core::host::pairwise::pairs;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_policy::batch::Sequence;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Mixture, Rollout, generate, generate_mixture};
use rlhf_selfplay::judged::{Example, Judged, against, data_pair, examples, refer, refer_as};
use rlhf_selfplay::method::{Anchor, Method};

use super::Setting;
use super::cell::Loop;
use super::oracles::comparison;
use crate::error::Error;
use crate::pipeline::ground::{Answer, answer, generation, in_turn, sampled};
use crate::pipeline::session::Session;

/// Largest difference between a rollout's recorded log-probability and the trainer's, in nats: rounding
/// of `f32`, nothing else.
const MISMATCH: f64 = 1e-3;

/// Prompts that are answered before anybody looks whether a stop was asked for.
const PROMPTS_AT_ONCE: usize = 128;

/// What an iteration, or a part of it, learns from.
pub(super) struct Material {
    /// One or more a prompt.
    pub(super) examples: Vec<Example>,
    /// An answer of the start policy by prompt, where a method learns from them.
    pub(super) prior_samples: BTreeMap<usize, Sequence>,
    /// What the rollouts were like.
    pub(super) figures: BTreeMap<String, f64>,
}

/// A prompt of the iteration.
struct Prompt {
    index: usize,
    text: String,
    ids: Vec<u32>,
    /// The reference answer, where the method learns from data.
    data: Option<String>,
}

/// Answers to the prompts, K of each in a row.
struct Answers {
    rollouts: Vec<Rollout>,
    answers: Vec<Answer>,
}

/// The prompts of iteration `t`, by index, in batches: of each the answers are drawn at once. A method that
/// must learn from its own answers alone gets a batch a step; for others one batch is the whole iteration.
pub(super) fn rollout_batches(it: &Loop<'_>, setting: &Setting, t: u64) -> Vec<Vec<usize>> {
    let s = &it.config.selfplay;
    let n = match it.variant.method {
        Method::Spin { .. } => setting.ground.data.sft.len(),
        _ => setting.ground.train_prompts.len(),
    };
    let all = in_turn(n, s.prompts_per_iteration.get(), it.seed, "rspo/prompts", t);
    let size = match it.variant.method {
        Method::NashMd { .. } => s.batch_size.get().div_ceil(s.num_generations.get()),
        _ => all.len(),
    };
    all.chunks(size.max(1)).map(<[usize]>::to_vec).collect()
}

/// Samples answers to the prompts, has them compared, and asks the frozen models.
///
/// # Errors
/// A preference that is no probability, naming prompt and pair; a number that is not finite; a rollout
/// whose recorded log-probability is not the trainer's.
pub(super) fn material(
    it: &Loop<'_>,
    setting: &mut Setting,
    session: &Session,
    policy: &Decoder,
    prompts: &[usize],
    t: u64,
    times: &mut BTreeMap<String, f64>,
) -> Result<Material, Error> {
    let mut timed = |what: &str, from: Instant| times.insert(what.to_owned(), from.elapsed().as_secs_f64());
    let prompts = prompts_of(it, setting, prompts);
    let started = Instant::now();
    let drawn = draw(it, setting, session, &Drawn::Policy(policy), &prompts, t)?;
    let opponents = match it.variant.method {
        Method::NashMd { mixture_coef, .. } => {
            let mixture = Mixture { policy, reference: &setting.ground.prior, coef: mixture_coef };
            Some(draw(it, setting, session, &Drawn::Opponent(&mixture), &prompts, t)?)
        }
        _ => None,
    };
    let prior_samples = match it.variant.forward_samples {
        Some(_) => prior_samples(it, setting, session, &prompts)?,
        None => BTreeMap::new(),
    };
    timed("rollout", started);
    going_on(session)?;
    let started = Instant::now();
    let mut figures = figures(&drawn);
    let mut examples = match &opponents {
        Some(opponents) => versus(it, setting, &prompts, &drawn, opponents)?,
        None => match it.variant.method {
            Method::Spin { .. } => beside_data(it, setting, &prompts, &drawn),
            _ => {
                let judged = judged(it, setting, &prompts, &drawn)?;
                describe(it, &judged, &mut figures);
                examples(&judged, it.config.selfplay.rows, it.config.selfplay.win_rates)
            }
        },
    };
    timed("compare", started);
    going_on(session)?;
    let started = Instant::now();
    let cut = it.cut(setting);
    let anchors = it.variant.method.anchors();
    if anchors.contains(&Anchor::Previous) {
        refer(&mut examples, Anchor::Previous, policy, &cut)?;
        same_as_recorded(setting, &prompts, &drawn, &examples, session.step())?;
    }
    if anchors.contains(&Anchor::Original) {
        // In the first iteration both are the same model.
        if t == 0 && anchors.contains(&Anchor::Previous) {
            refer_as(&mut examples, Anchor::Original, Anchor::Previous);
        } else {
            refer(&mut examples, Anchor::Original, &setting.ground.prior, &cut)?;
        }
    }
    timed("reference", started);
    Ok(Material { examples, prior_samples, figures })
}

fn prompts_of(it: &Loop<'_>, setting: &Setting, indices: &[usize]) -> Vec<Prompt> {
    let ground = &setting.ground;
    let of = |index: &usize| match it.variant.method {
        Method::Spin { .. } => {
            let example = &ground.data.sft[*index];
            let ids = ground.prompt_ids(&example.prompt);
            let data = Some(example.completion.clone());
            Prompt { index: *index, text: example.prompt.clone(), ids, data }
        }
        _ => Prompt {
            index: *index,
            text: ground.data.train_prompts[*index].clone(),
            ids: ground.train_prompts[*index].clone(),
            data: None,
        },
    };
    indices.iter().map(of).collect()
}

/// Who answers.
enum Drawn<'a> {
    Policy(&'a Decoder),
    Opponent(&'a Mixture<'a>),
}

fn draw(
    it: &Loop<'_>,
    setting: &Setting,
    session: &Session,
    who: &Drawn<'_>,
    prompts: &[Prompt],
    t: u64,
) -> Result<Answers, Error> {
    let ids: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let (common, k) = (it.config.common(), it.config.selfplay.num_generations.get());
    let how = generation(&common, &setting.ground, session, sampled(&it.config.sampling), k);
    let purpose = match who {
        Drawn::Policy(_) => "rollout",
        Drawn::Opponent(_) => "rollout/opponent",
    };
    let mut rollouts: Vec<Rollout> = Vec::with_capacity(prompts.len() * k);
    for (i, part) in ids.chunks(PROMPTS_AT_ONCE).enumerate() {
        going_on(session)?;
        let first = i * PROMPTS_AT_ONCE;
        let random = |p: usize, s: usize| {
            stream(it.seed, purpose, t, (prompts[first + p].index as u64) << 32 | s as u64)
        };
        let new = match who {
            Drawn::Policy(policy) => generate(policy, part, &how, &random, &session.plain),
            Drawn::Opponent(mixture) => generate_mixture(mixture, part, &how, &random, &session.plain),
        }
        .map_err(|e| Error::Failed(format!("step {}: rollout: {e}", session.step() + 1)))?;
        rollouts.extend(new.into_iter().map(|r| Rollout { prompt: first + r.prompt, ..r }));
    }
    let answers = rollouts.iter().map(|r| answer(it.config.selfplay.trim, &setting.ground, r)).collect();
    Ok(Answers { rollouts, answers })
}

/// The policy between two iterations is saved already: a stop that was asked for needs nothing more.
fn going_on(session: &Session) -> Result<(), Error> {
    if session.asked_to_stop() { Err(session.stopped()) } else { Ok(()) }
}

/// One answer of the start policy to each prompt: the same one whenever the prompt comes again.
fn prior_samples(
    it: &Loop<'_>,
    setting: &Setting,
    session: &Session,
    prompts: &[Prompt],
) -> Result<BTreeMap<usize, Sequence>, Error> {
    let ids: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let how = generation(&it.config.common(), &setting.ground, session, Sampling::plain(), 1);
    let random = |p: usize, s: usize| stream(it.seed, "rollout/prior", prompts[p].index as u64, s as u64);
    let rollouts = generate(&setting.ground.prior, &ids, &how, &random, &session.plain)?;
    let of = |r: Rollout| (prompts[r.prompt].index, Sequence::new(&ids[r.prompt], &r.tokens));
    Ok(rollouts.into_iter().map(of).collect())
}

/// Prompt and answer, which is scored; the end token is learned where the policy ended there.
fn sequence(setting: &Setting, prompts: &[Prompt], answer: &Answer) -> Sequence {
    let eos = setting.ground.tokenizer.eos();
    let mut ids = answer.with_end(eos);
    if ids.is_empty() {
        ids.push(eos);
    }
    Sequence::new(&prompts[answer.prompt].ids, &ids)
}

/// Has every two answers of a prompt compared by the oracle that trains.
fn judged(
    it: &Loop<'_>,
    setting: &mut Setting,
    prompts: &[Prompt],
    drawn: &Answers,
) -> Result<Vec<Judged>, Error> {
    let k = it.config.selfplay.num_generations.get();
    let pairs: Vec<(usize, usize)> = pairs(k).collect();
    let mut asked: Vec<Comparison<'_>> = Vec::with_capacity(prompts.len() * pairs.len());
    for (prompt, answers) in prompts.iter().zip(drawn.answers.chunks(k)) {
        let of = |(i, j): &(usize, usize)| comparison(&prompt.text, &prompt.ids, &answers[*i], &answers[*j]);
        asked.extend(pairs.iter().map(of));
    }
    let said: Vec<f64> = setting.proxy.prefer(&asked)?.iter().map(|p| p.get()).collect();
    let groups = prompts.iter().zip(drawn.answers.chunks(k)).zip(said.chunks(pairs.len().max(1)));
    groups
        .map(|((prompt, answers), said)| {
            let sequences = answers.iter().map(|a| sequence(setting, prompts, a)).collect();
            Ok(Judged::new(prompt.index, sequences, said)?)
        })
        .collect()
}

/// Each answer against every opponent's.
fn versus(
    it: &Loop<'_>,
    setting: &mut Setting,
    prompts: &[Prompt],
    drawn: &Answers,
    opponents: &Answers,
) -> Result<Vec<Example>, Error> {
    let k = it.config.selfplay.num_generations.get();
    let mut asked: Vec<Comparison<'_>> = Vec::with_capacity(prompts.len() * k * k);
    for ((prompt, mine), theirs) in
        prompts.iter().zip(drawn.answers.chunks(k)).zip(opponents.answers.chunks(k))
    {
        let of = |a| theirs.iter().map(move |b| comparison(&prompt.text, &prompt.ids, a, b));
        asked.extend(mine.iter().flat_map(of));
    }
    let said: Vec<f64> = setting.proxy.prefer(&asked)?.iter().map(|p| p.get()).collect();
    let mut out = Vec::with_capacity(prompts.len() * k);
    for ((prompt, answers), said) in prompts.iter().zip(drawn.answers.chunks(k)).zip(said.chunks(k * k)) {
        let sequences = answers.iter().map(|a| sequence(setting, prompts, a)).collect();
        let table: Vec<Vec<f64>> = said.chunks(k).map(<[f64]>::to_vec).collect();
        out.extend(against(prompt.index, sequences, &table)?);
    }
    Ok(out)
}

/// The reference answer of each prompt beside each of the policy's.
fn beside_data(it: &Loop<'_>, setting: &Setting, prompts: &[Prompt], drawn: &Answers) -> Vec<Example> {
    let k = it.config.selfplay.num_generations.get();
    let groups = prompts.iter().zip(drawn.answers.chunks(k));
    groups
        .flat_map(|(prompt, answers)| {
            let data = prompt.data.as_deref().unwrap_or_default();
            let data = setting.ground.sequence(&prompt.text, data);
            answers.iter().map(move |a| data_pair(prompt.index, data.clone(), sequence(setting, prompts, a)))
        })
        .collect()
}

fn figures(drawn: &Answers) -> BTreeMap<String, f64> {
    let n = drawn.answers.len() as f64;
    let tokens: f64 = drawn.rollouts.iter().map(|r| r.tokens.len() as f64).sum();
    let ended = drawn.answers.iter().filter(|a| a.ended).count() as f64;
    let empty = drawn.answers.iter().filter(|a| a.text.trim().is_empty()).count() as f64;
    BTreeMap::from([
        ("completions/mean_length".to_owned(), tokens / n),
        ("completions/ended".to_owned(), ended / n),
        ("completions/empty".to_owned(), empty),
    ])
}

/// How far the oracle told the answers apart.
fn describe(it: &Loop<'_>, judged: &[Judged], figures: &mut BTreeMap<String, f64>) {
    let how = it.config.selfplay.win_rates;
    let n = judged.len().max(1) as f64;
    let (mut best, mut worst) = (0.0, 0.0);
    for group in judged {
        let rates = group.win_rates(how);
        let ends = group.best_worst(how);
        best += rates[ends.best] / n;
        worst += rates[ends.worst] / n;
    }
    figures.insert("win_rate/best".to_owned(), best);
    figures.insert("win_rate/worst".to_owned(), worst);
}

/// The trainer sees the rollouts' own log-probabilities. Anything else is a defect that would spoil the
/// run in silence.
fn same_as_recorded(
    setting: &Setting,
    prompts: &[Prompt],
    drawn: &Answers,
    examples: &[Example],
    step: u64,
) -> Result<(), Error> {
    let mut recorded: BTreeMap<Vec<u32>, &[f64]> = BTreeMap::new();
    for (rollout, answer) in drawn.rollouts.iter().zip(&drawn.answers) {
        if answer.with_end(setting.ground.tokenizer.eos()) == rollout.tokens {
            recorded.insert(sequence(setting, prompts, answer).tokens, &rollout.policy_logp);
        }
    }
    for response in examples.iter().flat_map(Example::responses) {
        let (Some(old), Some(seen)) = (recorded.get(&response.sequence.tokens), &response.previous) else {
            continue;
        };
        let apart = old.iter().zip(seen).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        if old.len() != seen.len() || apart > MISMATCH {
            return Err(Error::Failed(format!(
                "step {}: log-probabilities of a rollout: expected the trainer's within {MISMATCH} nats, found {apart} \
                 apart over {} and {} tokens",
                step + 1,
                old.len(),
                seen.len()
            )));
        }
    }
    Ok(())
}
