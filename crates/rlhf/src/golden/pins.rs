//! `pins.json`: single numbers from other systems' own tests, each with its formula.

use burn::tensor::Device;
use serde_json::{Map, Value, json};

use super::case::Case;
use super::compare::Computed;

mod host;
mod losses;

/// Pins in the form of golden cases: the identifier is the name, an expected number or list that has
/// no name of its own is `value`. The inputs of every pin can be read under its identifier, since
/// one pin goes on with another's.
pub(super) fn as_cases(pins: &[Value]) -> Value {
    let id = |pin: &Value| pin["id"].as_str().unwrap_or_default().to_owned();
    let inputs: Map<String, Value> = pins.iter().map(|pin| (id(pin), pin["inputs"].clone())).collect();
    let case = |pin: &Value| {
        let expected = &pin["expected"];
        let outputs = if expected.is_object() { expected.clone() } else { json!({"value": expected}) };
        let own = &pin["inputs"];
        json!({"name": id(pin), "dtype": "f64", "params": own, "inputs": own, "outputs": outputs})
    };
    json!({"meta": {"file": "pins.json"}, "inputs": inputs, "cases": pins.iter().map(case).collect::<Vec<_>>()})
}

pub(super) fn check(case: &Case<'_>, _device: &Device) -> Result<Computed, String> {
    let family = case.name().split('.').next().unwrap_or_default();
    match family {
        "pg" => losses::policy_gradient(case),
        "kl" => losses::kl(case),
        "dpo" | "nll" => losses::pairs(case),
        "adv" => host::advantages(case),
        "gae" | "ppo" => host::returns(case),
        "agg" => host::aggregation(case),
        "metric" | "stat" => host::statistics(case),
        "mask" => host::masks(case),
        "reward" => host::rewards(case),
        "pack" | "sampler" | "tensor" => host::batches(case),
        _ => Err(case.unknown()),
    }
}

/// The mean.
fn mean(x: impl IntoIterator<Item = f64>) -> f64 {
    let x: Vec<f64> = x.into_iter().collect();
    x.iter().sum::<f64>() / x.len() as f64
}

/// One quantity that has no name of its own.
fn value(values: Vec<f64>) -> Computed {
    let mut computed = Computed::default();
    computed.many("value", values);
    computed
}

/// A refusal of a number that is out of range.
#[expect(clippy::needless_pass_by_value, reason = "the argument of map_err")]
fn range(error: rlhf_core::error::NumError) -> String {
    format!("params: {error}")
}
