//! `orpo.json`: the odds-ratio loss from logits, with the likelihood of the chosen prompts and
//! completions and TRL's metrics.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::orpo::{OrpoConfig, log_odds_scalar, orpo, orpo_scalar};
use rlhf_core::number::Beta;
use rlhf_core::real::{self, Real};

use super::batch_logps::Labelled;
use super::case::{Array, Case};
use super::compare::Computed;
use super::cpo::{chosen_only, nll, nll_tensor, pair_of, reward_metrics};
use super::rows;

/// What both precisions give; TRL's `losses` is β log σ(o), of the other sign than ours.
struct Answer {
    loss: f64,
    losses: Vec<f64>,
    log_odds: Vec<f64>,
    ratio: Vec<f64>,
    /// Chosen, then rejected.
    means: Vec<f64>,
    nll: f64,
    gradient: Vec<f64>,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["beta"])?;
    if case.name() != "orpo" {
        return Err(case.unknown());
    }
    let config = OrpoConfig { beta: Beta::new(case.number("beta")?).map_err(|e| e.to_string())? };
    let logits = case.input("logits")?;
    let labelled = Labelled::new(&logits, &pair_of(case, "labels")?)?;
    let (ids, seen) = (pair_of(case, "input_ids")?, pair_of(case, "attention_mask")?);
    let texts: Vec<i64> = ids.iter().zip(&seen).map(|(y, on)| if *on == 1 { *y } else { -100 }).collect();
    let texts = chosen_only(&logits, &texts)?;
    let answer = match case.dtype() {
        "f64" => twin(config, &logits, &labelled, &texts),
        "f32" => tensor(config, &logits, &labelled, &texts, device),
        _ => return Err(case.unknown()),
    };
    Ok(answer.computed(config.beta.get(), &logits, case.dtype()))
}

fn twin(config: OrpoConfig, logits: &Array, labelled: &Labelled, texts: &Labelled) -> Answer {
    let lengths = labelled.lengths();
    let n = lengths.len() / 2;
    let length = |i: usize| [lengths[i], lengths[n + i]];
    let sums = labelled.sums(&logits.values);
    let pair = |i: usize| [sums[i], sums[n + i]];
    let (loss, gradient) = real::gradient(&logits.values, |z| {
        let sums = labelled.sums(z);
        let one = |i: usize| orpo_scalar(config, [sums[i], sums[n + i]], length(i));
        nll(texts, z) + (0..n).map(one).sum::<real::Dual>() / n as f64
    });
    let log_odds: Vec<f64> = (0..n).map(|i| log_odds_scalar(pair(i), length(i))).collect();
    Answer {
        loss,
        losses: (0..n).map(|i| orpo_scalar(config, pair(i), length(i))).collect(),
        ratio: log_odds.iter().map(|o| o.log_sigmoid()).collect(),
        log_odds,
        means: sums.iter().zip(&lengths).map(|(sum, n)| sum / n).collect(),
        nll: nll(texts, &logits.values),
        gradient,
    }
}

fn tensor(
    config: OrpoConfig,
    logits: &Array,
    labelled: &Labelled,
    texts: &Labelled,
    device: &Device,
) -> Answer {
    let leaf = rows::leaf(logits, device);
    let lengths = rows::vector(&labelled.lengths(), &leaf.device());
    let sums = labelled.sum_tensor(&leaf);
    let halves = |x: &Tensor<1>| {
        let n = x.dims()[0] / 2;
        [x.clone().narrow(0, 0, n), x.clone().narrow(0, n, n)]
    };
    let out = orpo(config, halves(&sums), halves(&lengths));
    let nll = nll_tensor(texts, &leaf);
    let loss = nll.clone() + out.loss.clone().mean();
    let grads = loss.backward();
    Answer {
        loss: rows::host(loss)[0],
        losses: rows::host(out.loss),
        log_odds: rows::host(out.log_odds),
        ratio: rows::host(out.ratio),
        means: rows::host(sums / lengths),
        nll: rows::host(nll)[0],
        gradient: rows::gradient(&leaf, &grads),
    }
}

impl Answer {
    fn computed(self, beta: f64, logits: &Array, dtype: &str) -> Computed {
        let (chosen, rejected) = self.means.split_at(self.means.len() / 2);
        let reward = |means: &[f64]| -> Vec<f64> { means.iter().map(|mean| beta * mean).collect() };
        let mut computed = Computed::default();
        reward_metrics(&mut computed, &reward(chosen), &reward(rejected), dtype);
        computed.mean("metrics.logps/chosen", chosen, dtype);
        computed.mean("metrics.logps/rejected", rejected, dtype);
        computed.mean("metrics.log_odds_ratio", &self.ratio, dtype);
        computed.mean("metrics.log_odds_chosen", &self.log_odds, dtype);
        computed.one("metrics.nll_loss", self.nll);
        let [scored_chosen, scored_rejected] = scored(logits);
        computed.mean("metrics.logits/chosen", &scored_chosen, dtype);
        computed.mean("metrics.logits/rejected", &scored_rejected, dtype);
        computed.one("loss", self.loss);
        computed.many("losses", self.losses.iter().map(|loss| -loss).collect());
        computed.many("policy_chosen_logps", chosen.to_vec());
        computed.many("policy_rejected_logps", rejected.to_vec());
        computed.one("policy_nll_loss", self.nll);
        computed.many("log_odds", self.log_odds);
        computed.many("ratio", self.ratio);
        computed.many("grads.logits", self.gradient);
        computed
    }
}

/// The logits that predict something (all but the last position of a row) of the chosen and of the
/// rejected rows.
fn scored(logits: &Array) -> [Vec<f64>; 2] {
    let (rows, t, v) = (logits.shape[0], logits.shape[1], logits.shape[2]);
    let of = |first: usize| -> Vec<f64> {
        let row = |r: usize| logits.values[r * t * v..(r * t + t - 1) * v].iter().copied();
        (first..first + rows / 2).flat_map(row).collect()
    };
    [of(0), of(rows / 2)]
}
