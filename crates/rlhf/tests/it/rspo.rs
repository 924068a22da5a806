//! Self-play runs: every method through one loop, the same bytes, and what is refused.

use std::fs;
use std::path::Path;

use crate::support::{assert_same, contents, rspo, run};

const SPPO: &str = r#"{name="a", method={kind="sppo", loss={beta=0.1}}}"#;

fn variants(of: &[&str]) -> String {
    format!("variants=[{}]", of.join(","))
}

/// Lines of `steps.jsonl` whose phase begins so.
fn steps(out: &Path, phase: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(out.join("steps.jsonl")).unwrap();
    let all = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    all.filter(|l| l["phase"].as_str().unwrap().starts_with(phase)).collect()
}

#[test]
fn every_method_runs_through_the_loop() {
    let dir = tempfile::tempdir().unwrap();
    let methods = [
        SPPO,
        r#"{name="b", method={kind="rspo", loss={beta=0.1, terms=[{regularizer="reverse_kl", weight=0.5}, {regularizer={chi2=10.0}, weight=0.1}]}}, forward_samples={weight=0.1, reduction="token_mean"}}"#,
        r#"{name="c", method={kind="dpo", loss={beta=0.1, label_smoothing=0.0, f_divergence="reverse_kl"}, reference="previous"}}"#,
        r#"{name="d", method={kind="ipo", loss={beta=0.1, f_divergence="reverse_kl"}}}"#,
        r#"{name="e", method={kind="inpo", loss={eta=0.1, tau=0.03}}}"#,
        r#"{name="f", method={kind="nash_md", loss={beta=0.1, kl="sequence"}, mixture_coef=0.25}}"#,
        r#"{name="g", method={kind="spin", loss={lambda=0.1}}}"#,
        r#"{name="h", method={kind="dno", loss={eta=0.1}}}"#,
    ];
    run(dir.path(), &rspo("out", &[&variants(&methods)])).ok();
    let out = dir.path().join("out");
    for (i, name) in ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().enumerate() {
        let phase = format!("rspo/{name}/seed=0");
        let lines = steps(&out, &phase);
        // Twice over 4 prompts: 4 pairs in steps of 2; 12 pairs of SPIN; Nash-MD 3 answers a prompt, prompt by prompt.
        let n_steps = lines.iter().filter(|l| l.get("loss").is_some()).count();
        let expected = match name {
            "f" => 16,
            "g" => 12,
            _ => 4,
        };
        assert_eq!(n_steps, expected, "{i}: {name}");
        let evals: Vec<_> = lines.iter().filter(|l| l["phase"] == format!("{phase}/eval")).collect();
        assert_eq!(evals.len(), 2, "{name}");
        for key in
            ["win_rate/proxy", "win_rate/true", "self_bleu_3", "kl", "kl_forward", "completions/mean_length"]
        {
            let value = evals[1][format!("eval/{key}").as_str()].as_f64();
            assert!(value.is_some_and(f64::is_finite), "{name}: {key}: {value:?}");
        }
    }
    let of = |name: &str| steps(&out, &format!("rspo/{name}/seed=0"));
    assert!(of("b")[0]["loss/forward"].as_f64().unwrap() > 0.0);
    assert!(of("b")[0]["loss/regularizer"].as_f64().unwrap() > 0.0);
    assert!(of("f")[0].get("objective/kl").is_some());
    // All begin with the same answers, and end apart.
    assert_eq!(of("a")[0]["win_rate/best"], of("c")[0]["win_rate/best"]);
    assert_ne!(of("a")[0]["loss"], of("c")[0]["loss"]);
}

#[test]
fn sppo_is_rspo_whose_terms_weigh_nothing_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let rspo_0 = r#"{name="a", method={kind="rspo", loss={beta=0.1, terms=[{regularizer="reverse_kl", weight=0.0}]}}}"#;
    for (out, variant) in [("sppo", SPPO), ("rspo", rspo_0)] {
        run(dir.path(), &rspo(out, &[&variants(&[variant])])).ok();
    }
    let model = |out: &str| fs::read(dir.path().join(out).join("model/model.safetensors")).unwrap();
    assert!(model("sppo") == model("rspo"));
}

#[test]
fn the_same_command_twice_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for (device, trains) in [("flex", "rule"), ("ndarray", "pairwise")] {
        let [a, b] = ["a", "b"].map(|n| format!("{n}-{device}"));
        let set = [&variants(&[SPPO]), &format!("device={device}"), &format!("preference.proxy={trains}")];
        let set: Vec<&str> = set.iter().map(|s| s.as_str()).collect();
        run(dir.path(), &rspo(&a, &set)).ok();
        run(dir.path(), &rspo(&b, &set)).ok();
        assert_same(&contents(&dir.path().join(&a)), &dir.path().join(&b), device);
    }
}

#[test]
fn every_oracle_trains_and_judges() {
    let dir = tempfile::tempdir().unwrap();
    for (trains, judges) in [("bag", "bradley_terry"), ("gpm", "pairwise")] {
        let (proxy, judge) = (format!("preference.proxy={trains}"), format!("preference.judge={judges}"));
        let set = [variants(&[SPPO]), proxy, judge, "selfplay.rows=all".to_owned()];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        run(dir.path(), &rspo(trains, &set)).ok();
        let out = dir.path().join(trains);
        assert!(out.join("report.html").is_file());
        for (role, kind) in [("proxy", trains), ("judge", judges)] {
            let kind = if kind == "bag" { "bradley_terry" } else { kind };
            let saved =
                fs::read_to_string(out.join("preference").join(role).join("preference.json")).unwrap();
            let saved: serde_json::Value = serde_json::from_str(&saved).unwrap();
            assert_eq!(saved["kind"], kind, "{role}");
        }
        // Every answer is an example: 4 prompts of 3 answers in steps of 2, twice.
        let n_steps = steps(&out, "rspo/a/").iter().filter(|l| l.get("loss").is_some()).count();
        assert_eq!(n_steps, 12, "{trains}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |set: &str, parts: &[&str]| {
        run(dir.path(), &rspo("out", &[set])).fails_with(2, parts);
        assert!(!dir.path().join("out").join("steps.jsonl").exists());
    };
    refused("selfplay.num_generations=1", &["selfplay.num_generations: expected at least 2", "found 1"]);
    refused("variants=[]", &["variants: expected at least one, found none"]);
    refused(&variants(&[SPPO, SPPO]), &["variants[1].name: expected a name of its own"]);
    let dpo = r#"{name="c", method={kind="dpo", loss={beta=0.1, label_smoothing=0.0, f_divergence="reverse_kl"}, reference="previous"}}"#;
    run(dir.path(), &rspo("out", &[&variants(&[dpo]), "selfplay.rows=all"]))
        .fails_with(2, &["variants[0].method", "dpo"]);
    let of = |beta: &str| variants(&[&SPPO.replace("0.1", beta)]);
    run(dir.path(), &rspo("out", &[&of("0.0")])).fails_with(
        2,
        &["command line: variants[0]: expected a positive finite number, found 0 in {", "beta = 0.0"],
    );
    let unknown = variants(&[r#"{name="a", method={kind="spo", loss={beta=0.1}}}"#]);
    refused(&unknown, &["command line: variants[0]: expected ", "rspo", "found "]);
    refused("selfplay.prompts_per_iteration=13", &["expected at most task.n_prompts = 12, found 13"]);
    run(dir.path(), &rspo("out", &["task.name=ratings", "task.path=x.tsv"]))
        .fails_with(2, &["preference.proxy", "rule"]);
}
