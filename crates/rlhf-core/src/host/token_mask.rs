//! Which tokens and sequences of a batch get a policy gradient at all.
//!
//! These masks leave a loss's normaliser alone: they set losses to zero, and the batch is divided by
//! what it would have been divided by.

use crate::number::{Prob, Weight};

/// The tokens whose entropy is at least the `quantile` of all entropies of the batch.
///
/// The threshold is interpolated linearly between neighbours. No token at all gives no token. From
/// Wang et al., *Beyond the 80/20 Rule*, arXiv:2506.01939, which keeps the top 20 %: a quantile of
/// 0.8 (TRL's `top_entropy_quantile` is 1 minus this one).
///
/// ```
/// use rlhf_core::host::token_mask::high_entropy;
/// use rlhf_core::number::Prob;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // The median of 0.1, 0.4 and 0.9.
/// let keep = high_entropy(&[&[0.1, 0.4], &[0.9, 7.0]], &[&[true, true], &[true, false]], Prob::new(0.5)?);
/// assert_eq!(keep, [[false, true], [true, false]]);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On rows of different lengths.
#[track_caller]
pub fn high_entropy(entropies: &[&[f64]], mask: &[&[bool]], quantile: Prob) -> Vec<Vec<bool>> {
    assert_eq!(entropies.len(), mask.len(), "high_entropy: entropies and mask differ in rows");
    let mut kept = Vec::new();
    for (row, mask) in entropies.iter().zip(mask) {
        assert_eq!(row.len(), mask.len(), "high_entropy: entropies and mask differ in length");
        kept.extend(row.iter().zip(*mask).filter(|(_, on)| **on).map(|(h, _)| *h));
    }
    kept.sort_by(f64::total_cmp);
    let Some(last) = kept.len().checked_sub(1) else {
        return mask.iter().map(|m| vec![false; m.len()]).collect();
    };
    let at = quantile.get() * last as f64;
    let (below, above) = (kept[at.floor() as usize], kept[at.ceil() as usize]);
    let threshold = below + (above - below) * at.fract();
    let row = |(h, m): (&&[f64], &&[bool])| h.iter().zip(*m).map(|(h, on)| *on && *h >= threshold).collect();
    entropies.iter().zip(mask).map(row).collect()
}

/// Whether a sequence counts: it does unless its advantage is negative and the policy has left the
/// one that drew it, mean over tokens of log π_old − log π above `threshold` nats.
///
/// DeepSeek-AI, *DeepSeek-V3.2*, arXiv:2512.02556, Eq. 9. A NaN keeps the sequence, so that it
/// is seen in the loss.
///
/// ```
/// use rlhf_core::host::token_mask::near_policy;
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // (2 + 0) / 2 = 1 nat away.
/// let (logp, old_logp) = ([-3.0, -1.0], [-1.0, -1.0]);
/// assert!(near_policy(-1.0, &logp, &old_logp, Weight::new(1.0)?));
/// assert!(!near_policy(-1.0, &logp, &old_logp, Weight::new(0.5)?));
/// assert!(near_policy(1.0, &logp, &old_logp, Weight::new(0.5)?));
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn near_policy(advantage: f64, logp: &[f64], old_logp: &[f64], threshold: Weight) -> bool {
    assert_eq!(logp.len(), old_logp.len(), "near_policy: log-probabilities differ in length");
    let gap: f64 = logp.iter().zip(old_logp).map(|(new, old)| old - new).sum();
    let far = gap / logp.len().max(1) as f64 > threshold.get();
    !(advantage < 0.0 && far)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(quantile: f64) -> Vec<Vec<bool>> {
        let entropies: [&[f64]; 2] = [&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], &[0.7, 0.8, 0.9, 1.0, 1.1, 1.2]];
        let mask: [&[bool]; 2] = [&[true; 6], &[true, true, true, true, false, false]];
        high_entropy(&entropies, &mask, Prob::new(quantile).expect("a probability"))
    }

    #[test]
    fn quantiles_of_ten_entropies() {
        // 0.1 to 1.0: the 0.8 quantile is 0.8 + 0.2 · 0.1, the median 0.55, the ends are inclusive.
        let (t, f) = (true, false);
        assert_eq!(of(0.8), [[f; 6], [f, f, t, t, f, f]]);
        assert_eq!(of(0.5), [[f, f, f, f, f, t], [t, t, t, t, f, f]]);
        assert_eq!(of(0.0), [[t; 6], [t, t, t, t, f, f]]);
        assert_eq!(of(1.0), [[f; 6], [f, f, f, t, f, f]]);
    }

    #[test]
    fn no_token_gives_no_token() {
        assert_eq!(high_entropy(&[&[1.0]], &[&[false]], Prob::ZERO), [[false]]);
    }

    #[test]
    fn only_a_bad_and_far_sequence_is_left_out() {
        let threshold = Weight::new(1.0).expect("a weight");
        let keep = |advantage, gap: f64| near_policy(advantage, &[-gap; 3], &[0.0; 3], threshold);
        assert!(keep(1.0, 2.0) && keep(-1.0, 0.5) && keep(-1.0, 1.0) && !keep(-1.0, 2.0) && keep(0.0, 2.0));
        assert!(keep(-1.0, f64::NAN) && near_policy(-1.0, &[], &[], threshold));
    }
}
