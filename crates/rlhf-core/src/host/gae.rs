//! Generalised advantage estimation on ragged rows.
//!
//! ```text
//! δ_t = r_t + γ V_{t+1} − V_t          A_t = δ_t + γ λ A_{t+1}          R_t = A_t + V_t
//! ```
//!
//! Where: r and V are `rewards` and `values`, one row a completion, one number a step; behind the
//! last step V is 0, or what the caller bootstraps from. There is no padding: a step that does not
//! count is not in the row.
//! Paper: Schulman et al., *High-Dimensional Continuous Control Using Generalized Advantage
//! Estimation*, arXiv:1506.02438, Eq. 16.

use serde::{Deserialize, Serialize};

use crate::number::{Prob, Weight};

/// Numbers of [`gae`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaeConfig {
    /// γ: the discount of a step.
    pub gamma: Prob,
    /// λ: 0 trusts the values, 1 the rewards.
    pub lambda: Prob,
}

/// Advantages and what the values should have been, rows as long as the rewards.
#[derive(Debug, Clone, PartialEq)]
pub struct Gae {
    /// A, not whitened.
    pub advantages: Vec<Vec<f64>>,
    /// R: the value's target.
    pub returns: Vec<Vec<f64>>,
}

/// A and R of completions that ended: nothing follows their last step.
///
/// ```
/// use rlhf_core::host::gae::{GaeConfig, gae};
/// use rlhf_core::number::Prob;
///
/// // λ = 0 sees one step: 0 + 2 − 1, 0 + 3 − 2, 5 − 3.
/// let config = GaeConfig { gamma: Prob::ONE, lambda: Prob::ZERO };
/// let found = gae(config, &[vec![0.0, 0.0, 5.0]], &[vec![1.0, 2.0, 3.0]]);
/// assert_eq!(found.advantages, [[1.0, 1.0, 2.0]]);
/// assert_eq!(found.returns, [[2.0, 3.0, 5.0]]);
/// ```
///
/// # Panics
/// On rows of different lengths.
#[track_caller]
pub fn gae(config: GaeConfig, rewards: &[impl AsRef<[f64]>], values: &[impl AsRef<[f64]>]) -> Gae {
    gae_bootstrapped(config, rewards, values, &vec![0.0; rewards.len()])
}

/// A and R where `last_values` are the values of the states after the last steps: of completions
/// that were cut off, 0 for those that ended.
///
/// # Panics
/// On rows of different lengths.
#[track_caller]
pub fn gae_bootstrapped(
    config: GaeConfig,
    rewards: &[impl AsRef<[f64]>],
    values: &[impl AsRef<[f64]>],
    last_values: &[f64],
) -> Gae {
    let n = rewards.len();
    assert_eq!([values.len(), last_values.len()], [n; 2], "gae: rows of values, last_values");
    let mut found = Gae { advantages: Vec::with_capacity(n), returns: Vec::with_capacity(n) };
    for ((rewards, values), last) in rewards.iter().zip(values).zip(last_values) {
        let (rewards, values) = (rewards.as_ref(), values.as_ref());
        assert_eq!(values.len(), rewards.len(), "gae: values: expected one number a reward");
        let advantages = row(config, rewards, values, *last);
        found.returns.push(advantages.iter().zip(values).map(|(a, v)| a + v).collect());
        found.advantages.push(advantages);
    }
    found
}

fn row(config: GaeConfig, rewards: &[f64], values: &[f64], last: f64) -> Vec<f64> {
    let (gamma, lambda) = (config.gamma.get(), config.lambda.get());
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut next) = (last, 0.0);
    for t in (0..rewards.len()).rev() {
        let delta = rewards[t] + gamma * next_value - values[t];
        next = delta + gamma * lambda * next;
        next_value = values[t];
        advantages[t] = next;
    }
    advantages
}

/// The step that a completion's score is paid at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreAt {
    /// Its last token.
    LastToken,
    /// A step of its own after the last token, as TRL does wherever its batch has a column left.
    /// That step has a value, a reward and a return; its advantage trains no token.
    AfterLast,
}

