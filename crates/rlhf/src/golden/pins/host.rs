//! Pins of what needs no gradient.

use std::num::NonZeroUsize;

use rlhf_core::host::advantage::{Baseline, GroupAdvantageConfig, GroupScale, Single, group_advantages};
use rlhf_core::host::gae::{GaeConfig, ScoreAt, gae, token_rewards};
use rlhf_core::host::kl::k1;
use rlhf_core::host::overlong::{OverlongConfig, soft_overlong_punishment};
use rlhf_core::host::packing::{Overlong, Piece, best_fit_decreasing, pack, wrapped};
use rlhf_core::host::ragged::{Repeat, flush_left, kept, nan_std, repeated};
use rlhf_core::host::token_mask::{high_entropy, near_policy};
use rlhf_core::host::whiten::{Moments, Spread};
use rlhf_core::mask::{Normalise, normalise_scalar};
use rlhf_core::number::{Positive, Prob, Weight};
use rlhf_core::preset::{nemo, open_instruct, openrlhf, trl, verl};
use rlhf_reward::shape::{Ends, cosine_scaled, repetition_penalty};
use serde_json::Value;

use super::super::case::{Array, Case};
use super::super::compare::Computed;
use super::{mean, range, value};

/// Rows of numbers that need not be of one length.
fn rows(value: &Value, what: &str) -> Result<Vec<Vec<f64>>, String> {
    let rows = value.as_array().ok_or_else(|| format!("inputs.{what}: expected rows, found {value}"))?;
    rows.iter().map(Array::flat).collect()
}

fn slices<T>(rows: &[Vec<T>]) -> Vec<&[T]> {
    rows.iter().map(Vec::as_slice).collect()
}

fn switches(rows: &[Vec<f64>]) -> Vec<Vec<bool>> {
    rows.iter().map(|row| row.iter().map(|x| *x > 0.5).collect()).collect()
}

fn numbers(rows: &[Vec<bool>]) -> Vec<f64> {
    rows.concat().into_iter().map(|on| f64::from(u8::from(on))).collect()
}

pub(super) fn advantages(case: &Case<'_>) -> Result<Computed, String> {
    if case.name().starts_with("adv.loo") {
        let groups = rows(case.raw("groups")?, "groups")?;
        let config =
            |scale| GroupAdvantageConfig { baseline: Baseline::LeaveOneOut, scale, single: Single::Zero };
        let centred = group_advantages(config(GroupScale::None), &groups).advantages;
        let baseline = groups.concat().iter().zip(centred.concat()).map(|(r, a)| r - a).collect();
        let mut computed = Computed::default();
        computed.many("baseline", baseline);
        computed.many("std", group_advantages(nemo::grpo().advantage, &groups).std.concat());
        return Ok(computed);
    }
    let recipe = match case.name() {
        "adv.grpo_trl" => trl::grpo(),
        "adv.grpo_verl" => verl::grpo(),
        "adv.grpo_openrlhf" => openrlhf::grpo(),
        "adv.grpo_open_instruct" => open_instruct::grpo(),
        "adv.grpo_open_instruct_standard" => open_instruct::grpo_standard(),
        "adv.grpo_nemo" => nemo::grpo(),
        "adv.rloo" => openrlhf::rloo(),
        _ => return Err(case.unknown()),
    };
    Ok(value(recipe.advantages(&[&case.input("group")?.values]).concat()))
}

pub(super) fn returns(case: &Case<'_>) -> Result<Computed, String> {
    if case.name() == "ppo.kl_in_reward" {
        let beta = Weight::new(case.number("coef")?).map_err(range)?;
        let (scores, kl) = (case.input("scores")?.values, case.input("kl")?.values);
        // Each sequence has three tokens of one KL.
        let row = |(score, kl): (&f64, &f64)| token_rewards(beta, &[*kl; 3], *score, ScoreAt::LastToken);
        return Ok(value(scores.iter().zip(&kl).flat_map(row).collect()));
    }
    let prob = |name: &str| Prob::new(case.number(name)?).map_err(range);
    let config = GaeConfig { gamma: prob("gamma")?, lambda: prob("lam")? };
    let (rewards, values) = (case.input("rewards")?.values, case.input("values")?.values);
    let mask = match case.raw("mask") {
        Ok(mask) => switches(&[Array::flat(mask)?]).concat(),
        Err(_) => vec![true; rewards.len()],
    };
    let found = gae(config, &[kept(&rewards, &mask)], &[kept(&values, &mask)]);
    let of = if case.name() == "gae.returns" { found.returns } else { found.advantages };
    let mut of = of.concat().into_iter();
    Ok(value(mask.iter().map(|on| if *on { of.next().unwrap_or(f64::NAN) } else { 0.0 }).collect()))
}

