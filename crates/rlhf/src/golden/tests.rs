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
        let outcome = run(&paths, &device);
        assert_eq!(outcome.failures, Vec::<String>::new());
        assert_eq!((outcome.passed, outcome.failed), (943, 0));
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

/// Three cases in which nothing differs, so that the loss is 0; the middle one has these rewards.
fn three(rewards: &[f64], dtype: &str) -> Value {
    let case = |own: Value| {
        let expected = json!({"loss": 0.0});
        json!({"name": "a2po", "dtype": dtype, "params": {"beta2": 0.5}, "inputs": own, "outputs": expected})
    };
    json!({
        "meta": {"file": "a2po.json"},
        "inputs": {"logps": [0.0, 0.0], "ref_logps": [0.0, 0.0], "rewards": [1.0, 1.0], "v_star": [1.0, 1.0]},
        "cases": [case(json!({})), case(json!({"rewards": rewards})), case(json!({}))],
    })
}

/// Text of a file of three good cases.
fn good() -> String {
    three(&[1.0, 1.0], "f64").to_string()
}

/// A folder with these files.
fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

fn ran(folder: &tempfile::TempDir, names: &[&str]) -> Outcome {
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
    run(&paths, &device())
}

#[test]
fn a_panic_is_the_failure_of_its_case() {
    for dtype in ["f64", "f32"] {
        let folder = folder(&[("cut.json", three(&[1.0], dtype).to_string()), ("next.json", good())]);
        let found = ran(&folder, &["cut.json", "next.json"]);
        assert_eq!((found.passed, found.failed), (5, 1), "{:?}", found.failures);
        let text = &found.failures[0];
        let start = format!("cut.json case 1 \"a2po\" {dtype}: inputs or params do not fit: ");
        assert!(text.starts_with(&start) && text.len() > start.len() + 10, "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn a_missing_or_broken_file_is_one_failure() {
    let folder = folder(&[("broken.json", "{\n\"meta\": }".to_owned()), ("a2po.json", good())]);
    let found = ran(&folder, &["absent.json", "broken.json", "", "a2po.json"]);
    assert_eq!((found.passed, found.failed), (3, 3), "{:?}", found.failures);
    assert!(found.failures[0].contains("absent.json: "), "{}", found.failures[0]);
    assert!(found.failures[1].contains("broken.json:2: file: expected JSON"), "{}", found.failures[1]);
    let path = folder.path().display().to_string();
    assert!(found.failures[2].contains(&path), "{}", found.failures[2]);
}

#[test]
fn a_file_given_twice_is_run_once() {
    let folder = folder(&[("a2po.json", good())]);
    let found = ran(&folder, &["a2po.json", "./a2po.json", "a2po.json", "absent", "absent"]);
    assert_eq!((found.passed, found.failed), (3, 1), "{:?}", found.failures);
}

#[test]
fn an_index_counts_only_problems() {
    let index = json!({"a2po.json": {"cases": 3}, "short.json": {"cases": 4}, "absent.json": {"cases": 1}});
    let folder = folder(&[
        ("index.json", index.to_string()),
        ("right.json", json!({"a2po.json": {"cases": 3}}).to_string()),
        ("a2po.json", good()),
        ("short.json", good()),
    ]);
    assert_eq!(ran(&folder, &["right.json"]), Outcome::default());
    let found = ran(&folder, &["index.json"]);
    assert_eq!((found.passed, found.failed), (0, 2), "{:?}", found.failures);
    assert!(found.failures[0].starts_with("index.json: absent.json: "), "{}", found.failures[0]);
    assert_eq!(found.failures[1], "index.json: short.json: expected 4 cases, found 3");
}

#[test]
fn what_is_neither_cases_nor_an_index_says_so() {
    let bad =
        ["{}", "7", r#"{"cases": []}"#, r#"{"inputs": {}}"#, r#"{"a": {"cases": 1}, "b": {"cases": -1}}"#];
    for text in bad {
        let folder = folder(&[("odd.json", text.to_owned())]);
        let found = ran(&folder, &["odd.json"]);
        assert_eq!((found.passed, found.failed), (0, 1), "{text}");
        let expected = r#"odd.json: expected "meta" with "cases", or an index of golden files"#;
        assert_eq!(found.failures, [expected], "{text}");
    }
}
