//! The two preference oracles, from disjoint comparisons, and how well each does on comparisons that
//! neither saw.

use rlhf_core::contract::{Candidate, Comparison, PreferenceOracle};
use rlhf_core::loss::bradley_terry::BradleyTerryConfig;
use rlhf_core::loss::gpm::GpmConfig;
use rlhf_core::number::{Positive, Weight};
use rlhf_eval::stats::{self, Interval, Tally};
use rlhf_reward::bag::{BagConfig, BagOfWords};
use serde::{Deserialize, Serialize};

use crate::config::{PreferenceKind, RspoPipeline};
use crate::error::Error;
use crate::pipeline::fit::FitPlan;
use crate::pipeline::ground::{Answer, Ground, Start};
use crate::pipeline::models::Scorer;
use crate::pipeline::preference::{Blank, Judge, JudgeKind, JudgeTraining, TokenTriple, trained};
use crate::pipeline::session::Session;
use crate::task::Pair;
use crate::task::restaurants::RestaurantOracle;

/// What an oracle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It trains the policy.
    Proxy,
    /// It judges it.
    Judge,
}

impl Role {
    /// As in `steps.jsonl` and in folders.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Judge => "judge",
        }
    }

    /// Where its figures are kept.
    pub fn key(self) -> String {
        format!("preference/{}/figures", self.name())
    }
}

/// How well an oracle does on comparisons that it did not see.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PreferenceFigures {
    /// Share of held-out pairs in the right order; ties count as wrong. 95 % Wilson interval.
    pub accuracy: Interval,
    /// Held-out pairs.
    pub n_pairs: usize,
}

impl PreferenceFigures {
    /// One line for the terminal.
    pub fn sentence(&self) -> String {
        let Interval { estimate, low, high } = self.accuracy;
        format!("{estimate:.3} [{low:.3}, {high:.3}] of {} held-out pairs right", self.n_pairs)
    }
}

/// Two answers to one prompt.
pub(super) fn comparison<'a>(
    prompt: &'a str,
    prompt_ids: &'a [u32],
    a: &'a Answer,
    b: &'a Answer,
) -> Comparison<'a> {
    let side = |x: &'a Answer| Candidate { prompt, completion: &x.text, prompt_ids, completion_ids: &x.ids };
    Comparison { a: side(a), b: side(b) }
}

/// Trains the oracle of a role, or takes it from the checkpoint.
///
/// # Errors
/// Whatever stops its phase.
pub(super) fn prepared(
    config: &RspoPipeline,
    ground: &Ground,
    start: &Start,
    session: &mut Session,
    role: Role,
) -> Result<Judge, Error> {
    let c = &config.preference;
    let (kind, pairs, rule) = match role {
        Role::Proxy => (c.proxy, &ground.data.train_preferences, RestaurantOracle::PROXY),
        Role::Judge => (c.judge, &ground.data.judge_preferences, RestaurantOracle::TRUE),
    };
    let mut judge = match kind {
        // A prompt that names no restaurant is no number, which the oracle names with its pair.
        PreferenceKind::Rule => Judge::rule(move |pair| rule.preference(pair).unwrap_or(f64::NAN)),
        PreferenceKind::Bag => bag(pairs, c.l2.get())?,
        PreferenceKind::BradleyTerry => trunk(config, ground, start, session, role, JudgeKind::BradleyTerry)?,
        PreferenceKind::Pairwise => trunk(config, ground, start, session, role, JudgeKind::Pairwise)?,
        PreferenceKind::Gpm => {
            let kind = JudgeKind::Gpm { width: c.gpm_width.get(), config: GpmConfig { tau: c.gpm_tau } };
            trunk(config, ground, start, session, role, kind)?
        }
    };
    if session.get::<PreferenceFigures>(&role.key())?.is_none()
        && let Some(figures) = measure(ground, &mut judge)?
    {
        session.progress.say(&format!("{} preference: {}", role.name(), figures.sentence()));
        session.put(&role.key(), &figures)?;
    }
    Ok(judge)
}

