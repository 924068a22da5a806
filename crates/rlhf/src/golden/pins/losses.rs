//! Pins of losses.

use rlhf_core::host::interval::Interval;
use rlhf_core::host::off_policy::{Correction, correction_weights};
use rlhf_core::loss::cispo::{CispoConfig, cispo_scalar};
use rlhf_core::loss::cross_entropy::cross_entropy_scalar;
use rlhf_core::loss::dpo::{DpoConfig, dpo_scalar};
use rlhf_core::loss::gspo::{gspo_scalar, sequence_ratio_scalar};
use rlhf_core::loss::hinge::{HingeConfig, hinge_scalar};
use rlhf_core::loss::ipo::{IpoConfig, ipo_scalar};
use rlhf_core::loss::kl_penalty::{KlConfig, KlEstimator, KlGradient, kl_penalty_scalar};
use rlhf_core::loss::ppo_clip::{PpoClipConfig, ppo_clip_scalar};
use rlhf_core::loss::rloo::reinforce_tokens_scalar;
use rlhf_core::loss::sppo::{SppoConfig, sppo_scalar};
use rlhf_core::loss::sppo_hard::{SppoHardConfig, sppo_hard_scalar};
use rlhf_core::number::{Beta, Bound, Prob, Weight};
use rlhf_core::preset::{nemo, trl};
use rlhf_core::real::gradient;

use super::super::case::Case;
use super::super::compare::Computed;
use super::{mean, range, value};

/// NeMo-RL's tests leave their ε, 0.2, to the default where they give none.
const EPSILON: f64 = 0.2;

pub(super) fn policy_gradient(case: &Case<'_>) -> Result<Computed, String> {
    if case.name().starts_with("pg.gspo") {
        return gspo(case);
    }
    let advantages = case.input("advantages")?.values;
    let old = || Ok::<_, String>(case.input("old_logps")?.values);
    let logp = || Ok::<_, String>(case.input("logps")?.values);
    let mut clip = PpoClipConfig {
        epsilon_low: Weight::new(case.number_or("eps_low", EPSILON)?).map_err(range)?,
        ..PpoClipConfig::new(Weight::new(case.number_or("eps_high", EPSILON)?).map_err(range)?)
    };
    if case.param("clip_c").is_some() {
        clip.delta = Bound::new(case.number("clip_c")?).map_err(range)?;
    }
    let surrogate = |logp: &[f64], old: &[f64]| -> Vec<f64> {
        (0..logp.len()).map(|i| ppo_clip_scalar(clip, logp[i], old[i], advantages[i])).collect()
    };
    let cispo = |config: CispoConfig| -> Result<Vec<f64>, String> {
        let (logp, old) = (logp()?, old()?);
        Ok((0..logp.len()).map(|i| cispo_scalar(config, logp[i], old[i], advantages[i])).collect())
    };
    let weighted = |correction: Correction, losses: Vec<f64>| -> Result<f64, String> {
        let generated = case.input("gen_logps")?.values;
        let log_ratio: Vec<f64> =
            old()?.iter().zip(&generated).map(|(old, gen_logp)| old - gen_logp).collect();
        let weights = correction_weights(correction, &[log_ratio]).concat();
        Ok(mean(losses.iter().zip(weights).map(|(l, w)| l * w)))
    };
    let interval = || Interval::new(case.number("low")?, case.number("high")?).map_err(range);
    Ok(value(vec![match case.name() {
        "pg.ppo_clip" | "pg.dual_clip" => mean(surrogate(&logp()?, &old()?)),
        // The ratio is forced to 1: the policy that drew the tokens is the one that learns.
        "pg.forced_on_policy" => mean(surrogate(&old()?, &old()?)),
        "pg.reinforce" => {
            let logp = logp()?;
            mean((0..logp.len()).map(|i| reinforce_tokens_scalar(logp[i], advantages[i])))
        }
        "pg.cispo_two_sided" => mean(cispo(nemo::cispo())?),
        "pg.cispo_trl_5" => mean(cispo(trl::cispo())?),
        "pg.cispo_is" => weighted(Correction::Token, cispo(nemo::cispo())?)?,
        "pg.is_corrected" => weighted(Correction::Token, surrogate(&logp()?, &old()?))?,
        "pg.icepop" => weighted(Correction::TokenMask(interval()?), surrogate(&old()?, &old()?))?,
        "pg.seq_mask_tis_kept" => {
            weighted(Correction::GeometricMask(interval()?), surrogate(&old()?, &old()?))?
        }
        _ => return Err(case.unknown()),
    }]))
}

fn gspo(case: &Case<'_>) -> Result<Computed, String> {
    let clip = PpoClipConfig::new(Weight::new(EPSILON).map_err(range)?);
    let [logp, old, advantages] = ["logps", "old_logps", "advantages"].map(|name| case.input(name));
    let (logp, old, advantages) = (logp?.rows(), old?.rows(), advantages?.rows());
    let (mut ratios, mut losses) = (Vec::new(), Vec::new());
    for i in 0..logp.len() {
        let mask = vec![true; logp[i].len()];
        ratios.push(sequence_ratio_scalar(&logp[i], &old[i], &mask));
        losses.extend(gspo_scalar(clip, &logp[i], &old[i], &advantages[i], &mask));
    }
    let mut computed = Computed::default();
    computed.many(if logp.len() == 1 { "ratio" } else { "ratios" }, ratios);
    computed.one("loss", mean(losses));
    Ok(computed)
}

