//! What TRL logs beside the loss, and the numbers on the way to it: host arithmetic.

use rlhf_core::loss::gmpo::gmpo_scalar;
use rlhf_core::loss::gspo::sequence_ratio_scalar;
use rlhf_core::loss::kl_penalty::kl_penalty_scalar;
use rlhf_core::loss::vespo::vespo_weighted_scalar;
use rlhf_core::mask::{Normalise, normalise_scalar, sequence_mean_scalar};

use super::super::compare::Computed;
use super::{Kind, Level, Setup, twin};

pub(super) fn add(setup: &Setup, computed: &mut Computed) {
    let n = setup.logp.len();
    let log_ratio = log_ratios(setup);
    let logged: Vec<f64> = match setup.kind {
        Kind::Gmpo(config) => {
            // The loss at an advantage of ±1 is ∓ the geometric mean of the clipped ratios.
            let of = |i: usize| {
                let sign = setup.advantage[i][0].signum();
                let (logp, old) = (&setup.logp[i], &setup.old_logp[i]);
                gmpo_scalar(config, logp, old, sign, &setup.mask[i]).abs().ln()
            };
            (0..n).map(of).collect()
        }
        _ => log_ratio.concat(),
    };
    computed.many("log_importance_weights", logged);
    let of = |i: usize, t: usize| {
        kl_penalty_scalar(setup.kl, setup.logp[i][t], setup.reference_logp[i][t], setup.old_logp[i][t])
    };
    let kl: Vec<Vec<f64>> = (0..n).map(|i| (0..setup.logp[i].len()).map(|t| of(i, t)).collect()).collect();
    computed.one("metrics.kl", token_mean(&kl, &setup.mask));
    computed.many("per_token_kl", kl.concat());
    computed.one("metrics.entropy", token_mean(&setup.entropy, &setup.mask));
    masks(setup, computed);
    match setup.kind {
        Kind::Vespo(config) => {
            // The loss at log π = −1 and an advantage of ±1 is ±φ.
            let of = |i: usize| {
                let log_w = twin::log_weight(setup, i, &setup.logp[i]);
                vespo_weighted_scalar(config, -1.0, log_w, setup.advantage[i][0].signum()).abs()
            };
            let phi: Vec<f64> = (0..n).map(of).collect();
            computed.one("metrics.vespo/phi_seq_mean", phi.iter().sum::<f64>() / n as f64);
            computed.many("phi_seq", phi);
        }
        _ => clipped(setup, &log_ratio, computed),
    }
}

/// Masks and the bonus of the options.
fn masks(setup: &Setup, computed: &mut Computed) {
    let number = |on: &bool| f64::from(u8::from(*on));
    if let Some(mask) = &setup.high_entropy {
        computed.many("entropy_mask", mask.iter().flatten().map(number).collect());
    }
    if let Some(mask) = &setup.near_policy {
        computed.many("off_policy_mask", mask.iter().map(number).collect());
    }
    if let Some(coef) = setup.entropy_coef {
        let bonus = token_mean(&setup.entropy, setup.bonus_mask());
        computed.one("entropy_loss", bonus / setup.micro_batches);
        computed.one("metrics.entropy_coef", coef);
    }
}

/// Log-ratios of tokens `[B][T]`, or of sequences `[B][1]`.
fn log_ratios(setup: &Setup) -> Vec<Vec<f64>> {
    let of = |i: usize| -> Vec<f64> {
        let (logp, old) = (&setup.logp[i], &setup.old_logp[i]);
        match setup.level {
            Level::Token => logp.iter().zip(old).map(|(x, old)| x - old).collect(),
            Level::Sequence => vec![sequence_ratio_scalar(logp, old, &setup.mask[i]).ln()],
        }
    };
    (0..setup.logp.len()).map(of).collect()
}

/// How many ratios were clipped.
fn clipped(setup: &Setup, log_ratio: &[Vec<f64>], computed: &mut Computed) {
    // Where a gain stops on either side, as log-ratios.
    let (low, high) = match setup.kind {
        Kind::Clip(c) => ((1.0 - c.epsilon_low.get()).ln(), (1.0 + c.epsilon_high.get()).ln()),
        Kind::Gmpo(c) => (-c.epsilon_low.get(), c.epsilon_high.get()),
        Kind::Cispo(rlhf_core::loss::cispo::CispoConfig::UpperBound { max }) => (0.0, max.get().ln()),
        _ => return,
    };
    let count = |stops: &dyn Fn(f64, f64) -> bool| -> Vec<Vec<f64>> {
        let row = |i: usize| {
            let of = |(t, x): (usize, &f64)| f64::from(u8::from(stops(*x, setup.advantage[i][t])));
            log_ratio[i].iter().enumerate().map(of).collect()
        };
        (0..log_ratio.len()).map(row).collect()
    };
    let is_low = count(&|x, a| x < low && a < 0.0);
    let is_high = count(&|x, a| x > high && a > 0.0);
    let mask: Vec<Vec<bool>> = match setup.level {
        Level::Token => setup.mask.clone(),
        Level::Sequence => vec![vec![true]; log_ratio.len()],
    };
    let per_sequence = |x: &[Vec<f64>]| -> Vec<f64> {
        x.iter().zip(&mask).map(|(row, mask)| sequence_mean_scalar(row, mask)).collect()
    };
    if matches!(setup.kind, Kind::Cispo(_)) {
        return computed.one("metrics.cispo_clip_ratio", token_mean(&is_high, &mask));
    }
    let (lows, highs) = (token_mean(&is_low, &mask), token_mean(&is_high, &mask));
    computed.one("metrics.clip_ratio/low_mean", lows);
    computed.one("metrics.clip_ratio/high_mean", highs);
    computed.one("metrics.clip_ratio/region_mean", lows + highs);
    let lowest = per_sequence(&is_low).into_iter().fold(f64::INFINITY, f64::min);
    computed.one("metrics.clip_ratio/low_min", lowest);
    computed.one("metrics.clip_ratio/high_max", per_sequence(&is_high).into_iter().fold(0.0, f64::max));
}

fn token_mean(x: &[Vec<f64>], mask: &[Vec<bool>]) -> f64 {
    let x: Vec<&[f64]> = x.iter().map(Vec::as_slice).collect();
    let mask: Vec<&[bool]> = mask.iter().map(Vec::as_slice).collect();
    normalise_scalar(Normalise::TokenMean, &x, &mask)
}
