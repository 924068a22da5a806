//! `grpo_losses.json`: what TRL's GRPO trainers call the loss, every `loss_type` and option.
//!
//! TRL gives the loss of every position, those behind the mask too, and masks when it reduces: the
//! losses here are asked for with a mask that is true throughout, and the normaliser gets the real
//! one.

use burn::tensor::Device;
use rlhf_core::host::token_mask::{high_entropy, near_policy};
use rlhf_core::loss::bnpo::bnpo_normaliser;
use rlhf_core::loss::cispo::CispoConfig;
use rlhf_core::loss::dapo::dapo_normaliser;
use rlhf_core::loss::dr_grpo::dr_grpo_normaliser;
use rlhf_core::loss::gmpo::GmpoConfig;
use rlhf_core::loss::grpo::GrpoConfig;
use rlhf_core::loss::kl_penalty::{KlConfig, KlEstimator, KlGradient};
use rlhf_core::loss::luspo::luspo_normaliser;
use rlhf_core::loss::ppo_clip::PpoClipConfig;
use rlhf_core::loss::sapo::SapoConfig;
use rlhf_core::loss::vespo::VespoConfig;
use rlhf_core::mask::Normalise;
use rlhf_core::number::{Bound, Positive, Prob, Weight};

use super::case::Case;
use super::compare::Computed;

mod metrics;
mod tensor;
mod twin;

/// Parameters that a case may have.
const PARAMS: [&str; 20] = [
    "adv2d",
    "beta",
    "cls",
    "delta",
    "entropy_coef",
    "epsilon_high",
    "epsilon_low",
    "gradient_accumulation_steps",
    "importance_sampling_level",
    "loss_type",
    "max_completion_length",
    "num_items_in_batch",
    "off_policy_mask_threshold",
    "steps_per_generation",
    "top_entropy_quantile",
    "training",
    "use_bias_correction_kl",
    "use_isr",
    "use_old",
    "use_tool_mask",
];

/// Which policy loss.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Clip(PpoClipConfig),
    Cispo(CispoConfig),
    Sapo(SapoConfig),
    Vespo(VespoConfig),
    Gmpo(GmpoConfig),
}

/// What a ratio is of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Level {
    Token,
    Sequence,
}

/// A case, ready to be computed.
#[derive(Debug)]
struct Setup {
    kind: Kind,
    level: Level,
    /// β and the KL; the clip is that of `kind`.
    beta: Weight,
    kl: KlConfig,
    /// `[B][T]` each.
    logp: Vec<Vec<f64>>,
    old_logp: Vec<Vec<f64>>,
    reference_logp: Vec<Vec<f64>>,
    advantage: Vec<Vec<f64>>,
    entropy: Vec<Vec<f64>>,
    mask: Vec<Vec<bool>>,
    /// Old policy over sampling engine, if the case corrects by it.
    correction: Option<Vec<Vec<f64>>>,
    /// Tokens of high entropy, if the case asks for them.
    high_entropy: Option<Vec<Vec<bool>>>,
    /// Sequences near the policy, if the case asks for them.
    near_policy: Option<Vec<bool>>,
    how: Normalise,
    /// Further division, by the micro-batches of a step.
    micro_batches: f64,
    entropy_coef: Option<f64>,
}

impl Setup {
    /// What a policy loss is multiplied by before the KL is added: masks and the correction, which
    /// VESPO has inside its weight.
    fn factor(&self) -> Option<Vec<Vec<f64>>> {
        let correction = self.correction.as_ref().filter(|_| !matches!(self.kind, Kind::Vespo(_)));
        if correction.is_none() && self.high_entropy.is_none() && self.near_policy.is_none() {
            return None;
        }
        let of = |i: usize, t: usize| {
            let off = self.high_entropy.as_ref().is_some_and(|m| !m[i][t])
                || self.near_policy.as_ref().is_some_and(|m| !m[i]);
            if off { 0.0 } else { correction.map_or(1.0, |c| c[i][t]) }
        };
        let row = |i: usize| (0..self.logp[i].len()).map(|t| of(i, t)).collect();
        Some((0..self.logp.len()).map(row).collect())
    }

    /// GRPO with the KL inside, where nothing stands between surrogate and KL.
    fn grpo(&self) -> Option<GrpoConfig> {
        match (self.kind, self.level) {
            (Kind::Clip(clip), Level::Token) if self.factor().is_none() => {
                Some(GrpoConfig { clip, beta: self.beta, kl: self.kl })
            }
            _ => None,
        }
    }

