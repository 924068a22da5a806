//! `batch_logps_gkd.json`: log-probabilities of labelled completions, and the divergence of two
//! models' rows with TRL's reductions.

use burn::tensor::{Bool, Device, Tensor};
use rlhf_core::logp::{at_temperature, token_logp, token_logp_scalar};
use rlhf_core::loss::generalized_jsd::{GeneralizedJsdConfig, generalized_jsd, generalized_jsd_scalar};
use rlhf_core::mask::{sequence_sum, sequence_sum_scalar};
use rlhf_core::number::Prob;
use rlhf_core::real::{self, Real};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows;

/// Labels of a batch of logits `[R, T, V]`: position t predicts the label at t + 1; a negative one is
/// no label.
pub(super) struct Labelled {
    t: usize,
    v: usize,
    /// `R · (T − 1)`.
    labels: Vec<Option<usize>>,
}

impl Labelled {
    /// `labels` are those of `R` rows of `T`, not shifted.
    pub(super) fn new(logits: &Array, labels: &[i64]) -> Result<Self, String> {
        let [rows, t, v] = logits.shape[..] else {
            return Err(format!("inputs.logits: expected shape [R, T, V], found {:?}", logits.shape));
        };
        if labels.len() != rows * t {
            return Err(format!("labels: expected {} of them, found {}", rows * t, labels.len()));
        }
        let shifted = labels.chunks(t).flat_map(|row| &row[1..]);
        Ok(Self { t, v, labels: shifted.map(|y| usize::try_from(*y).ok()).collect() })
    }

    /// One list a row: which positions have a label.
    pub(super) fn masks(&self) -> Vec<Vec<bool>> {
        self.labels.chunks(self.t - 1).map(|row| row.iter().map(Option::is_some).collect()).collect()
    }

    /// Labels of each row.
    pub(super) fn lengths(&self) -> Vec<f64> {
        self.masks().iter().map(|m| m.iter().filter(|on| **on).count() as f64).collect()
    }

    /// One list a row: the log-probability of each label, 0 where there is none.
    pub(super) fn tokens<R: Real>(&self, logits: &[R]) -> Vec<Vec<R>> {
        let (t, v) = (self.t, self.v);
        let one = |row: usize, at: usize, y: Option<usize>| {
            let start = (row * t + at) * v;
            y.map_or(R::from(0.0), |y| token_logp_scalar(&logits[start..start + v], y))
        };
        let rows = self.labels.chunks(t - 1).enumerate();
        rows.map(|(r, ys)| ys.iter().enumerate().map(|(at, y)| one(r, at, *y)).collect()).collect()
    }

    /// The log-probability of each row, summed over its labels.
    pub(super) fn sums<R: Real>(&self, logits: &[R]) -> Vec<R> {
        let tokens = self.tokens(logits);
        tokens.iter().zip(self.masks()).map(|(x, m)| sequence_sum_scalar(x, &m)).collect()
    }

    /// `[R, T − 1]` from the logits as `[R · T, V]`; what has no label is that of token 0.
    pub(super) fn token_tensor(&self, logits: &Tensor<2>) -> Tensor<2> {
        let shifted = self.t - 1;
        let rows = self.labels.len() / shifted;
        let at: Vec<usize> = (0..self.labels.len()).map(|i| i / shifted * self.t + i % shifted).collect();
        let tokens: Vec<usize> = self.labels.iter().map(|y| y.unwrap_or(0)).collect();
        let on = logits.device();
        let z = logits.clone().select(0, rows::indices(&at, &on));
        token_logp(z, rows::indices(&tokens, &on)).reshape([rows, shifted])
    }

    /// `[R, T − 1]`: which positions have a label.
    pub(super) fn mask(&self, device: &Device) -> Tensor<2, Bool> {
        let values = self.labels.iter().map(|y| f64::from(u8::from(y.is_some()))).collect();
        let shape = vec![self.labels.len() / (self.t - 1), self.t - 1];
        rows::mask(&Array { values, shape }, device)
    }

