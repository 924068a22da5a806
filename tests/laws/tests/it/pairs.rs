//! Losses on preference pairs with a reference.

use rlhf_core::loss::discopop::{DiscopopConfig, discopop, discopop_scalar};
use rlhf_core::loss::dpo::{DpoConfig, dpo, dpo_per_token, dpo_per_token_scalar, dpo_scalar};
use rlhf_core::loss::exo::{ExoConfig, exo, exo_scalar};
use rlhf_core::loss::hinge::{HingeConfig, hinge, hinge_scalar};
use rlhf_core::loss::ipo::{IpoConfig, ipo, ipo_per_token, ipo_per_token_scalar, ipo_scalar};
use rlhf_core::loss::ld_dpo::{LdDpoConfig, ld_logp, ld_logp_scalar};
use rlhf_core::loss::robust::{RobustConfig, robust, robust_scalar};
use rlhf_core::loss::wpo::{wpo_weight, wpo_weight_scalar};
use rlhf_core::mask::{sequence_sum, sequence_sum_scalar};
use rlhf_core::number::{Beta, Finite, FlipRate, OpenProb, Positive, Prob};
use rlhf_core::pair::FDivergence;
use rlhf_core::real::Dual;

use super::law::{Batch, Form, Kind, Law, Probe, Row, Tensors, law, one};

fn beta() -> Beta {
    Beta::new(0.3).expect("positive")
}

fn smoothed() -> DpoConfig {
    DpoConfig { label_smoothing: Prob::new(0.1).expect("a probability"), ..DpoConfig::new(beta()) }
}

fn of(f_divergence: FDivergence) -> DpoConfig {
    DpoConfig { f_divergence, ..DpoConfig::new(beta()) }
}

fn js() -> DpoConfig {
    of(FDivergence::JsDivergence)
}

fn forward() -> DpoConfig {
    of(FDivergence::ForwardKl)
}

fn alpha() -> FDivergence {
    FDivergence::AlphaDivergence(Finite::new(0.4).expect("finite"))
}

/// Both sides of the bound are met at the laws' size.
fn clamped() -> DpoConfig {
    let max_exponent = Positive::new(0.5).expect("positive");
    of(FDivergence::AlphaDivergenceClamped { alpha: Finite::new(0.4).expect("finite"), max_exponent })
}

fn alpha_ipo() -> IpoConfig {
    IpoConfig { f_divergence: alpha(), ..IpoConfig::new(beta()) }
}

fn js_hinge() -> HingeConfig {
    HingeConfig { f_divergence: FDivergence::JsDivergence, ..HingeConfig::new(beta()) }
}

fn noisy() -> RobustConfig {
    RobustConfig::new(beta(), FlipRate::new(0.2).expect("below a half"))
}

fn noisy_forward() -> RobustConfig {
    RobustConfig { f_divergence: FDivergence::ForwardKl, ..noisy() }
}

fn preference() -> ExoConfig {
    ExoConfig::new(beta(), OpenProb::new(0.1).expect("inside"))
}

fn preference_js() -> ExoConfig {
    ExoConfig { f_divergence: FDivergence::JsDivergence, ..preference() }
}

fn discovered() -> DiscopopConfig {
    DiscopopConfig::new(beta(), Positive::new(0.05).expect("positive"))
}

fn discovered_js() -> DiscopopConfig {
    DiscopopConfig { f_divergence: FDivergence::JsDivergence, ..discovered() }
}

fn desensitised() -> LdDpoConfig {
    LdDpoConfig { alpha: Prob::new(0.3).expect("a probability") }
}

