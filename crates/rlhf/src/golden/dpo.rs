//! `dpo_losses.json`, `dpo_extreme.json`, `dpo_fdivergence.json`, `dpo_options.json`: TRL 1.16's losses
//! on pairs from the log-probabilities of tokens; rows 0..n are chosen, n..2n rejected.

use burn::tensor::{Device, Tensor};
use rlhf_core::error::NumError;
use rlhf_core::loss::ld_dpo::{LdDpoConfig, ld_logp, ld_logp_scalar};
use rlhf_core::loss::wpo::{wpo_weight, wpo_weight_scalar};
use rlhf_core::mask::{Normalise, normalise, normalise_scalar, sequence_sum, sequence_sum_scalar};
use rlhf_core::number::{Beta, Finite, Positive, Prob};
use rlhf_core::pair::{FDivergence, score_scalar, scores};
use rlhf_core::real::{self, Dual, Real};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{gradient, host, leaf, mask, plain, vector};

pub(super) mod losses;

use losses::{Loss, Numbers, Pairs};

/// What a name may say beside the loss.
const VARIANTS: [&str; 8] = [
    "ld_alpha",
    "wpo",
    "mpo",
    "rpo_equivalent",
    "discopop_tau",
    "forward_kl",
    "js_divergence",
    "alpha_divergence",
];

const PARAMS: [&str; 10] = [
    "loss_types",
    "loss_weights",
    "beta",
    "label_smoothing",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "discopop_tau",
    "ld_alpha",
    "use_weighting",
    "note",
];

/// A term of the sum.
#[derive(Debug, Clone, Copy)]
enum Term {
    Pairs(Loss),
    /// Minus the mean log-probability of the chosen tokens.
    Sft,
}

struct Plan {
    /// Each with its weight.
    terms: Vec<(Term, f64)>,
    numbers: Numbers,
    ld: Option<LdDpoConfig>,
    weighted: bool,
}

struct Batch {
    /// `[2n, t]` all.
    logps: Array,
    reference: Array,
    mask: Array,
    log_sum_sq_probs: Option<Array>,
    /// Tokens of each completion.
    lengths: Vec<f64>,
}

/// What a case's quantities are made of.
struct Found {
    loss: f64,
    /// Of the last term.
    per_sequence: Vec<f64>,
    /// Of `logps`.
    grad: Vec<f64>,
    /// Log-probability of each completion, and its score.
    policy: Vec<f64>,
    scores: Vec<f64>,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    let plan = Plan::read(case)?;
    let batch = Batch::read(case)?;
    let reference = plan.sequences(&batch, &batch.reference.values);
    let found = match case.dtype() {
        "f64" => twin(&plan, &batch, &reference),
        "f32" => tensor(&plan, &batch, device),
        _ => return Err(case.unknown()),
    };
    let mut computed = answers(case, &plan, &found, &reference);
    computed.many("grads.logps_first_completion_token", first_of(&found.grad, &batch));
    if case.dtype() == "f64"
        && let FDivergence::AlphaDivergenceClamped { alpha, .. } = plan.numbers.f_divergence
    {
        allow_single_precision(&mut computed, &plan, &batch, &reference, &found, alpha.get() - 1.0);
    }
    Ok(computed)
}

impl Plan {
    fn read(case: &Case<'_>) -> Result<Self, String> {
        case.knows_only(&PARAMS)?;
        let types: Vec<&str> = texts(case, "loss_types")?;
        if !case.name().split('/').all(|part| VARIANTS.contains(&part) || types == [part]) {
            return Err(case.unknown());
        }
        let bad = |e: NumError| format!("params: {e}");
        let numbers = Numbers {
            beta: Beta::new(case.number("beta")?).map_err(bad)?,
            label_smoothing: case.number_or("label_smoothing", 0.0)?,
            f_divergence: divergence(case)?,
            discopop_tau: case.number_or("discopop_tau", 0.05)?,
        };
        let term = |name: &&str| match *name {
            "sft" => Ok(Term::Sft),
            name => Loss::named(name, &numbers).map(Term::Pairs),
        };
        let terms = types.iter().map(term).collect::<Result<Vec<_>, _>>()?;
        let weights = match case.param("loss_weights") {
            Some(weights) => Array::read(weights)?.values,
            None => vec![1.0; terms.len()],
        };
        if weights.len() != terms.len() {
            return Err(format!("params.loss_weights: expected {}, found {}", terms.len(), weights.len()));
        }
        let ld = match case.param("ld_alpha") {
            Some(_) => Some(LdDpoConfig { alpha: Prob::new(case.number("ld_alpha")?).map_err(bad)? }),
            None => None,
        };
        let weighted = case.param("use_weighting").is_some() && case.switch("use_weighting")?;
        Ok(Self { terms: terms.into_iter().zip(weights).collect(), numbers, ld, weighted })
    }

