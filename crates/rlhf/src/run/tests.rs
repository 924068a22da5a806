//! Runs that are killed, damaged or out of disk, and what a resume makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::compare::compare;
use super::tensorboard::tests::read_back;
use super::*;

const CONFIG: &str = "seed = 7\nsteps = 14\n";
const N_STEPS: u64 = 14;
const EVERY: u64 = 4;

fn no_clock() -> f64 {
    0.0
}

/// A disk of its own size. Unmounts also when the test fails.
pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where this process may not mount.
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir.path());
        mount.output().is_ok_and(|o| o.status.success()).then(|| Self(dir))
    }

    fn grow(&self, size: &str) {
        let option = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &option]).arg(self.path()).status().unwrap().success());
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).output();
    }
}

/// xorshift64: the state of the toy pipeline, and the tests' source of places to hit.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Runs the toy pipeline from where `run` stands; `alive` is asked before every step and every checkpoint,
/// and a `false` is the kill.
fn pipeline(mut run: Run, from: Option<&Checkpoint>, mut alive: impl FnMut() -> bool) -> Result<(), Error> {
    let mut state = match from {
        None => 42,
        Some(c) => u64::from_le_bytes(c.section("state")?.try_into().unwrap()),
    };
    for step in from.map_or(0, |c| c.step) + 1..=N_STEPS {
        if !alive() {
            return Ok(());
        }
        let phase = if step <= 6 { "sft" } else { "superhf β=0.35" };
        let loss = next(&mut state) as f64 / 1e19;
        run.log(&StepRecord::new(step, phase).value("loss", loss).value("kl", 0.0))?;
        if !alive() {
            return Ok(());
        }
        if step % EVERY == 0 {
            run.checkpoint(step, &[Section { name: "state", bytes: &state.to_le_bytes() }])?;
        }
    }
    atomic::write(&run.paths().model().join("model.safetensors"), &state.to_le_bytes())?;
    run.finish()
}

fn begin(out: &Path) -> Run {
    Run::begin(RunFolder::create(out, CONFIG).unwrap(), no_clock).unwrap()
}

fn resume(out: &Path) -> Result<Resumed, Error> {
    Run::resume_at(out.to_owned(), CONFIG, no_clock)
}

fn uninterrupted(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    pipeline(begin(out), None, || true).unwrap();
    files(out)
}

