//! `cpo_simpo.json`: CPO, SimPO and AlphaPO from logits, mean over pairs, with the likelihood of the
//! chosen completions and TRL's metrics.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::alphapo::{AlphapoConfig, alpha_reward, alpha_reward_scalar, alphapo, alphapo_scalar};
use rlhf_core::loss::cpo::{CpoConfig, CpoLossType, cpo, cpo_scalar};
use rlhf_core::loss::simpo::{SimpoConfig, simpo, simpo_scalar};
use rlhf_core::mask::{Normalise, normalise, normalise_scalar};
use rlhf_core::number::{Beta, Finite, Prob, Weight};
use rlhf_core::pair::PairLoss;
use rlhf_core::real::{self, Real};

use super::batch_logps::Labelled;
use super::case::{Array, Case};
use super::compare::Computed;
use super::rows;

/// Which of our losses TRL's `loss_type` is.
#[derive(Clone, Copy)]
enum Loss {
    Contrast(CpoConfig),
    Simpo(SimpoConfig),
    Alphapo(AlphapoConfig),
}

/// The parameters of a case.
struct Settings {
    loss: Loss,
    beta: f64,
    alpha: Finite,
    /// TRL feeds `ipo` and `simpo` with means.
    per_token: bool,
    nll_weight: f64,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["loss_type", "beta", "cpo_alpha", "label_smoothing", "simpo_gamma", "alpha"])?;
    let settings = settings(case)?;
    let logits = case.input("logits")?;
    let labels = pair_of(case, "labels")?;
    let labelled = Labelled::new(&logits, &labels)?;
    let chosen = chosen_only(&logits, &labels)?;
    match case.dtype() {
        "f64" => Ok(twin(&settings, &logits, &labelled, &chosen)),
        "f32" => Ok(tensor(&settings, &logits, &labelled, &chosen, device)),
        _ => Err(case.unknown()),
    }
}

fn settings(case: &Case<'_>) -> Result<Settings, String> {
    let text = |e: rlhf_core::error::NumError| e.to_string();
    let beta = Beta::new(case.number("beta")?).map_err(text)?;
    let label_smoothing = Prob::new(case.number("label_smoothing")?).map_err(text)?;
    let gamma = Weight::new(case.number("simpo_gamma")?).map_err(text)?;
    let alpha = Finite::new(case.number("alpha")?).map_err(text)?;
    let contrast = |loss_type| Loss::Contrast(CpoConfig { beta, label_smoothing, loss_type });
    let loss_type = case.text("loss_type")?;
    let loss = match loss_type {
        "sigmoid" => contrast(CpoLossType::Sigmoid),
        "hinge" => contrast(CpoLossType::Hinge),
        "ipo" => contrast(CpoLossType::Ipo),
        "simpo" if alpha.get().abs() > 0.0 => {
            Loss::Alphapo(AlphapoConfig { alpha, beta, gamma, label_smoothing })
        }
        "simpo" => Loss::Simpo(SimpoConfig { beta, gamma, label_smoothing }),
        other => {
            return Err(format!("params.loss_type: expected sigmoid, hinge, ipo or simpo, found {other}"));
        }
    };
    if case.name() != format!("cpo/{loss_type}") {
        return Err(case.unknown());
    }
    let per_token = matches!(loss_type, "ipo" | "simpo");
    Ok(Settings { loss, beta: beta.get(), alpha, per_token, nll_weight: case.number("cpo_alpha")? })
}

impl Settings {
    /// What TRL calls a completion's log-probability.
    fn logp<R: Real>(&self, sum: R, length: f64) -> R {
        if self.per_token { sum / length } else { sum }
    }

    fn loss<R: Real>(&self, sums: [R; 2], lengths: [f64; 2]) -> R {
        match self.loss {
            Loss::Simpo(config) => simpo_scalar(config, sums, lengths),
            Loss::Alphapo(config) => alphapo_scalar(config, sums, lengths),
            Loss::Contrast(config) => {
                let score = |i: usize| alpha_reward_scalar(self.alpha, self.logp(sums[i], lengths[i]));
                cpo_scalar(config, [score(0), score(1)])
            }
        }
    }

    fn pair_loss(&self, sums: [Tensor<1>; 2], lengths: [Tensor<1>; 2]) -> PairLoss {
        match self.loss {
            Loss::Simpo(config) => simpo(config, sums, lengths),
            Loss::Alphapo(config) => alphapo(config, sums, lengths),
            Loss::Contrast(config) => {
                let [[a, b], [n_a, n_b]] = [sums, lengths];
                let logps = if self.per_token { [a / n_a, b / n_b] } else { [a, b] };
                cpo(config, logps.map(|logp| alpha_reward(self.alpha, logp)))
            }
        }
    }
}

