//! TRL's losses on pairs by the names of its `loss_type`, as twins and as tensor functions.

use burn::tensor::Tensor;
use rlhf_core::error::NumError;
use rlhf_core::loss::aot::{AotConfig, aot, aot_scalar, aot_unpaired, aot_unpaired_scalar};
use rlhf_core::loss::apo::{ApoConfig, apo_down, apo_down_scalar, apo_zero, apo_zero_scalar};
use rlhf_core::loss::bco::{BcoPairConfig, bco_pair, bco_pair_scalar};
use rlhf_core::loss::discopop::{DiscopopConfig, discopop, discopop_scalar};
use rlhf_core::loss::dpo::{DpoConfig, dpo, dpo_per_token, dpo_per_token_scalar, dpo_scalar};
use rlhf_core::loss::exo::{ExoConfig, exo, exo_scalar};
use rlhf_core::loss::hinge::{HingeConfig, hinge, hinge_scalar};
use rlhf_core::loss::ipo::{IpoConfig, ipo, ipo_per_token, ipo_per_token_scalar, ipo_scalar};
use rlhf_core::loss::nca::{NcaConfig, nca, nca_scalar};
use rlhf_core::loss::robust::{RobustConfig, robust, robust_scalar};
use rlhf_core::loss::sppo_hard::{SppoHardConfig, sppo_hard, sppo_hard_scalar};
use rlhf_core::number::{Beta, FlipRate, OpenProb, Positive, Prob};
use rlhf_core::pair::{FDivergence, PairLoss};
use rlhf_core::real::Real;

/// The numbers that the losses choose from.
#[derive(Debug, Clone, Copy)]
pub(in crate::golden) struct Numbers {
    pub(in crate::golden) beta: Beta,
    pub(in crate::golden) label_smoothing: f64,
    pub(in crate::golden) f_divergence: FDivergence,
    pub(in crate::golden) discopop_tau: f64,
}

/// A loss with its numbers.
#[derive(Debug, Clone, Copy)]
pub(in crate::golden) enum Loss {
    Aot(AotConfig),
    AotUnpaired(AotConfig),
    ApoDown(ApoConfig),
    ApoZero(ApoConfig),
    /// With the shift.
    Bco(BcoPairConfig, f64),
    Discopop(DiscopopConfig),
    Dpo(DpoConfig),
    DpoPerToken(DpoConfig),
    Exo(ExoConfig),
    Hinge(HingeConfig),
    Ipo(IpoConfig),
    IpoPerToken(IpoConfig),
    Nca(NcaConfig),
    Robust(RobustConfig),
    SppoHard(SppoHardConfig),
}