    /// The log-probability of each completion from those of its tokens.
    fn sequences<R: Real>(&self, batch: &Batch, logps: &[R]) -> Vec<R> {
        let n = batch.pairs();
        let row = |(i, (logps, mask)): (usize, (&[R], &Vec<bool>))| match self.ld {
            Some(config) => ld_logp_scalar(config, logps, mask, batch.lengths[(i + n) % (2 * n)] as usize),
            None => sequence_sum_scalar(logps, mask),
        };
        logps.chunks(batch.width()).zip(&batch.masks()).enumerate().map(row).collect()
    }

    /// Each sequence's loss, term by term.
    fn losses<R: Real>(&self, batch: &Batch, logps: &[R], reference: &[f64]) -> Vec<Vec<R>> {
        let n = batch.pairs();
        let policy = self.sequences(batch, logps);
        let pairs =
            Pairs { policy: halves(&policy), reference: halves(reference), lengths: halves(&batch.lengths) };
        let weights = batch.weights(self.weighted);
        let masks = batch.masks();
        let term = |(term, _): &(Term, f64)| {
            let losses = match *term {
                Term::Pairs(loss) => loss.scalar(pairs),
                Term::Sft => {
                    let nll: Vec<R> = logps.iter().map(|x| -*x).collect();
                    let rows: Vec<&[R]> = nll.chunks(batch.width()).take(n).collect();
                    let masks: Vec<&[bool]> = masks.iter().take(n).map(Vec::as_slice).collect();
                    vec![normalise_scalar(Normalise::TokenMean, &rows, &masks); n]
                }
            };
            losses.into_iter().zip(&weights).map(|(x, w)| x * *w).collect()
        };
        self.terms.iter().map(term).collect()
    }
}

impl Batch {
    fn read(case: &Case<'_>) -> Result<Self, String> {
        let mask = case.input("completion_mask")?;
        let rows: Vec<Vec<f64>> = mask.rows().into_iter().map(|row| row[1..].to_vec()).collect();
        let shape = vec![rows.len(), rows.first().map_or(0, Vec::len)];
        // TRL counts before the shift; a completion never begins at the first position.
        let lengths = rows.iter().map(|row| row.iter().sum::<f64>().max(1.0)).collect();
        let reference = case.input("ref_logps")?;
        let logps = match case.raw("log_ratio") {
            Err(_) => case.input("logps")?,
            Ok(_) => moved(case, &reference)?,
        };
        let log_sum_sq_probs =
            if case.param("use_weighting").is_some() { Some(case.input("log_sum_sq_probs")?) } else { None };
        let mask = Array { values: rows.concat(), shape };
        if mask.values.is_empty() || logps.shape != mask.shape || reference.shape != mask.shape {
            let shapes = [&mask.shape, &logps.shape, &reference.shape];
            return Err(format!("inputs: expected [2n, t] behind the shift, found {shapes:?}"));
        }
        Ok(Self { logps, reference, mask, log_sum_sq_probs, lengths })
    }

    fn pairs(&self) -> usize {
        self.lengths.len() / 2
    }

    fn width(&self) -> usize {
        self.mask.values.len() / self.lengths.len()
    }

    fn masks(&self) -> Vec<Vec<bool>> {
        self.mask.rows().iter().map(|row| row.iter().map(|on| *on > 0.0).collect()).collect()
    }

    /// WPO's weight of each pair, or 1.
    fn weights(&self, weighted: bool) -> Vec<f64> {
        let n = self.pairs();
        let Some(squares) = self.log_sum_sq_probs.as_ref().filter(|_| weighted) else {
            return vec![1.0; n];
        };
        let (logps, squares, masks) = (self.logps.rows(), squares.rows(), self.masks());
        let weight = |i: usize| -> f64 { wpo_weight_scalar(&logps[i], &squares[i], &masks[i]) };
        (0..n).map(|i| weight(i) * weight(n + i)).collect()
    }
}

/// The reference's log-probabilities with each completion's first token moved by its log-ratio.
fn moved(case: &Case<'_>, reference: &Array) -> Result<Array, String> {
    let share = match case.param("note").map(|note| note.as_str()) {
        None => 1.0,
        Some(Some("log-ratios divided by 4")) => 0.25,
        Some(other) => return Err(format!("params.note: expected a known one, found {other:?}")),
    };
    let mut logps = reference.clone();
    let t = reference.shape.last().copied().unwrap_or(1);
    let first = case.input("first_completion_position")?.whole();
    for (i, (at, ratio)) in first.into_iter().zip(case.input("log_ratio")?.values).enumerate() {
        logps.values[i * t + at as usize] += ratio * share;
    }
    Ok(logps)
}

