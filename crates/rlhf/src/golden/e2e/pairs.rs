//! `DPOTrainer`, one loss or several, and `ORPOTrainer`.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use rlhf_core::loss::dpo::{DpoConfig, dpo as dpo_loss};
use rlhf_core::loss::ipo::{IpoConfig, ipo_per_token};
use rlhf_core::loss::orpo::{OrpoConfig, orpo as orpo_loss};
use rlhf_core::number::Beta;
use rlhf_core::pair::PairLoss;
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::Reference;
use rlhf_policy::preference::{Pair, PairBatch, gradients};
use rlhf_policy::sft;
use serde_json::json;

use super::super::case::Array;
use super::super::compare::Computed;
use super::super::rows::host;
use super::settings::Settings;
use super::text::{attention, ids, labels, place, recorded, scored};
use super::{Micro, Run, Shown, fields, train};

/// Left out: `rewards/accuracies` until the first step that changes a weight. While the policy is the
/// reference, all rewards are 0 but for rounding, and the order of a pair's says nothing.
pub(super) fn dpo(run: &Run<'_>, mut settings: Settings) -> Result<Computed, String> {
    let most = settings.count("max_length")?;
    let beta = settings.checked("beta", Beta::new)?;
    let losses = losses(&mut settings)?;
    settings.fixed(&[
        ("truncation_mode", json!("keep_start")),
        ("padding_free", json!(false)),
        ("precompute_ref_log_probs", json!(false)),
        ("f_divergence_type", json!("reverse_kl")),
        ("label_smoothing", json!(0.0)),
        ("use_weighting", json!(false)),
        ("sync_ref_model", json!(false)),
    ])?;
    settings.ignored(&[
        "disable_dropout",
        "f_alpha_divergence_coef",
        "discopop_tau",
        "ref_model_mixup_alpha",
        "ref_model_sync_steps",
    ]);
    settings.done()?;
    let (pairs, reference) = (pairs(run, None, most)?, run.reference()?);
    let pad = run.tokenizer.pad();
    let mut computed = train(run, &settings, run.policy()?, &mut |policy, window| {
        let inputs = window.inputs[0];
        let mut tokens = recorded(inputs, "input_ids", "attention_mask")?;
        let rejected = tokens.split_off(tokens.len() / 2);
        let batch = drawn(&pairs, &tokens, &rejected)?;
        let reference = Reference::Model(&reference);
        let (grads, record) = gradients(policy, &reference, &batch, &run.cut(&settings), &mut |pairs| {
            weighted(pairs, beta, &losses)
        });
        let rows: Vec<&Sequence> =
            batch.iter().map(|p| &p.chosen).chain(batch.iter().map(|p| &p.rejected)).collect();
        let inputs = BTreeMap::from([
            ("input_ids", ids(&rows, pad)),
            ("attention_mask", attention(&rows)),
            ("completion_mask", scored(&rows)),
        ]);
        let micro = vec![Micro::new(record.loss, inputs)];
        Ok(Shown { grads, loss: record.loss, metrics: fields(&record), micro })
    })?;
    let is_reference = |step: &usize| (0..*step).all(|before| settings.rate(before) <= 0.0);
    for step in (0..settings.n_steps as usize).take_while(is_reference) {
        computed.leave_out(&format!("logs.{step}.rewards/accuracies"));
    }
    Ok(computed)
}

/// Names of losses with their weights; one alone weighs 1.
fn losses(settings: &mut Settings) -> Result<Vec<(String, f64)>, String> {
    let names = settings.take("loss_type")?;
    let names: Vec<String> = serde_json::from_value(names).map_err(|e| format!("loss_type: {e}"))?;
    let weights = match settings.has("loss_weights") {
        true => Array::read(&settings.take("loss_weights")?)?.values,
        false => vec![1.0; names.len()],
    };
    match names.iter().find(|name| !["sigmoid", "ipo", "sft"].contains(&name.as_str())) {
        Some(name) => Err(format!("loss_type: expected sigmoid, ipo or sft, found {name}")),
        None => Ok(names.into_iter().zip(weights).collect()),
    }
}

/// TRL's losses by its names, summed; the rewards are those of the log-ratios, whatever the loss.
fn weighted(pairs: &PairBatch, beta: Beta, losses: &[(String, f64)]) -> PairLoss {
    let of = |name: &str| -> PairLoss {
        let (policy, reference) = (pairs.policy.clone(), pairs.reference.clone());
        match name {
            "sigmoid" => dpo_loss(DpoConfig::new(beta), policy, reference),
            _ => ipo_per_token(IpoConfig::new(beta), policy, reference, pairs.lengths.clone()),
        }
    };
    let mut sum = of(&losses[0].0);
    sum.loss = sum.loss.mul_scalar(losses[0].1);
    for (name, weight) in &losses[1..] {
        let more: Tensor<1> = if name == "sft" { pairs.chosen_nll() } else { of(name).loss };
        sum.loss = sum.loss + more.mul_scalar(*weight);
    }
    sum
}