    /// The tokens that an entropy bonus acts on.
    fn bonus_mask(&self) -> &[Vec<bool>] {
        self.high_entropy.as_ref().unwrap_or(&self.mask)
    }

    /// Where TRL gives one loss a sequence: those of its tokens are equal.
    fn one_a_sequence(&self) -> bool {
        let alike = matches!(self.kind, Kind::Clip(_) | Kind::Sapo(_));
        alike && self.level == Level::Sequence && self.beta.get() <= 0.0
    }
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&PARAMS)?;
    let setup = setup(case)?;
    let mut computed = match case.dtype() {
        "f64" => twin::compute(&setup),
        "f32" => tensor::compute(&setup, device),
        _ => return Err(case.unknown()),
    };
    metrics::add(&setup, &mut computed);
    Ok(computed)
}

/// A switch that is off where the case does not name it.
fn on(case: &Case<'_>, name: &str) -> Result<bool, String> {
    if case.param(name).is_some() { case.switch(name) } else { Ok(false) }
}

fn text<'a>(case: &Case<'a>, name: &str, absent: &'a str) -> Result<&'a str, String> {
    if case.param(name).is_some() { case.text(name) } else { Ok(absent) }
}

fn weight(x: f64) -> Result<Weight, String> {
    Weight::new(x).map_err(|e| e.to_string())
}

fn positive(x: f64) -> Result<Positive, String> {
    Positive::new(x).map_err(|e| e.to_string())
}

fn bound(x: f64) -> Result<Bound, String> {
    Bound::new(x).map_err(|e| e.to_string())
}

fn kind(case: &Case<'_>) -> Result<Kind, String> {
    // The generator's epsilon: 0.2 on both sides.
    let epsilon_low = weight(case.number_or("epsilon_low", 0.2)?)?;
    let high = case.number_or("epsilon_high", 0.2)?;
    match (text(case, "cls", "GRPOTrainer")?, text(case, "loss_type", "grpo")?) {
        ("GMPOTrainer", "grpo") => Ok(Kind::Gmpo(GmpoConfig { epsilon_low, epsilon_high: weight(high)? })),
        ("GRPOTrainer", "grpo" | "bnpo" | "dr_grpo" | "dapo" | "luspo") => {
            let delta = case.number_or("delta", f64::INFINITY)?;
            let (epsilon_high, delta) = (weight(high)?, bound(delta)?);
            Ok(Kind::Clip(PpoClipConfig { epsilon_low, epsilon_high, delta }))
        }
        ("GRPOTrainer", "cispo") => Ok(Kind::Cispo(CispoConfig::UpperBound { max: bound(high)? })),
        // TRL's `sapo_temperature_pos` and `_neg`, `vespo_k_pos` and so on, by their defaults.
        ("GRPOTrainer", "sapo") => {
            let (temperature_pos, temperature_neg) = (positive(1.0)?, positive(1.05)?);
            Ok(Kind::Sapo(SapoConfig { temperature_pos, temperature_neg }))
        }
        ("GRPOTrainer", "vespo") => Ok(Kind::Vespo(VespoConfig {
            k_pos: weight(2.0)?,
            lambda_pos: positive(3.0)?,
            k_neg: weight(3.0)?,
            lambda_neg: positive(2.0)?,
        })),
        _ => Err(case.unknown()),
    }
}

/// What TRL divides by: the normaliser of the loss, and the micro-batches of a step where that does
/// not count them.
fn normaliser(case: &Case<'_>, mask: &[Vec<bool>]) -> Result<(Normalise, f64), String> {
    let training = case.param("training").is_none() || case.switch("training")?;
    let steps = case.number_or("gradient_accumulation_steps", 1.0)?;
    let micro_batches = if training { steps } else { 1.0 };
    let tokens = mask.iter().flatten().filter(|on| **on).count();
    let width = mask.first().map_or(0, Vec::len);
    let how = match text(case, "loss_type", "grpo")? {
        "grpo" | "sapo" => Ok(Normalise::SequenceMean),
        "bnpo" => Ok(bnpo_normaliser()),
        "dr_grpo" => {
            let longest = case.number_or("max_completion_length", width as f64)?;
            dr_grpo_normaliser(mask.len(), longest as usize)
        }
        "luspo" => luspo_normaliser(mask.len()),
        "dapo" | "cispo" | "vespo" => {
            // `num_items_in_batch` counts the tokens of a whole generation: those of one step are
            // its share, unless TRL evaluates.
            let items = case.number_or("num_items_in_batch", tokens as f64)?;
            let generation = case.number_or("steps_per_generation", steps)?;
            let share = if training { steps / generation } else { 1.0 };
            return dapo_normaliser((items * share).round() as usize)
                .map(|how| (how, 1.0))
                .map_err(|e| e.to_string());
        }
        _ => return Err(case.unknown()),
    };
    how.map(|how| (how, micro_batches)).map_err(|e| e.to_string())
}

