//! `tensor_utils.json`: padding, cutting and repeating rows, statistics that skip NaN, log(1 − eˣ).
//! Cases without a dtype hold whole numbers.

use burn::tensor::{Device, Tensor};
use rlhf_core::host::ragged::{
    Repeat, Side, first_true, flush_left, log1mexp, nan_max, nan_min, nan_std, pad, repeated, split,
    truncate_right,
};
use rlhf_core::real::gradient;
use serde_json::Value;

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows;

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    match (case.name(), case.dtype()) {
        ("pad", "") => padded(case),
        ("flush_left", "") => flushed(case),
        ("truncate_right", "") => truncated(case),
        ("first_true_indices", "") => first_trues(case),
        ("nanstats", "f64") => nan_stats(case),
        ("log1mexp", "f64") => log1mexp_twin(case),
        ("log1mexp", "f32") => log1mexp_tensor(case, device),
        ("split_tensor_dict", "") => parts(case),
        ("RepeatSampler", "") => order(case),
        _ => Err(case.unknown()),
    }
}

fn value<'a>(case: &Case<'a>, name: &str) -> Result<&'a Value, String> {
    case.param(name).ok_or_else(|| format!("params.{name}: expected a value, found nothing"))
}

/// The rows of a parameter, each of its own length.
fn rows_of(case: &Case<'_>, name: &str) -> Result<Vec<Vec<f64>>, String> {
    let row = |row: &Value| Array::flat(row).map_err(|e| format!("params.{name}: {e}"));
    value(case, name)?.as_array().into_iter().flatten().map(row).collect()
}

fn one_row(case: &Case<'_>, name: &str) -> Result<Vec<f64>, String> {
    Array::flat(value(case, name)?).map_err(|e| format!("params.{name}: {e}"))
}

fn one(name: &str, values: impl IntoIterator<Item = f64>) -> Computed {
    let mut computed = Computed::default();
    computed.many(name, values.into_iter().collect());
    computed
}

fn slices<T>(rows: &[Vec<T>]) -> Vec<&[T]> {
    rows.iter().map(Vec::as_slice).collect()
}

fn bools(row: &[f64]) -> Vec<bool> {
    row.iter().map(|x| *x > 0.5).collect()
}

fn padded(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["padding_side", "pad_to_multiple_of", "padding_value", "seqs"])?;
    let side = match case.text("padding_side")? {
        "left" => Side::Left,
        "right" => Side::Right,
        other => return Err(format!("params.padding_side: expected left or right, found {other}")),
    };
    let multiple =
        if case.param("pad_to_multiple_of").is_some() { case.count("pad_to_multiple_of")? } else { 1 };
    let rows = rows_of(case, "seqs")?;
    let out = pad(&slices(&rows), case.number("padding_value")?, side, multiple as usize);
    Ok(one("out", out.concat()))
}

fn flushed(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["mask", "tensor"])?;
    let (mask, rows) = (rows_of(case, "mask")?, rows_of(case, "tensor")?);
    let on: Vec<Vec<bool>> = mask.iter().map(|row| bools(row)).collect();
    let mut computed = one("mask", flush_left(&slices(&mask), &slices(&on), 0.0).concat());
    computed.many("tensor", flush_left(&slices(&rows), &slices(&on), 0.0).concat());
    Ok(computed)
}

fn truncated(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["input_ids", "stop_token_ids", "pad_token_id"])?;
    let tokens = |row: Vec<f64>| row.into_iter().map(|x| x as u32).collect::<Vec<u32>>();
    let stop = tokens(one_row(case, "stop_token_ids")?);
    let fill = case.count("pad_token_id")? as u32;
    let rows: Vec<Vec<u32>> = rows_of(case, "input_ids")?.into_iter().map(tokens).collect();
    // TRL keeps the width of the rows that it was given.
    let width = rows.iter().map(Vec::len).max().unwrap_or(1);
    let cut: Vec<&[u32]> = rows.iter().map(|row| truncate_right(row, &stop)).collect();
    let ones: Vec<Vec<u32>> = cut.iter().map(|row| vec![1; row.len()]).collect();
    let flat =
        |rows: &[&[u32]], fill| pad(rows, fill, Side::Right, width).concat().into_iter().map(f64::from);
    let mut computed = one("output_ids", flat(&cut, fill));
    computed.many("mask", flat(&slices(&ones), 0).collect());
    Ok(computed)
}

fn first_trues(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["bools"])?;
    let rows = rows_of(case, "bools")?;
    Ok(one("idx", rows.iter().map(|row| first_true(&bools(row)) as f64)))
}

fn nan_stats(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["x", "note"])?;
    let rows = rows_of(case, "x")?;
    let all = rows.concat();
    let stds: Vec<f64> = rows.iter().chain([&all]).map(|row| nan_std(row)).collect();
    let mut computed = one("nanstd_dim1", stds[..rows.len()].iter().copied());
    computed.one("nanstd_all", stds[rows.len()]);
    // TRL divides two counts, n / (n − 1), in f32 whatever the numbers are: half a unit in the last
    // place of the variance, a quarter of the standard deviation's.
    let slack: Vec<f64> = stds.iter().map(|std| std * f64::from(f32::EPSILON) / 4.0).collect();
    computed.allow("nanstd_dim1", &slack[..rows.len()]);
    computed.allow("nanstd_all", &slack[rows.len()..]);
    computed.one("nanmin", nan_min(&all));
    computed.one("nanmax", nan_max(&all));
    Ok(computed)
}

fn log1mexp_twin(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["x"])?;
    let x = one_row(case, "x")?;
    let mut computed = one("y", x.iter().map(|x| log1mexp(*x)));
    computed.many("grads.x", x.iter().map(|x| gradient(&[*x], |x| log1mexp(x[0])).1[0]).collect());
    Ok(computed)
}

/// As TRL computes it: both branches, of which one is picked. Where eˣ rounds to 1 the other one's
/// slope is 1 / 0, and its 0 · ∞ gives TRL's gradient NaN. Ours is finite (the case in `f64`).
fn log1mexp_tensor(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["x"])?;
    let x: Tensor<1> = rows::vector(&one_row(case, "x")?, &device.clone().autodiff()).require_grad();
    let far = x.clone().exp().neg().log1p();
    let near = rlhf_core::elementwise::exp_m1(x.clone()).neg().log();
    let y = near.mask_where(x.clone().lower_elem(-std::f64::consts::LN_2), far);
    let grads = y.clone().sum().backward();
    let mut computed = one("y", rows::host(y));
    computed.many("grads.x", rows::gradient(&x, &grads));
    Ok(computed)
}

fn parts(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["x", "n"])?;
    let rows = rows_of(case, "x")?;
    let parts = split(&rows, case.count("n")? as usize);
    Ok(one("parts", parts.concat().concat()))
}

fn order(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["data_source", "shuffle", "mini_repeat_count", "batch_size", "repeat_count"])?;
    if case.switch("shuffle")? {
        return Err("params.shuffle: expected false, found true: torch's generator is not ours".to_owned());
    }
    let count = |name: &str| case.count(name).map(|n| n as usize);
    let how = Repeat {
        in_a_row: count("mini_repeat_count")?,
        batch: count("batch_size")?,
        times: count("repeat_count")?,
    };
    let indices: Vec<usize> = (0..one_row(case, "data_source")?.len()).collect();
    Ok(one("indices", repeated(&indices, how).into_iter().map(|i| i as f64)))
}