pub(super) fn kl(case: &Case<'_>) -> Result<Computed, String> {
    let logp = case.input("logps")?.values;
    let reference = case.input("ref_logps")?.values;
    let n = logp.len() as f64;
    let bound = |name: &str| match case.param(name) {
        Some(_) => Bound::new(case.number(name)?).map_err(range),
        None => Ok(Bound::NONE),
    };
    let (input_clamp, output_clamp) = (bound("input_clamp")?, bound("output_clamp")?);
    let config =
        |estimator, gradient| KlConfig { input_clamp, output_clamp, ..KlConfig::new(estimator, gradient) };
    let terms = |config: KlConfig, old: &[f64]| -> Vec<f64> {
        (0..logp.len()).map(|i| kl_penalty_scalar(config, logp[i], reference[i], old[i])).collect()
    };
    // The slopes of β times the mean.
    let slopes = |config: KlConfig, old: &[f64], scale: f64| -> Vec<f64> {
        let term = |x: &[_], i: usize| kl_penalty_scalar(config, x[i], reference[i], old[i]) * scale;
        gradient(&logp, |x| (0..x.len()).map(|i| term(x, i)).sum()).1
    };
    let k3 = |gradient| config(KlEstimator::K3, gradient);
    let mut computed = Computed::default();
    let name = case.name();
    match name {
        "kl.k1" | "kl.k1_clamped" => {
            return Ok(value(terms(config(KlEstimator::K1, KlGradient::Pathwise), &logp)));
        }
        "kl.k2" | "kl.k2_clamped" => {
            return Ok(value(terms(config(KlEstimator::K2, KlGradient::Pathwise), &logp)));
        }
        "kl.k3" | "kl.k3_clamped" => return Ok(value(terms(k3(KlGradient::Pathwise), &logp))),
        "kl.is_weighted_k3_mean" => {
            let drawn = case.input("gen_logps")?.values;
            return Ok(value(vec![mean(terms(k3(KlGradient::LiveRatio), &drawn))]));
        }
        "kl.penalty" => {
            let beta = case.number("beta")?;
            return Ok(value(vec![beta * mean(terms(k3(KlGradient::Pathwise), &logp))]));
        }
        "kl.grad_input_clamped" => {
            computed.many("kl", terms(k3(KlGradient::WithScore), &logp));
            computed.many("grad", slopes(k3(KlGradient::WithScore), &logp, 1.0));
        }
        "kl.grad_k3_in_loss_trl" | "kl.grad_score_term_plain" | "kl.grad_score_term_is" => {
            let (gradient, old) = match name {
                "kl.grad_k3_in_loss_trl" => (KlGradient::Pathwise, logp.clone()),
                "kl.grad_score_term_plain" => (KlGradient::WithScore, logp.clone()),
                _ => (KlGradient::LiveRatio, case.input("gen_logps")?.values),
            };
            return Ok(value(slopes(k3(gradient), &old, case.number("beta")? / n)));
        }
        _ => return Err(case.unknown()),
    }
    Ok(computed)
}

pub(super) fn pairs(case: &Case<'_>) -> Result<Computed, String> {
    let beta = || Beta::new(case.number("beta")?).map_err(range);
    let each = |of: &dyn Fn([f64; 2], [f64; 2]) -> f64| -> Result<Computed, String> {
        let names = ["policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected"];
        let columns = names.map(|name| case.input(name).map(|a| a.values));
        let [w, l, ref_w, ref_l] = columns;
        let (w, l, ref_w, ref_l) = (w?, l?, ref_w?, ref_l?);
        Ok(value((0..w.len()).map(|i| of([w[i], l[i]], [ref_w[i], ref_l[i]])).collect()))
    };
    match case.name() {
        // Two tokens, all the probability on the label or on the other.
        "nll.correct" => Ok(value(vec![cross_entropy_scalar(&[999.0, 0.0], 0)])),
        "nll.wrong_no_overflow" => Ok(value(vec![cross_entropy_scalar(&[999.0, 0.0], 1)])),
        "dpo.zero_margin" => {
            let config = DpoConfig::new(Beta::new(0.1).map_err(range)?);
            Ok(value(vec![dpo_scalar(config, [-1.0, -1.0], [-1.0, -1.0])]))
        }
        "dpo.plus_half_sft" => {
            // The policy is its reference and uniform.
            let uniform = vec![0.0; case.count("vocab")? as usize];
            let nll = case.count("tokens")? as f64 * cross_entropy_scalar(&uniform, 0);
            let config = DpoConfig::new(Beta::new(0.1).map_err(range)?);
            let pair = dpo_scalar(config, [-nll, -nll], [-nll, -nll]);
            Ok(value(vec![pair + case.number("sft_weight")? * nll]))
        }
        "dpo.sigmoid" => {
            let config = DpoConfig::new(beta()?);
            each(&|p, r| dpo_scalar(config, p, r))
        }
        "dpo.hinge" => {
            let config = HingeConfig::new(beta()?);
            each(&|p, r| hinge_scalar(config, p, r))
        }
        "dpo.ipo_token_sum" => {
            let config = IpoConfig::new(beta()?);
            each(&|p, r| ipo_scalar(config, p, r))
        }
        "dpo.sppo_trl" => {
            let config = SppoHardConfig { beta: beta()? };
            each(&|p, r| sppo_hard_scalar(config, p, r))
        }
        "dpo.sppo_uclaml" => {
            let config = SppoConfig::new(beta()?);
            // The chosen one always wins.
            let rates = [Prob::ONE.get(), Prob::ZERO.get()];
            each(&|p, r| sppo_scalar(config, p, r, rates))
        }
        _ => Err(case.unknown()),
    }
}