fn setup(case: &Case<'_>) -> Result<Setup, String> {
    let rows = |name: &str| case.input(name).map(|x| x.rows());
    let logp = rows("logps")?;
    let mask = mask(case)?;
    let old = case.param("use_old").is_none() || case.switch("use_old")?;
    let old_logp = if old { rows("old_logps")? } else { logp.clone() };
    let advantage = if on(case, "adv2d")? {
        rows("advantages_2d")?
    } else {
        case.input("advantages")?.values.iter().zip(&logp).map(|(a, row)| vec![*a; row.len()]).collect()
    };
    let entropy = rows("entropies")?;
    let level = match text(case, "importance_sampling_level", "token")? {
        "token" => Level::Token,
        "sequence" => Level::Sequence,
        _ => return Err(case.unknown()),
    };
    let corrected = on(case, "use_bias_correction_kl")?;
    if corrected && level == Level::Sequence {
        return Err("params.use_bias_correction_kl: expected token ratios, found a sequence's".to_owned());
    }
    let gradient = if corrected { KlGradient::LiveRatio } else { KlGradient::Pathwise };
    let high_entropy = top_entropy(case, &entropy, &mask)?;
    let near_policy = near(case, &advantage, [&logp, &old_logp], &mask)?;
    let (how, micro_batches) = normaliser(case, &mask)?;
    let entropy_coef =
        if case.param("entropy_coef").is_some() { Some(case.number("entropy_coef")?) } else { None };
    Ok(Setup {
        kind: kind(case)?,
        level,
        beta: weight(case.number_or("beta", 0.0)?)?,
        kl: KlConfig::new(KlEstimator::K3, gradient),
        logp,
        old_logp,
        reference_logp: rows("ref_logps")?,
        advantage,
        entropy,
        mask,
        correction: if on(case, "use_isr")? { Some(rows("importance_sampling_ratio")?) } else { None },
        high_entropy,
        near_policy,
        how,
        micro_batches,
        entropy_coef,
    })
}

/// The tokens that count: those of completions, without what tools said if the case asks for that.
fn mask(case: &Case<'_>) -> Result<Vec<Vec<bool>>, String> {
    let tool = if on(case, "use_tool_mask")? { Some(case.input("tool_mask")?.rows()) } else { None };
    let counts = |i: usize, t: usize, x: f64| x > 0.0 && tool.as_ref().is_none_or(|m| m[i][t] > 0.0);
    let row =
        |(i, row): (usize, Vec<f64>)| row.into_iter().enumerate().map(|(t, x)| counts(i, t, x)).collect();
    Ok(case.input("completion_mask")?.rows().into_iter().enumerate().map(row).collect())
}

fn top_entropy(
    case: &Case<'_>,
    entropy: &[Vec<f64>],
    mask: &[Vec<bool>],
) -> Result<Option<Vec<Vec<bool>>>, String> {
    if case.param("top_entropy_quantile").is_none() {
        return Ok(None);
    }
    let quantile = Prob::new(1.0 - case.number("top_entropy_quantile")?).map_err(|e| e.to_string())?;
    let entropy: Vec<&[f64]> = entropy.iter().map(Vec::as_slice).collect();
    let mask: Vec<&[bool]> = mask.iter().map(Vec::as_slice).collect();
    Ok(Some(high_entropy(&entropy, &mask, quantile)))
}

fn near(
    case: &Case<'_>,
    advantage: &[Vec<f64>],
    [logp, old_logp]: [&[Vec<f64>]; 2],
    mask: &[Vec<bool>],
) -> Result<Option<Vec<bool>>, String> {
    if case.param("off_policy_mask_threshold").is_none() {
        return Ok(None);
    }
    if on(case, "adv2d")? {
        return Err("params.off_policy_mask_threshold: expected an advantage a sequence".to_owned());
    }
    let threshold = weight(case.number("off_policy_mask_threshold")?)?;
    let of = |row: &[f64], mask: &[bool]| -> Vec<f64> {
        row.iter().zip(mask).filter(|(_, on)| **on).map(|(x, _)| *x).collect()
    };
    let near = |i: usize| {
        near_policy(advantage[i][0], &of(&logp[i], &mask[i]), &of(&old_logp[i], &mask[i]), threshold)
    };
    Ok(Some((0..logp.len()).map(near).collect()))
}