fn pairs(run: &Run<'_>, start: Option<u32>, most: usize) -> Result<Vec<Pair>, String> {
    run.rows(|row| {
        Ok(Pair {
            chosen: run.sequence(row, "chosen", start, most)?,
            rejected: run.sequence(row, "rejected", start, most)?,
        })
    })
}

/// Our pairs that the file's micro-batch holds.
fn drawn<'a>(ours: &'a [Pair], chosen: &[Vec<u32>], rejected: &[Vec<u32>]) -> Result<Vec<&'a Pair>, String> {
    let of = |(chosen, rejected): (&Vec<u32>, &Vec<u32>)| {
        let is = |p: &Pair| p.chosen.tokens == *chosen && p.rejected.tokens == *rejected;
        Ok(&ours[place(ours, is)?])
    };
    chosen.iter().zip(rejected).map(of).collect()
}

/// The likelihood term is that of the chosen sequences, prompts included. Left out: `logits/…`, the
/// mean over all positions, padding's among them, which no loss reads and which depends on what a
/// padded position attends to; and `prompt_…`, which the trainer passes on to nothing.
pub(super) fn orpo(run: &Run<'_>, mut settings: Settings) -> Result<Computed, String> {
    let most = settings.count("max_length")?;
    let config = OrpoConfig { beta: settings.checked("beta", Beta::new)? };
    settings.ignored(&["disable_dropout", "generate_during_eval"]);
    settings.done()?;
    let pairs = pairs(run, run.tokenizer.bos(), most)?;
    let pad = run.tokenizer.pad();
    let mut computed = train(run, &settings, run.policy()?, &mut |policy, window| {
        let side = |name: &str| {
            recorded(window.inputs[0], &format!("{name}_input_ids"), &format!("{name}_attention_mask"))
        };
        let batch = drawn(&pairs, &side("chosen")?, &side("rejected")?)?;
        let (mut odds, mut ratios) = (Vec::new(), Vec::new());
        let (of_odds, record) =
            gradients(policy, &Reference::Free, &batch, &run.cut(&settings), &mut |pairs| {
                let out = orpo_loss(config, pairs.policy.clone(), pairs.lengths.clone());
                odds.extend(host(out.log_odds));
                ratios.extend(host(out.ratio));
                let (chosen_reward, rejected_reward) = (out.chosen_reward, out.rejected_reward);
                PairLoss { loss: out.loss, chosen_reward, rejected_reward }
            });
        let whole: Vec<Sequence> = batch.iter().map(|p| Sequence::new(&[], &p.chosen.tokens)).collect();
        let whole: Vec<&Sequence> = whole.iter().collect();
        let (of_likelihood, nll) = sft::gradients(policy, &whole, settings.micro_batch, pad);
        let mut metrics = fields(&record);
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        metrics.extend([
            ("nll_loss".to_owned(), nll),
            ("log_odds_chosen".to_owned(), mean(&odds)),
            ("log_odds_ratio".to_owned(), mean(&ratios)),
            // The trainer's are per token, as its rewards.
            ("logps/chosen".to_owned(), record.chosen_reward / config.beta.get()),
            ("logps/rejected".to_owned(), record.rejected_reward / config.beta.get()),
        ]);
        let loss = record.loss + nll;
        let micro = vec![Micro::new(loss, orpo_inputs(&batch, pad))];
        Ok(Shown { grads: of_odds.plus(of_likelihood), loss, metrics, micro })
    })?;
    for i in 0..settings.n_steps {
        for side in ["chosen", "rejected"] {
            computed.leave_out(&format!("logs.{i}.logits/{side}"));
        }
        for name in ["prompt_input_ids", "prompt_attention_mask"] {
            computed.leave_out(&format!("micro_batches.{i}.inputs.{name}"));
        }
    }
    Ok(computed)
}

fn orpo_inputs(batch: &[&Pair], pad: u32) -> BTreeMap<&'static str, Vec<f64>> {
    let chosen: Vec<&Sequence> = batch.iter().map(|p| &p.chosen).collect();
    let rejected: Vec<&Sequence> = batch.iter().map(|p| &p.rejected).collect();
    BTreeMap::from([
        ("chosen_input_ids", ids(&chosen, pad)),
        ("chosen_attention_mask", attention(&chosen)),
        ("chosen_labels", labels(&chosen)),
        ("rejected_input_ids", ids(&rejected, pad)),
        ("rejected_attention_mask", attention(&rejected)),
        ("rejected_labels", labels(&rejected)),
    ])
}