pub(super) fn aggregation(case: &Case<'_>) -> Result<Computed, String> {
    let over = |n: usize| Positive::new(n as f64).map(Normalise::SumOver).map_err(range);
    let of = |how, loss: &[Vec<f64>], mask: &[Vec<bool>]| normalise_scalar(how, &slices(loss), &slices(mask));
    let batch = |value: &Value| -> Result<_, String> {
        Ok((rows(&value["loss"], "loss")?, switches(&rows(&value["mask"], "mask")?)))
    };
    let tokens = |mask: &[Vec<bool>]| mask.iter().flatten().filter(|on| **on).count();
    let mut computed = Computed::default();
    match case.name() {
        "agg.four_ways" => {
            let (loss, mask) = batch(case.raw("agg.four_ways")?)?;
            let longest = case.count("max_len")? as usize;
            computed.one("token_mean", of(Normalise::TokenMean, &loss, &mask));
            computed.one("seq_mean_token_mean", of(Normalise::SequenceMean, &loss, &mask));
            computed.one("seq_mean_token_sum", of(over(loss.len())?, &loss, &mask));
            computed.one("token_sum_over_maxlen", of(over(loss.len() * longest)?, &loss, &mask));
        }
        "agg.dp_average" => {
            // The batch of the four ways on several ranks, whose gradients are averaged.
            let (loss, mask) = batch(case.raw("agg.four_ways")?)?;
            let split = case.input("split")?.whole();
            let all = over(tokens(&mask))?;
            let mut start = 0;
            let local = split.iter().map(|n| {
                let rank = start..start + *n as usize;
                start = rank.end;
                of(all, &loss[rank.clone()], &mask[rank]) * split.len() as f64
            });
            return Ok(value(vec![mean(local)]));
        }
        "agg.masked_sequence_not_counted" => {
            let (loss, mask) = batch(case.raw(case.name())?)?;
            return Ok(value(vec![of(Normalise::ActiveSequenceMean, &loss, &mask)]));
        }
        "agg.grad_accum" => {
            let list = |name: &str| case.raw(name)?.as_array().cloned().ok_or_else(|| case.unknown());
            let parts = list("mb")?.iter().map(|mb| rows(mb, "mb")).collect::<Result<Vec<_>, _>>()?;
            let masks = list("mask")?;
            let masks = masks.iter().map(|m| Ok(switches(&rows(m, "mask")?)));
            let masks = masks.collect::<Result<Vec<_>, String>>()?;
            let window = over(masks.iter().map(|m| tokens(m)).sum())?;
            let each = |how| parts.iter().zip(&masks).map(move |(l, m)| of(how, l, m));
            computed.one("global_mean", each(window).sum());
            computed.one("wrong", mean(each(Normalise::TokenMean)));
        }
        _ => return Err(case.unknown()),
    }
    Ok(computed)
}

pub(super) fn statistics(case: &Case<'_>) -> Result<Computed, String> {
    match case.name() {
        "metric.two_kls" => {
            let [logp, old, rollout] = ["logps", "old", "rollout"].map(|name| case.input(name));
            let (logp, old, rollout) = (logp?.values, old?.values, rollout?.values);
            let gap = |a: &[f64], b: &[f64]| mean(a.iter().zip(b).map(|(a, b)| k1(*a, *b)));
            let mut computed = Computed::default();
            computed.one("ppo_kl", gap(&old, &logp));
            computed.one("vllm_kl", gap(&rollout, &old));
            Ok(computed)
        }
        "stat.masked_var" => {
            let mask = switches(&[case.input("mask")?.values]).concat();
            let moments = Moments::of(kept(&case.input("x")?.values, &mask));
            Ok(value(vec![moments.variance(Spread::Unbiased)]))
        }
        "stat.nanstd" => Ok(value(vec![nan_std(&case.input("x")?.values)])),
        // The first row has no deviation; the pin is of the second.
        "stat.nanstd_row" => {
            let found: Vec<f64> = case.input("x")?.rows().iter().map(|row| nan_std(row)).collect();
            Ok(value(found.into_iter().filter(|x| !x.is_nan()).collect()))
        }
        _ => Err(case.unknown()),
    }
}

