//! Self-play: a method's update again and again, and what becomes of the policy.

use rlhf_core::number::{Positive, Weight};

use super::error::GameError;
use super::mirror::{gmmd, inpo, mwu, nash_md};
use super::policy::Policy;
use super::regularized::RegularizedGame;
use super::regularizer::Regularizer;
use super::table::Rspo;

/// A method and its numbers. What each update is stands in [`mirror`](super::mirror) and
/// [`table`](super::table).
#[derive(Debug, Clone, PartialEq)]
pub enum Algorithm {
    /// Iterates the loss itself.
    Rspo(Rspo),
    /// Generalised magnetic mirror descent.
    Gmmd {
        /// Length of a step.
        eta: Positive,
    },
    /// Multiplicative weights; nothing may pull.
    Mwu {
        /// Length of a step.
        eta: Positive,
    },
    /// Nash-MD; the reverse KL alone pulls.
    NashMd {
        /// Length of each step.
        eta: NashMdStep,
    },
    /// INPO; the reverse KL alone pulls.
    Inpo {
        /// η of its loss: the inverse of a length.
        eta: Positive,
    },
}

/// Lengths of the steps of Nash-MD.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NashMdStep {
    /// All alike. The policy then comes to rest near the equilibrium but not at it.
    Constant(Positive),
    /// `2/(τ(t + 2))` at step t from 0, which ends at the equilibrium: the theorem's.
    Decreasing,
}

/// How long to play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// Updates.
    pub n_steps: u64,
    /// Updates between two records; the first policy and the last are always recorded. At least 1.
    pub record_every: u64,
}

/// A policy of the play.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Updates before it.
    pub step: u64,
    /// π_t.
    pub policy: Policy,
    /// Its duality gap in the regularised game.
    pub regularized_gap: f64,
    /// Its duality gap in the game without the pull.
    pub gap: f64,
    /// The latter of the mean of all policies up to this one.
    pub average_gap: f64,
}

impl Algorithm {
    /// Refuses a game that the method is not for, and steps that are too long for it.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self, game: &RegularizedGame) -> Result<(), GameError> {
        let tau = game.tau();
        let only_reverse = *tau == Regularizer::reverse_kl(tau.reverse_kl);
        match self {
            Self::Mwu { .. } if !tau.is_none() => Err(wrong("tau", "no pull with mwu", tau)),
            Self::NashMd { .. } if !only_reverse || tau.is_none() => {
                Err(wrong("tau", "reverse_kl above 0 and no other with nash-md", tau))
            }
            Self::Inpo { .. } if !only_reverse => Err(wrong("tau", "reverse_kl and no other with inpo", tau)),
            Self::NashMd { eta: NashMdStep::Constant(eta) } if eta.get() * tau.reverse_kl.get() > 1.0 => {
                let expected = format!("at most 1/tau = {}", tau.reverse_kl.get().recip());
                Err(GameError::new("eta", expected, eta.get().to_string()))
            }
            Self::Inpo { eta } if eta.get() < tau.reverse_kl.get() => {
                let expected = format!("at least tau = {}", tau.reverse_kl.get());
                Err(GameError::new("eta", expected, eta.get().to_string()))
            }
            Self::Rspo(rspo) => match Regularizer::of_rspo(&rspo.config)? {
                found if found == *tau => Ok(()),
                found => Err(wrong("tau", &format!("the loss's {}", shown(&found)), tau)),
            },
            _ => Ok(()),
        }
    }

    /// The update of `policy` at step `step`, from 0. To be called with a game that
    /// [`check`](Self::check) accepts.
    ///
    /// # Errors
    /// A loss without a minimum, log-probabilities that are not finite.
    ///
    /// # Panics
    /// On a policy over another number of actions, and on what `check` refuses.
    #[track_caller]
    pub fn step(&self, game: &RegularizedGame, policy: &Policy, step: u64) -> Result<Policy, GameError> {
        Ok(match self {
            Self::Rspo(rspo) => rspo.step(game.game(), policy, game.reference(), step)?,
            Self::Gmmd { eta } => gmmd(game, policy, *eta),
            Self::Mwu { eta } => mwu(game.game(), policy, *eta),
            Self::NashMd { eta: NashMdStep::Constant(eta) } => nash_md(game, policy, *eta),
            Self::NashMd { eta: NashMdStep::Decreasing } => {
                let eta = 2.0 / (game.tau().reverse_kl.get() * (step as f64 + 2.0));
                let eta = Positive::new(eta)
                    .map_err(|e| GameError::new(format!("step {step}: eta"), e.expected, eta.to_string()))?;
                nash_md(game, policy, eta)
            }
            Self::Inpo { eta } => inpo(game, policy, *eta),
        })
    }
}

fn wrong(place: &str, expected: &str, found: &Regularizer) -> GameError {
    GameError::new(place, expected, shown(found))
}

fn shown(tau: &Regularizer) -> String {
    let parts = [("reverse_kl", tau.reverse_kl), ("forward_kl", tau.forward_kl), ("chi2", tau.chi2)];
    let acting = parts.iter().filter(|(_, tau)| *tau > Weight::ZERO);
    let text = acting.map(|(name, tau)| format!("{name} {}", tau.get())).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".to_owned() } else { text }
}

/// Plays from `start`.
///
/// # Errors
/// What [`Algorithm::check`] and [`RegularizedGame::check_start`] refuse, and what a step does.
///
/// # Panics
/// When `record_every` is 0.
#[track_caller]
pub fn play(
    game: &RegularizedGame,
    start: &Policy,
    algorithm: &Algorithm,
    length: Length,
) -> Result<Vec<Record>, GameError> {
    assert!(length.record_every > 0, "record_every: expected at least 1, found 0");
    algorithm.check(game)?;
    game.check_start(start)?;
    let mut policy = start.clone();
    let mut sum = vec![0.0; start.n_actions()];
    let mut records = Vec::new();
    for step in 0..=length.n_steps {
        if step > 0 {
            policy = algorithm.step(game, &policy, step - 1)?;
        }
        for (sum, p) in sum.iter_mut().zip(policy.probs()) {
            *sum += p;
        }
        if step % length.record_every == 0 || step == length.n_steps {
            records.push(Record {
                step,
                regularized_gap: game.regularized_gap(&policy),
                gap: game.gap(&policy),
                average_gap: game.gap(&Policy::of_weights(&sum)),
                policy: policy.clone(),
            });
        }
    }
    Ok(records)
}
