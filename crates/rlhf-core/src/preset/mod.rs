//! What a system does when it is asked for "GRPO", under the system's own name.
//!
//! The same word stands for different mathematics: the advantage's divisor, where the KL is and what
//! of it is differentiated, what the sum is divided by. A [`GrpoRecipe`] has every part by name, and
//! [`trl::grpo`], [`verl::grpo`], [`openrlhf::grpo`], [`open_instruct::grpo`] and [`nemo::grpo`] are
//! each system's default. On the same rewards and log-probabilities [`grpo_step_scalar`] gives that
//! system's number.
//!
//! ```
//! use rlhf_core::preset::{nemo, open_instruct, trl};
//!
//! let rewards: [&[f64]; 1] = [&[1.0, 2.0, 3.0]];
//! let last = |recipe: rlhf_core::preset::GrpoRecipe| recipe.advantages(&rewards)[0][2];
//! assert!((last(trl::grpo()) - 0.9999).abs() < 1e-8); // 1 / (1 + 1e-4)
//! assert!((last(open_instruct::grpo()) - 1.0).abs() < 1e-15); // centred only
//! assert!((last(nemo::grpo()) - 2.12132).abs() < 1e-5); // 1.5 / (√½ + 1e-6): without itself
//! ```

use serde::{Deserialize, Serialize};

use crate::error::NumError;
use crate::host::advantage::{GroupAdvantageConfig, group_advantages};
use crate::loss::grpo::{GrpoConfig, grpo_scalar};
use crate::loss::kl_penalty::KlEstimator;
use crate::mask::{Normalise, normalise_scalar};
use crate::number::{Bound, Positive, Weight};
use crate::real::Real;

pub mod nemo;
pub mod open_instruct;
pub mod openrlhf;
pub mod trl;
pub mod verl;

/// Everything that systems differ in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpoRecipe {
    /// From rewards to advantages.
    pub advantage: GroupAdvantageConfig,
    /// The KL that is paid in reward, token by token; none where it is in the loss or nowhere.
    pub reward_kl: Option<RewardKl>,
    /// The loss of a token, its own KL term included.
    pub loss: GrpoConfig,
    /// What the sum over tokens is divided by.
    pub normaliser: Normaliser,
}

/// A KL that is paid in reward: it needs no gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardKl {
    /// The price of a nat.
    pub beta: Weight,
    /// What estimates it from the drawn token.
    pub estimator: KlEstimator,
    /// How large a token's estimate counts, in nats.
    pub output_clamp: Bound,
}

/// What the sum over a micro-batch's tokens is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normaliser {
    /// The completion tokens of the whole optimiser step.
    StepTokens,
    /// The completion tokens of the micro-batch.
    BatchTokens,
    /// Each sequence's own tokens, then the sequences of the micro-batch.
    SequenceMean,
    /// The sequences of the whole step times the longest completion allowed.
    StepBudget,
    /// The sequences of the whole step.
    StepSequences,
}

/// What is known of an optimiser step before it is cut into micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepCounts {
    /// Completion tokens.
    pub n_tokens: usize,
    /// Completions.
    pub n_sequences: usize,
    /// Tokens of the longest completion allowed.
    pub max_completion_length: usize,
}

impl Normaliser {
    /// The normaliser of this step.
    ///
    /// # Errors
    /// A count of zero where one is divided by.
    pub fn of_step(self, step: StepCounts) -> Result<Normalise, NumError> {
        let over = |n: usize| Positive::new(n as f64).map(Normalise::SumOver);
        match self {
            Self::StepTokens => over(step.n_tokens),
            Self::BatchTokens => Ok(Normalise::TokenMean),
            Self::SequenceMean => Ok(Normalise::SequenceMean),
            Self::StepBudget => over(step.n_sequences * step.max_completion_length),
            Self::StepSequences => over(step.n_sequences),
        }
    }
}

/// One completion as a recipe sees it; every slice has one number a token.
#[derive(Debug, Clone, Copy)]
pub struct Completion<'a, R> {
    /// Its reward; NaN where nobody could score it.
    pub reward: f64,
    /// log π.
    pub logp: &'a [R],
    /// That of the policy that drew it.
    pub old_logp: &'a [f64],
    /// That of the reference; empty where the recipe has no KL.
    pub reference_logp: &'a [f64],
}