/// A batch of pairs: chosen, rejected.
#[derive(Debug, Clone, Copy)]
pub(in crate::golden) struct Pairs<'a, R> {
    pub(in crate::golden) policy: [&'a [R]; 2],
    pub(in crate::golden) reference: [&'a [f64]; 2],
    /// Tokens of each completion.
    pub(in crate::golden) lengths: [&'a [f64]; 2],
}

impl Loss {
    /// The loss that TRL 1.16 calls so.
    pub(in crate::golden) fn named(loss_type: &str, numbers: &Numbers) -> Result<Self, String> {
        let &Numbers { beta, label_smoothing: eps, f_divergence, discopop_tau } = numbers;
        let bad = |e: NumError| format!("params of {loss_type}: {e}");
        Ok(match loss_type {
            "aot" => Self::Aot(AotConfig { beta, label_smoothing: Prob::new(eps).map_err(bad)? }),
            "aot_unpaired" => {
                Self::AotUnpaired(AotConfig { beta, label_smoothing: Prob::new(eps).map_err(bad)? })
            }
            "apo_down" => Self::ApoDown(ApoConfig { beta }),
            "apo_zero" => Self::ApoZero(ApoConfig { beta }),
            "bco_pair" => Self::Bco(BcoPairConfig { beta }, 0.0),
            "discopop" => {
                let discopop_tau = Positive::new(discopop_tau).map_err(bad)?;
                Self::Discopop(DiscopopConfig { beta, discopop_tau, f_divergence })
            }
            "exo_pair" => {
                let label_smoothing = OpenProb::new(eps).map_err(bad)?;
                Self::Exo(ExoConfig { beta, label_smoothing, f_divergence })
            }
            "hinge" => Self::Hinge(HingeConfig { beta, f_divergence }),
            "ipo" => Self::IpoPerToken(IpoConfig { beta, f_divergence }),
            "nca_pair" => Self::Nca(NcaConfig { beta }),
            "robust" => {
                let label_smoothing = FlipRate::new(eps).map_err(bad)?;
                Self::Robust(RobustConfig { beta, label_smoothing, f_divergence })
            }
            "sigmoid" | "sigmoid_norm" => {
                let label_smoothing = Prob::new(eps).map_err(bad)?;
                let config = DpoConfig { beta, label_smoothing, f_divergence };
                if loss_type == "sigmoid" { Self::Dpo(config) } else { Self::DpoPerToken(config) }
            }
            "sppo_hard" => Self::SppoHard(SppoHardConfig { beta }),
            _ => return Err(format!("params: expected a known loss type, found {loss_type}")),
        })
    }

    /// Each pair's loss by the twins.
    pub(in crate::golden) fn scalar<R: Real>(self, pairs: Pairs<'_, R>) -> Vec<R> {
        let Pairs { policy, reference, lengths } = pairs;
        let each = |of: &dyn Fn([R; 2], [f64; 2], [f64; 2]) -> R| -> Vec<R> {
            let both = |x: [&[f64]; 2], i: usize| [x[0][i], x[1][i]];
            let pair = |i| of([policy[0][i], policy[1][i]], both(reference, i), both(lengths, i));
            (0..policy[0].len()).map(pair).collect()
        };
        match self {
            Self::Aot(c) => aot_scalar(c, policy, reference),
            Self::AotUnpaired(c) => aot_unpaired_scalar(c, policy, reference),
            Self::ApoDown(c) => each(&|p, r, _| apo_down_scalar(c, p, r)),
            Self::ApoZero(c) => each(&|p, r, _| apo_zero_scalar(c, p, r)),
            Self::Bco(c, shift) => each(&|p, r, _| bco_pair_scalar(c, p, r, shift)),
            Self::Discopop(c) => each(&|p, r, _| discopop_scalar(c, p, r)),
            Self::Dpo(c) => each(&|p, r, _| dpo_scalar(c, p, r)),
            Self::DpoPerToken(c) => each(&|p, r, n| dpo_per_token_scalar(c, p, r, n)),
            Self::Exo(c) => each(&|p, r, _| exo_scalar(c, p, r)),
            Self::Hinge(c) => each(&|p, r, _| hinge_scalar(c, p, r)),
            Self::Ipo(c) => each(&|p, r, _| ipo_scalar(c, p, r)),
            Self::IpoPerToken(c) => each(&|p, r, n| ipo_per_token_scalar(c, p, r, n)),
            Self::Nca(c) => each(&|p, r, _| nca_scalar(c, p, r)),
            Self::Robust(c) => each(&|p, r, _| robust_scalar(c, p, r)),
            Self::SppoHard(c) => each(&|p, r, _| sppo_hard_scalar(c, p, r)),
        }
    }

    /// Each pair's loss by the tensor functions; `[B]` all.
    pub(in crate::golden) fn tensor(
        self,
        policy: [Tensor<1>; 2],
        reference: [Tensor<1>; 2],
        lengths: [Tensor<1>; 2],
    ) -> PairLoss {
        match self {
            Self::Aot(c) => aot(c, policy, reference),
            Self::AotUnpaired(c) => aot_unpaired(c, policy, reference),
            Self::ApoDown(c) => apo_down(c, policy, reference),
            Self::ApoZero(c) => apo_zero(c, policy, reference),
            Self::Bco(c, shift) => bco_pair(c, policy, reference, shift),
            Self::Discopop(c) => discopop(c, policy, reference),
            Self::Dpo(c) => dpo(c, policy, reference),
            Self::DpoPerToken(c) => dpo_per_token(c, policy, reference, lengths),
            Self::Exo(c) => exo(c, policy, reference),
            Self::Hinge(c) => hinge(c, policy, reference),
            Self::Ipo(c) => ipo(c, policy, reference),
            Self::IpoPerToken(c) => ipo_per_token(c, policy, reference, lengths),
            Self::Nca(c) => nca(c, policy, reference),
            Self::Robust(c) => robust(c, policy, reference),
            Self::SppoHard(c) => sppo_hard(c, policy, reference),
        }
    }
}
