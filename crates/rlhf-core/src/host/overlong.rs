//! What to do with completions that are too long.
//!
//! ```text
//! r(n) = 0                             n ≤ L − c
//!        ((L − c) − n) / c             L − c < n ≤ L
//!        −1                            L < n
//! ```
//!
//! Where: n is the completion's number of tokens, L is `max_completion_len`, c is
//! `soft_punish_cache`; c = 0 leaves the jump at L alone.
//! Paper: Yu et al., *DAPO*, arXiv:2503.14476, Eq. 13 for the punishment; overlong filtering in
//! words, Section 3.4.

use serde::{Deserialize, Serialize};

use crate::error::NumError;

/// Lengths in tokens, named as in TRL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct OverlongConfig {
    max_completion_len: usize,
    soft_punish_cache: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    max_completion_len: usize,
    soft_punish_cache: usize,
}

impl OverlongConfig {
    /// L and c. The paper's are 20 480 and 4 096 (Section 4.1).
    ///
    /// # Errors
    /// A c above L.
    pub fn new(max_completion_len: usize, soft_punish_cache: usize) -> Result<Self, NumError> {
        if soft_punish_cache <= max_completion_len {
            Ok(Self { max_completion_len, soft_punish_cache })
        } else {
            let expected = "at most max_completion_len tokens";
            Err(NumError { what: "soft_punish_cache", expected, found: soft_punish_cache as f64 })
        }
    }
}

impl TryFrom<Fields> for OverlongConfig {
    type Error = NumError;

    fn try_from(fields: Fields) -> Result<Self, NumError> {
        Self::new(fields.max_completion_len, fields.soft_punish_cache)
    }
}

impl From<OverlongConfig> for Fields {
    fn from(config: OverlongConfig) -> Self {
        let OverlongConfig { max_completion_len, soft_punish_cache } = config;
        Self { max_completion_len, soft_punish_cache }
    }
}

/// r of a completion of `n_tokens`, from −1 to 0: added to its reward.
///
/// ```
/// use rlhf_core::host::overlong::{OverlongConfig, soft_overlong_punishment};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Half of the way from 80 to 100.
/// let r = soft_overlong_punishment(OverlongConfig::new(100, 20)?, 90);
/// assert_eq!(r, -0.5);
/// # Ok(())
/// # }
/// ```
pub fn soft_overlong_punishment(config: OverlongConfig, n_tokens: usize) -> f64 {
    let OverlongConfig { max_completion_len, soft_punish_cache } = config;
    let free = max_completion_len - soft_punish_cache;
    if n_tokens <= free {
        0.0
    } else if n_tokens <= max_completion_len {
        -((n_tokens - free) as f64) / soft_punish_cache as f64
    } else {
        -1.0
    }
}

/// Masks after overlong filtering, and how many completions fell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filtered {
    /// As before, with no token of a truncated completion.
    pub masks: Vec<Vec<bool>>,
    /// Truncated completions.
    pub n_truncated: usize,
}

/// Takes truncated completions out of the loss. Their rewards still count in their group's
/// baseline, and an empty row in a mean over sequences: the normaliser says whether.
///
/// # Panics
/// Unless there is one entry a completion in both.
#[track_caller]
pub fn filter_overlong(masks: &[impl AsRef<[bool]>], truncated: &[bool]) -> Filtered {
    assert_eq!(masks.len(), truncated.len(), "filter_overlong: masks and truncated differ in length");
    let filtered = |(mask, cut): (&_, &bool)| -> Vec<bool> {
        let mask: &[bool] = AsRef::as_ref(mask);
        mask.iter().map(|on| *on && !cut).collect()
    };
    Filtered {
        masks: masks.iter().zip(truncated).map(filtered).collect(),
        n_truncated: truncated.iter().filter(|cut| **cut).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_branches_and_their_ends() {
        let config = OverlongConfig::new(100, 20).expect("in order");
        let of = |n| soft_overlong_punishment(config, n);
        for (n, expected) in [(0, 0.0), (80, 0.0), (81, -0.05), (95, -0.75), (100, -1.0), (101, -1.0)] {
            assert!((of(n) - expected).abs() < 1e-15, "{n}: {}", of(n));
        }
    }

    #[test]
    fn without_a_cache_only_the_jump_is_left() {
        let config = OverlongConfig::new(7, 0).expect("in order");
        assert!(soft_overlong_punishment(config, 7).abs() <= 0.0);
        assert!((soft_overlong_punishment(config, 8) + 1.0).abs() <= 0.0);
    }

    #[test]
    fn a_cache_longer_than_the_completion_is_refused() {
        let text = r#"{"max_completion_len": 4, "soft_punish_cache": 5}"#;
        let error = serde_json::from_str::<OverlongConfig>(text).expect_err("too long").to_string();
        let expected = "soft_punish_cache: expected at most max_completion_len tokens, found 5";
        assert!(error.starts_with(expected), "{error}");
        assert!(OverlongConfig::new(4, 4).is_ok());
        let written = serde_json::to_string(&OverlongConfig::new(4, 1).expect("in order"));
        assert_eq!(written.expect("written"), r#"{"max_completion_len":4,"soft_punish_cache":1}"#);
    }

    #[test]
    fn truncated_completions_leave_the_loss_and_are_counted() {
        let masks = [vec![true, false, true], vec![true], vec![]];
        let found = filter_overlong(&masks, &[false, true, false]);
        assert_eq!(found.masks, [vec![true, false, true], vec![false], vec![]]);
        assert_eq!(found.n_truncated, 1);
    }
}
