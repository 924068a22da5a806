//! The cases in `f64`, through the scalar twins and their exact gradients.

use rlhf_core::loss::cispo::cispo_scalar;
use rlhf_core::loss::gmpo::gmpo_scalar;
use rlhf_core::loss::grpo::grpo_scalar;
use rlhf_core::loss::gspo::{gspo_scalar, sequence_ratio_scalar};
use rlhf_core::loss::kl_penalty::kl_penalty_scalar;
use rlhf_core::loss::ppo_clip::ppo_clip_scalar;
use rlhf_core::loss::sapo::{sapo_scalar, sapo_sequence_scalar};
use rlhf_core::loss::vespo::{log_correction_scalar, log_weight_scalar, vespo_weighted_scalar};
use rlhf_core::mask::{Normalise, normalise_scalar, sequence_mean_scalar};
use rlhf_core::real::{Dual, Real, gradient};

use super::super::compare::Computed;
use super::{Kind, Level, Setup};

pub(super) fn compute(setup: &Setup) -> Computed {
    let at: Vec<f64> = setup.logp.iter().chain(&setup.entropy).flatten().copied().collect();
    let n = at.len() / 2;
    let (loss, slopes) = gradient(&at, |x: &[Dual]| total(setup, &x[..n], &x[n..]));
    let tokens = tokens(setup, &rows(setup, &at[..n]));
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.many("grads.logps", slopes[..n].to_vec());
    computed.many("grads.entropies", slopes[n..].to_vec());
    computed.one("metrics.policy_loss", reduced(setup.how, &tokens, &setup.mask));
    let width = if setup.one_a_sequence() { 1 } else { usize::MAX };
    let shown = |row: Vec<f64>| row.into_iter().take(width).collect::<Vec<f64>>();
    computed.many("per_token_loss", tokens.into_iter().flat_map(shown).collect());
    computed
}

fn rows<'a, R>(setup: &Setup, flat: &'a [R]) -> Vec<&'a [R]> {
    flat.chunks(setup.logp[0].len()).collect()
}

fn total<R: Real>(setup: &Setup, logp: &[R], entropy: &[R]) -> R {
    let tokens = tokens(setup, &rows(setup, logp));
    let loss = reduced(setup.how, &tokens, &setup.mask);
    let bonus = setup.entropy_coef.map_or(R::from(0.0), |coef| {
        let entropy: Vec<Vec<R>> = rows(setup, entropy).into_iter().map(<[R]>::to_vec).collect();
        reduced(Normalise::TokenMean, &entropy, setup.bonus_mask()) * coef
    });
    (loss - bonus) / setup.micro_batches
}

fn reduced<R: Real>(how: Normalise, x: &[Vec<R>], mask: &[Vec<bool>]) -> R {
    let x: Vec<&[R]> = x.iter().map(Vec::as_slice).collect();
    let mask: Vec<&[bool]> = mask.iter().map(Vec::as_slice).collect();
    normalise_scalar(how, &x, &mask)
}

/// The loss of every position.
fn tokens<R: Real>(setup: &Setup, logp: &[&[R]]) -> Vec<Vec<R>> {
    let (old, reference, a) = (&setup.old_logp, &setup.reference_logp, &setup.advantage);
    if let Some(config) = setup.grpo() {
        let row = |i: usize| {
            let token = |(t, x): (usize, &R)| grpo_scalar(config, *x, old[i][t], reference[i][t], a[i][t]);
            logp[i].iter().enumerate().map(token).collect()
        };
        return (0..logp.len()).map(row).collect();
    }
    let (factor, beta) = (setup.factor(), setup.beta.get());
    let row = |i: usize| {
        let token = |(t, (x, loss)): (usize, (&R, R))| {
            let loss = factor.as_ref().map_or(loss, |f| loss * f[i][t]);
            if beta > 0.0 {
                loss + kl_penalty_scalar(setup.kl, *x, reference[i][t], old[i][t]) * beta
            } else {
                loss
            }
        };
        logp[i].iter().zip(policy(setup, i, logp[i])).enumerate().map(token).collect()
    };
    (0..logp.len()).map(row).collect()
}

/// The policy loss of every position of a sequence.
fn policy<R: Real>(setup: &Setup, i: usize, logp: &[R]) -> Vec<R> {
    let (old, a, mask) = (&setup.old_logp[i], &setup.advantage[i], &setup.mask[i]);
    let each = |of: &dyn Fn(usize) -> R| (0..logp.len()).map(of).collect::<Vec<R>>();
    let spread = |x: R| vec![x; logp.len()];
    match (setup.kind, setup.level) {
        (Kind::Clip(config), Level::Token) => each(&|t| ppo_clip_scalar(config, logp[t], old[t], a[t])),
        (Kind::Clip(config), Level::Sequence) => {
            spread(sequence_mean_scalar(&gspo_scalar(config, logp, old, a, mask), mask))
        }
        (Kind::Cispo(config), Level::Token) => each(&|t| cispo_scalar(config, logp[t], old[t], a[t])),
        (Kind::Cispo(config), Level::Sequence) => {
            // As if each token had the sequence's ratio.
            let log_s = sequence_ratio_scalar(logp, old, mask).value().ln();
            each(&|t| cispo_scalar(config, logp[t], logp[t].value() - log_s, a[t]))
        }
        (Kind::Sapo(config), Level::Token) => each(&|t| sapo_scalar(config, logp[t], old[t], a[t])),
        (Kind::Sapo(config), Level::Sequence) => {
            spread(sequence_mean_scalar(&sapo_sequence_scalar(config, logp, old, a, mask), mask))
        }
        (Kind::Vespo(config), _) => {
            let log_w = log_weight(setup, i, logp);
            each(&|t| vespo_weighted_scalar(config, logp[t], log_w, a[t]))
        }
        (Kind::Gmpo(config), _) => spread(gmpo_scalar(config, logp, old, a[0], mask)),
    }
}

/// VESPO's log w; TRL sums the correction's logarithms behind the mask too.
pub(super) fn log_weight<R: Real>(setup: &Setup, i: usize, logp: &[R]) -> f64 {
    let drift = log_weight_scalar(logp, &setup.old_logp[i], &setup.mask[i]).value();
    let correction = setup.correction.as_ref();
    drift + correction.map_or(0.0, |c| log_correction_scalar(&c[i], &vec![true; logp.len()]))
}
