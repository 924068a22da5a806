//! `KTOTrainer`: each prompt's mismatched completion is that of the row before it in its micro-batch.

use std::collections::BTreeMap;

use burn::module::Module;
use rlhf_core::loss::kto::{KtoConfig, Label, kto};
use rlhf_core::number::{Beta, Weight};
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::Reference;
use rlhf_policy::kto::{Rated, baseline, gradients};
use serde_json::{Value, json};

use super::super::compare::Computed;
use super::settings::Settings;
use super::text::{attention, first, ids, place, recorded, scored};
use super::{Micro, Run, Shown, fields, train};

/// A row of the data, its completion apart for the mismatched pairs.
struct Row {
    prompt: Vec<u32>,
    completion: Vec<u32>,
    rated: Rated,
}

pub(super) fn check(run: &Run<'_>, mut settings: Settings) -> Result<Computed, String> {
    let most = settings.count("max_length")?;
    let config = KtoConfig {
        beta: settings.checked("beta", Beta::new)?,
        desirable_weight: settings.checked("desirable_weight", Weight::new)?,
        undesirable_weight: settings.checked("undesirable_weight", Weight::new)?,
    };
    settings.fixed(&[
        ("loss_type", json!("kto")),
        ("precompute_ref_log_probs", json!(false)),
        ("sync_ref_model", json!(false)),
    ])?;
    settings.ignored(&["disable_dropout", "ref_model_mixup_alpha", "ref_model_sync_steps"]);
    settings.done()?;
    let rows = run.rows(|row| read(run, row, most))?;
    let (reference, cut) = (run.reference()?, run.cut(&settings));
    train(run, &settings, run.policy()?, &mut |policy, window| {
        let recorded = recorded(window.inputs[0], "input_ids", "attention_mask")?;
        let drawn = recorded.iter().map(|tokens| {
            let is = |row: &Row| row.rated.sequence.tokens == *tokens;
            Ok(&rows[place(&rows, is)?])
        });
        let drawn = drawn.collect::<Result<Vec<&Row>, String>>()?;
        let n = drawn.len();
        let mismatched: Vec<Sequence> = (0..n)
            .map(|i| first(Sequence::new(&drawn[i].prompt, &drawn[(i + n - 1) % n].completion), most))
            .collect();
        let mismatched: Vec<&Sequence> = mismatched.iter().collect();
        let z = baseline(&policy.valid(), &reference, &mismatched, &cut);
        let batch: Vec<&Rated> = drawn.iter().map(|row| &row.rated).collect();
        let (grads, record) = gradients(policy, &Reference::Model(&reference), &batch, &cut, &mut |b| {
            kto(config, b.policy.clone(), b.reference.clone(), &b.desirable, z)
        });
        let mut metrics = fields(&record);
        metrics.insert("kl".to_owned(), z);
        let micro = vec![Micro::new(record.loss, inputs(&batch, &mismatched, cut.pad))];
        Ok(Shown { grads, loss: record.loss, metrics, micro })
    })
}

fn read(run: &Run<'_>, row: &Value, most: usize) -> Result<Row, String> {
    let label = match row["label"].as_bool().ok_or("inputs.data: label: expected true or false")? {
        true => Label::Desirable,
        false => Label::Undesirable,
    };
    let mut completion = run.tokens(row, "completion")?;
    completion.push(run.tokenizer.eos());
    let sequence = run.sequence(row, "completion", None, most)?;
    Ok(Row { prompt: run.tokens(row, "prompt")?, completion, rated: Rated { sequence, label } })
}

fn inputs(batch: &[&Rated], mismatched: &[&Sequence], pad: u32) -> BTreeMap<&'static str, Vec<f64>> {
    let rows: Vec<&Sequence> = batch.iter().map(|r| &r.sequence).collect();
    let label = |r: &&Rated| f64::from(u8::from(r.label == Label::Desirable));
    BTreeMap::from([
        ("input_ids", ids(&rows, pad)),
        ("attention_mask", attention(&rows)),
        ("completion_mask", scored(&rows)),
        ("KL_input_ids", ids(mismatched, pad)),
        ("KL_attention_mask", attention(mismatched)),
        ("KL_completion_mask", scored(mismatched)),
        ("label", batch.iter().map(label).collect()),
    ])
}
