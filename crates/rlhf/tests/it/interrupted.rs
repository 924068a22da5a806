//! Ctrl-C and its like, checkpoints that a disk or a hand damaged, and resumes that must be refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Done, assert_same, contents, phase, resumed, rlhf, run, signal, superhf};

/// Starts a run and waits until it logs a phase whose name begins so.
fn in_phase(dir: &Path, args: &[String], out: &str, name: &str) -> Child {
    let mut command = rlhf(dir);
    let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while !phase(&dir.join(out)).is_some_and(|p| p.starts_with(name)) {
        assert!(child.try_wait().unwrap().is_none(), "ended before {name}");
        assert!(started.elapsed() < Duration::from_secs(60), "never came to {name}");
        sleep(Duration::from_millis(1));
    }
    child
}

fn wait(child: Child) -> Done {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A run that Ctrl-C stopped in its first rounds, with two checkpoints behind it.
fn stopped(dir: &Path, out: &str) -> Vec<String> {
    // Long enough that the signal comes before the end.
    let args = superhf(out, &["superhf.n_rounds=12"]);
    let child = in_phase(dir, &args, out, "superhf/beta=0.7");
    assert!(signal(&child, "INT").success());
    wait(child).fails_with(130, &["interrupted at step "]);
    args
}

fn checkpoints(out: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(out.join("checkpoints")).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> = names.filter(|p| p.extension().is_some_and(|e| e == "ckpt")).collect();
    files.sort();
    files
}

#[test]
fn one_signal_saves_and_a_resume_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    // A bag of words goes through the checkpoint as JSON.
    let set = ["reward.judge=bag"];
    run(dir.path(), &superhf("whole", &set)).ok();
    let expected = contents(&dir.path().join("whole"));
    for (i, (name, at)) in
        [("INT", "sft"), ("TERM", "reward/proxy"), ("INT", "superhf/beta=0.7")].into_iter().enumerate()
    {
        let out = format!("run{i}");
        let args = superhf(&out, &set);
        let child = in_phase(dir.path(), &args, &out, at);
        assert!(signal(&child, name).success());
        let end = format!("; state saved in {out}: continue with --resume");
        wait(child).fails_with(130, &["interrupted at step ", &end]);
        let done = run(dir.path(), &resumed(&args)).ok();
        assert!(done.stdout.ends_with(&format!("model:  {out}/model\n")), "{}", done.stdout);
        assert_same(&expected, &dir.path().join(&out), &format!("SIG{name} in {at}"));
    }
}

#[test]
fn damaged_checkpoints_are_named_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &superhf("whole", &["superhf.n_rounds=12"])).ok();
    let expected = contents(&dir.path().join("whole"));
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 3]).unwrap();
    };
    for (out, damage, found) in
        [("flipped", &flip as &dyn Fn(&Path), "checksum"), ("cut", &cut as &dyn Fn(&Path), "found")]
    {
        let args = stopped(dir.path(), out);
        let newest = checkpoints(&dir.path().join(out)).pop().unwrap();
        damage(&newest);
        let done = run(dir.path(), &resumed(&args)).ok();
        let name = newest.strip_prefix(dir.path()).unwrap().display();
        let said = done.stderr.lines().find(|l| l.contains(&format!("damaged checkpoint {name}: ")));
        assert!(said.is_some_and(|l| l.contains("expected") && l.contains(found)), "{}", done.stderr);
        assert!(newest.with_extension("ckpt.damaged").is_file());
        assert_same(&expected, &dir.path().join(out), out);
    }
}

#[test]
fn without_an_intact_checkpoint_nothing_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let args = stopped(dir.path(), "run");
    let steps = fs::read(dir.path().join("run/steps.jsonl")).unwrap();
    let files = checkpoints(&dir.path().join("run"));
    assert_eq!(files.len(), 2, "{files:?}");
    for path in &files {
        fs::write(path, "").unwrap();
    }
    let named = "damaged checkpoint run/checkpoints/step-";
    run(dir.path(), &resumed(&args))
        .fails_with(1, &["run/checkpoints: expected an intact checkpoint, found none: ", named, "; ", named]);
    assert_eq!(fs::read(dir.path().join("run/steps.jsonl")).unwrap(), steps);
}

#[test]
fn resumes_that_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &resumed(&superhf("none", &[]))).fails(
        2,
        "command line: --out: expected the folder of a run (leave --resume out to begin one), found none is no folder",
    );
    stopped(dir.path(), "run");
    let before = contents(&dir.path().join("run"));
    let other = superhf("run", &["superhf.n_rounds=12", "superhf.beta=0.5"]);
    run(dir.path(), &resumed(&other))
        .fails_with(2, &["run/config.toml: superhf.beta: expected 0.7 as in", "found 0.5"]);
    assert_same(&before, &dir.path().join("run"), "a refused resume");
    let first = in_phase(dir.path(), &superhf("busy", &["superhf.n_rounds=200"]), "busy", "sft");
    let second = run(dir.path(), &resumed(&superhf("busy", &["superhf.n_rounds=200"])));
    let holder = format!("found busy in use by process {}", first.id());
    second.fails_with(2, &["--out: expected a folder that no other process writes to", &holder]);
    assert!(signal(&first, "KILL").success());
    wait(first);
}
