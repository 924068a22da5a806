//! Sums over a whole row, in independent lanes that a compiler turns into vectors.
//!
//! There is no fused multiply-add, so that the numbers have the same bits on every machine.

/// Independent sums.
const LANES: usize = 8;

/// The largest logit, −∞ of none; NaNs are passed over.
pub(super) fn largest(logits: &[f32]) -> f32 {
    let (blocks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, z) in lanes.iter_mut().zip(block) {
            *lane = if *z > *lane { *z } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `exp(z − max)`, 0 for a token that was removed. NaN stays.
pub(super) fn weight(z: f32, max: f64) -> f64 {
    exp(f64::from(z) - max)
}

/// `Σ exp(z − max)`.
pub(super) fn sum_of_weights(logits: &[f32], max: f64) -> f64 {
    let mut lanes = [0.0; LANES];
    // Two loops without a choice between them: that is what becomes vectors.
    let mut weights = [0.0; 8 * LANES];
    for block in logits.chunks(weights.len()) {
        let weights = &mut weights[..block.len()];
        for (w, z) in weights.iter_mut().zip(block) {
            *w = weight(*z, max);
        }
        for weights in weights.chunks(LANES) {
            for (lane, w) in lanes.iter_mut().zip(weights) {
                *lane += w;
            }
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

/// e^x for x ≤ 700, with a relative error below 2e-14; 0 below −708, where the exact value is less than
/// 4e-308.
fn exp(x: f64) -> f64 {
    // x = n ln 2 + r. Adding 1.5 · 2⁵² rounds to an integer and leaves n in the low bits.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const LOW: f64 = -708.0;
    let held = if x < LOW { LOW } else { x };
    let shifted = held * std::f64::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = held - n * LN_2_HIGH - n * LN_2_LOW;
    // Taylor to the eleventh power, |r| ≤ ½ ln 2, in pairs: (c₀ + c₁ r) + r² ((c₂ + c₃ r) + …).
    let (r2, pair) = (r * r, |even: f64, odd: f64| even + odd * r);
    let mut p = pair(1.0 / 3_628_800.0, 1.0 / 39_916_800.0);
    p = p * r2 + pair(1.0 / 40_320.0, 1.0 / 362_880.0);
    p = p * r2 + pair(1.0 / 720.0, 1.0 / 5_040.0);
    p = p * r2 + pair(1.0 / 24.0, 1.0 / 120.0);
    p = p * r2 + pair(0.5, 1.0 / 6.0);
    p = p * r2 + pair(1.0, 1.0);
    // 2ⁿ; the product keeps a NaN.
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x < LOW { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_the_standard_library() {
        for i in -70_700..=2_000 {
            let x = f64::from(i) * 0.010_007;
            let x = x.max(-707.9);
            assert!((exp(x) / x.exp() - 1.0).abs() < 2e-14, "{x}: {} for {}", exp(x), x.exp());
        }
        assert_eq!(
            [exp(0.0), exp(-709.0), exp(f64::NEG_INFINITY)].map(f64::to_bits),
            [1.0f64, 0.0, 0.0].map(f64::to_bits)
        );
        assert!(exp(f64::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_take_every_entry() {
        for n in 0..40 {
            let row: Vec<f32> = (0..n).map(|i| ((i * 37) % 41) as f32 * 0.1 - 3.0).collect();
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&row).to_bits(), max.to_bits());
            let by_hand: f64 = row.iter().map(|z| (f64::from(*z) - 1.0).exp()).sum();
            assert!((sum_of_weights(&row, 1.0) - by_hand).abs() <= 1e-13 * by_hand);
        }
        assert!(sum_of_weights(&[0.0, f32::NAN, 0.0], 0.0).is_nan());
        assert_eq!(largest(&[f32::NAN, 1.0]).to_bits(), 1.0f32.to_bits());
    }
}
