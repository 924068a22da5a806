//! `ppo.json`: what TRL makes of a rollout, its minibatch loss, and its masked moments.

use burn::tensor::Device;
use rlhf_core::host::gae::{GaeConfig, ScoreAt, gae, token_rewards};
use rlhf_core::host::kl::{k1, k3};
use rlhf_core::host::whiten::{Centre, Guard, Moments, Spread, Whiten, whiten};
use rlhf_core::number::{Prob, Weight};

use super::case::Case;
use super::compare::Computed;

mod loss;

/// What TRL writes into the padding of log-probabilities.
const INVALID_LOGPROB: f64 = 1.0;

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    if !matches!(case.dtype(), "f64" | "f32") {
        return Err(case.unknown());
    }
    match case.name() {
        "ppo_rollout" => {
            let known = ["kl_estimator", "kl_coef", "whiten_rewards", "gamma", "lam", "missing_eos_penalty"];
            case.knows_only(&known)?;
            Ok(Rollout::new(case, &Settings::read(case)?)?.computed())
        }
        "ppo_loss" => loss::check(case, device),
        "masked_stats" => moments(case),
        _ => Err(case.unknown()),
    }
}

/// The parameters of a rollout.
struct Settings {
    kl: fn(f64, f64) -> f64,
    kl_coef: f64,
    gamma: f64,
    lam: f64,
    whiten_rewards: bool,
    missing_eos_penalty: f64,
}

impl Settings {
    fn read(case: &Case<'_>) -> Result<Self, String> {
        let kl = match case.text("kl_estimator")? {
            "k1" => k1,
            "k3" => k3,
            other => return Err(format!("params.kl_estimator: expected k1 or k3, found {other}")),
        };
        Ok(Self {
            kl,
            kl_coef: case.number("kl_coef")?,
            gamma: case.number("gamma")?,
            lam: case.number("lam")?,
            whiten_rewards: case.switch("whiten_rewards")?,
            missing_eos_penalty: case.number_or("missing_eos_penalty", 0.0)?,
        })
    }

    /// Those of the file's first rollout, which its losses were computed on.
    fn of_the_losses() -> Self {
        let (kl_coef, gamma, lam) = (0.05, 1.0, 0.95);
        Self { kl: k1, kl_coef, gamma, lam, whiten_rewards: false, missing_eos_penalty: 0.0 }
    }
}

/// A rollout without padding. A row of `rewards`, `values` and `returns` has one step more than the
/// completion has tokens wherever the batch is wide enough.
struct Rollout {
    width: usize,
    scores: Vec<f64>,
    logp: Vec<Vec<f64>>,
    kl: Vec<Vec<f64>>,
    rewards: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
    advantages: Vec<Vec<f64>>,
    returns: Vec<Vec<f64>>,
}

