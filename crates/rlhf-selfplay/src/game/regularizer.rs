//! The pull to the reference policy.

use rlhf_core::loss::rspo::{RspoConfig, RspoRegularizer};
use rlhf_core::number::Weight;

use super::error::GameError;
use super::policy::Policy;

/// τ of each divergence from μ, the reference policy; 0 switches one off.
///
/// ```text
/// Σ τ R(π, μ) = τ_r Σ π log(π/μ) + τ_f Σ μ log(μ/π) + τ_χ Σ (π − μ)²/μ
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regularizer {
    /// τ_r, of KL(π ‖ μ).
    pub reverse_kl: Weight,
    /// τ_f, of KL(μ ‖ π).
    pub forward_kl: Weight,
    /// τ_χ, of χ²(π ‖ μ).
    pub chi2: Weight,
}

impl Regularizer {
    /// Nothing pulls.
    pub const NONE: Self = Self { reverse_kl: Weight::ZERO, forward_kl: Weight::ZERO, chi2: Weight::ZERO };

    /// KL(π ‖ μ) alone.
    pub fn reverse_kl(tau: Weight) -> Self {
        Self { reverse_kl: tau, ..Self::NONE }
    }

    /// KL(μ ‖ π) alone.
    pub fn forward_kl(tau: Weight) -> Self {
        Self { forward_kl: tau, ..Self::NONE }
    }

    /// χ²(π ‖ μ) alone.
    pub fn chi2(tau: Weight) -> Self {
        Self { chi2: tau, ..Self::NONE }
    }

    /// The effective temperatures of the loss of RSPO: 2λ/η of `reverse_kl`, λ/η of
    /// `forward_importance`, λ/(2η) of `chi2`, with η = 1/β. Iterating the loss ends, if it ends, at
    /// the equilibrium of the game that they regularise.
    ///
    /// # Errors
    /// A term whose expected gradient is not that of one of the three divergences.
    pub fn of_rspo(config: &RspoConfig) -> Result<Self, GameError> {
        let mut sum = Self::NONE;
        for (i, term) in config.terms.iter().enumerate() {
            let into = match term.regularizer {
                RspoRegularizer::ReverseKl => &mut sum.reverse_kl,
                RspoRegularizer::ForwardImportance(_) => &mut sum.forward_kl,
                RspoRegularizer::Chi2(_) => &mut sum.chi2,
                other => {
                    let expected = "reverse_kl, forward_importance or chi2";
                    return Err(GameError::new(format!("terms[{i}]"), expected, format!("{other:?}")));
                }
            };
            let tau = into.get() + term.temperature(config.beta);
            *into = Weight::new(tau)
                .map_err(|e| GameError::new(format!("terms[{i}]"), e.expected, e.found.to_string()))?;
        }
        Ok(sum)
    }

    /// Whether nothing pulls.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Whether an action that μ bars would cost without end, so that no policy plays it.
    pub fn bars_what_reference_bars(&self) -> bool {
        self.reverse_kl > Weight::ZERO || self.chi2 > Weight::ZERO
    }

    /// `Σ τ R(π, μ)`, in units of preference; ∞ where a divergence is.
    pub fn value(&self, policy: &Policy, reference: &Policy) -> f64 {
        let terms: [(Weight, &dyn Fn() -> f64); 3] = [
            (self.reverse_kl, &|| policy.kl(reference)),
            (self.forward_kl, &|| reference.kl(policy)),
            (self.chi2, &|| chi2(policy.probs(), reference.probs())),
        ];
        // 0 times an infinite divergence would be NaN.
        terms.iter().filter(|(tau, _)| *tau > Weight::ZERO).map(|(tau, r)| tau.get() * r()).sum()
    }
}

/// `Σ (π − μ)²/μ`.
fn chi2(policy: &[f64], reference: &[f64]) -> f64 {
    let term = |(p, m): (&f64, &f64)| match (p - m).powi(2) {
        0.0 => 0.0,
        square => square / m,
    };
    policy.iter().zip(reference).map(term).sum()
}
