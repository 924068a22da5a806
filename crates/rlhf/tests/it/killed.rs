//! SIGKILL at any instant, then `--resume`: the same bytes as a run that was never killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{assert_same, contents, next, phase, resumed, rspo, run, start, superhf};

/// How long a child may take to reach a place; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a child is killed.
enum When<'a> {
    /// So long after it was started.
    After(Duration),
    /// So long after something stands in its folder.
    Once(&'a dyn Fn(&Path) -> bool, Duration),
}

/// Starts the command and kills it; how it ended, and the phase that it had reached.
fn killed(dir: &Path, args: &[String], when: &When<'_>) -> (ExitStatus, String) {
    let out = dir.join(out_of(args));
    let started = Instant::now();
    let mut child = start(dir, args);
    match when {
        When::After(delay) => sleep(*delay),
        When::Once(there, delay) => {
            while !there(&out) && child.try_wait().unwrap().is_none() {
                assert!(started.elapsed() < PATIENCE, "{} never came to the place", out.display());
                sleep(Duration::from_millis(1));
            }
            sleep(*delay);
        }
    }
    // A child that has ended already is no error; its status says so.
    let _ = child.kill();
    let status = child.wait().unwrap();
    (status, reached(&out))
}

fn out_of(args: &[String]) -> &str {
    let at = args.iter().position(|a| a == "--out").unwrap();
    &args[at + 1]
}

/// What the run was doing, as far as its folder tells.
fn reached(out: &Path) -> String {
    let has = |name: &str| out.join(name).exists();
    match phase(out) {
        _ if has("report.html") => "report written".to_owned(),
        _ if has("model") => "models and report".to_owned(),
        None if has("config.toml") => "before the first step".to_owned(),
        None => "before the folder".to_owned(),
        Some(last) if last == "reward/judge" => "reward/judge and baselines".to_owned(),
        Some(last) => last,
    }
}

/// The kills of a test and where they fell.
#[derive(Default)]
struct Tally(BTreeMap<String, usize>);

impl Tally {
    fn add(&mut self, (status, place): (ExitStatus, String)) -> bool {
        let by_signal = status.code().is_none();
        if by_signal {
            *self.0.entry(place).or_default() += 1;
        }
        by_signal
    }

    fn total(&self) -> usize {
        self.0.values().sum()
    }

    fn show(&self, what: &str) {
        eprintln!("{what}: {} kills", self.total());
        for (place, n) in &self.0 {
            eprintln!("  {n:3}  {place}");
        }
    }
}

/// Finishes the run in `args` and compares it with the one that was never killed.
fn finish(dir: &Path, args: &[String], expected: &BTreeMap<PathBuf, Vec<u8>>, why: &str) {
    let out = dir.join(out_of(args));
    // Killed before there was a folder: there is nothing to resume.
    let again = if out.is_dir() { resumed(args) } else { args.to_vec() };
    run(dir, &again).ok();
    assert_same(expected, &out, why);
}

/// Length of a run on this machine at this moment, and its files.
fn unharmed(dir: &Path, args: &[String]) -> (Duration, BTreeMap<PathBuf, Vec<u8>>) {
    let started = Instant::now();
    run(dir, args).ok();
    (started.elapsed(), contents(&dir.join(out_of(args))))
}

#[test]
fn at_random_instants_once_or_twice() {
    let dir = tempfile::tempdir().unwrap();
    // More rounds than elsewhere, so that their share of the length is that of a real run.
    let set = ["superhf.n_rounds=12", "evaluation.eval_rounds=3", "checkpoint.save_rounds=2"];
    run(dir.path(), &superhf("cold", &set)).ok();
    let (length, expected) = unharmed(dir.path(), &superhf("whole", &set));
    let (mut tally, mut random) = (Tally::default(), 0x9E37_79B9_7F4A_7C15);
    // One kill in each of 24 equal parts of the run's length, so that no part is left out. Where the
    // machine is quicker than it was, a run may end before its kill: then another is tried.
    for i in 0.. {
        if tally.total() >= 24 {
            break;
        }
        assert!(i < 72, "most runs ended before they were killed: {length:?}");
        let args = superhf(&format!("run{i}"), &set);
        let place = (f64::from(i % 24) + next(&mut random)) / 24.0;
        if !tally.add(killed(dir.path(), &args, &When::After(length.mul_f64(place)))) {
            continue;
        }
        let mut why = format!("killed at {place:.3} of its length");
        if i % 3 == 0 && dir.path().join(out_of(&args)).is_dir() {
            let second = next(&mut random);
            tally.add(killed(dir.path(), &resumed(&args), &When::After(length.mul_f64(second))));
            why += &format!(", its resume at {second:.3}");
        }
        finish(dir.path(), &args, &expected, &why);
    }
    tally.show("random");
}

