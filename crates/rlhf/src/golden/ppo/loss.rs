//! The clipped minibatch loss, from logits and value predictions.

use burn::tensor::{Device, Tensor};
use rlhf_core::logp::{entropy_scalar, token_logp, token_logp_scalar};
use rlhf_core::loss::ppo_clip::{PpoClipConfig, ppo_clip, ppo_clip_scalar};
use rlhf_core::loss::ppo_value::{PpoValueConfig, ppo_value, ppo_value_scalar};
use rlhf_core::mask::{Normalise, normalise, normalise_scalar};
use rlhf_core::number::{Bound, Weight};
use rlhf_core::real::{Dual, Real, gradient};

use super::super::case::{Array, Case};
use super::super::compare::Computed;
use super::super::rows::{gradient as gradient_of, host, indices, leaf, mask, plain, vector};
use super::{INVALID_LOGPROB, Rollout, Settings, padded};

/// One minibatch. `[B, C + T]` positions, of which T from C − 1 on predict the completion.
struct Batch {
    clip: PpoClipConfig,
    range: PpoValueConfig,
    vf_coef: f64,
    temperature: f64,
    context: usize,
    logits: Array,
    vpred: Vec<f64>,
    responses: Vec<Vec<usize>>,
    old_logp: Vec<Vec<f64>>,
    rollout: Rollout,
}

/// The terms of every token, without padding, and what they add up to.
struct Terms<R> {
    logp: Vec<Vec<R>>,
    policy: Vec<Vec<R>>,
    value: Vec<Vec<R>>,
    policy_loss: R,
    value_loss: R,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["cliprange", "cliprange_value", "vf_coef", "temperature"])?;
    let batch = Batch::read(case)?;
    let (mut computed, terms) = if case.dtype() == "f64" { batch.twin() } else { batch.tensor(device) };
    computed.one("pg_loss", terms.policy_loss);
    computed.one("vf_loss", terms.value_loss);
    computed.one("loss", terms.policy_loss + batch.vf_coef * terms.value_loss);
    batch.metrics(&terms, &mut computed);
    Ok(computed)
}

impl Batch {
    fn read(case: &Case<'_>) -> Result<Self, String> {
        let clip = Weight::new(case.number("cliprange")?).map_err(|e| e.to_string())?;
        let range = Bound::new(case.number("cliprange_value")?).map_err(|e| e.to_string())?;
        let responses = case.input("responses")?.rows();
        Ok(Self {
            clip: PpoClipConfig::new(clip),
            range: PpoValueConfig { cliprange_value: range },
            vf_coef: case.number("vf_coef")?,
            // TRL's guard against a temperature of zero.
            temperature: case.number("temperature")? + 1e-7,
            context: case.input("context_length")?.values[0] as usize,
            logits: case.input("loss_logits")?,
            vpred: case.input("loss_vpred")?.values,
            responses: responses.iter().map(|row| row.iter().map(|y| *y as usize).collect()).collect(),
            old_logp: case.input("loss_old_logprobs")?.rows(),
            rollout: Rollout::new(case, &Settings::of_the_losses())?,
        })
    }

    /// The position that predicts token `t` of row `b`, counted through `B · (C + T)`.
    fn at(&self, b: usize, t: usize) -> usize {
        b * (self.context + self.rollout.width) + self.context - 1 + t
    }

    /// The terms of the twins at logits and value predictions, one after the other in `x`.
    fn terms<R: Real>(&self, x: &[R]) -> Terms<R> {
        let v = self.logits.shape.last().copied().unwrap_or(1);
        let (logits, vpred) = x.split_at(self.logits.values.len());
        let Rollout { advantages, values, returns, .. } = &self.rollout;
        let logp = |b: usize, t: usize| {
            let z: Vec<R> = logits[self.at(b, t) * v..][..v].iter().map(|z| *z / self.temperature).collect();
            token_logp_scalar(&z, self.responses[b][t])
        };
        let rows = |like: &[Vec<f64>], f: &dyn Fn(usize, usize) -> R| -> Vec<Vec<R>> {
            like.iter().enumerate().map(|(b, row)| (0..row.len()).map(|t| f(b, t)).collect()).collect()
        };
        let logp = rows(advantages, &logp);
        let policy = rows(advantages, &|b, t| {
            ppo_clip_scalar(self.clip, logp[b][t], self.old_logp[b][t], advantages[b][t])
        });
        let value = rows(values, &|b, t| {
            ppo_value_scalar(self.range, vpred[self.at(b, t)], values[b][t], returns[b][t])
        });
        let (policy_loss, value_loss) = (token_mean(&policy), token_mean(&value));
        Terms { logp, policy, value, policy_loss, value_loss }
    }

    fn twin(&self) -> (Computed, Terms<f64>) {
        let x = [&self.logits.values[..], &self.vpred].concat();
        let (_, grads) = gradient(&x, |x: &[Dual]| {
            let terms = self.terms(x);
            terms.policy_loss + terms.value_loss * self.vf_coef
        });
        let (logits, vpred) = grads.split_at(self.logits.values.len());
        let mut computed = Computed::default();
        computed.many("grads.logits", logits.to_vec());
        computed.many("grads.vpred", vpred.to_vec());
        (computed, self.terms(&x))
    }