/// Bradley and Terry's law on words and word pairs of prompt and answer.
fn bag(pairs: &[Pair], l2: f64) -> Result<Judge, Error> {
    let texts: Vec<[String; 2]> = pairs
        .iter()
        .map(|p| [format!("{}{}", p.prompt, p.chosen), format!("{}{}", p.prompt, p.rejected)])
        .collect();
    let texts: Vec<(&str, &str)> = texts.iter().map(|[a, b]| (a.as_str(), b.as_str())).collect();
    let bag = BagOfWords::fit_pairs(&texts, BagConfig { l2, ..BagConfig::default() })
        .map_err(|e| Error::Failed(e.to_string()))?;
    let one = Positive::new(1.0).map_err(|e| Error::Failed(e.to_string()))?;
    Ok(Judge::bradley_terry(Scorer::Bag(bag), one))
}

/// A decoder trunk with a head, trained on the role's comparisons.
fn trunk(
    config: &RspoPipeline,
    ground: &Ground,
    start: &Start,
    session: &mut Session,
    role: Role,
    kind: JudgeKind,
) -> Result<Judge, Error> {
    let c = &config.preference;
    let (pairs, seed) = match role {
        Role::Proxy => (&ground.data.train_preferences, config.seed.wrapping_add(1)),
        Role::Judge => (&ground.data.judge_preferences, config.seed.wrapping_add(2)),
    };
    let triples: Vec<TokenTriple> = pairs.iter().map(|p| tokens(ground, p)).collect();
    let plan = FitPlan {
        phase: format!("preference/{}", role.name()),
        seed,
        n_rows: triples.len(),
        n_epochs: c.num_train_epochs.get(),
        batch_size: c.batch_size,
        learning_rate: c.learning_rate.get(),
        schedule: c.lr_scheduler_type,
        warmup_ratio: c.warmup_ratio.get(),
        optim: config.adam.with(c.weight_decay, c.max_grad_norm),
        save_steps: config.checkpoint.save_steps,
    };
    // A cross-encoder's row holds two answers.
    let room = ground.decoder.max_position_embeddings() * if kind == JudgeKind::Pairwise { 2 } else { 1 };
    let decoder = ground.decoder.with("max_position_embeddings", room)?;
    let blank = Blank {
        config: &decoder,
        trunk: c.from_sft.then_some(&start.policy),
        eos: ground.tokenizer.eos(),
        pad: ground.tokenizer.pad(),
    };
    let center = BradleyTerryConfig { center_rewards_coefficient: Weight::ZERO };
    let how = JudgeTraining { kind, token_dropout: c.token_dropout, center };
    trained(session, &plan, &blank, &how, &triples)
}

fn tokens(ground: &Ground, pair: &Pair) -> TokenTriple {
    TokenTriple {
        prompt: ground.reward_prompt_ids(&pair.prompt),
        chosen: ground.tokenizer.encode(&pair.chosen),
        rejected: ground.tokenizer.encode(&pair.rejected),
    }
}

/// Accuracy on the pairs that no oracle saw; none where the task holds none out.
fn measure(ground: &Ground, judge: &mut Judge) -> Result<Option<PreferenceFigures>, Error> {
    let pairs = &ground.data.heldout_preferences;
    if pairs.is_empty() {
        return Ok(None);
    }
    let ids: Vec<TokenTriple> = pairs.iter().map(|p| tokens(ground, p)).collect();
    let comparisons: Vec<Comparison<'_>> = pairs
        .iter()
        .zip(&ids)
        .map(|(pair, ids)| {
            let side = |completion, completion_ids| Candidate {
                prompt: &pair.prompt,
                completion,
                prompt_ids: &ids.prompt,
                completion_ids,
            };
            Comparison { a: side(&*pair.chosen, &*ids.chosen), b: side(&*pair.rejected, &*ids.rejected) }
        })
        .collect();
    let said = judge.prefer(&comparisons)?;
    let hits = said.iter().filter(|p| p.get() > 0.5).count() as u64;
    let tally = Tally { hits, total: said.len() as u64 };
    let accuracy = stats::wilson(tally, stats::LEVEL_95).map_err(|e| Error::Failed(e.to_string()))?;
    Ok(Some(PreferenceFigures { accuracy, n_pairs: pairs.len() }))
}