pub(super) fn masks(case: &Case<'_>) -> Result<Computed, String> {
    if case.name() == "mask.off_policy" {
        let (advantages, kl) = (case.input("advantages")?.values, case.input("kl")?.values);
        let threshold = Weight::new(case.number("threshold")?).map_err(range)?;
        let keep = |(a, kl): (&f64, &f64)| vec![near_policy(*a, &[-kl], &[0.0], threshold)];
        return Ok(value(numbers(&advantages.iter().zip(&kl).map(keep).collect::<Vec<_>>())));
    }
    let entropies = case.input("entropies")?.rows();
    let mask = switches(&case.input("mask")?.rows());
    let quantile = Prob::new(case.number("q")?).map_err(range)?;
    Ok(value(numbers(&high_entropy(&slices(&entropies), &slices(&mask), quantile))))
}

pub(super) fn rewards(case: &Case<'_>) -> Result<Computed, String> {
    if case.name() == "reward.soft_overlong" {
        // The pin's formula holds its numbers: 90 tokens of 100, a cache of 20.
        let config = OverlongConfig::new(100, 20).map_err(range)?;
        return Ok(value(vec![soft_overlong_punishment(config, 90)]));
    }
    if case.name().starts_with("reward.cosine") {
        let ends = if case.switch("correct")? { Ends::CORRECT } else { Ends::WRONG };
        let max = Positive::new(case.number("max_len")?).map_err(range)?;
        return Ok(value(vec![cosine_scaled(case.count("length")? as usize, max, ends)]));
    }
    let tokens: Vec<u32> = case.input("ids")?.whole().iter().map(|id| *id as u32).collect();
    let n = NonZeroUsize::new(case.count("n")? as usize).ok_or_else(|| case.unknown())?;
    let p = Weight::new(-case.number("max_penalty")?).map_err(range)?;
    Ok(value(vec![repetition_penalty(&tokens, n, p)]))
}

pub(super) fn batches(case: &Case<'_>) -> Result<Computed, String> {
    match case.name() {
        "sampler.repeat" => {
            let n = case.count("n")? as usize;
            let in_a_row = case.count("mini_repeat_count")? as usize;
            let how = Repeat { in_a_row, batch: 1, times: 1 };
            let order = repeated(&(0..n).collect::<Vec<_>>(), how);
            Ok(value(order.into_iter().map(|i| i as f64).collect()))
        }
        "tensor.flush_left" => {
            let (t, mask) = (case.input("t")?.rows(), case.input("mask")?.rows());
            let on = switches(&mask);
            let mut computed = Computed::default();
            computed.many("t", flush_left(&slices(&t), &slices(&on), 0.0).concat());
            computed.many("mask", flush_left(&slices(&mask), &slices(&on), 0.0).concat());
            Ok(computed)
        }
        _ => packed(case),
    }
}

fn packed(case: &Case<'_>) -> Result<Computed, String> {
    let sequences = rows(case.raw("seqs")?, "seqs")?;
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let capacity = NonZeroUsize::new(case.count("seq_length")? as usize).ok_or_else(|| case.unknown())?;
    let plan = if case.name() == "pack.wrapped" {
        wrapped(&lengths, capacity)
    } else {
        let overlong = if case.switch("split")? { Overlong::Split } else { Overlong::Truncate };
        best_fit_decreasing(&lengths, capacity, overlong)
    };
    let mut computed = Computed::default();
    computed.many("input_ids", pack(&sequences, &plan).concat());
    computed.many("seq_lengths", plan.iter().flatten().map(|p: &Piece| p.n_tokens() as f64).collect());
    Ok(computed)
}
