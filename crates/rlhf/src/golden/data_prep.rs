//! `data_prep.json`: packing, collators, prompts that answers share, tokenising pairs, completions cut
//! at their end. Whole numbers and texts, compared as they are.

use std::num::NonZeroUsize;

use burn::tensor::Device;
use rlhf_core::host::collate::{
    Keep, Layout, PackedRow, PairTokens, PromptCompletion, Rows, completions, flat, pairs, rows, whole,
};
use rlhf_core::host::packing::{Overlong, Piece, best_fit_decreasing, pack, wrapped};
use rlhf_core::host::preference::{Preference, common_prefix, shared_prompt, shared_prompt_text, unpair};
use rlhf_core::host::ragged::truncate_right;
use rlhf_policy::chat::{ChatTemplate, Message, RenderOptions, messages};
use rlhf_policy::prepare::{Pair, pair_of_chat, pair_of_text};
use rlhf_policy::tokenizer::{Spelling, Tokenizer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::case::Case;
use super::compare::Computed;

pub(super) fn check(case: &Case<'_>, _: &Device) -> Result<Computed, String> {
    match (case.name(), case.dtype()) {
        ("pack/bfd" | "pack/bfd_split" | "pack/wrapped", "") => packed(case),
        ("collate/dpo", "") => collated_pairs(case),
        ("collate/reward", "") => collated_rewards(case),
        ("collate/sft", "") => collated_rows(case),
        ("collate/sft_padding_free", "") => collated_line(case),
        ("collate/kto", "") => collated_ratings(case),
        ("extract_prompt", "") => extracted(case),
        ("common_prefix_length", "") => prefix(case),
        ("unpair_preference", "") => unpaired(case),
        ("dpo_prepare", "") => prepared(case),
        ("grpo_eos_trim", "") => trimmed(case),
        _ => Err(case.unknown()),
    }
}

/// A parameter of a known form.
fn read<T: DeserializeOwned>(case: &Case<'_>, name: &str) -> Result<T, String> {
    let value = case.param(name).cloned().unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(|e| format!("params.{name}: {e}"))
}

/// A field of each example.
fn column<T: DeserializeOwned>(case: &Case<'_>, name: &str) -> Result<Vec<T>, String> {
    let one = |(i, example): (usize, &Value)| {
        let value = example.get(name).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|e| format!("params.examples[{i}].{name}: {e}"))
    };
    read::<Vec<Value>>(case, "examples")?.iter().enumerate().map(one).collect()
}

/// Refuses a field of the examples that the checker does not know.
fn examples_have_only(case: &Case<'_>, names: &[&str]) -> Result<(), String> {
    let examples: Vec<serde_json::Map<String, Value>> = read(case, "examples")?;
    match examples.iter().flat_map(|e| e.keys()).find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(format!("params.examples: expected {}, found {key}", names.join(", "))),
        None => Ok(()),
    }
}

fn of(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Computed {
    let mut computed = Computed::default();
    fields.into_iter().for_each(|(name, value)| computed.exact(name, value));
    computed
}

/// A mask as 0 and 1.
fn bits(mask: &[Vec<bool>]) -> Value {
    json!(mask.iter().map(|row| row.iter().map(|on| u8::from(*on)).collect::<Vec<_>>()).collect::<Vec<_>>())
}

/// Tokens that are learnt, and −100 for the others.
fn labels(tokens: &[u32], learnt: &[bool]) -> Vec<i64> {
    tokens.iter().zip(learnt).map(|(token, on)| if *on { i64::from(*token) } else { -100 }).collect()
}

fn packed(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["seq_length", "input_ids", "labels"])?;
    if case.text("labels")? != "input id, or -100 where id % 3 == 0" {
        return Err("params.labels: expected the known rule, found another".to_owned());
    }
    let ids: Vec<Vec<i64>> = read(case, "input_ids")?;
    let labels: Vec<Vec<i64>> =
        ids.iter().map(|row| row.iter().map(|id| if id % 3 == 0 { -100 } else { *id }).collect()).collect();
    let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
    let capacity = read::<NonZeroUsize>(case, "seq_length")?;
    let plan = match case.name() {
        "pack/bfd" => best_fit_decreasing(&lengths, capacity, Overlong::Truncate),
        "pack/bfd_split" => best_fit_decreasing(&lengths, capacity, Overlong::Split),
        _ => wrapped(&lengths, capacity),
    };
    let pieces = |row: &Vec<Piece>| row.iter().map(Piece::n_tokens).collect::<Vec<_>>();
    let lengths: Vec<Vec<usize>> = plan.iter().map(pieces).collect();
    Ok(of([
        ("input_ids", json!(pack(&ids, &plan))),
        ("labels", json!(pack(&labels, &plan))),
        ("seq_lengths", json!(lengths)),
    ]))
}

