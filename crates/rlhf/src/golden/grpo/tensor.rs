//! The cases in `f32`, through the tensor functions and autodiff.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use rlhf_core::loss::cispo::cispo;
use rlhf_core::loss::gmpo::gmpo;
use rlhf_core::loss::grpo::{GrpoTokens, grpo};
use rlhf_core::loss::gspo::{gspo, sequence_ratio};
use rlhf_core::loss::kl_penalty::kl_penalty;
use rlhf_core::loss::ppo_clip::ppo_clip;
use rlhf_core::loss::sapo::{sapo, sapo_sequence};
use rlhf_core::loss::vespo::{log_correction, log_weight, vespo_weighted};
use rlhf_core::mask::{Normalise, normalise, per_token, sequence_mean};

use super::super::compare::Computed;
use super::super::rows::{gradient, host};
use super::{Kind, Level, Setup};

/// A case's tensors, `[B, T]` each.
struct Batch {
    logp: Tensor<2>,
    old_logp: Tensor<2>,
    reference_logp: Tensor<2>,
    advantage: Tensor<2>,
    mask: Tensor<2, Bool>,
    /// True throughout.
    full: Tensor<2, Bool>,
}

pub(super) fn compute(setup: &Setup, device: &Device) -> Computed {
    let on = device.clone().autodiff();
    let logp = matrix(&setup.logp, &on).require_grad();
    let entropy = matrix(&setup.entropy, &on).require_grad();
    let batch = Batch {
        logp: logp.clone(),
        old_logp: matrix(&setup.old_logp, &on),
        reference_logp: matrix(&setup.reference_logp, &on),
        advantage: matrix(&setup.advantage, &on),
        mask: flags(&setup.mask, &on),
        full: logp.clone().equal_elem(f32::INFINITY).bool_not(),
    };
    let tokens = tokens(setup, &batch);
    let mut loss = normalise(setup.how, tokens.clone(), &batch.mask);
    if let Some(coef) = setup.entropy_coef {
        let mask = flags(setup.bonus_mask(), &on);
        loss = loss - normalise(Normalise::TokenMean, entropy.clone(), &mask).mul_scalar(coef);
    }
    let loss = loss.div_scalar(setup.micro_batches);
    let grads = loss.backward();
    let mut computed = Computed::default();
    computed.many("loss", host(loss));
    computed.many("grads.logps", gradient(&logp, &grads));
    computed.many("grads.entropies", gradient(&entropy, &grads));
    let shown = if setup.one_a_sequence() { tokens.narrow(1, 0, 1) } else { tokens };
    computed.many("per_token_loss", host(shown));
    computed
}

fn matrix(rows: &[Vec<f64>], device: &Device) -> Tensor<2> {
    let values: Vec<f32> = rows.iter().flatten().map(|x| *x as f32).collect();
    Tensor::from_data(TensorData::new(values, [rows.len(), rows[0].len()]), device)
}

fn flags(rows: &[Vec<bool>], device: &Device) -> Tensor<2, Bool> {
    let values: Vec<Vec<f64>> =
        rows.iter().map(|row| row.iter().map(|on| f64::from(u8::from(*on))).collect()).collect();
    matrix(&values, device).greater_elem(0.5)
}

/// The loss of every position.
fn tokens(setup: &Setup, batch: &Batch) -> Tensor<2> {
    let Batch { logp, old_logp, reference_logp, advantage, full, .. } = batch;
    if let Some(config) = setup.grpo() {
        let reference_logp = (setup.beta.get() > 0.0).then(|| reference_logp.clone());
        let (old_logp, advantage) = (old_logp.clone(), advantage.clone());
        let tokens = GrpoTokens { logp: logp.clone(), old_logp, reference_logp, advantage };
        return grpo(config, tokens, full).loss;
    }
    let mut loss = policy(setup, batch);
    if let Some(factor) = setup.factor() {
        loss = loss * matrix(&factor, &logp.device());
    }
    let beta = setup.beta.get();
    if beta > 0.0 {
        let kl = kl_penalty(setup.kl, logp.clone(), reference_logp.clone(), old_logp.clone(), full);
        loss = loss + kl.mul_scalar(beta);
    }
    loss
}

/// The policy loss of every position.
fn policy(setup: &Setup, batch: &Batch) -> Tensor<2> {
    let Batch { mask, full, .. } = batch;
    let (logp, old, a) = (batch.logp.clone(), batch.old_logp.clone(), batch.advantage.clone());
    let [b, t] = logp.dims();
    let whole = |loss: Tensor<2>| per_token(sequence_mean(loss, mask), t);
    match (setup.kind, setup.level) {
        (Kind::Clip(config), Level::Token) => ppo_clip(config, logp, old, a, full).loss,
        (Kind::Clip(config), Level::Sequence) => whole(gspo(config, logp, old, a, mask).loss),
        (Kind::Cispo(config), Level::Token) => cispo(config, logp, old, a, full).loss,
        (Kind::Cispo(config), Level::Sequence) => {
            // As if each token had the sequence's ratio.
            let log_s = per_token(sequence_ratio("golden", logp.clone(), old, mask).log(), t);
            let old = (logp.clone() - log_s).detach();
            cispo(config, logp, old, a, full).loss
        }
        (Kind::Sapo(config), Level::Token) => sapo(config, logp, old, a, full).loss,
        (Kind::Sapo(config), Level::Sequence) => whole(sapo_sequence(config, logp, old, a, mask).loss),
        (Kind::Vespo(config), _) => {
            let mut log_w = log_weight(logp.clone(), old, mask);
            if let Some(correction) = &setup.correction {
                // TRL sums the correction's logarithms behind the mask too.
                log_w = log_w + log_correction(matrix(correction, &logp.device()), full);
            }
            vespo_weighted(config, logp, log_w, a, full).loss
        }
        (Kind::Gmpo(config), _) => {
            let a = a.narrow(1, 0, 1).reshape([b]);
            per_token(gmpo(config, logp, old, a, mask).loss, t)
        }
    }
}
