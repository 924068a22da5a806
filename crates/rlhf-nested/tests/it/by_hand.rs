//! Numbers that can be checked with pencil and paper.

use rlhf_core::host::advantage::{Baseline, GroupAdvantageConfig, GroupScale, Single, group_advantages};
use rlhf_core::host::interval::Interval;
use rlhf_core::host::off_policy::{Correction, correction_weights, diagnostics, mixture_logp};
use rlhf_core::host::whiten::{Guard, Spread};
use rlhf_core::number::{Prob, Weight};

use crate::support::close;

const PI: [f64; 2] = [0.6, 0.4];
const B: [f64; 2] = [0.5, 0.5];
const REWARD: [f64; 2] = [1.0, 0.0];
/// ∂ log π / ∂z₀ of either token.
const SLOPE: [f64; 2] = [0.4, -0.6];

/// Mean and variance of w (R − baseline) ∂ log π / ∂z₀ where `drawn` draws.
fn moments(drawn: [f64; 2], correction: Correction, baseline: f64) -> [f64; 2] {
    let term = |o: usize| {
        let weight = correction_weights(correction, &[[(PI[o] / drawn[o]).ln()]])[0][0];
        weight * (REWARD[o] - baseline) * SLOPE[o]
    };
    let mean = drawn[0] * term(0) + drawn[1] * term(1);
    [mean, drawn[0] * term(0).powi(2) + drawn[1] * term(1).powi(2) - mean * mean]
}

#[test]
fn one_token_on_and_off_policy() {
    let upto = |c: f64| Correction::TokenTruncate(Interval::new(0.0, c).expect("ordered"));
    let late = Correction::RetraceToken(Prob::new(0.9).expect("a probability"));
    let cases = [
        (PI, Correction::None, 0.0, [0.24, 0.0384]),
        (B, Correction::None, 0.0, [0.20, 0.04]),
        (B, Correction::Sequence, 0.0, [0.24, 0.0576]),
        (B, upto(1.0), 0.0, [0.20, 0.04]),
        (B, late, 0.0, [0.18, 0.0324]),
        (B, upto(1.1), 0.0, [0.22, 0.0484]),
        (PI, Correction::None, 0.6, [0.24, 0.0096]),
        (B, Correction::None, 0.6, [0.26, 0.01]),
        (B, Correction::Sequence, 0.6, [0.24, 0.002_304]),
        (B, upto(1.0), 0.6, [0.224, 0.004_096]),
    ];
    for (drawn, correction, baseline, [mean, variance]) in cases {
        let [m, v] = moments(drawn, correction, baseline);
        close(&format!("mean of {correction:?}"), m, mean, 1e-15);
        close(&format!("variance of {correction:?}"), v, variance, 1e-15);
    }
    let square: f64 = (0..2).map(|o| B[o] * (PI[o] / B[o]).powi(2)).sum();
    close("E ρ²", square, 1.04, 1e-15);
}

#[test]
fn diagnostics_of_four_completions() {
    // One of each outcome of two fair tokens: ρ is 1.2 or .8, then 1.4 or .6.
    let outcomes = [[1.2f64, 1.4], [1.2, 0.6], [0.8, 1.4], [0.8, 0.6]];
    let log_ratio = outcomes.map(|row| row.map(f64::ln));
    let within = Interval::new(0.7, 1.3).expect("ordered");
    let seen = diagnostics(Correction::TokenMask(within), &log_ratio);
    assert_eq!(seen.n_tokens, 8);
    close("mean ratio", seen.mean_ratio, 1.0, 1e-15);
    // KL(b ‖ π) of the two tokens, −½ ln .96 − ½ ln .84.
    close("KL", seen.kl, -0.5 * (0.96f64.ln() + 0.84f64.ln()), 1e-15);
    // Weights 1.68, .72, 1.12 and .48: 16 / 4.8256.
    close("effective", seen.effective_sample_size, 16.0 / 4.8256, 1e-12);
    close("bounded", seen.share_bounded, 0.5, 1e-15);
}

#[test]
fn one_of_two_behaviors_drew_the_whole_completion() {
    // Both fair; the first gives a token ½ and ½, the second ¼ and 1.
    let (first, second) = ([0.5f64.ln(); 2], [0.25f64.ln(), 0.0]);
    let half = Prob::new(0.5).expect("a probability");
    let found = mixture_logp(&[(half, &first), (half, &second)]);
    // ½ (½ + ¼) = ⅜, then ½ (¼ + ¼) = ¼ of all.
    close("first", found[0], 0.375f64.ln(), 1e-15);
    close("both", found[0] + found[1], 0.25f64.ln(), 1e-15);
}

#[test]
fn advantages_of_eight_completions() {
    let of = |spread, epsilon, rewards: [f64; 8]| {
        let guard = Guard::StdPlus(Weight::new(epsilon).expect("not negative"));
        let scale = GroupScale::Group { spread, guard };
        let config = GroupAdvantageConfig { baseline: Baseline::GroupMean, scale, single: Single::Zero };
        group_advantages(config, &[rewards])
    };
    let rewards = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let unbiased = of(Spread::Unbiased, 1e-4, rewards);
    close("deviation", unbiased.std[0][0], 0.517_549, 5e-7);
    let population = of(Spread::Biased, 0.0, rewards);
    close("deviation", population.std[0][0], 0.484_123, 5e-7);
    for (i, reward) in rewards.iter().enumerate() {
        let expected = if *reward > 0.5 { [1.207_38, 1.290_99] } else { [-0.724_43, -0.774_60] };
        close("unbiased", unbiased.advantages[0][i], expected[0], 5e-6);
        close("population", population.advantages[0][i], expected[1], 5e-6);
    }
    for equal in [0.0, 1.0] {
        let found = of(Spread::Unbiased, 1e-4, [equal; 8]);
        assert!(found.advantages[0].iter().all(|a| a.abs() <= 0.0));
        assert!((found.frac_reward_zero_std() - 1.0).abs() < 1e-15);
    }
}
