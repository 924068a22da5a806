//! `rloo_losses.json`: the clipped loss on the ratio of summed log-probabilities, mean over sequences.

use burn::tensor::Device;
use rlhf_core::loss::ppo_clip::PpoClipConfig;
use rlhf_core::loss::rloo::{rloo, rloo_scalar};
use rlhf_core::mask::{sequence_mean_scalar, sequence_sum, sequence_sum_scalar};
use rlhf_core::number::{Bound, Weight};
use rlhf_core::real::{self, Dual};
use rlhf_core::token::token_ratio_scalar;

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{gradient, host, leaf, mask, plain, vector};

/// The range of a ratio where a case names none: TRL's default.
const EPSILON: f64 = 0.2;

/// How far the old log-probabilities stay from the new ones in a case with `use_small`.
const SMALL: f64 = 0.02;

/// The entropies behind `metrics.entropy`, in nats, `[B, T]`: an input that the file does not hold. They
/// stand in `grpo_losses.json`, which the same script made of the same completions.
const ENTROPIES: [[f64; 6]; 4] = [
    [
        1.17803156375885,
        1.2892282009124756,
        1.4090944528579712,
        1.44350266456604,
        1.0575278997421265,
        0.052016716450452805,
    ],
    [
        1.1643191576004028,
        0.636955201625824,
        2.1225154399871826,
        1.0382392406463623,
        1.9411159753799438,
        1.072489619255066,
    ],
    [
        2.2286734580993652,
        2.4270172119140625,
        1.6635690927505493,
        1.1863795518875122,
        0.532581627368927,
        1.993403434753418,
    ],
    [
        0.06399714946746826,
        1.242223858833313,
        2.0728979110717773,
        0.9487980604171753,
        1.2235677242279053,
        1.0967206954956055,
    ],
];

/// Completions, `[B, T]`, and an advantage each.
struct Batch {
    logp: Array,
    old_logp: Array,
    mask: Array,
    advantage: Vec<f64>,
    entropies: Vec<f64>,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["el", "eh", "use_small"])?;
    if case.name() != "rloo" {
        return Err(case.unknown());
    }
    let weight = |name| Weight::new(case.number_or(name, EPSILON)?).map_err(|e| e.to_string());
    let config =
        PpoClipConfig { epsilon_low: weight("el")?, epsilon_high: weight("eh")?, delta: Bound::NONE };
    let logp = case.input("logps")?;
    let mut old_logp = case.input("old_logps_tok")?;
    if case.param("use_small").is_some() && case.switch("use_small")? {
        for (old, x) in old_logp.values.iter_mut().zip(&logp.values) {
            *old = x + SMALL * (*old - x);
        }
    }
    let (mask, advantage) = (case.input("completion_mask")?, case.input("advantages")?.values);
    let entropies = case.input("entropies").map_or_else(|_| ENTROPIES.concat(), |own| own.values);
    let batch = Batch { logp, old_logp, mask, advantage, entropies };
    match case.dtype() {
        "f64" => Ok(twin(config, &batch)),
        "f32" => Ok(tensor(config, &batch, device)),
        _ => Err(case.unknown()),
    }
}

fn twin(config: PpoClipConfig, batch: &Batch) -> Computed {
    let mask: Vec<Vec<bool>> =
        batch.mask.rows().iter().map(|row| row.iter().map(|x| *x > 0.0).collect()).collect();
    let (t, n) = (mask.first().map_or(1, Vec::len), mask.len());
    let sums = |rows: &[f64]| -> Vec<f64> {
        rows.chunks(t).zip(&mask).map(|(x, on)| sequence_sum_scalar(x, on)).collect()
    };
    let (logp, old_logp) = (sums(&batch.logp.values), sums(&batch.old_logp.values));
    let (loss, into) = real::gradient(&batch.logp.values, |x| {
        let sequence = |(i, x): (usize, &[Dual])| {
            rloo_scalar(config, sequence_sum_scalar(x, &mask[i]), old_logp[i], batch.advantage[i])
        };
        x.chunks(t).enumerate().map(sequence).sum::<Dual>() / n as f64
    });
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.many("grads.logps", into);
    let each = |of: &dyn Fn(usize) -> f64| (0..n).map(of).collect::<Vec<f64>>();
    computed
        .many("per_sequence_loss", each(&|i| rloo_scalar(config, logp[i], old_logp[i], batch.advantage[i])));
    let ratios = each(&|i| token_ratio_scalar(logp[i], old_logp[i]));
    metrics(config, batch, &ratios, &mut computed);
    computed.many("coef_1", ratios);
    computed.many("logps", logp);
    computed.many("old_logps", old_logp);
    computed
}

/// What TRL logs: the mean entropy of a token, and how many sequences are clipped on either side.
fn metrics(config: PpoClipConfig, batch: &Batch, ratios: &[f64], computed: &mut Computed) {
    let on: Vec<bool> = batch.mask.values.iter().map(|x| *x > 0.0).collect();
    computed.one("metrics.entropy", sequence_mean_scalar(&batch.entropies, &on));
    let share = |of: &[bool]| of.iter().filter(|x| **x).count() as f64 / of.len() as f64;
    let clipped = |of: &dyn Fn(f64, f64) -> bool| -> Vec<bool> {
        ratios.iter().zip(&batch.advantage).map(|(r, a)| of(*r, *a)).collect()
    };
    let low = clipped(&|r, a| r < 1.0 - config.epsilon_low.get() && a < 0.0);
    let high = clipped(&|r, a| r > 1.0 + config.epsilon_high.get() && a > 0.0);
    computed.one("metrics.clip_ratio/low_mean", share(&low));
    computed.one("metrics.clip_ratio/low_min", f64::from(u8::from(!low.contains(&false))));
    computed.one("metrics.clip_ratio/high_mean", share(&high));
    computed.one("metrics.clip_ratio/high_max", f64::from(u8::from(high.contains(&true))));
    computed.one("metrics.clip_ratio/region_mean", share(&low) + share(&high));
}

fn tensor(config: PpoClipConfig, batch: &Batch, device: &Device) -> Computed {
    let tokens = leaf(&batch.logp, device);
    let on = tokens.device();
    let mask = mask(&batch.mask, &on);
    let logp = sequence_sum(tokens.clone(), &mask);
    let old_logp = sequence_sum(plain(&batch.old_logp, &on), &mask);
    let out = rloo(config, logp.clone(), old_logp.clone(), vector(&batch.advantage, &on));
    let loss = out.loss.clone().mean();
    let grads = loss.backward();
    let mut computed = Computed::default();
    computed.many("loss", host(loss));
    computed.many("grads.logps", gradient(&tokens, &grads));
    computed.many("per_sequence_loss", host(out.loss));
    computed.many("coef_1", host(out.ratio));
    computed.many("logps", host(logp));
    computed.many("old_logps", host(old_logp));
    computed
}