/// A parameter that is a list of texts.
fn texts<'a>(case: &Case<'a>, name: &str) -> Result<Vec<&'a str>, String> {
    let list = case.param(name).and_then(|v| v.as_array()).filter(|l| !l.is_empty());
    let list = list.ok_or_else(|| format!("params.{name}: expected a list of texts, found none"))?;
    let text = |v: &'a serde_json::Value| v.as_str().ok_or_else(|| format!("params.{name}: found {v}"));
    list.iter().map(text).collect()
}

/// TRL clamps the exponent of its α-divergence; ours has that by a name of its own.
fn divergence(case: &Case<'_>) -> Result<FDivergence, String> {
    let name = case.param("f_divergence_type").map_or(Some("reverse_kl"), |v| v.as_str());
    Ok(match name {
        Some("reverse_kl") => FDivergence::ReverseKl,
        Some("forward_kl") => FDivergence::ForwardKl,
        Some("js_divergence") => FDivergence::JsDivergence,
        Some("alpha_divergence") => FDivergence::AlphaDivergenceClamped {
            alpha: Finite::new(case.number_or("f_alpha_divergence_coef", 0.5)?).map_err(|e| e.to_string())?,
            max_exponent: Positive::new(80.0).map_err(|e| e.to_string())?,
        },
        other => return Err(format!("params.f_divergence_type: expected a known one, found {other:?}")),
    })
}

/// Chosen and rejected.
fn halves<T>(rows: &[T]) -> [&[T]; 2] {
    let (chosen, rejected) = rows.split_at(rows.len() / 2);
    [chosen, rejected]
}

fn twin(plan: &Plan, batch: &Batch, reference: &[f64]) -> Found {
    let n = batch.pairs() as f64;
    let (loss, grad) = real::gradient(&batch.logps.values, |x| {
        // The mean over pairs of each term, weighted.
        let losses = plan.losses(batch, x, reference).into_iter().zip(&plan.terms);
        losses.map(|(losses, (_, weight))| losses.into_iter().sum::<Dual>() * *weight / n).sum()
    });
    let per_sequence = plan.losses(batch, &batch.logps.values, reference).pop().unwrap_or_default();
    let policy = plan.sequences(batch, &batch.logps.values);
    let score = |(p, r): (&f64, &f64)| score_scalar(plan.numbers.f_divergence, p - r);
    let scores = policy.iter().zip(reference).map(score).collect();
    Found { loss, per_sequence, grad, policy, scores }
}

fn tensor(plan: &Plan, batch: &Batch, device: &Device) -> Found {
    let n = batch.pairs();
    let leaf = leaf(&batch.logps, device);
    let on = leaf.device();
    let mask = mask(&batch.mask, &on);
    let partner: Vec<f64> = (0..2 * n).map(|i| batch.lengths[(i + n) % (2 * n)]).collect();
    let sequences = |logps: Tensor<2>| match plan.ld {
        Some(config) => ld_logp(config, logps, &mask, vector(&partner, &on)),
        None => sequence_sum(logps, &mask),
    };
    let halves = |x: Tensor<1>| [x.clone().narrow(0, 0, n), x.narrow(0, n, n)];
    let policy = sequences(leaf.clone());
    let reference = sequences(plain(&batch.reference, &on));
    let scores = scores(plan.numbers.f_divergence, halves(policy.clone() - reference.clone()));
    let weights = batch.log_sum_sq_probs.as_ref().filter(|_| plan.weighted).map(|squares| {
        let [chosen, rejected] = halves(wpo_weight(leaf.clone(), plain(squares, &on), &mask));
        chosen * rejected
    });
    let of_term = |term: Term| {
        let losses = match term {
            Term::Pairs(loss) => {
                let lengths = halves(vector(&batch.lengths, &on));
                loss.tensor(halves(policy.clone()), halves(reference.clone()), lengths).loss
            }
            Term::Sft => {
                let chosen = leaf.clone().narrow(0, 0, n).neg();
                normalise(Normalise::TokenMean, chosen, &mask.clone().narrow(0, 0, n)).expand([n])
            }
        };
        weights.clone().map_or(losses.clone(), |w| losses * w)
    };
    let losses: Vec<Tensor<1>> = plan.terms.iter().map(|(term, _)| of_term(*term)).collect();
    let means = losses.iter().zip(&plan.terms).map(|(x, (_, w))| x.clone().mean().mul_scalar(*w));
    let loss = means.reduce(|a, b| a + b).unwrap_or_else(|| leaf.clone().sum());
    let grads = loss.backward();
    Found {
        loss: host(loss)[0],
        per_sequence: losses.last().cloned().map(host).unwrap_or_default(),
        grad: gradient(&leaf, &grads),
        policy: host(policy),
        scores: scores.map(host).concat(),
    }
}