fn layout(case: &Case<'_>) -> Result<Layout, String> {
    let keep =
        if case.param("truncation_mode").is_some() { case.text("truncation_mode")? } else { "keep_start" };
    Ok(Layout {
        pad: read(case, "pad_token_id")?,
        max_length: read(case, "max_length")?,
        keep: match keep {
            "keep_start" => Keep::Start,
            "keep_end" => Keep::End,
            other => {
                return Err(format!(
                    "params.truncation_mode: expected keep_start or keep_end, found {other}"
                ));
            }
        },
        multiple_of: read::<Option<NonZeroUsize>>(case, "pad_to_multiple_of")?.unwrap_or(NonZeroUsize::MIN),
    })
}

/// Names as TRL's collators give them.
fn fields(rows: &Rows) -> [(&'static str, Value); 3] {
    [
        ("input_ids", json!(rows.tokens)),
        ("attention_mask", bits(&rows.attention)),
        ("completion_mask", bits(&rows.learnt)),
    ]
}

fn prompts_with(case: &Case<'_>, name: &str) -> Result<Vec<PromptCompletion>, String> {
    let (prompts, completions) = (column(case, "prompt_ids")?, column(case, name)?);
    let both = prompts.into_iter().zip(completions);
    Ok(both.map(|(prompt, completion)| PromptCompletion { prompt, completion }).collect())
}

fn collated_pairs(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["examples", "pad_token_id", "max_length", "truncation_mode", "pad_to_multiple_of"])?;
    examples_have_only(case, &["prompt_ids", "chosen_ids", "rejected_ids"])?;
    let rejected: Vec<Vec<u32>> = column(case, "rejected_ids")?;
    let batch = prompts_with(case, "chosen_ids")?.into_iter().zip(rejected);
    let batch: Vec<PairTokens> = batch
        .map(|(one, rejected)| PairTokens { prompt: one.prompt, chosen: one.completion, rejected })
        .collect();
    Ok(of(fields(&pairs(&batch, layout(case)?))))
}

fn collated_rewards(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["examples", "pad_token_id"])?;
    examples_have_only(case, &["chosen_ids", "rejected_ids", "margin"])?;
    let chosen: Vec<Vec<u32>> = column(case, "chosen_ids")?;
    let rejected: Vec<Vec<u32>> = column(case, "rejected_ids")?;
    let all: Vec<&[u32]> = chosen.iter().chain(&rejected).map(Vec::as_slice).collect();
    let mut computed = of(fields(&whole(&all, layout(case)?)));
    computed.many("margin", column(case, "margin")?);
    Ok(computed)
}

/// Labels that are not −100 must be the row's tokens, as everywhere in TRL.
fn learnt(tokens: &[Vec<u32>], labels: &[Vec<i64>]) -> Result<Vec<Vec<bool>>, String> {
    let mask: Vec<Vec<bool>> = labels.iter().map(|row| row.iter().map(|y| *y != -100).collect()).collect();
    let again = tokens.iter().zip(&mask).map(|(row, mask)| self::labels(row, mask));
    if again.eq(labels.iter().cloned()) {
        Ok(mask)
    } else {
        Err("params.examples: labels are other tokens".into())
    }
}

fn collated_rows(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["examples", "pad_token_id"])?;
    examples_have_only(case, &["input_ids", "labels", "seq_lengths"])?;
    let tokens: Vec<Vec<u32>> = column(case, "input_ids")?;
    let mask = learnt(&tokens, &column(case, "labels")?)?;
    let batch = rows(tokens, mask, layout(case)?);
    let labels: Vec<Vec<i64>> = batch.tokens.iter().zip(&batch.learnt).map(|(t, m)| labels(t, m)).collect();
    let mut computed = of(fields(&batch));
    computed.exact("labels", json!(labels));
    Ok(computed)
}

fn collated_line(case: &Case<'_>) -> Result<Computed, String> {
    // In one line nothing is padded: the padding token has no part in it.
    case.knows_only(&["examples", "pad_token_id"])?;
    examples_have_only(case, &["input_ids", "labels", "seq_lengths"])?;
    let tokens: Vec<Vec<u32>> = column(case, "input_ids")?;
    let mask = learnt(&tokens, &column(case, "labels")?)?;
    let lengths: Vec<Vec<usize>> = column(case, "seq_lengths")?;
    let batch: Vec<PackedRow> = tokens
        .into_iter()
        .zip(mask)
        .zip(lengths)
        .map(|((tokens, learnt), lengths)| PackedRow { tokens, learnt, lengths })
        .collect();
    let line = flat(&batch);
    Ok(of([
        ("input_ids", json!([line.tokens])),
        ("labels", json!([labels(&line.tokens, &line.learnt)])),
        ("position_ids", json!([line.positions])),
        ("cu_seq_lens_q", json!(line.boundaries)),
        ("cu_seq_lens_k", json!(line.boundaries)),
        ("max_length_q", json!(line.longest)),
        ("max_length_k", json!(line.longest)),
        ("seq_idx", json!([line.text])),
    ]))
}

fn collated_ratings(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["examples", "pad_token_id"])?;
    examples_have_only(case, &["prompt_ids", "completion_ids", "KL_completion_ids", "label"])?;
    let mut computed = of(fields(&completions(&prompts_with(case, "completion_ids")?, layout(case)?)));
    let other = completions(&prompts_with(case, "KL_completion_ids")?, layout(case)?);
    for (name, value) in fields(&other) {
        computed.exact(&format!("KL_{name}"), value);
    }
    computed.exact("label", json!(column::<bool>(case, "label")?));
    Ok(computed)
}

