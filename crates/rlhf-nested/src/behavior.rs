//! The nested behaviour policy: the policy's own blocks, some left out, draw the completions.
//!
//! A block left out is an identity, so the rest is a model with the same embedding, norm and head. Its
//! key–value cache holds the blocks that stay, in prefill and in decoding alike.

use rlhf_core::host::off_policy::Correction;
use rlhf_core::host::sampling::Sampling;
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::{Cut, logps};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Generation, Rollout, Streams, generate};

use crate::error::Error;
use crate::schedule::{LayerSchedule, checked};
use crate::step::RolloutCorrection;

/// The blocks of one rollout batch, both lists ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    /// Those left out.
    pub skipped: Vec<usize>,
    /// Those that draw.
    pub kept: Vec<usize>,
}

impl Blocks {
    /// What `schedule` says for rollout batch `batch` of a model with `n_layers` blocks.
    ///
    /// # Errors
    /// A block that does not exist, stands twice or out of order, or all blocks; only a schedule that is
    /// not of this crate can say so.
    pub fn of(schedule: &dyn LayerSchedule, batch: u64, n_layers: usize) -> Result<Self, Error> {
        let skipped = schedule.skipped(batch);
        checked(&skipped, n_layers)?;
        let kept = (0..n_layers).filter(|i| skipped.binary_search(i).is_err()).collect();
        Ok(Self { skipped, kept })
    }

    /// For [`Generation::layers`]: none where nothing is left out.
    pub fn layers(&self) -> Option<Vec<usize>> {
        (!self.skipped.is_empty()).then(|| self.kept.clone())
    }

    /// The share of blocks left out.
    pub fn ratio(&self) -> f64 {
        self.skipped.len() as f64 / (self.skipped.len() + self.kept.len()) as f64
    }
}

/// Whether completions sampled so can be corrected so; asked before the first rollout.
///
/// # Errors
/// Greedy decoding: all completions of a prompt are one, and ρ has no probability to divide by. A rule
/// that takes tokens away, with any correction: what b cannot draw no weight brings back, and b is recorded
/// renormalised over what was left, so that ρ of π over all tokens is not 1 in the mean. An interval without
/// positive numbers: no token would ever count.
pub fn check(sampling: &Sampling, correction: RolloutCorrection) -> Result<(), Error> {
    if sampling.is_greedy() {
        let expected = format!("a number above 0: probabilities are divided under `{correction}`");
        return Err(Error::behavior("temperature", expected, sampling.temperature));
    }
    if correction == RolloutCorrection::Weights(Correction::None) {
        return Ok(());
    }
    let rule = removals(sampling).into_iter().find(|rule| rule.is_on);
    if let Some(Removal { what, off, found, .. }) = rule {
        let expected = format!("{off}, which is off: `{correction}` divides probabilities of all tokens");
        return Err(Error::behavior(what, expected, found));
    }
    let RolloutCorrection::Weights(weights) = correction else { return Ok(()) };
    match weights {
        Correction::TokenTruncate(within)
        | Correction::TokenMask(within)
        | Correction::SequenceTruncate(within)
        | Correction::SequenceMask(within)
        | Correction::GeometricMask(within)
            if within.high() <= 0.0 =>
        {
            Err(Error::behavior("correction", "an upper bound above 0", within.high()))
        }
        _ => Ok(()),
    }
}

/// A rule of sampling that gives some tokens no probability.
struct Removal {
    what: &'static str,
    off: &'static str,
    found: f64,
    is_on: bool,
}

fn removals(sampling: &Sampling) -> [Removal; 7] {
    let rule = |what, off, found: f64, is_on| Removal { what, off, found, is_on };
    let share = |what, found: f64| rule(what, "1", found, found < 1.0);
    let floor = |what, found: f64| rule(what, "0", found, found > 0.0);
    [
        floor("top_k", sampling.top_k as f64),
        share("top_p", sampling.top_p),
        floor("min_p", sampling.min_p),
        share("typical_p", sampling.typical_p),
        floor("epsilon_cutoff", sampling.epsilon_cutoff),
        floor("no_repeat_ngram_size", sampling.no_repeat_ngram_size as f64),
        floor("min_new_tokens", sampling.min_new_tokens as f64),
    ]
}

/// Completions of the blocks that stay, by [`generate`]; `how.layers` does not count. `model` lives on the
/// plain device. Tokens a second are tokens of these by the time that this takes.
///
/// # Errors
/// As [`generate`].
pub fn rollouts(
    model: &Decoder,
    prompts: &[Vec<u32>],
    how: &Generation,
    blocks: &Blocks,
    stream: &Streams<'_>,
) -> Result<Vec<Rollout>, Error> {
    let how = Generation { layers: blocks.layers(), ..how.clone() };
    Ok(generate(model, prompts, &how, stream, &model.device())?)
}

/// How the whole policy reads completions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// What logits are divided by, as when the completions were drawn.
    pub temperature: f64,
    /// How the batch is cut and padded.
    pub cut: Cut,
}

/// Completions of the nested policy, and what the whole policy says of them.
#[derive(Debug, Clone, PartialEq)]
pub struct NestedBatch {
    /// Which blocks drew them.
    pub blocks: Blocks,
    /// The completions, `behavior_logp` being log b.
    pub rollouts: Vec<Rollout>,
    /// Prompt and completion of each.
    pub sequences: Vec<Sequence>,
    /// log π of the whole policy, one number a token, at the temperature of sampling.
    pub policy_logp: Vec<Vec<f64>>,
}