    fn tensor(&self, device: &Device) -> (Computed, Terms<f64>) {
        let (b, t) = (self.responses.len(), self.rollout.width);
        let (c, v) = (self.context, self.logits.shape.last().copied().unwrap_or(1));
        let logits = leaf(&self.logits, device);
        let on = logits.device();
        let vpred = vector(&self.vpred, &on).require_grad();
        let z: Tensor<3> = logits.clone().reshape([b, c + t, v]).narrow(1, c - 1, t);
        let z = z.reshape([b * t, v]).div_scalar(self.temperature);
        let logp = token_logp(z, indices(&self.responses.concat(), &on)).reshape([b, t]);
        let value: Tensor<2> = vpred.clone().reshape([b, c + t]).narrow(1, c - 1, t);
        let filled = |rows: &[Vec<f64>]| Array { values: padded(rows, t, 0.0), shape: vec![b, t] };
        let other = |rows: &[Vec<f64>]| plain(&filled(rows), &on);
        let lit = |rows: &[Vec<f64>]| {
            let ones: Vec<Vec<f64>> = rows.iter().map(|row| vec![1.0; row.len()]).collect();
            mask(&filled(&ones), &on)
        };
        let Rollout { advantages, values, returns, .. } = &self.rollout;
        let (tokens, steps) = (lit(advantages), lit(values));
        let policy =
            ppo_clip(self.clip, logp.clone(), other(&self.old_logp), other(advantages), &tokens).loss;
        let value = ppo_value(self.range, value, other(values), other(returns), &steps).loss;
        let policy_loss = normalise(Normalise::TokenMean, policy.clone(), &tokens);
        let value_loss = normalise(Normalise::TokenMean, value.clone(), &steps);
        let grads = (policy_loss.clone() + value_loss.clone().mul_scalar(self.vf_coef)).backward();
        let mut computed = Computed::default();
        computed.many("grads.logits", gradient_of(&logits, &grads));
        computed.many("grads.vpred", gradient_of(&vpred, &grads));
        let ragged = |x: Tensor<2>, like: &[Vec<f64>]| -> Vec<Vec<f64>> {
            host(x).chunks(t).zip(like).map(|(row, like)| row[..like.len()].to_vec()).collect()
        };
        let terms = Terms {
            logp: ragged(logp, advantages),
            policy: ragged(policy, advantages),
            value: ragged(value, values),
            policy_loss: host(policy_loss)[0],
            value_loss: host(value_loss)[0],
        };
        (computed, terms)
    }

    /// What TRL reports of the terms; its own value errors are not halved.
    fn metrics(&self, terms: &Terms<f64>, computed: &mut Computed) {
        let Rollout { advantages, values, returns, width, .. } = &self.rollout;
        let over = |rows: &[Vec<f64>], f: &dyn Fn(usize, usize) -> f64| -> Vec<Vec<f64>> {
            rows.iter().enumerate().map(|(b, row)| (0..row.len()).map(|t| f(b, t)).collect()).collect()
        };
        let diff = over(advantages, &|b, t| terms.logp[b][t] - self.old_logp[b][t]);
        let ratio = over(advantages, &|b, t| diff[b][t].exp());
        let share = |above: Vec<Vec<f64>>| {
            let above = above.concat();
            above.iter().filter(|x| **x > 0.0).count() as f64 / above.len() as f64
        };
        // A loss above that of the free ratio or value is a clipped one. Equal but for rounding is not:
        // the tensors' losses are in f32.
        let rounded = |x: f64, like: f64| if (x - like).abs() <= 1e-5 * like.abs() { 0.0 } else { x - like };
        let policy = over(advantages, &|b, t| rounded(terms.policy[b][t], -advantages[b][t] * ratio[b][t]));
        let value = over(values, &|b, t| {
            let free = 0.5 * (self.vpred[self.at(b, t)] - returns[b][t]).powi(2);
            rounded(terms.value[b][t], free)
        });
        computed.one("pg_clipfrac", share(policy));
        computed.one("vf_clipfrac", share(value));
        // Means over the padding too, where the difference is 0.
        let n = (advantages.len() * width) as f64;
        computed.one("approxkl", 0.5 * diff.iter().flatten().map(|d| d * d).sum::<f64>() / n);
        let rows = self.logits.rows();
        let h = |(b, t): (usize, usize)| {
            let z: Vec<f64> = rows[self.at(b, t)].iter().map(|z| z / self.temperature).collect();
            entropy_scalar(&z)
        };
        let places = (0..advantages.len()).flat_map(|b| (0..*width).map(move |t| (b, t)));
        computed.one("entropy_mean", places.map(h).sum::<f64>() / n);
        computed.many("new_logprobs", padded(&terms.logp, *width, INVALID_LOGPROB));
        computed.many("ratio", padded(&ratio, *width, 1.0));
        computed.many("pg_loss_max", padded(&terms.policy, *width, 0.0));
        computed.many("vf_loss_max", padded(&terms.value, *width, 0.0).iter().map(|x| 2.0 * x).collect());
    }
}

/// The mean over all tokens of all rows.
fn token_mean<R: Real>(rows: &[Vec<R>]) -> R {
    let lit: Vec<Vec<bool>> = rows.iter().map(|row| vec![true; row.len()]).collect();
    let rows: Vec<&[R]> = rows.iter().map(Vec::as_slice).collect();
    normalise_scalar(Normalise::TokenMean, &rows, &lit.iter().map(Vec::as_slice).collect::<Vec<_>>())
}
