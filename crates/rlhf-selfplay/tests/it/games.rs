//! The games of the tests.

use rand::RngExt;
use rlhf_core::loss::rspo::{RspoConfig, RspoRegularizer, RspoTerm};
use rlhf_core::number::{Beta, Bound, Positive, Weight};
use rlhf_core::rng::stream;
use rlhf_selfplay::game::{Game, Policy, RegularizedGame, Regularizer};

/// A skewed reference policy.
pub(crate) const SKEWED: [f64; 3] = [0.6, 0.3, 0.1];
/// A policy that is neither the reference nor an equilibrium.
pub(crate) const SOMEWHERE: [f64; 3] = [0.5, 0.2, 0.3];
/// The mean of no information.
pub(crate) const UNIFORM: [f64; 3] = [1.0 / 3.0; 3];

/// Rock, paper, scissors of which each wins with `a`; each is played alike in equilibrium.
pub(crate) fn rps(a: f64) -> Game {
    game(&[&[0.5, a, 1.0 - a], &[1.0 - a, 0.5, a], &[a, 1.0 - a, 0.5]])
}

/// A cycle of three whose equilibrium is (0.3, 0.3, 0.4).
pub(crate) fn c3() -> Game {
    game(&[&[0.5, 0.9, 0.2], &[0.1, 0.5, 0.8], &[0.8, 0.2, 0.5]])
}

/// Sokota et al.'s perturbed rock, paper, scissors; its equilibrium is (1, 3, 3)/7.
pub(crate) fn prps() -> Game {
    game(&[&[0.5, 0.0, 1.0], &[1.0, 0.5, 1.0 / 3.0], &[0.0, 2.0 / 3.0, 0.5]])
}

/// Two actions, one better.
pub(crate) fn bt2() -> Game {
    game(&[&[0.5, 0.7], &[0.3, 0.5]])
}

/// A cycle of three and an action that all others beat.
pub(crate) fn g4() -> Game {
    game(&[&[0.5, 0.8, 0.3, 0.9], &[0.2, 0.5, 0.7, 0.9], &[0.7, 0.3, 0.5, 0.9], &[0.1, 0.1, 0.1, 0.5]])
}

pub(crate) fn game(rows: &[&[f64]]) -> Game {
    Game::new(&rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>()).expect("a game")
}

pub(crate) fn policy(probs: &[f64]) -> Policy {
    Policy::new("policy", probs).expect("a policy")
}

pub(crate) fn eta(x: f64) -> Positive {
    Positive::new(x).expect("a length")
}

pub(crate) fn weight(x: f64) -> Weight {
    Weight::new(x).expect("a weight")
}

/// The divergences, as the solved games name them.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pull {
    Rev,
    Fwd,
    Chi,
}

pub(crate) const PULLS: [Pull; 3] = [Pull::Rev, Pull::Fwd, Pull::Chi];

impl Pull {
    pub(crate) fn at(self, tau: f64) -> Regularizer {
        match self {
            Self::Rev => Regularizer::reverse_kl(weight(tau)),
            Self::Fwd => Regularizer::forward_kl(weight(tau)),
            Self::Chi => Regularizer::chi2(weight(tau)),
        }
    }

    /// The loss with η and λ. No policy of the tests is near the authors' bound of 10 nats.
    pub(crate) fn loss(self, eta: f64, lambda: f64) -> RspoConfig {
        let bound = Bound::new(10.0).expect("a bound");
        let regularizer = match self {
            Self::Rev => RspoRegularizer::ReverseKl,
            Self::Fwd => RspoRegularizer::ForwardImportance(bound),
            Self::Chi => RspoRegularizer::Chi2(bound),
        };
        let terms = vec![RspoTerm { regularizer, weight: weight(lambda) }];
        RspoConfig { beta: Beta::new(eta.recip()).expect("a beta"), terms }
    }
}

/// τ of all three.
pub(crate) fn mixture(reverse_kl: f64, forward_kl: f64, chi2: f64) -> Regularizer {
    Regularizer { reverse_kl: weight(reverse_kl), forward_kl: weight(forward_kl), chi2: weight(chi2) }
}

pub(crate) fn regularized(game: Game, mu: &[f64], tau: Regularizer) -> RegularizedGame {
    RegularizedGame::new(game, policy(mu), tau).expect("a regularised game")
}

/// How the entries of a random game are drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entries {
    /// Uniform.
    Any,
    /// 0 or 1.
    Sure,
    /// By a strength of each action.
    Transitive,
    /// Quarters, so that many are equal.
    Quarters,
}

pub(crate) const ENTRIES: [Entries; 4] =
    [Entries::Any, Entries::Sure, Entries::Transitive, Entries::Quarters];

pub(crate) fn random_game(n: usize, entries: Entries, k: u64) -> Game {
    let mut rng = stream(0, "random game", k, 0);
    let mut rows = vec![vec![0.5; n]; n];
    let strength: Vec<f64> = (0..n).map(|_| 4.0 * rng.random::<f64>()).collect();
    for a in 0..n {
        for b in 0..a {
            let p = match entries {
                Entries::Any => rng.random(),
                Entries::Sure => f64::from(rng.random_range(0..2u8)),
                Entries::Transitive => 1.0 / (1.0 + (strength[b] - strength[a]).exp()),
                Entries::Quarters => f64::from(rng.random_range(0..5u8)) / 4.0,
            };
            (rows[a][b], rows[b][a]) = (p, 1.0 - p);
        }
    }
    Game::new(&rows).expect("a game")
}

/// A random policy whose rarest action may be e^−skew times as likely as its commonest.
pub(crate) fn random_policy(n: usize, skew: f64, k: u64) -> Policy {
    let mut rng = stream(0, "random policy", k, 0);
    Policy::from_logits(&(0..n).map(|_| -skew * rng.random::<f64>()).collect::<Vec<_>>())
}

pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[track_caller]
pub(crate) fn near(found: &[f64], expected: &[f64], tolerance: f64) {
    let by = distance(found, expected);
    assert!(by <= tolerance, "expected {expected:?}, found {found:?}, off by {by:e}");
}

/// Half of the last of `digits` decimals, and what a decimal itself is off.
pub(crate) fn last_digit(digits: i32) -> f64 {
    0.5001 * 10f64.powi(-digits)
}