fn twin(settings: &Settings, logits: &Array, labelled: &Labelled, chosen: &Labelled) -> Computed {
    let lengths = labelled.lengths();
    let n = lengths.len() / 2;
    let loss_of =
        |sums: &[f64], i: usize| settings.loss([sums[i], sums[n + i]], [lengths[i], lengths[n + i]]);
    let sums = labelled.sums(&logits.values);
    let logps: Vec<f64> = (0..2 * n).map(|i| settings.logp(sums[i], lengths[i])).collect();
    let nll = if settings.nll_weight > 0.0 { nll(chosen, &logits.values) } else { 0.0 };
    let (loss, gradient) = real::gradient(&logits.values, |z| {
        let sums = labelled.sums(z);
        let one = |i: usize| settings.loss([sums[i], sums[n + i]], [lengths[i], lengths[n + i]]);
        let mean = (0..n).map(one).sum::<real::Dual>() / n as f64;
        if settings.nll_weight > 0.0 { mean + self::nll(chosen, z) * settings.nll_weight } else { mean }
    });
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.many("losses", (0..n).map(|i| loss_of(&sums, i)).collect());
    computed.many("policy_chosen_logps", logps[..n].to_vec());
    computed.many("policy_rejected_logps", logps[n..].to_vec());
    computed.one("policy_nll_loss", nll);
    computed.many("grads.logits", gradient);
    let reward = |logp: &f64| settings.beta * alpha_reward_scalar(settings.alpha, *logp);
    let rewards: Vec<f64> = logps.iter().map(reward).collect();
    reward_metrics(&mut computed, &rewards[..n], &rewards[n..], "f64");
    computed
}

fn tensor(
    settings: &Settings,
    logits: &Array,
    labelled: &Labelled,
    chosen: &Labelled,
    device: &Device,
) -> Computed {
    let leaf = rows::leaf(logits, device);
    let lengths = rows::vector(&labelled.lengths(), &leaf.device());
    let sums = labelled.sum_tensor(&leaf);
    let halves = |x: &Tensor<1>| {
        let n = x.dims()[0] / 2;
        [x.clone().narrow(0, 0, n), x.clone().narrow(0, n, n)]
    };
    let pair = settings.pair_loss(halves(&sums), halves(&lengths));
    let nll = if settings.nll_weight > 0.0 { nll_tensor(chosen, &leaf) } else { sums.zeros_like().sum() };
    let loss = pair.loss.clone().mean() + nll.clone().mul_scalar(settings.nll_weight);
    let grads = loss.backward();
    let logps = if settings.per_token { sums / lengths } else { sums };
    let [chosen_logps, rejected_logps] = halves(&logps);
    let mut computed = Computed::default();
    computed.many("loss", rows::host(loss));
    computed.many("losses", rows::host(pair.loss));
    computed.many("policy_chosen_logps", rows::host(chosen_logps));
    computed.many("policy_rejected_logps", rows::host(rejected_logps));
    computed.many("policy_nll_loss", rows::host(nll));
    computed.many("grads.logits", rows::gradient(&leaf, &grads));
    let rewards = [rows::host(pair.chosen_reward), rows::host(pair.rejected_reward)];
    reward_metrics(&mut computed, &rewards[0], &rewards[1], "f32");
    computed
}

/// An input of the chosen rows and then of the rejected ones, as whole numbers.
pub(super) fn pair_of(case: &Case<'_>, name: &str) -> Result<Vec<i64>, String> {
    let of = |side: &str| case.input(&format!("{side}_{name}")).map(|x| x.whole());
    Ok([of("chosen")?, of("rejected")?].concat())
}

/// Of a batch's labels those of its first half, the chosen rows.
pub(super) fn chosen_only(logits: &Array, labels: &[i64]) -> Result<Labelled, String> {
    let half = labels.len() / 2;
    let kept: Vec<i64> = labels.iter().enumerate().map(|(i, y)| if i < half { *y } else { -100 }).collect();
    Labelled::new(logits, &kept)
}

/// Mean of −log p over all labels.
pub(super) fn nll<R: Real>(labelled: &Labelled, logits: &[R]) -> R {
    let (tokens, masks) = (labelled.tokens(logits), labelled.masks());
    let tokens: Vec<&[R]> = tokens.iter().map(Vec::as_slice).collect();
    let masks: Vec<&[bool]> = masks.iter().map(Vec::as_slice).collect();
    -normalise_scalar(Normalise::TokenMean, &tokens, &masks)
}

/// As [`nll`], `[1]`.
pub(super) fn nll_tensor(labelled: &Labelled, logits: &Tensor<2>) -> Tensor<1> {
    normalise(Normalise::TokenMean, labelled.token_tensor(logits), &labelled.mask(&logits.device())).neg()
}

/// Means of the rewards and of their gaps, and how often the chosen one is larger.
pub(super) fn reward_metrics(computed: &mut Computed, chosen: &[f64], rejected: &[f64], dtype: &str) {
    let gaps: Vec<f64> = chosen.iter().zip(rejected).map(|(a, b)| a - b).collect();
    let right = gaps.iter().filter(|g| **g > 0.0).count();
    computed.mean("metrics.rewards/chosen", chosen, dtype);
    computed.mean("metrics.rewards/rejected", rejected, dtype);
    computed.mean("metrics.rewards/margins", &gaps, dtype);
    computed.one("metrics.rewards/accuracies", right as f64 / gaps.len() as f64);
}
