//! `tpo.json`: Triple Preference Optimization from logits: rows chosen, rejected and, where the gold
//! response counts, gold; its likelihood is TRL's mean over the batch's gold tokens.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::triple::{TripleConfig, TripleLossType, triple, triple_scalar};
use rlhf_core::number::{Beta, Prob, Weight};
use rlhf_core::real::{self, Real};

use super::batch_logps::Labelled;
use super::case::{Array, Case};
use super::compare::Computed;
use super::rows;

/// A case's batch.
struct Batch {
    config: TripleConfig,
    logits: Array,
    labelled: Labelled,
    lengths: Vec<f64>,
    /// Triples, or pairs without weight of the gold response.
    n: usize,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["beta", "tpo_alpha", "label_smoothing", "tpo_l_gamma"])?;
    let config = config(case)?;
    let branches = if config.alpha.get() > 0.0 { 3 } else { 2 };
    let n = case.input("logits")?.shape[0] / 3;
    let kept = |name: &str| first_rows(&case.input(name)?, branches * n);
    let logits = kept("logits")?;
    let (ids, mask) = (kept("input_ids")?.whole(), kept("completion_mask")?.whole());
    let labels: Vec<i64> = ids.iter().zip(&mask).map(|(y, on)| if *on == 1 { *y } else { -100 }).collect();
    let labelled = Labelled::new(&logits, &labels)?;
    let batch = Batch { config, lengths: labelled.lengths(), labelled, logits, n };
    match case.dtype() {
        "f64" => Ok(batch.twin()),
        "f32" => Ok(batch.tensor(device)),
        _ => Err(case.unknown()),
    }
}

fn config(case: &Case<'_>) -> Result<TripleConfig, String> {
    let text = |e: rlhf_core::error::NumError| e.to_string();
    let gamma = Weight::new(case.number("tpo_l_gamma")?).map_err(text)?;
    let loss_type = match case.name() {
        "tpo/sigmoid" => TripleLossType::Sigmoid,
        "tpo/hinge" => TripleLossType::Hinge,
        "tpo/ipo" => TripleLossType::Ipo,
        "tpo/tpo-l" => TripleLossType::TpoL(gamma),
        _ => return Err(case.unknown()),
    };
    Ok(TripleConfig {
        beta: Beta::new(case.number("beta")?).map_err(text)?,
        alpha: Weight::new(case.number("tpo_alpha")?).map_err(text)?,
        label_smoothing: Prob::new(case.number("label_smoothing")?).map_err(text)?,
        loss_type,
    })
}

/// The first rows of a batch.
fn first_rows(x: &Array, rows: usize) -> Result<Array, String> {
    let [all, ref rest @ ..] = x.shape[..] else { return Err("expected rows, found a number".to_owned()) };
    let width = x.values.len() / all;
    Ok(Array { values: x.values[..rows * width].to_vec(), shape: [&[rows], rest].concat() })
}

impl Batch {
    /// What TRL reports as a row's log-probability: `ipo` and `tpo-l` have means.
    fn logps(&self, sums: Vec<f64>) -> Vec<f64> {
        match self.config.loss_type {
            TripleLossType::Sigmoid | TripleLossType::Hinge => sums,
            TripleLossType::Ipo | TripleLossType::TpoL(_) => {
                sums.iter().zip(&self.lengths).map(|(sum, n)| sum / n).collect()
            }
        }
    }

    /// Tokens of the gold responses, 0 where they do not count.
    fn n_gold(&self) -> f64 {
        self.lengths[2 * self.n..].iter().sum()
    }

    /// The contrast of triple `i`.
    fn contrast<R: Real>(&self, sums: &[R], i: usize) -> R {
        let config = TripleConfig { alpha: Weight::ZERO, ..self.config };
        let (pair, lengths) = ([sums[i], sums[self.n + i]], [self.lengths[i], self.lengths[self.n + i]]);
        triple_scalar(config, pair, lengths, R::from(0.0))
    }

    /// The mean over gold tokens.
    fn nll<R: Real>(&self, sums: &[R]) -> R {
        -sums[2 * self.n..].iter().copied().sum::<R>() / self.n_gold()
    }

    fn twin(&self) -> Computed {
        let (n, alpha) = (self.n, self.config.alpha.get());
        let (loss, gradient) = real::gradient(&self.logits.values, |z| {
            let sums = self.labelled.sums(z);
            let contrast = (0..n).map(|i| self.contrast(&sums, i)).sum::<real::Dual>() / n as f64;
            if alpha > 0.0 { contrast + self.nll(&sums) * alpha } else { contrast }
        });
        let sums = self.labelled.sums(&self.logits.values);
        let mut computed = Computed::default();
        computed.one("loss", loss);
        computed.many("per_sequence_loss", (0..n).map(|i| self.contrast(&sums, i)).collect());
        computed.one("nll_loss", self.nll(&sums));
        computed.many("logps", self.logps(sums));
        computed.many("grads.logits", gradient);
        computed
    }

    fn tensor(&self, device: &Device) -> Computed {
        let (n, alpha) = (self.n, self.config.alpha.get());
        let leaf = rows::leaf(&self.logits, device);
        let sums = self.labelled.sum_tensor(&leaf);
        let lengths = rows::vector(&self.lengths, &leaf.device());
        let part = |x: &Tensor<1>, k: usize| x.clone().narrow(0, k * n, n);
        let pair = |x: &Tensor<1>| [part(x, 0), part(x, 1)];
        let gold = if alpha > 0.0 { part(&sums, 2) } else { part(&sums, 0).zeros_like() };
        let out = triple(self.config, pair(&sums), pair(&lengths), gold);
        let nll = out.nll.sum().div_scalar(self.n_gold().max(1.0));
        let loss = out.contrast.clone().mean() + nll.clone().mul_scalar(alpha);
        let grads = loss.backward();
        let mut computed = Computed::default();
        computed.many("loss", rows::host(loss));
        computed.many("per_sequence_loss", rows::host(out.contrast));
        computed.many("nll_loss", rows::host(nll));
        computed.many("logps", self.logps(rows::host(sums)));
        computed.many("grads.logits", rows::gradient(&leaf, &grads));
        computed
    }
}