fn answers(case: &Case<'_>, plan: &Plan, found: &Found, reference: &[f64]) -> Computed {
    let mut computed = Computed::default();
    computed.one("loss", found.loss);
    computed.many("per_sequence_loss", found.per_sequence.clone());
    computed.many("grads.logps", found.grad.clone());
    for (name, both) in [("logps", halves(&found.policy)), ("scores", halves(&found.scores))] {
        computed.many(&format!("chosen_{name}"), both[0].to_vec());
        computed.many(&format!("rejected_{name}"), both[1].to_vec());
    }
    computed.many("ref_chosen_logps", halves(reference)[0].to_vec());
    computed.many("ref_rejected_logps", halves(reference)[1].to_vec());
    let beta = plan.numbers.beta.get();
    let rewards: Vec<f64> = found.policy.iter().zip(reference).map(|(p, r)| beta * (p - r)).collect();
    metrics(&mut computed, halves(&rewards), case.dtype());
    let [chosen, rejected] = halves(&found.policy);
    computed.mean("metrics.logps/chosen", chosen, case.dtype());
    computed.mean("metrics.logps/rejected", rejected, case.dtype());
    computed
}

/// TRL's metrics of the rewards of chosen and rejected completions.
pub(super) fn metrics(computed: &mut Computed, [chosen, rejected]: [&[f64]; 2], dtype: &str) {
    let pairs = || chosen.iter().zip(rejected);
    let right: Vec<f64> = pairs().map(|(c, r)| f64::from(u8::from(c > r))).collect();
    let margins: Vec<f64> = pairs().map(|(c, r)| c - r).collect();
    computed.mean("metrics.rewards/chosen", chosen, dtype);
    computed.mean("metrics.rewards/rejected", rejected, dtype);
    computed.mean("metrics.rewards/accuracies", &right, dtype);
    computed.mean("metrics.rewards/margins", &margins, dtype);
}

/// TRL exponentiates the α-divergence in `f32` whatever it is given. Its eᵗ − 1, t = (α − 1) d, then is
/// off as if d had moved by up to h: t is rounded, |t| 2⁻²⁴, the exponential is right to one unit, 2⁻²³,
/// and the difference is rounded, |1 − e⁻ᵗ| 2⁻²⁴. Each number may differ by what such a move of the
/// log-ratios makes of it; a gradient also goes through `f32`, in three roundings.
fn allow_single_precision(
    computed: &mut Computed,
    plan: &Plan,
    batch: &Batch,
    reference: &[f64],
    found: &Found,
    a: f64,
) {
    if a.abs() < 1e-6 {
        return;
    }
    let unit = 2f64.powi(-24);
    let reach = |i: usize| {
        let t = a * (found.policy[i] - reference[i]);
        unit * (t.abs() + 2.0 + (-t).exp_m1().abs()) / a.abs()
    };
    let n = batch.pairs();
    // To first order the largest change is at a corner: both up, or one up and one down.
    let corners = [1.0, -1.0].map(|sign| {
        let step = |i: usize| if i < n { reach(i) } else { sign * reach(i) };
        let to: Vec<f64> = reference.iter().enumerate().map(|(i, r)| r + step(i)).collect();
        twin(plan, batch, &to)
    });
    let slack = |of: fn(&Found) -> &Vec<f64>| -> Vec<f64> {
        let change = |i: usize| corners.each_ref().map(|c| (of(c)[i] - of(found)[i]).abs());
        (0..of(found).len()).map(change).map(|[x, y]| x.max(y)).collect()
    };
    let per_sequence = slack(|f| &f.per_sequence);
    computed.allow("loss", &[per_sequence.iter().sum::<f64>() / n as f64]);
    computed.allow("per_sequence_loss", &per_sequence);
    let grad: Vec<f64> =
        slack(|f| &f.grad).iter().zip(&found.grad).map(|(s, g)| s + 3.0 * unit * g.abs()).collect();
    computed.allow("grads.logps", &grad);
    computed.allow("grads.logps_first_completion_token", &first_of(&grad, batch));
    let scores = slack(|f| &f.scores);
    computed.allow("chosen_scores", &scores[..n]);
    computed.allow("rejected_scores", &scores[n..]);
}

/// The number of the first token of each completion.
fn first_of(tokens: &[f64], batch: &Batch) -> Vec<f64> {
    let first = |(row, mask): (&[f64], &Vec<bool>)| {
        row.iter().zip(mask).find(|(_, on)| **on).map_or(0.0, |(x, _)| *x)
    };
    tokens.chunks(batch.width()).zip(&batch.masks()).map(first).collect()
}
