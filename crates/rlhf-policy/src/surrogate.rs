//! The loss of a group's tokens: a surrogate, each under the name of its paper, and the KL beside it.
//!
//! ```text
//! ℓ_t = w_t s(r_t, A) + β KL_t          r_t = π(o_t | o_<t) / π_old(o_t | o_<t)
//! ```
//!
//! Where: s is the surrogate, r the ratio of the update; w are weights for tokens that another model drew
//! ([`correction_weights`](rlhf_core::host::off_policy::correction_weights)), on the surrogate and not on the
//! KL, as in TRL. VESPO has its weights inside its own: there w joins them.

use burn::tensor::{Bool, Tensor};
use rlhf_core::loss::cispo::{CispoConfig, cispo};
use rlhf_core::loss::gmpo::{GmpoConfig, gmpo};
use rlhf_core::loss::grpo::GrpoConfig;
use rlhf_core::loss::gspo::{gspo, gspo_token};
use rlhf_core::loss::kl_penalty::{KlConfig, kl_penalty};
use rlhf_core::loss::ppo_clip::{PpoClipConfig, ppo_clip};
use rlhf_core::loss::sapo::{SapoConfig, sapo, sapo_sequence};
use rlhf_core::loss::vespo::{VespoConfig, log_correction, log_weight, vespo_weighted};
use rlhf_core::mask::per_token;
use rlhf_core::number::{Bound, Weight};
use rlhf_core::token::token_ratio;
use serde::{Deserialize, Serialize};

/// What of a token's ratio and its completion's advantage is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surrogate {
    /// [`ppo_clip`]: GRPO and what differs from it in the normaliser.
    Clip(PpoClipConfig),
    /// [`gspo`].
    Gspo(PpoClipConfig),
    /// [`gspo_token`].
    GspoToken(PpoClipConfig),
    /// [`cispo`].
    Cispo(CispoConfig),
    /// [`sapo`].
    Sapo(SapoConfig),
    /// [`sapo_sequence`].
    SapoSequence(SapoConfig),
    /// [`vespo`](rlhf_core::loss::vespo).
    Vespo(VespoConfig),
    /// [`gmpo`], a completion's loss on each of its tokens.
    Gmpo(GmpoConfig),
}

/// The loss of a token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupLoss {
    /// s.
    pub surrogate: Surrogate,
    /// β; 0 needs no reference.
    pub beta: Weight,
    /// How the KL is estimated and differentiated.
    pub kl: KlConfig,
}

impl From<GrpoConfig> for GroupLoss {
    fn from(config: GrpoConfig) -> Self {
        Self { surrogate: Surrogate::Clip(config.clip), beta: config.beta, kl: config.kl }
    }
}

/// What a surrogate is told, `[B, C]` but for the advantage.
pub(crate) struct Told {
    /// log π, the only one that gets a gradient.
    pub(crate) logp: Tensor<2>,
    /// That of the policy before the update.
    pub(crate) old_logp: Tensor<2>,
    /// That of the reference.
    pub(crate) reference_logp: Option<Tensor<2>>,
    /// w; none for 1.
    pub(crate) weight: Option<Tensor<2>>,
    /// A, `[B]`.
    pub(crate) advantage: Tensor<1>,
}

/// The loss of each token, `[B, C]` each.
pub(crate) struct Lost {
    /// 0 behind the mask.
    pub(crate) loss: Tensor<2>,
    /// r, 1 behind the mask. Detached.
    pub(crate) ratio: Tensor<2>,
    /// The KL before β, in nats. Detached.
    pub(crate) kl: Option<Tensor<2>>,
}

impl Surrogate {
    /// The range of ratios outside of which a token has no gradient, or another one: what the shares of
    /// clipped ratios count. Infinite where there is none.
    pub(crate) fn range(self) -> [f64; 2] {
        let of = |clip: PpoClipConfig| [1.0 - clip.epsilon_low.get(), 1.0 + clip.epsilon_high.get()];
        match self {
            Self::Clip(clip) | Self::Gspo(clip) | Self::GspoToken(clip) => of(clip),
            Self::Cispo(CispoConfig::UpperBound { max }) => [f64::NEG_INFINITY, max.get()],
            Self::Cispo(CispoConfig::TwoSided { epsilon_low, epsilon_high }) => {
                of(PpoClipConfig { epsilon_low, epsilon_high, delta: Bound::NONE })
            }
            Self::Gmpo(c) => [(-c.epsilon_low.get()).exp(), c.epsilon_high.get().exp()],
            Self::Sapo(_) | Self::SapoSequence(_) | Self::Vespo(_) => [f64::NEG_INFINITY, f64::INFINITY],
        }
    }

    /// `[s, r]` of each token; `weight` is on the result.
    #[track_caller]
    fn tokens(self, told: &Told, mask: &Tensor<2, Bool>) -> [Tensor<2>; 2] {
        let Told { logp, old_logp, weight, advantage, .. } = told;
        let (logp, old) = (logp.clone(), old_logp.clone());
        let c = logp.dims()[1];
        let spread = || per_token(advantage.clone(), c);
        let own_ratio = || token_ratio("group", logp.clone().detach(), old.clone(), mask);
        let weighted = |loss: Tensor<2>| match weight {
            Some(w) => loss * w.clone(),
            None => loss,
        };
        let out = match self {
            Self::Clip(config) => ppo_clip(config, logp, old, spread(), mask),
            Self::Gspo(config) => gspo(config, logp, old, spread(), mask),
            Self::GspoToken(config) => gspo_token(config, logp, old, spread(), mask),
            Self::Cispo(config) => cispo(config, logp, old, spread(), mask),
            Self::Sapo(config) => sapo(config, logp, old, spread(), mask),
            Self::SapoSequence(config) => sapo_sequence(config, logp, old, spread(), mask),
            Self::Vespo(config) => {
                let mut log_w = log_weight(logp.clone(), old.clone(), mask);
                if let Some(w) = weight {
                    log_w = log_w + log_correction(w.clone(), mask);
                }
                let ratio = own_ratio();
                return [vespo_weighted(config, logp, log_w, spread(), mask).loss, ratio];
            }
            Self::Gmpo(config) => {
                let ratio = own_ratio();
                let of_rows = gmpo(config, logp, old, advantage.clone(), mask).loss;
                return [weighted(per_token(of_rows, c)), ratio];
            }
        };
        [weighted(out.loss), out.ratio]
    }
}

impl GroupLoss {
    /// # Panics
    /// On different shapes, or no reference where β > 0.
    #[track_caller]
    pub(crate) fn tokens(&self, told: Told, mask: &Tensor<2, Bool>) -> Lost {
        let [loss, ratio] = self.surrogate.tokens(&told, mask);
        let beta = self.beta.get();
        if beta <= 0.0 {
            return Lost { loss, ratio, kl: None };
        }
        let Some(reference_logp) = told.reference_logp else {
            panic!("group: reference_logp: expected one for β = {beta}, found none");
        };
        let kl = kl_penalty(self.kl, told.logp, reference_logp, told.old_logp, mask);
        Lost { loss: loss + kl.clone().mul_scalar(beta), ratio, kl: Some(kl.detach()) }
    }
}