/// Every file of a run, but for the lock (it holds a process id) and damaged checkpoints that were set aside.
fn files(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if name != "run.lock" && !name.ends_with(".damaged") {
                found.insert(path.strip_prefix(out).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn resume_to_the_end(out: &Path) -> Vec<String> {
    let resumed = resume(out).unwrap();
    pipeline(resumed.run, resumed.checkpoint.as_ref(), || true).unwrap();
    resumed.warnings
}

fn truncate(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn dropped_anywhere_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let expected = uninterrupted(&dir.path().join("whole"));
    let names: Vec<_> = expected.keys().map(|p| p.to_str().unwrap()).collect();
    let checkpoints = ["checkpoints/step-0000000008.ckpt", "checkpoints/step-0000000012.ckpt"];
    assert_eq!(names[..2], checkpoints);
    let events = "tensorboard/events.out.tfevents.0.rlhf";
    assert_eq!(names[2..], ["config.toml", "model/model.safetensors", "steps.jsonl", events]);
    for stop in 0..=2 * N_STEPS {
        let out = dir.path().join(stop.to_string());
        let mut left = stop;
        let alive = || {
            left = left.wrapping_sub(1);
            left < u64::MAX
        };
        pipeline(begin(&out), None, alive).unwrap();
        assert_eq!(resume_to_the_end(&out), Vec::<String>::new());
        assert_eq!(files(&out), expected, "stopped after {stop} calls");
    }
    assert!(compare(&dir.path().join("whole"), &dir.path().join("17")).unwrap().is_equal());
}

#[test]
fn killed_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let expected = uninterrupted(&dir.path().join("whole"));
    let out = dir.path().join("run");
    let mut places = 3;
    pipeline(begin(&out), None, || !next(&mut places).is_multiple_of(9)).unwrap();
    while !out.join("model").exists() {
        let resumed = resume(&out).unwrap();
        pipeline(resumed.run, resumed.checkpoint.as_ref(), || !next(&mut places).is_multiple_of(20)).unwrap();
    }
    assert_eq!(files(&out), expected);
}

/// What a crash or a bad disk can do to the files behind the last checkpoint, and to that checkpoint.
#[test]
fn cut_at_random_places() {
    let dir = tempfile::tempdir().unwrap();
    let expected = uninterrupted(&dir.path().join("whole"));
    let mut places = 5;
    for trial in 0..30 {
        let out = dir.path().join(trial.to_string());
        // Two checkpoints, of steps 4k and 4k + 4, are always there.
        let mut left = 17 + next(&mut places) % (2 * N_STEPS - 16);
        let alive = || {
            left -= 1;
            left > 0
        };
        pipeline(begin(&out), None, alive).unwrap();
        let paths = RunPaths::new(&out);
        let store = CheckpointStore::new(paths.checkpoints(), KEPT_CHECKPOINTS);
        let newest = store.latest().unwrap().checkpoint.unwrap();
        let mut cut_between = |path: &Path, from: u64| {
            let len = fs::metadata(path).unwrap().len();
            truncate(path, from + next(&mut places) % (len - from + 1));
        };
        cut_between(&paths.steps(), marks(&newest).unwrap().steps.len);
        cut_between(&paths.tensorboard().join(EVENTS_FILE), 0);
        cut_between(&store.path(newest.step), 0);
        fs::write(paths.checkpoints().join(".rlhf-tmp-zz"), "half").unwrap();
        resume_to_the_end(&out);
        assert_eq!(files(&out), expected, "trial {trial}");
    }
}

#[test]
fn warnings_name_what_was_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    uninterrupted(&out);
    let paths = RunPaths::new(&out);
    let checkpoint = paths.checkpoints().join("step-0000000012.ckpt");
    truncate(&checkpoint, 10);
    truncate(&paths.tensorboard().join(EVENTS_FILE), 3);
    let resumed = resume(&out).unwrap();
    let checkpoint_8 = resumed.checkpoint.unwrap();
    assert_eq!(checkpoint_8.step, 8);
    assert_eq!(checkpoint_8.sections.keys().collect::<Vec<_>>(), ["state"]);
    let [first, second] = &resumed.warnings[..] else { panic!("{:?}", resumed.warnings) };
    let what = "short file: preamble: expected 20 bytes, found 10";
    assert_eq!(*first, format!("damaged checkpoint {}: {what}", checkpoint.display()));
    assert!(!checkpoint.exists() && checkpoint.with_extension("ckpt.damaged").exists());
    assert!(second.contains("found 3: written anew from steps.jsonl"), "{second}");
    let events = read_back(&fs::read(paths.tensorboard().join(EVENTS_FILE)).unwrap());
    // The version, then steps 1 to 8.
    assert_eq!(events.len(), 9);
    assert_eq!(events[8].step, 8);
    assert_eq!(events[8].scalars[0], ("superhf β=0.35/kl".to_owned(), 0.0));
}

#[test]
fn steps_shorter_than_the_newest_checkpoint_knew() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let expected = uninterrupted(&out);
    let steps = RunPaths::new(&out).steps();
    let lines_9: usize =
        fs::read_to_string(&steps).unwrap().split_inclusive('\n').take(9).map(str::len).sum();
    truncate(&steps, lines_9 as u64);
    let warnings = resume_to_the_end(&out);
    assert!(warnings[0].contains("steps.jsonl: expected at least"), "{warnings:?}");
    assert_eq!(files(&out), expected);
    truncate(&steps, 1);
    let message = resume(&out).unwrap_err().to_string();
    for part in ["found none", "step-0000000012", "step-0000000008", "bytes, found 1"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_nan_stops_at_the_step_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut run = begin(&out);
    run.log(&StepRecord::new(1, "sft").value("loss", 1.0)).unwrap();
    run.checkpoint(1, &[]).unwrap();
    let before = files(&out);
    let error = run.log(&StepRecord::new(2, "sft").value("loss", f64::NAN)).unwrap_err();
    assert_eq!(error.to_string(), "step 2: loss: expected a finite number, found NaN");
    assert_eq!(files(&out), before);
    assert_eq!(run.stopped_at(1).exit_code(), 130);
}

#[test]
fn a_disk_that_fills_keeps_the_last_checkpoint() {
    let Some(disk) = Tmpfs::mount("64k") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let out = disk.path().join("run");
    let mut run = begin(&out);
    // Two of these and the small files fit, a third does not.
    let model = |step: u64| vec![step as u8; 18 << 10];
    let mut failure = None;
    for step in 1..=3 {
        run.log(&StepRecord::new(step, "sft").value("loss", 1.0)).unwrap();
        if let Err(e) = run.checkpoint(step, &[Section { name: "model", bytes: &model(step) }]) {
            failure = Some(e);
            break;
        }
    }
    let message = failure.unwrap().to_string();
    assert!(message.starts_with("writing "), "{message}");
    assert!(message.contains("step-0000000003.ckpt: No space left on device"), "{message}");
    // Now the log, until it fails too.
    let fails = |step| run.log(&StepRecord::new(step, "sft").value("loss", 1.0)).is_err();
    assert!((4..2_000).any(fails));
    let text = fs::read_to_string(RunPaths::new(&out).steps()).unwrap();
    assert!(text.ends_with("}\n"), "a part of a line was left");
    drop(run);
    disk.grow("256k");
    let Resumed { mut run, checkpoint, warnings } = resume(&out).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(checkpoint.unwrap().section("model").unwrap(), model(2));
    run.log(&StepRecord::new(3, "sft").value("loss", 1.0)).unwrap();
    run.checkpoint(3, &[]).unwrap();
    assert_eq!(steps::read_records(&run.paths().steps()).unwrap().len(), 3);
}

const CHILD: &str = "RLHF_TEST_KILL";

/// Not a test by itself: the process that the next test kills.
#[test]
fn child() {
    let Some(out) = std::env::var_os(CHILD) else { return };
    let chatter = || {
        eprintln!("alive");
        true
    };
    pipeline(begin(Path::new(&out)), None, chatter).unwrap();
}

#[cfg(unix)]
#[test]
fn killed_for_real() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    let expected = uninterrupted(&dir.path().join("whole"));
    let mut places = 11;
    let mut n_killed = 0;
    for trial in 0..20 {
        let out = dir.path().join(trial.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["run::tests::child", "--exact", "--nocapture"])
            .env(CHILD, &out)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let n_lines = 1 + next(&mut places) as usize % 24;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.by_ref().take(n_lines).all(|l| l.unwrap().ends_with("alive")));
        child.kill().unwrap();
        // Reading on keeps the pipe open, so that the kill and not a broken pipe ends the child.
        lines.for_each(drop);
        n_killed += usize::from(child.wait().unwrap().signal() == Some(9));
        resume_to_the_end(&out);
        // The child had a clock, so its events carry other times; everything else is equal.
        let without_events = |mut files: BTreeMap<PathBuf, Vec<u8>>| {
            files.retain(|p, _| !p.starts_with("tensorboard"));
            files.retain(|p, _| !p.starts_with("checkpoints"));
            files
        };
        assert_eq!(without_events(files(&out)), without_events(expected.clone()), "trial {trial}");
    }
    assert!(n_killed >= 10, "only {n_killed} of 20 were killed before they ended");
}