/// A conversation's messages under `name.0.role` and so on, as the expected ones are named.
fn put_messages(computed: &mut Computed, name: &str, list: &[Message], raw: &[Value]) {
    for (i, (message, raw)) in list.iter().zip(raw).enumerate() {
        computed.exact(&format!("{name}.{i}.role"), json!(message.role));
        computed.exact(&format!("{name}.{i}.content"), raw["content"].clone());
    }
}

fn extracted(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["chosen", "rejected"])?;
    let [chosen, rejected] = ["chosen", "rejected"].map(|name| case.param(name));
    if let (Some(Value::String(chosen)), Some(Value::String(rejected))) = (chosen, rejected) {
        let parts = shared_prompt_text(chosen, rejected);
        let (prompt, chosen, rejected) = (parts.prompt, parts.chosen, parts.rejected);
        return Ok(of([("prompt", json!(prompt)), ("chosen", json!(chosen)), ("rejected", json!(rejected))]));
    }
    let [a, b] = [conversation(case, "chosen")?, conversation(case, "rejected")?];
    let [raw_a, raw_b]: [Vec<Value>; 2] = [read(case, "chosen")?, read(case, "rejected")?];
    let parts = shared_prompt(&a, &b);
    let n = parts.prompt.len();
    let mut computed = Computed::default();
    put_messages(&mut computed, "prompt", parts.prompt, &raw_a);
    put_messages(&mut computed, "chosen", parts.chosen, &raw_a[n..]);
    put_messages(&mut computed, "rejected", parts.rejected, &raw_b[n..]);
    Ok(computed)
}

fn conversation(case: &Case<'_>, name: &str) -> Result<Vec<Message>, String> {
    messages(case.param(name).unwrap_or(&Value::Null)).map_err(|e| format!("params.{name}: {e}"))
}

fn prefix(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["a", "b"])?;
    let (a, b): (Vec<u32>, Vec<u32>) = (read(case, "a")?, read(case, "b")?);
    Ok(of([("n", json!(common_prefix(&a, &b)))]))
}

/// The case does not say what it was given: two prompts, each with a chosen and a rejected answer.
fn unpaired(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&[])?;
    let pair =
        |i: u8| Preference { prompt: format!("p{i}"), chosen: format!("c{i}"), rejected: format!("r{i}") };
    let rated = unpair(&[pair(0), pair(1)]);
    let completions: Vec<&str> = rated.iter().map(|r| r.completion.as_str()).collect();
    Ok(of([
        ("prompt", json!(rated.iter().map(|r| r.prompt.as_str()).collect::<Vec<_>>())),
        ("completion", json!(completions)),
        ("label", json!(rated.iter().map(|r| r.desirable).collect::<Vec<_>>())),
    ]))
}

fn prepared(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["prompt", "chosen", "rejected"])?;
    let folder = case.folder().join("models/tokenizer");
    let tokenizer = Tokenizer::load(&folder).map_err(|e| e.to_string())?;
    let pair = if case.param("chosen").is_some_and(Value::is_array) {
        let template = ChatTemplate::load(&folder).map_err(|e| e.to_string())?;
        let [prompt, chosen, rejected] =
            ["prompt", "chosen", "rejected"].map(|name| conversation(case, name));
        let (prompt, chosen, rejected) = (prompt?, chosen?, rejected?);
        let pair = Pair { prompt: prompt.as_slice(), chosen: &chosen, rejected: &rejected };
        pair_of_chat(&template, &tokenizer, pair, &RenderOptions::conversation())
            .map_err(|e| e.to_string())?
    } else {
        let (chosen, rejected) = (case.text("chosen")?, case.text("rejected")?);
        let pair = match case.param("prompt") {
            Some(_) => Pair { prompt: case.text("prompt")?, chosen, rejected },
            None => {
                let parts = shared_prompt_text(chosen, rejected);
                Pair { prompt: parts.prompt, chosen: parts.chosen, rejected: parts.rejected }
            }
        };
        pair_of_text(&tokenizer, pair, Spelling::Text)
    };
    Ok(of([
        ("prompt_ids", json!(pair.prompt)),
        ("chosen_ids", json!(pair.chosen)),
        ("rejected_ids", json!(pair.rejected)),
    ]))
}

fn trimmed(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["completion_ids", "eos_token_ids"])?;
    let rows: Vec<Vec<u32>> = read(case, "completion_ids")?;
    let stop: Vec<u32> = read(case, "eos_token_ids")?;
    let cut: Vec<&[u32]> = rows.iter().map(|row| truncate_right(row, &stop)).collect();
    // It was cut by the length where it does not end with a stop token.
    let truncated: Vec<bool> = cut.iter().map(|row| row.last().is_none_or(|t| !stop.contains(t))).collect();
    Ok(of([("completions", json!(cut)), ("is_truncated", json!(truncated))]))
}
