//! `SFTTrainer`: prompt and completion, plain text, and a window of two micro-batches.

use std::collections::BTreeMap;

use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::Completions;
use rlhf_policy::sft;
use serde_json::{Value, json};

use super::super::compare::Computed;
use super::settings::Settings;
use super::text::{attention, first, ids, labels, place, recorded};
use super::{Micro, Run, Shown, train};

pub(super) fn check(run: &Run<'_>, mut settings: Settings) -> Result<Computed, String> {
    let most = settings.count("max_length")?;
    settings.fixed(&[
        ("truncation_mode", json!("keep_start")),
        ("packing", json!(false)),
        ("padding_free", json!(false)),
        ("assistant_only_loss", json!(false)),
        ("loss_type", json!("nll")),
    ])?;
    settings.ignored(&["packing_strategy"]);
    settings.done()?;
    let rows = run.rows(|row| example(run, row, most))?;
    let pad = run.tokenizer.pad();
    train(run, &settings, run.policy()?, &mut |policy, window| {
        let micro = window.inputs.iter().map(|inputs| batch(&rows, inputs)).collect::<Result<Vec<_>, _>>()?;
        let all: Vec<&Sequence> = micro.concat();
        let (grads, loss) = sft::gradients(policy, &all, settings.micro_batch, pad);
        let n_items = all.iter().map(|s| s.n_targets()).sum::<usize>() as f64;
        let (mut metrics, mut passed) = (BTreeMap::new(), Vec::new());
        for batch in &micro {
            // TRL logs the mean over the micro-batches of what each showed.
            let seen = Completions::new(policy, batch, 1.0, pad);
            let stats = seen.stats(policy);
            let n = (stats.entropy.len() * micro.len()) as f64;
            for (name, values) in [("entropy", &stats.entropy), ("mean_token_accuracy", &stats.top1)] {
                *metrics.entry(name.to_owned()).or_insert(0.0) += values.iter().sum::<f64>() / n;
            }
            *metrics.entry("num_tokens".to_owned()).or_insert(0.0) += seen.n_read as f64;
            let inputs = BTreeMap::from([
                ("input_ids", ids(batch, pad)),
                ("attention_mask", attention(batch)),
                ("labels", labels(batch)),
            ]);
            let loss = -seen.host_logp().concat().iter().sum::<f64>() / n_items;
            passed.push(Micro { n_items, ..Micro::new(loss, inputs) });
        }
        Ok(Shown { grads, loss, metrics, micro: passed })
    })
}

fn example(run: &Run<'_>, row: &Value, most: usize) -> Result<Sequence, String> {
    if row.get("text").is_none() {
        return run.sequence(row, "completion", None, most);
    }
    let mut tokens = run.tokens(row, "text")?;
    tokens.push(run.tokenizer.eos());
    Ok(first(Sequence::new(&[], &tokens), most))
}

fn batch<'a>(rows: &'a [Sequence], inputs: &Value) -> Result<Vec<&'a Sequence>, String> {
    let recorded = recorded(inputs, "input_ids", "attention_mask")?;
    recorded.iter().map(|tokens| Ok(&rows[place(rows, |s| s.tokens == *tokens)?])).collect()
}
