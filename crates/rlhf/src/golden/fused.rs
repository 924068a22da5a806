//! `fused_lm_head.json`: log-probabilities straight from hidden states, with the statistics of
//! their distributions; the gradient is that of Σ (w · log-probability + w′ · entropy).

use std::num::NonZeroUsize;

use burn::tensor::{Device, Tensor};
use rlhf_core::fused::{FusedConfig, Head, fused_logp, fused_stats};
use rlhf_core::number::Positive;

use super::case::Case;
use super::compare::Computed;
use super::rows::{gradient, host, indices, leaf, vector};

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["temperature", "softcap", "scale", "bias"])?;
    let known = ["plain", "temperature", "bias", "softcap", "softcap_scale_temp_bias"];
    if !known.contains(&case.name()) || case.dtype() != "f32" {
        return Err(case.unknown());
    }
    let positive = |name: &str| -> Result<Option<Positive>, String> {
        let given = case.param(name).is_some();
        given
            .then(|| Positive::new(case.number(name)?).map_err(|e| format!("params.{name}: {e}")))
            .transpose()
    };
    let weight = case.input("weight")?;
    let config = FusedConfig {
        logit_scale: positive("scale")?,
        softcap: positive("softcap")?,
        // Two rows of 13 logits at once forward, four columns backward.
        tile: NonZeroUsize::new(2 * weight.rows().len()).ok_or("inputs.weight: expected rows, found none")?,
        ..FusedConfig::new(positive("temperature")?.ok_or("params.temperature: expected a number")?)
    };
    let hidden = leaf(&case.input("hidden")?, device);
    let on = hidden.device();
    let bias = if case.switch("bias")? { Some(case.input("bias")?.values) } else { None };
    let bias = bias.map(|b| vector(&b, &on).require_grad());
    let head = Head { weight: leaf(&weight, device), bias };
    let tokens = || -> Result<_, String> {
        let targets: Vec<usize> = case.input("targets")?.whole().iter().map(|y| *y as usize).collect();
        Ok(indices(&targets, &on))
    };
    let of = |name: &str| -> Result<Tensor<1>, String> { Ok(vector(&case.input(name)?.values, &on)) };
    let out = fused_stats(config, hidden.clone(), &head, tokens()?);
    let alone = fused_logp(config, hidden.clone(), &head, tokens()?).logp;
    if host(alone) != host(out.logp.clone()) {
        return Err("log_probs: expected fused_logp and fused_stats to agree".to_owned());
    }
    let loss = out.logp.clone() * of("grad_log_probs")? + out.entropy.clone() * of("grad_entropy")?;
    let grads = out.head.backward(&loss.sum());
    let mut computed = Computed::default();
    computed.many("log_probs", host(out.logp));
    computed.many("entropy", host(out.entropy));
    computed.many("log_sum_sq_probs", host(out.log_sum_sq_prob));
    computed.many("mean_logits", host(out.mean_logit));
    computed.many("is_top1", host(out.top1.float()));
    computed.many("grads.hidden", gradient(&hidden, &grads));
    computed.many("grads.weight", gradient(&head.weight, &grads));
    if let Some(bias) = &head.bias {
        computed.many("grads.bias", gradient(bias, &grads));
    }
    Ok(computed)
}
