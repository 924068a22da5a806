//! The same command twice gives the same bytes.

use std::fs;

use crate::support::{TINY, assert_same, contents, rlhf, run, superhf};

fn twice(set: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), &superhf("a", set)).ok();
    let second = run(dir.path(), &superhf("b", set)).ok();
    assert_same(&contents(&dir.path().join("a")), &dir.path().join("b"), "the second run");
    // The summary names the folder, and is otherwise the same too.
    assert_eq!(first.stdout.replace("a/", "b/"), second.stdout);
    let compared = run(dir.path(), &["compare", "a", "b"]).ok();
    let compared: serde_json::Value = serde_json::from_str(&compared.stdout).unwrap();
    assert_eq!(compared["first_difference"], serde_json::Value::Null);
    // 5 batches of 80 references twice, 3 of 48 comparisons for each reward model, 2 cells of 4 rounds.
    assert_eq!(compared["n_steps"], serde_json::json!([24, 24]));
    assert_eq!(compared["model"]["is_equal"], true);
}

#[test]
fn flex_with_two_threads() {
    twice(&["threads=2"]);
}

#[test]
fn ndarray() {
    twice(&["device=ndarray"]);
}

#[test]
fn another_seed_is_another_run() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &superhf("a", &[])).ok();
    run(dir.path(), &superhf("b", &["seed=1"])).ok();
    let compared = run(dir.path(), &["compare", "a", "b"]);
    assert_eq!(compared.code, Some(1));
    let compared: serde_json::Value = serde_json::from_str(&compared.stdout).unwrap();
    assert_eq!(compared["first_difference"]["step"], 1);
    assert_eq!(compared["model"]["is_equal"], false);
}

#[test]
fn the_folder_says_all_that_made_it() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &superhf("a", &[])).ok();
    // config.toml alone is the whole command.
    let again = rlhf(dir.path()).args(["run", "a/config.toml", "--out", "b"]).output().unwrap();
    assert!(again.status.success(), "{again:?}");
    assert_same(&contents(&dir.path().join("a")), &dir.path().join("b"), "the run of its config.toml");
    let config = fs::read_to_string(dir.path().join("a/config.toml")).unwrap();
    let key = TINY[0].split_once('=').unwrap().0.rsplit_once('.').unwrap().1;
    assert!(config.contains(&format!("{key} = 80\n")), "{config}");
    for file in ["report.html", "report.json", "model/model.safetensors", "model/tokenizer.json"] {
        assert!(dir.path().join("a").join(file).is_file(), "{file}");
    }
    assert!(fs::read_dir(dir.path().join("a/tensorboard")).unwrap().count() == 1);
}