    /// As [`sums`](Self::sums), `[R]`.
    pub(super) fn sum_tensor(&self, logits: &Tensor<2>) -> Tensor<1> {
        sequence_sum(self.token_tensor(logits), &self.mask(&logits.device()))
    }
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    match (case.name(), case.dtype()) {
        ("get_batch_logps", "f64" | "f32") => batch_logps(case, device),
        ("generalized_jsd_loss", "f64" | "f32") => jsd(case, device),
        _ => Err(case.unknown()),
    }
}

/// Sums or means over the labels; the gradient is that of their sum with the weights `upstream`.
fn batch_logps(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["average_log_prob", "upstream"])?;
    let logits = case.input("logits")?;
    let labelled = Labelled::new(&logits, &case.input("labels")?.whole())?;
    let upstream = case.param("upstream").ok_or_else(|| case.unknown())?;
    let upstream = Array::read(upstream)?.values;
    let per = if case.switch("average_log_prob")? { labelled.lengths() } else { vec![1.0; upstream.len()] };
    let mut computed = Computed::default();
    if case.dtype() == "f64" {
        let sums = labelled.sums(&logits.values);
        computed.many("logps", sums.iter().zip(&per).map(|(x, n)| x / n).collect());
        let (_, gradient) = real::gradient(&logits.values, |z| {
            let weighted = |(i, x): (usize, real::Dual)| x / per[i] * upstream[i];
            labelled.sums(z).into_iter().enumerate().map(weighted).sum()
        });
        computed.many("grads.logits", gradient);
    } else {
        let leaf = rows::leaf(&logits, device);
        let on = leaf.device();
        let logps = labelled.sum_tensor(&leaf) / rows::vector(&per, &on);
        let grads = (logps.clone() * rows::vector(&upstream, &on)).sum().backward();
        computed.many("logps", rows::host(logps));
        computed.many("grads.logits", rows::gradient(&leaf, &grads));
    }
    Ok(computed)
}

/// The divergence at each labelled position (not shifted), and what TRL divides their sum by: a given
/// number, else the labels under `batchmean`, or nothing under `sum`.
fn jsd(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["beta", "temperature", "reduction", "num_items_in_batch"])?;
    let config = GeneralizedJsdConfig { beta: Prob::new(case.number("beta")?).map_err(|e| e.to_string())? };
    let temperature = case.number("temperature")?;
    let (student, teacher) = (case.input("logits")?, case.input("teacher_logits")?);
    let labels = case.input("labels")?.whole();
    let at: Vec<usize> = (0..labels.len()).filter(|i| labels[*i] >= 0).collect();
    let own = match case.text("reduction")? {
        "batchmean" => at.len().max(1) as f64,
        "sum" => 1.0,
        other => return Err(format!("params.reduction: expected batchmean or sum, found {other}")),
    };
    let n_items = case.number_or("num_items_in_batch", own)?;
    let mut computed = Computed::default();
    if case.dtype() == "f64" {
        let teacher: Vec<Vec<f64>> =
            teacher.rows().iter().map(|row| row.iter().map(|z| z / temperature).collect()).collect();
        let v = teacher[0].len();
        let (loss, gradient) = real::gradient(&student.values, |z| {
            let one = |i: &usize| {
                let z: Vec<real::Dual> = z[i * v..(i + 1) * v].iter().map(|z| *z / temperature).collect();
                generalized_jsd_scalar(config, &z, &teacher[*i])
            };
            at.iter().map(one).sum::<real::Dual>() / n_items
        });
        computed.one("loss", loss);
        computed.many("grads.student_logits", gradient);
    } else {
        let leaf = rows::leaf(&student, device);
        let on = leaf.device();
        let picked = |z: Tensor<2>| at_temperature(z.select(0, rows::indices(&at, &on)), temperature);
        let divergence = generalized_jsd(config, picked(leaf.clone()), picked(rows::plain(&teacher, &on)));
        let loss = divergence.sum().div_scalar(n_items);
        let grads = loss.backward();
        computed.many("loss", rows::host(loss));
        computed.many("grads.student_logits", rows::gradient(&leaf, &grads));
    }
    Ok(computed)
}