/// The rewards of a completion's steps: −β KL of each token, and the score at one.
///
/// ```
/// use rlhf_core::host::gae::{ScoreAt, token_rewards};
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// let beta = Weight::new(0.5)?;
/// assert_eq!(token_rewards(beta, &[2.0, -4.0], 1.0, ScoreAt::LastToken), [-1.0, 3.0]);
/// assert_eq!(token_rewards(beta, &[2.0, -4.0], 1.0, ScoreAt::AfterLast), [-1.0, 2.0, 1.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// When the score belongs on the last token and there is none.
#[track_caller]
pub fn token_rewards(beta: Weight, kl: &[f64], score: f64, at: ScoreAt) -> Vec<f64> {
    let mut rewards: Vec<f64> = kl.iter().map(|kl| -beta.get() * kl).collect();
    match at {
        ScoreAt::LastToken => {
            let last = rewards.last_mut();
            *last.expect("token_rewards: kl: expected at least one token, found none") += score;
        }
        ScoreAt::AfterLast => rewards.push(score),
    }
    rewards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(gamma: f64, lambda: f64) -> GaeConfig {
        let prob = |x| Prob::new(x).expect("a probability");
        GaeConfig { gamma: prob(gamma), lambda: prob(lambda) }
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-14, "{found:?} {expected:?}");
        }
    }

    #[test]
    fn lambda_of_one_is_the_return_minus_the_value() {
        let (rewards, values) = (vec![0.5, -1.0, 2.0, 1.0], vec![0.3, 0.1, -4.0, 2.5]);
        let found = gae(config(0.9, 1.0), std::slice::from_ref(&rewards), std::slice::from_ref(&values));
        for (t, value) in values.iter().enumerate() {
            let discounted = (t..4).map(|s| 0.9f64.powi((s - t) as i32) * rewards[s]).sum::<f64>();
            assert!((found.returns[0][t] - discounted).abs() < 1e-14);
            assert!((found.advantages[0][t] - (discounted - value)).abs() < 1e-14);
        }
    }

    #[test]
    fn a_step_that_does_not_count_is_not_there() {
        // Backwards with γλ = 0.9405: 0.5; 0.99·0.5 − 0.4 + 0.9405·0.5 = 0.56525; then from 0.2 and 0.1.
        let found = gae(config(0.99, 0.95), &[[0.0, 0.0, 0.0, 1.0]], &[[0.1, 0.2, 0.4, 0.5]]);
        close(&found.advantages[0], &[0.782_324_376_312_5, 0.727_617_625, 0.565_25, 0.5]);
    }

    #[test]
    fn each_row_stands_alone_and_may_be_empty() {
        let rewards = [vec![0.0, 0.0, 0.0, 1.0], vec![], vec![1.0]];
        let values = [vec![0.0, 0.0, 0.0, 1.0], vec![], vec![0.25]];
        let found = gae(config(0.9, 0.95), &rewards, &values);
        // 1; 0.9; then 0.855 times more each step: 0.9 · 0.855, 0.9 · 0.855².
        close(&found.returns[0], &[0.657_922_5, 0.769_5, 0.9, 1.0]);
        assert!(found.advantages[1].is_empty());
        close(&found.advantages[2], &[0.75]);
    }

    #[test]
    fn a_cut_completion_bootstraps() {
        let found = gae_bootstrapped(config(0.5, 1.0), &[[1.0], [1.0]], &[[0.0], [0.0]], &[8.0, 0.0]);
        assert_eq!(found.advantages, [[5.0], [1.0]]);
    }

    #[test]
    fn the_score_is_paid_once_and_the_kl_by_the_token() {
        let beta = Weight::new(0.25).expect("a weight");
        let kl = [4.0, -2.0, 0.0];
        assert_eq!(token_rewards(beta, &kl, 3.0, ScoreAt::LastToken), [-1.0, 0.5, 3.0]);
        assert_eq!(token_rewards(beta, &kl[..2], 3.0, ScoreAt::LastToken), [-1.0, 3.5]);
        assert_eq!(token_rewards(beta, &kl[..2], 3.0, ScoreAt::AfterLast), [-1.0, 0.5, 3.0]);
        assert_eq!(token_rewards(beta, &[], 3.0, ScoreAt::AfterLast), [3.0]);
    }

    #[test]
    #[should_panic(expected = "gae: values: expected one number a reward")]
    fn a_short_row_is_refused() {
        let _ = gae(config(1.0, 1.0), &[vec![0.0, 1.0]], &[vec![0.0]]);
    }
}