pub(super) fn laws() -> Vec<Law> {
    let pair = Form::pair;
    vec![
        law!(
            "dpo",
            pair(),
            |t| one(dpo(DpoConfig::new(beta()), t.pair(), t.pair_of(0)).loss),
            row | r | { vec![dpo_scalar(DpoConfig::new(beta()), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])] }
        ),
        law!(
            "dpo/smoothed",
            pair(),
            |t| one(dpo(smoothed(), t.pair(), t.pair_of(0)).loss),
            row | r | { vec![dpo_scalar(smoothed(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])] }
        ),
        law!(
            "dpo/js",
            pair(),
            |t| one(dpo(js(), t.pair(), t.pair_of(0)).loss),
            row | r | { vec![dpo_scalar(js(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])] }
        ),
        law!(
            "dpo/forward_kl",
            pair().size(1.5),
            |t| one(dpo(forward(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![dpo_scalar(forward(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "dpo_per_token",
            Form::two().with(2, Kind::Count),
            |t| one(dpo_per_token(DpoConfig::new(beta()), t.pair(), t.pair_of(0), t.pair_of(1)).loss),
            row | r
                | vec![dpo_per_token_scalar(
                    DpoConfig::new(beta()),
                    [r.x[0], r.x[1]],
                    [r.o[0][0], r.o[0][1]],
                    [r.o[1][0], r.o[1][1]],
                )]
        ),
        law!(
            "dpo_per_token/no_tokens",
            Form::two().with_idle(2, Kind::Binary),
            |t| one(dpo_per_token(DpoConfig::new(beta()), t.pair(), t.pair_of(0), t.pair_of(1)).loss),
            row | r | { vec![dpo_scalar(DpoConfig::new(beta()), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])] }
        ),
        law!(
            "ipo",
            pair(),
            |t| one(ipo(IpoConfig::new(beta()), t.pair(), t.pair_of(0)).loss),
            row | r | { vec![ipo_scalar(IpoConfig::new(beta()), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])] }
        ),
        law!(
            "ipo_per_token",
            Form::two().with(2, Kind::Count),
            |t| one(ipo_per_token(IpoConfig::new(beta()), t.pair(), t.pair_of(0), t.pair_of(1)).loss),
            row | r
                | vec![ipo_per_token_scalar(
                    IpoConfig::new(beta()),
                    [r.x[0], r.x[1]],
                    [r.o[0][0], r.o[0][1]],
                    [r.o[1][0], r.o[1][1]],
                )]
        ),
        law!(
            "ipo_per_token/no_tokens",
            Form::two().with_idle(2, Kind::Binary),
            |t| one(ipo_per_token(IpoConfig::new(beta()), t.pair(), t.pair_of(0), t.pair_of(1)).loss),
            row | r | { vec![ipo_scalar(IpoConfig::new(beta()), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])] }
        ),
        law!(
            "hinge",
            pair(),
            |t| one(hinge(HingeConfig::new(beta()), t.pair(), t.pair_of(0)).loss),
            row | r | {
                vec![hinge_scalar(HingeConfig::new(beta()), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
            }
        ),
        law!(
            "dpo/alpha",
            pair().size(1.5),
            |t| one(dpo(of(alpha()), t.pair(), t.pair_of(0)).loss),
            row | r | vec![dpo_scalar(of(alpha()), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "dpo/alpha_clamped",
            pair(),
            |t| one(dpo(clamped(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![dpo_scalar(clamped(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "ipo/alpha",
            pair().size(1.5).overflows(),
            |t| one(ipo(alpha_ipo(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![ipo_scalar(alpha_ipo(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "hinge/js",
            pair(),
            |t| one(hinge(js_hinge(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![hinge_scalar(js_hinge(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "robust",
            pair(),
            |t| one(robust(noisy(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![robust_scalar(noisy(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "robust/forward_kl",
            pair().size(1.5),
            |t| one(robust(noisy_forward(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![robust_scalar(noisy_forward(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "exo",
            pair(),
            |t| one(exo(preference(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![exo_scalar(preference(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "exo/js",
            pair(),
            |t| one(exo(preference_js(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![exo_scalar(preference_js(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "discopop",
            pair(),
            |t| one(discopop(discovered(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![discopop_scalar(discovered(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        law!(
            "discopop/js",
            pair(),
            |t| one(discopop(discovered_js(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![discopop_scalar(discovered_js(), [r.x[0], r.x[1]], [r.o[0][0], r.o[0][1]])]
        ),
        // The partner's length counts where it is the shorter one.
        law!(
            "ld_logp",
            Form::tokens().with(1, Kind::Count),
            |t| one(ld_logp(desensitised(), t.leaf.clone(), &t.mask, t.col(0, 0))),
            row | r | vec![ld_logp_scalar(desensitised(), r.x, r.mask, r.o[0][0] as usize)]
        ),
        // As a factor, which has no gradient of its own. Log Σ π² is never below −log V.
        law!(
            "wpo_weight",
            Form::tokens().leaf(Kind::LogProb).with(5, Kind::Prob),
            |t| {
                let weight = wpo_weight(t.leaf.clone(), t.o(0).neg(), &t.mask);
                one(sequence_sum(t.leaf.clone(), &t.mask) * weight)
            },
            row | r | {
                let squares: Vec<f64> = r.o[0].iter().map(|p| -p).collect();
                vec![sequence_sum_scalar(r.x, r.mask) * wpo_weight_scalar(r.x, &squares, r.mask)]
            }
        ),
    ]
}