impl GrpoRecipe {
    /// The advantage of each completion, groups as the rewards; the KL in the reward is not in it.
    pub fn advantages(&self, rewards: &[&[f64]]) -> Vec<Vec<f64>> {
        group_advantages(self.advantage, rewards).advantages
    }

    /// What each token's advantage loses to the KL in the reward: the price of its own KL and of that
    /// of the tokens after it, since a reward counts for all that led to it.
    ///
    /// # Panics
    /// On slices of different lengths, unless the recipe has no such KL.
    #[track_caller]
    pub fn kl_to_go(&self, old_logp: &[f64], reference_logp: &[f64]) -> Vec<f64> {
        let mut to_go = vec![0.0; old_logp.len()];
        if let Some(kl) = self.reward_kl.filter(|kl| kl.beta > Weight::ZERO) {
            assert_eq!(old_logp.len(), reference_logp.len(), "kl_to_go: log-probabilities differ in length");
            let mut sum = 0.0;
            for (t, (old, reference)) in old_logp.iter().zip(reference_logp).enumerate().rev() {
                sum += kl.beta.get() * kl.of(*old, *reference);
                to_go[t] = sum;
            }
        }
        to_go
    }

    /// Whether a reference's log-probabilities count.
    pub fn needs_reference(&self) -> bool {
        self.reward_kl.is_some_and(|kl| kl.beta > Weight::ZERO) || self.loss.beta > Weight::ZERO
    }
}

impl RewardKl {
    fn of(self, old_logp: f64, reference_logp: f64) -> f64 {
        use crate::host::kl;
        let estimate = match self.estimator {
            KlEstimator::K1 => kl::k1(old_logp, reference_logp),
            KlEstimator::K2 => kl::k2(old_logp, reference_logp),
            KlEstimator::K3 => kl::k3(old_logp, reference_logp),
        };
        estimate.clamp(-self.output_clamp.get(), self.output_clamp.get())
    }
}

/// The loss of a micro-batch of groups under a recipe: what the system of that name would minimise.
///
/// # Errors
/// A count of zero where the normaliser divides by it.
///
/// # Panics
/// On an empty batch, a completion whose slices differ in length, or a missing reference.
#[track_caller]
pub fn grpo_step_scalar<R: Real>(
    recipe: GrpoRecipe,
    groups: &[Vec<Completion<'_, R>>],
    step: StepCounts,
) -> Result<R, NumError> {
    let needs_reference = recipe.needs_reference();
    for completion in groups.iter().flatten() {
        let n = completion.logp.len();
        assert_eq!(completion.old_logp.len(), n, "grpo_step: old_logp: expected one number a token of logp");
        assert!(
            !needs_reference || completion.reference_logp.len() == n,
            "grpo_step: reference_logp: expected {n} numbers, one a token of logp, found {}",
            completion.reference_logp.len()
        );
    }
    let rewards: Vec<Vec<f64>> = groups.iter().map(|g| g.iter().map(|c| c.reward).collect()).collect();
    let rewards: Vec<&[f64]> = rewards.iter().map(Vec::as_slice).collect();
    let advantages = recipe.advantages(&rewards);
    let of = |(completion, advantage): (&Completion<'_, R>, &f64)| -> Vec<R> {
        let to_go = recipe.kl_to_go(completion.old_logp, completion.reference_logp);
        let in_loss = recipe.loss.beta > Weight::ZERO;
        let token = |t: usize| {
            let reference = if in_loss { completion.reference_logp[t] } else { 0.0 };
            grpo_scalar(
                recipe.loss,
                completion.logp[t],
                completion.old_logp[t],
                reference,
                advantage - to_go[t],
            )
        };
        (0..completion.logp.len()).map(token).collect()
    };
    let loss: Vec<Vec<R>> = groups
        .iter()
        .zip(&advantages)
        .flat_map(|(g, a)| g.iter().zip(a).map(of).collect::<Vec<_>>())
        .collect();
    let mask: Vec<Vec<bool>> = loss.iter().map(|row| vec![true; row.len()]).collect();
    let loss: Vec<&[R]> = loss.iter().map(Vec::as_slice).collect();
    let mask: Vec<&[bool]> = mask.iter().map(Vec::as_slice).collect();
    Ok(normalise_scalar(recipe.normaliser.of_step(step)?, &loss, &mask))
}

#[cfg(test)]
mod tests;