impl NestedBatch {
    /// Reads `rollouts` of `prompts` by the whole of `model`, which lives on the plain device.
    ///
    /// # Panics
    /// On a completion without tokens (the longest allowed had none), a prompt that is not there, and
    /// unless the temperature is positive and finite.
    #[track_caller]
    pub fn score(
        model: &Decoder,
        prompts: &[Vec<u32>],
        rollouts: Vec<Rollout>,
        blocks: Blocks,
        how: Scoring,
    ) -> Self {
        assert!(rollouts.iter().all(|r| !r.tokens.is_empty()), "nested batch: a completion without tokens");
        let sequences: Vec<Sequence> =
            rollouts.iter().map(|r| Sequence::new(&prompts[r.prompt], &r.tokens)).collect();
        let all: Vec<&Sequence> = sequences.iter().collect();
        let policy_logp = logps(model, &all, how.temperature, &how.cut);
        Self { blocks, rollouts, sequences, policy_logp }
    }

    /// log ρ = log π − log b of every token, as measured.
    ///
    /// # Panics
    /// On lists of different lengths.
    #[track_caller]
    pub fn log_ratio(&self) -> Vec<Vec<f64>> {
        assert_eq!(
            self.policy_logp.len(),
            self.rollouts.len(),
            "nested batch: policy_logp: one list a rollout"
        );
        let row = |(logp, rollout): (&Vec<f64>, &Rollout)| -> Vec<f64> {
            let behavior = &rollout.behavior_logp;
            assert_eq!(logp.len(), behavior.len(), "nested batch: policy_logp: one number a token");
            logp.iter().zip(behavior).map(|(p, b)| p - b).collect()
        };
        self.policy_logp.iter().zip(&self.rollouts).map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_core::host::interval::Interval;
    use rlhf_core::number::Prob;

    fn error(sampling: Sampling, correction: Correction) -> Option<String> {
        check(&sampling, RolloutCorrection::Weights(correction)).err().map(|e| e.to_string())
    }

    #[test]
    fn what_no_weight_corrects_is_refused() {
        let on = [
            ("top_k", Sampling { top_k: 5, ..Sampling::plain() }, "expected 0, which is off", "found 5"),
            ("top_p", Sampling { top_p: 0.9, ..Sampling::plain() }, "expected 1, which is off", "found 0.9"),
            ("min_p", Sampling { min_p: 0.1, ..Sampling::plain() }, "expected 0", "found 0.1"),
            ("typical_p", Sampling { typical_p: 0.5, ..Sampling::plain() }, "expected 1", "found 0.5"),
            ("epsilon_cutoff", Sampling { epsilon_cutoff: 1e-4, ..Sampling::plain() }, "", "found 0.0001"),
            (
                "no_repeat_ngram_size",
                Sampling { no_repeat_ngram_size: 3, ..Sampling::plain() },
                "",
                "found 3",
            ),
            ("min_new_tokens", Sampling { min_new_tokens: 2, ..Sampling::plain() }, "", "found 2"),
        ];
        for (what, sampling, expected, found) in on {
            let text = error(sampling, Correction::Sequence).expect(what);
            assert!(text.starts_with(&format!("{what}: {expected}")) && text.ends_with(found), "{text}");
            for other in [Correction::RetraceToken(Prob::ONE), Correction::Token, Correction::Geometric] {
                assert!(
                    error(sampling, other).is_some_and(|e| e.starts_with(&format!("{what}: {expected}")))
                );
            }
            assert!(check(&sampling, RolloutCorrection::BaseClip).is_err());
            // Nothing is divided.
            assert_eq!(error(sampling, Correction::None), None);
        }
        // These leave every token a probability.
        let soft = Sampling { temperature: 0.7, repetition_penalty: 1.2, ..Sampling::plain() };
        assert_eq!(error(soft, Correction::Sequence), None);
    }

    #[test]
    fn greedy_decoding_has_nothing_to_divide_by() {
        let all = [
            (RolloutCorrection::BaseClip, "base_clip"),
            (RolloutCorrection::Weights(Correction::None), "none"),
            (RolloutCorrection::Weights(Correction::Token), "token"),
            (RolloutCorrection::Weights(Correction::RetraceTraces(Prob::ONE)), "retrace_traces"),
        ];
        for (correction, name) in all {
            let found = check(&Sampling::greedy(), correction).expect_err("greedy").to_string();
            let expected = format!(
                "temperature: expected a number above 0: probabilities are divided under `{name}`, found 0"
            );
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_interval_without_positive_numbers_is_refused() {
        let within = Interval::new(-1.0, 0.0).expect("ordered");
        for correction in [Correction::TokenMask(within), Correction::SequenceTruncate(within)] {
            let found = error(Sampling::plain(), correction);
            assert_eq!(found.as_deref(), Some("correction: expected an upper bound above 0, found 0"));
        }
        let within = Interval::new(0.0, 2.0).expect("ordered");
        assert_eq!(error(Sampling::plain(), Correction::TokenTruncate(within)), None);
    }

    #[test]
    fn blocks_are_what_a_schedule_says_or_an_error() {
        let of = |skipped: Vec<usize>| Blocks::of(&move |_: u64| skipped.clone(), 0, 4);
        let blocks = of(vec![1, 2]).expect("fits");
        assert_eq!((blocks.layers(), blocks.ratio().to_bits()), (Some(vec![0, 3]), 0.5f64.to_bits()));
        let whole = of(vec![]).expect("fits");
        assert_eq!((whole.layers(), whole.kept.as_slice()), (None, [0, 1, 2, 3].as_slice()));
        let error = |skipped| of(skipped).expect_err("refused").to_string();
        assert_eq!(
            error(vec![4]),
            "schedule: layers: expected indices below 4, the number of blocks, found [4]"
        );
        assert!(error(vec![2, 1]).contains("ascending"));
        assert!(error(vec![0, 1, 2, 3]).contains("at least one of 4 blocks left"));
    }
}