/// A place in a run, and how its folder shows that it was reached.
type Place<'a> = (&'a str, &'a dyn Fn(&Path) -> bool);

#[test]
fn in_every_phase() {
    let dir = tempfile::tempdir().unwrap();
    let (length, expected) = unharmed(dir.path(), &superhf("whole", &[]));
    let in_phase = |name: &'static str| move |out: &Path| phase(out).is_some_and(|p| p.starts_with(name));
    let places: &[Place<'_>] = &[
        ("config.toml", &|out| out.join("config.toml").exists()),
        ("sft", &in_phase("sft")),
        ("proxy", &in_phase("reward/proxy")),
        ("judge, baselines", &in_phase("reward/judge")),
        ("rounds", &in_phase("superhf/beta=0.7")),
        ("second cell", &in_phase("superhf/beta=0/")),
        ("models", &|out| out.join("model").exists()),
        ("report", &|out| out.join("report.json").exists()),
    ];
    let (mut tally, mut random) = (Tally::default(), 0xD1B5_4A32_D192_ED03);
    for (i, (name, there)) in places.iter().enumerate() {
        let args = superhf(&format!("run{i}"), &[]);
        // Within the first step or two of the phase; the last ones are short, so at once.
        let share = if i < 6 { 0.04 * next(&mut random) } else { 0.0 };
        tally.add(killed(dir.path(), &args, &When::Once(there, length.mul_f64(share))));
        finish(dir.path(), &args, &expected, &format!("killed at {name}"));
    }
    tally.show("in every phase");
    assert!(tally.total() >= 6, "most runs ended before they were killed");
}

#[test]
fn a_reward_run() {
    let dir = tempfile::tempdir().unwrap();
    let pairs: String = (0..96)
        .map(|i| format!("{{\"prompt\":\"p{i}\",\"chosen\":\" good {i}\",\"rejected\":\" bad {i}\"}}\n"))
        .collect();
    fs::write(dir.path().join("pairs.jsonl"), pairs).unwrap();
    let args = |out: &str| -> Vec<String> {
        let sets = [
            "data.path=pairs.jsonl",
            "data.max_length=64",
            "model.kind=both",
            "model.hidden_size=16",
            "model.intermediate_size=16",
            "model.num_hidden_layers=1",
            "model.vocab_size=300",
            "training.num_train_epochs=6",
            "training.batch_size=16",
            "checkpoint.save_steps=2",
        ];
        let mut args = ["run", "reward", "--smoke", "--out", out].map(str::to_owned).to_vec();
        args.extend(sets.iter().flat_map(|s| ["--set".to_owned(), (*s).to_owned()]));
        args
    };
    let (length, expected) = unharmed(dir.path(), &args("whole"));
    let (mut tally, mut random) = (Tally::default(), 0x94D0_49BB_1331_11EB);
    for i in 0..6 {
        let args = args(&format!("run{i}"));
        let place = (f64::from(i) + next(&mut random)) / 6.0;
        tally.add(killed(dir.path(), &args, &When::After(length.mul_f64(place))));
        finish(dir.path(), &args, &expected, &format!("killed at {place:.3} of its length"));
    }
    tally.show("reward");
}

#[test]
fn a_self_play_run() {
    let dir = tempfile::tempdir().unwrap();
    let args = |out: &str| rspo(out, &["preference.proxy=gpm", "evaluation.seeds=2"]);
    let (length, expected) = unharmed(dir.path(), &args("whole"));
    let (mut tally, mut random) = (Tally::default(), 0xBF58_476D_1CE4_E5B9);
    for i in 0..8 {
        let args = args(&format!("run{i}"));
        let place = (f64::from(i) + next(&mut random)) / 8.0;
        tally.add(killed(dir.path(), &args, &When::After(length.mul_f64(place))));
        finish(dir.path(), &args, &expected, &format!("killed at {place:.3}"));
    }
    tally.show("self-play");
    assert!(tally.total() >= 4, "most runs ended before they were killed");
}
