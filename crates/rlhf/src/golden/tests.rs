//! The golden files beside the project, where there are any, and what the runner says of a bad one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::device::named;

/// Every CPU device that was compiled in.
fn devices() -> Vec<Device> {
    ["flex", "ndarray"].into_iter().filter_map(|name| named(name).ok()).collect()
}

fn device() -> Device {
    devices().remove(0)
}

fn outcome(file: &Value) -> Outcome {
    let mut outcome = Outcome::default();
    run_file(Path::new("x.json"), file, &device(), &mut outcome);
    outcome
}

#[test]
fn the_peers_numbers_are_ours() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    if !folder.is_dir() {
        eprintln!("skipped: no golden files in {}", folder.display());
        return;
    }
    let known = CHECKERS.iter().map(|(name, _)| folder.join(name));
    let paths: Vec<PathBuf> = known.chain([folder.join("manifest.json")]).collect();
    for device in devices() {
        let outcome = run(&paths, &device).expect("readable files");
        assert_eq!(outcome.failures, Vec::<String>::new());
        assert_eq!((outcome.passed, outcome.failed), (950, 0));
    }
}

#[test]
fn a_wrong_number_is_named() {
    // Gaps 1 and −1, mean of two: loss log(1 + e⁻¹) + ½, slopes ∓σ(∓1)/2; the last is cut short.
    let file = json!({
        "meta": {"file": "reward.json"},
        "inputs": {"r": [2.0, 0.0, 1.0, 1.0]},
        "cases": [{
            "name": "reward/normal",
            "dtype": "f64",
            "params": {"rewards": "r", "margin": false, "center_rewards_coefficient": null},
            "outputs": {"loss": 0.8132616875182228},
            "grads": {"rewards": [-0.13447071068499755, -0.3655292893150024, 0.13447071068499755, 0.3655]},
        }],
    });
    let found = outcome(&file);
    assert_eq!((found.passed, found.failed), (0, 1));
    let text = &found.failures[0];
    assert!(
        text.starts_with(
            "x.json case 0 \"reward/normal\" f64: grads.rewards[3]: expected 3.655e-1, found 3.65529"
        ),
        "{text}"
    );
    assert_eq!(found.failures.len(), 1, "{:?}", found.failures);
}

#[test]
fn what_is_unknown_fails() {
    let case = |extra: Value| {
        let mut case = json!({
            "name": "reward/normal",
            "dtype": "f64",
            "params": {"rewards": "r", "margin": false},
            "outputs": {"loss": std::f64::consts::LN_2},
        });
        case.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        json!({"meta": {"file": "reward.json"}, "inputs": {"r": [1.0, 1.0]}, "cases": [case]})
    };
    assert_eq!(outcome(&case(json!({}))).passed, 1);
    let bad = [
        (case(json!({"name": "reward/odd"})), "expected a known case and dtype, found reward/odd f64"),
        (case(json!({"dtype": "f8"})), "expected a known case and dtype, found reward/normal f8"),
        (case(json!({"params": {"rewards": "r", "margin": false, "k": 1}})), "params: expected one of"),
        (case(json!({"outputs": {"other": 1.0}})), "other: expected to be computed"),
        (case(json!({"outputs": {"loss": [1.0, 2.0]}})), "loss: expected 2 numbers, found 1"),
        (case(json!({"outputs": {}})), "outputs: expected a quantity, found none"),
        (json!({"meta": {"file": "new.json"}, "cases": [{}]}), "x.json: expected one of a2po.json"),
        (json!({"meta": {"file": "sft.json"}, "cases": []}), "x.json: cases: expected a list"),
    ];
    for (file, expected) in bad {
        let found = outcome(&file);
        assert_eq!((found.passed, found.failed), (0, 1), "{file}");
        assert!(found.failures[0].contains(expected), "{expected}: {}", found.failures[0]);
    }
}

#[test]
fn a_missing_or_broken_file_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("reward.json");
    assert!(run(std::slice::from_ref(&path), &device()).is_err());
    std::fs::write(&path, "{\n\"meta\": }").expect("written");
    let error = run(std::slice::from_ref(&path), &device()).expect_err("broken").to_string();
    assert!(error.contains("reward.json:2: file: expected JSON"), "{error}");
}
