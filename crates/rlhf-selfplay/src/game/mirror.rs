//! Mirror-descent updates of a policy, each in closed form or exact to the last digits.
//!
//! ```text
//! gmmd      argmax_π η ⟨P π_t, π⟩ − η Σ τ R(π, μ) − KL(π ‖ π_t)
//! mwu       π_t exp(η P(y ≻ π_t))
//! nash_md   π^m exp(η P(y ≻ π^m))          π^m ∝ π_t^{1 − ητ} μ^{ητ}
//! inpo      π_t^{1 − τ/η} μ^{τ/η} exp(P(y ≻ π_t)/η)
//! ```
//!
//! Where: all but the first up to their sum; τ of `nash_md` and `inpo` is that of the reverse KL. With the
//! reverse KL alone `gmmd` is magnetic mirror descent; `inpo` at η is `gmmd` at 1/(η − τ).
//! Papers: Sokota et al., arXiv:2206.05825 (magnetic mirror descent); Munos et al., arXiv:2312.00886
//! (Nash-MD); Zhang et al., arXiv:2407.00617 (INPO); Tang et al., arXiv:2503.00030 (any R); in words.

use rlhf_core::loss::inpo::{InpoConfig, inpo_scalar};
use rlhf_core::loss::rspo::References;
use rlhf_core::number::Positive;
use rlhf_core::real::Real;

use super::matrix::Game;
use super::policy::Policy;
use super::regularized::RegularizedGame;
use super::response::{Pull, respond};

/// A step of generalised magnetic mirror descent, of length `eta`.
///
/// # Panics
/// On a policy over another number of actions.
#[track_caller]
pub fn gmmd(game: &RegularizedGame, policy: &Policy, eta: Positive) -> Policy {
    let (eta, tau) = (eta.get(), game.tau());
    let scores: Vec<f64> = game.game().expected_margins(policy.probs()).iter().map(|m| eta * m).collect();
    // KL(π ‖ π_t) + ητ KL(π ‖ μ) is (1 + ητ) KL(π ‖ their mixture), but for a constant.
    let reverse = eta * tau.reverse_kl.get();
    let entropy = 1.0 + reverse;
    let base = mixture(policy, game.reference(), reverse / entropy);
    let pull = Pull {
        entropy,
        base: &base,
        forward: eta * tau.forward_kl.get(),
        chi2: eta * tau.chi2.get(),
        reference: game.reference().probs(),
    };
    respond(&scores, &pull)
}

/// A step of multiplicative weights of length `eta`, which is SPPO's in a table.
///
/// # Panics
/// On a policy over another number of actions.
#[track_caller]
pub fn mwu(game: &Game, policy: &Policy, eta: Positive) -> Policy {
    exponential(game, policy.logp(), policy, eta.get())
}

/// A step of Nash-MD of length `eta`; `eta` times τ of the reverse KL is the weight of μ in the mixture
/// that is played against.
///
/// # Panics
/// On a policy over another number of actions, or a weight above 1.
#[track_caller]
pub fn nash_md(game: &RegularizedGame, policy: &Policy, eta: Positive) -> Policy {
    let weight = eta.get() * game.tau().reverse_kl.get();
    // η = 1/τ may be a rounding above.
    assert!(
        weight <= 1.0 + 1e-12,
        "nash_md: expected a weight of the reference of at most 1, found {weight}"
    );
    let mixed = Policy::from_logits(&mixture(policy, game.reference(), weight.min(1.0)));
    exponential(game.game(), mixed.logp(), &mixed, eta.get())
}

/// A step of INPO. `eta` is the one of its loss, so that a larger one is a shorter step; the share of
/// μ is τ/η.
///
/// # Panics
/// On a policy over another number of actions, or `eta` below τ of the reverse KL.
#[track_caller]
pub fn inpo(game: &RegularizedGame, policy: &Policy, eta: Positive) -> Policy {
    let share = game.tau().reverse_kl.get() / eta.get();
    assert!(share <= 1.0, "inpo: expected a share of the reference of at most 1, found {share}");
    exponential(game.game(), &mixture(policy, game.reference(), share), policy, eta.get().recip())
}

/// The loss of INPO with both answers drawn from π_t and the winner by P, exactly; `logp` are the
/// log-probabilities of the policy that it is a function of. [`inpo`] is where it is least.
///
/// # Panics
/// On a policy over another number of actions.
#[track_caller]
pub fn inpo_loss<R: Real>(game: &RegularizedGame, previous: &Policy, config: InpoConfig, logp: &[R]) -> R {
    assert_eq!(logp.len(), previous.n_actions(), "inpo_loss: policies over different numbers of actions");
    let (before, original) = (previous.logp(), game.reference().logp());
    let of = |w: usize, l: usize| {
        let weight = previous.probs()[w] * previous.probs()[l] * game.game().preference(w, l);
        let references =
            References { previous: [before[w], before[l]], original: [original[w], original[l]] };
        inpo_scalar(config, [logp[w], logp[l]], references) * weight
    };
    let n = logp.len();
    (0..n * n).map(|i| of(i / n, i % n)).sum()
}

/// `(1 − weight) log π + weight log μ`; a policy without weight bars nothing.
fn mixture(policy: &Policy, reference: &Policy, weight: f64) -> Vec<f64> {
    let scaled = |by: f64, logp: f64| if by > 0.0 { by * logp } else { 0.0 };
    let pairs = policy.logp().iter().zip(reference.logp());
    pairs.map(|(p, m)| scaled(1.0 - weight, *p) + scaled(weight, *m)).collect()
}

/// `exp(logits + step P(y ≻ opponent))` over its sum.
fn exponential(game: &Game, logits: &[f64], opponent: &Policy, step: f64) -> Policy {
    let margins = game.expected_margins(opponent.probs());
    Policy::from_logits(&logits.iter().zip(margins).map(|(l, m)| l + step * m).collect::<Vec<_>>())
}