impl Rollout {
    fn new(case: &Case<'_>, settings: &Settings) -> Result<Self, String> {
        let responses = case.input("truncated_responses")?;
        let width = responses.shape.last().copied().unwrap_or(0);
        let eos = case.input("eos_token_id")?.values[0];
        let mut scores = case.input("scores")?.values;
        for (score, row) in scores.iter_mut().zip(responses.rows()) {
            *score -= if row.contains(&eos) { 0.0 } else { settings.missing_eos_penalty };
        }
        // TRL's sequence length is the place of the last token.
        let lengths: Vec<usize> =
            case.input("sequence_lengths")?.values.iter().map(|last| *last as usize + 1).collect();
        let cut = |name: &str, more: usize| -> Result<Vec<Vec<f64>>, String> {
            let rows = case.input(name)?.rows();
            Ok(rows.iter().zip(&lengths).map(|(row, n)| row[..(n + more).min(width)].to_vec()).collect())
        };
        let (logp, reference, values) = (cut("logprobs", 0)?, cut("ref_logprobs", 0)?, cut("values", 1)?);
        let pairs = |(p, q): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
            p.iter().zip(q).map(|(p, q)| (settings.kl)(*p, *q)).collect()
        };
        let kl: Vec<Vec<f64>> = logp.iter().zip(&reference).map(pairs).collect();
        let beta = Weight::new(settings.kl_coef).map_err(|e| e.to_string())?;
        let paid = |(kl, score): (&Vec<f64>, &f64)| {
            let at = if kl.len() < width { ScoreAt::AfterLast } else { ScoreAt::LastToken };
            token_rewards(beta, kl, *score, at)
        };
        let mut rewards: Vec<Vec<f64>> = kl.iter().zip(&scores).map(paid).collect();
        if settings.whiten_rewards {
            rewards = whiten(whitening(Centre::Kept)?, &rewards);
        }
        let prob = |x: f64| Prob::new(x).map_err(|e| e.to_string());
        let config = GaeConfig { gamma: prob(settings.gamma)?, lambda: prob(settings.lam)? };
        let found = gae(config, &rewards, &values);
        let tokens: Vec<&[f64]> = found.advantages.iter().zip(&lengths).map(|(row, n)| &row[..*n]).collect();
        let advantages = whiten(whitening(Centre::Zero)?, &tokens);
        Ok(Self { width, scores, logp, kl, rewards, values, advantages, returns: found.returns })
    }

    fn computed(&self) -> Computed {
        let mut computed = Computed::default();
        computed.many("scores", self.scores.clone());
        computed.many("logprobs", padded(&self.logp, self.width, INVALID_LOGPROB));
        for (name, rows) in [
            ("kl", &self.kl),
            ("rewards", &self.rewards),
            ("values", &self.values),
            ("advantages", &self.advantages),
            ("returns", &self.returns),
        ] {
            computed.many(name, padded(rows, self.width, 0.0));
        }
        for (name, rows) in [("padding_mask", &self.advantages), ("padding_mask_p1", &self.values)] {
            let off: Vec<Vec<f64>> = rows.iter().map(|row| vec![0.0; row.len()]).collect();
            computed.many(name, padded(&off, self.width, 1.0));
        }
        computed
    }
}

/// Rows filled up and joined.
fn padded(rows: &[Vec<f64>], width: usize, fill: f64) -> Vec<f64> {
    let full = |row: &Vec<f64>| [row.clone(), vec![fill; width - row.len()]].concat();
    rows.iter().flat_map(full).collect()
}

/// TRL's `masked_whiten`.
fn whitening(centre: Centre) -> Result<Whiten, String> {
    let guard = Guard::VariancePlus(Weight::new(1e-8).map_err(|e| e.to_string())?);
    Ok(Whiten { spread: Spread::Unbiased, guard, centre })
}

/// TRL whitens what is behind the mask too, by the moments of what is not.
fn moments(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&[])?;
    let (values, mask) = (case.input("values")?, case.input("masked_stats_mask")?);
    let kept = |values: &[f64], mask: &[f64]| -> Vec<f64> {
        values.iter().zip(mask).filter(|(_, on)| **on > 0.0).map(|(x, _)| *x).collect()
    };
    let all = Moments::of(kept(&values.values, &mask.values));
    let rows = values.rows().into_iter().zip(mask.rows());
    let mut computed = Computed::default();
    computed.one("mean", all.mean);
    computed.many("mean_axis1", rows.map(|(x, mask)| Moments::of(kept(&x, &mask)).mean).collect());
    computed.one("var", all.variance(Spread::Unbiased));
    computed.one("var_biased", all.variance(Spread::Biased));
    // n / (n − 1) is a quotient of integers there, which PyTorch rounds to f32 whatever the values are:
    // half a unit of it in the variance, a quarter in what is divided by its root.
    let unit = f64::from(f32::EPSILON);
    computed.allow("var", &[all.variance(Spread::Unbiased) * unit / 2.0]);
    for (name, centre) in [("whiten", Centre::Zero), ("whiten_no_shift", Centre::Kept)] {
        let how = whitening(centre)?;
        computed.many(name, values.values.iter().map(|x| how.apply(&all, *x)).collect());
        let sigma = all.variance(Spread::Unbiased).sqrt();
        let slack = values.values.iter().map(|x| (x - all.mean).abs() / sigma * unit / 4.0);
        computed.allow(name, &slack.collect::<Vec<_>>());
    }
    Ok(computed)
}
