//! Learning-rate schedules by `transformers`' names.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Prob, Weight};

/// The shape of the learning rate over a run, after a linear warm-up from 0 (except
/// [`LrSchedule::Constant`]). Formulas as `transformers.get_scheduler`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LrSchedule {
    /// Down to 0 in a straight line.
    Linear,
    /// Half a cosine wave down to 0.
    Cosine,
    /// The base rate always; the warm-up is ignored.
    Constant,
    /// The base rate after the warm-up.
    ConstantWithWarmup,
    /// `1 / √step`, scaled so that it meets the end of the warm-up.
    InverseSqrt,
    /// Down to `lr_end` along a power of the steps that are left.
    Polynomial {
        /// The last learning rate.
        lr_end: Weight,
        /// 1 is a straight line.
        power: Beta,
    },
    /// Several half waves, each from the base rate to 0.
    CosineWithRestarts {
        /// How many.
        num_cycles: u32,
    },
    /// Half a cosine wave down to a fraction of the base rate.
    CosineWithMinLr {
        /// The fraction.
        min_lr_rate: Prob,
    },
    /// Flat, then half a cosine wave down to 0.
    WarmupStableDecay {
        /// Steps at the base rate.
        num_stable_steps: u64,
        /// Steps of the descent.
        num_decay_steps: u64,
    },
}

impl LrSchedule {
    /// The learning rate used at `step` (from 0) of `n_total`, of which the first `n_warmup` rise.
    /// At step 0 of a warm-up it is 0.
    ///
    /// ```
    /// use rlhf_core::host::schedule::LrSchedule;
    /// // Half-way down a cosine.
    /// assert!((LrSchedule::Cosine.lr(2e-5, 2516, 32, 5000) - 1e-5).abs() < 1e-19);
    /// ```
    pub fn lr(&self, base: f64, step: u64, n_warmup: u64, n_total: u64) -> f64 {
        if step < n_warmup && *self != Self::Constant {
            return base * (step as f64 / n_warmup as f64);
        }
        let after = step.saturating_sub(n_warmup);
        let progress = after as f64 / n_total.saturating_sub(n_warmup).max(1) as f64;
        match *self {
            Self::Constant | Self::ConstantWithWarmup => base,
            Self::Linear => base * (1.0 - progress).max(0.0),
            Self::Cosine => base * half_wave(progress),
            Self::InverseSqrt => {
                // Without a warm-up `transformers` takes 10,000 steps as the time scale.
                let scale = if n_warmup > 0 { n_warmup as f64 } else { 1e4 };
                base * (scale / (after as f64 + scale)).sqrt()
            }
            Self::Polynomial { lr_end, power } => {
                let left = (1.0 - progress).max(0.0);
                (base - lr_end.get()) * left.powf(power.get()) + lr_end.get()
            }
            Self::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            Self::CosineWithRestarts { num_cycles } => {
                base * half_wave((f64::from(num_cycles) * progress).fract())
            }
            Self::CosineWithMinLr { min_lr_rate } => {
                let floor = min_lr_rate.get();
                base * (half_wave(progress) * (1.0 - floor) + floor)
            }
            Self::WarmupStableDecay { num_stable_steps, .. } if after < num_stable_steps => base,
            Self::WarmupStableDecay { num_stable_steps, num_decay_steps } => {
                let down = after - num_stable_steps;
                let reached = down >= num_decay_steps;
                if reached { 0.0 } else { base * half_wave(down as f64 / num_decay_steps as f64) }
            }
        }
    }
}

/// `½ (1 + cos πx)`: 1 at 0, 0 at 1. Past the end it rises again, as in `transformers`.
fn half_wave(x: f64) -> f64 {
    (0.5 * (1.0 + (PI * x).cos())).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superhf_rates_by_round() {
        let lr = |step| LrSchedule::Cosine.lr(2e-5, step, 32, 5000);
        let expected = [(0, 0.0), (1, 6.25e-7), (16, 1e-5), (32, 2e-5), (2516, 1e-5), (5000, 0.0)];
        for (step, expected) in expected {
            assert!((lr(step) - expected).abs() < 1e-19, "step {step}: {}", lr(step));
        }
    }

    #[test]
    fn every_schedule_meets_the_end_of_its_warm_up() {
        let quarter = Prob::new(0.25).expect("a probability");
        let all = [
            LrSchedule::Linear,
            LrSchedule::Cosine,
            LrSchedule::ConstantWithWarmup,
            LrSchedule::InverseSqrt,
            LrSchedule::Polynomial { lr_end: Weight::ZERO, power: Beta::new(2.0).expect("positive") },
            LrSchedule::CosineWithRestarts { num_cycles: 3 },
            LrSchedule::CosineWithMinLr { min_lr_rate: quarter },
            LrSchedule::WarmupStableDecay { num_stable_steps: 3, num_decay_steps: 4 },
        ];
        for schedule in all {
            assert!((schedule.lr(0.5, 10, 10, 40) - 0.5).abs() < 1e-15, "{schedule:?}");
            assert!((schedule.lr(0.5, 5, 10, 40) - 0.25).abs() < 1e-15, "{schedule:?}");
        }
        assert!((LrSchedule::Constant.lr(0.5, 0, 10, 40) - 0.5).abs() < 1e-15);
    }

    #[test]
    fn ends_by_hand() {
        let power = Beta::new(2.0).expect("positive");
        let polynomial = LrSchedule::Polynomial { lr_end: Weight::new(0.1).expect("a weight"), power };
        // Half of the steps left: 0.9 · ¼ + 0.1.
        assert!((polynomial.lr(1.0, 5, 0, 10) - 0.325).abs() < 1e-15);
        assert!((polynomial.lr(1.0, 99, 0, 10) - 0.1).abs() < 1e-15);
        let restarts = LrSchedule::CosineWithRestarts { num_cycles: 2 };
        assert!((restarts.lr(1.0, 5, 0, 10) - 1.0).abs() < 1e-15);
        assert!(restarts.lr(1.0, 10, 0, 10).abs() < 1e-15);
        let wsd = LrSchedule::WarmupStableDecay { num_stable_steps: 2, num_decay_steps: 4 };
        assert!((wsd.lr(1.0, 4, 0, 10) - 0.5).abs() < 1e-15 && wsd.lr(1.0, 6, 0, 10).abs() < 1e-15);
        assert!((LrSchedule::InverseSqrt.lr(1.0, 16, 4, 20) - 0.5).abs() < 1e-15);
    }

    #[test]
    fn names_are_those_of_transformers() {
        let read = |s: &str| serde_json::from_str::<LrSchedule>(s);
        assert_eq!(read("\"constant_with_warmup\"").expect("a name"), LrSchedule::ConstantWithWarmup);
        let min = read("{\"cosine_with_min_lr\": {\"min_lr_rate\": 0.1}}").expect("a name with a number");
        assert!((min.lr(1.0, 10, 0, 10) - 0.1).abs() < 1e-15);
        assert!(read("{\"cosine_with_min_lr\": {\"min_lr_rate\": 2}}").is_err());
        assert!(read("{\"cosine_with_restarts\": {\"num_cycles\": 1, \"x\": 2}}").is_err());
    }
}
