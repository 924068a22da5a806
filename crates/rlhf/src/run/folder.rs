//! The folder of a run: what lies where, who may write, and under which config.
//!
//! ```text
//! config.toml      the effective config, written before the first step
//! steps.jsonl      one JSON object a step
//! checkpoints/     state to resume from
//! tensorboard/     event files
//! model/           the result, a Hugging Face folder
//! report.html      the page, and report.json with its numbers
//! run.lock         held by the process that writes, with its id inside
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::atomic;
use crate::error::Error;

const LOCK: &str = "run.lock";

/// Where the files of a run lie; reads and writes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPaths {
    root: PathBuf,
}

impl RunPaths {
    /// The paths of the run in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config.toml`, the effective config.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// `steps.jsonl`, one JSON object a step.
    pub fn steps(&self) -> PathBuf {
        self.root.join("steps.jsonl")
    }

    /// `checkpoints/`, state to resume from.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// `model/`, the result as a Hugging Face folder.
    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// `report.html`, the page.
    pub fn report_html(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// `report.json`, the numbers of the page.
    pub fn report_json(&self) -> PathBuf {
        self.root.join("report.json")
    }

    /// `tensorboard/`, event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("tensorboard")
    }
}

/// A run's folder, locked: while this lives, no other process can open it for writing.
///
/// The lock belongs to the process and not to a file's existence, so that a killed run leaves none behind.
#[derive(Debug)]
pub struct RunFolder {
    paths: RunPaths,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder `out` of a new run and writes `config_text` to its `config.toml`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when `out` is a file, holds something already (other than a run that never made a
    /// step), or another process writes to it;
    /// [`Error::Io`] when it cannot be made or written.
    pub fn create(out: impl Into<PathBuf>, config_text: &str) -> Result<Self, Error> {
        let paths = RunPaths::new(out);
        let root = paths.root().to_owned();
        if root.is_file() {
            return Err(out_error("a folder", format!("the file {}", root.display())));
        }
        fs::create_dir_all(&root).map_err(|e| Error::io("making the folder", &root, e))?;
        // Before the lock, so that a folder of somebody else gets no lock file from us.
        refuse_full(&root)?;
        let lock = lock(&root)?;
        // And again with the lock: another process may have created a run here in between.
        refuse_full(&root)?;
        Self::begin(paths, lock, config_text)
    }

    /// Opens the folder `out` of a run that stopped, to go on with the same config. The temporary files of
    /// a killed process are removed. A folder in which a run was killed before it wrote its config is begun
    /// as a new one.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when there is no such run, another process writes to it, or its `config.toml` says
    /// something else than `config_text`: the first key that differs is named, with both values.
    pub fn open(out: impl Into<PathBuf>, config_text: &str) -> Result<Self, Error> {
        let paths = RunPaths::new(out);
        let root = paths.root().to_owned();
        let no_run = |found: &str| {
            let expected = "the folder of a run (leave --resume out to begin one)";
            Err(out_error(expected, format!("{} {found}", root.display())))
        };
        if !root.is_dir() {
            return no_run("is no folder");
        }
        // Before the lock, so that a folder of somebody else gets no lock file from us.
        if !paths.config().is_file() && contents(&root)?.is_some() {
            return no_run("without config.toml");
        }
        let lock = lock(&root)?;
        if !paths.config().is_file() {
            return Self::begin(paths, lock, config_text);
        }
        same_config(&paths.config(), config_text)?;
        atomic::remove_leftovers(&root)?;
        Ok(Self { paths, _lock: lock })
    }

    fn begin(paths: RunPaths, lock: File, config_text: &str) -> Result<Self, Error> {
        atomic::remove_leftovers(paths.root())?;
        atomic::write(&paths.config(), config_text.as_bytes())?;
        Ok(Self { paths, _lock: lock })
    }

    /// Where its files lie.
    pub fn paths(&self) -> &RunPaths {
        &self.paths
    }
}

fn out_error(expected: &str, found: impl Into<String>) -> Error {
    Error::config("command line", "--out", expected, found)
}

fn refuse_full(root: &Path) -> Result<(), Error> {
    match contents(root)? {
        None => Ok(()),
        Some(name) => Err(out_error(
            "an empty or new folder (continue a run with --resume, or choose another folder with --out)",
            format!("{} with {name:?} in it", root.display()),
        )),
    }
}

/// The first entry by name that is not of our own scaffolding. A run that stopped before its first step,
/// over a file that is missing say, is nothing but scaffolding: the corrected command must not be refused
/// for it.
fn contents(root: &Path) -> Result<Option<String>, Error> {
    let listing = |e| Error::io("listing", root, e);
    let no_step = fs::metadata(RunPaths::new(root).steps()).is_ok_and(|m| m.len() == 0);
    let mut first: Option<String> = None;
    for entry in fs::read_dir(root).map_err(listing)? {
        let name = entry.map_err(listing)?.file_name().to_string_lossy().into_owned();
        let begun = ["config.toml", "steps.jsonl", "tensorboard"].contains(&name.as_str());
        let ours = name == LOCK || name.starts_with(atomic::TEMPORARY_PREFIX) || (no_step && begun);
        if !ours && first.as_ref().is_none_or(|f| name < *f) {
            first = Some(name);
        }
    }
    Ok(first)
}

fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join(LOCK);
    let io = |e| Error::io("locking", &path, e);
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The id is for the message alone; where it cannot be read, the message says so.
            let read = file.read_to_string(&mut holder);
            let holder = if read.is_ok() && !holder.is_empty() { holder.trim() } else { "unknown" };
            let found = format!("{} in use by process {holder}", root.display());
            return Err(out_error("a folder that no other process writes to", found));
        }
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    let note_holder = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note_holder(&mut file).map_err(io)?;
    Ok(file)
}

fn same_config(path: &Path, effective: &str) -> Result<(), Error> {
    let stored = fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))?;
    if stored == effective {
        return Ok(());
    }
    let parse = |place: String, text: &str| {
        text.parse::<toml::Table>().map_err(|e| Error::config(place, "config", "TOML", e.message()))
    };
    let stored = parse(path.display().to_string(), &stored)?;
    let effective = parse("the effective config".to_owned(), effective)?;
    match first_difference(&stored, &effective) {
        None => Ok(()),
        Some(d) => Err(Error::config(
            path.display().to_string(),
            d.key,
            format!("{} as in the run so far (--resume keeps the config; --out begins a new run)", d.stored),
            d.effective,
        )),
    }
}

#[derive(Debug, PartialEq)]
struct KeyDifference {
    key: String,
    stored: String,
    effective: String,
}

/// The first key, in order of names and with dots between levels, whose values differ.
fn first_difference(stored: &toml::Table, effective: &toml::Table) -> Option<KeyDifference> {
    let mut keys: Vec<&String> = stored.keys().chain(effective.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let (a, b) = (stored.get(key), effective.get(key));
        if a == b {
            continue;
        }
        if let (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) = (a, b) {
            if let Some(inner) = first_difference(a, b) {
                return Some(KeyDifference { key: format!("{key}.{}", inner.key), ..inner });
            }
            continue;
        }
        let show = |v: Option<&toml::Value>| v.map_or_else(|| "no such key".to_owned(), ToString::to_string);
        return Some(KeyDifference { key: key.clone(), stored: show(a), effective: show(b) });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "seed = 1\n[superhf]\nbeta = 0.35\n";

    #[test]
    fn create_writes_the_config_and_refuses_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/run");
        let folder = RunFolder::create(&out, CONFIG).unwrap();
        assert_eq!(fs::read_to_string(folder.paths().config()).unwrap(), CONFIG);
        drop(folder);
        let error = RunFolder::create(&out, CONFIG).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        for part in ["--out", "--resume", "\"config.toml\" in it", "a/run"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn create_goes_over_a_run_that_never_made_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let paths = RunFolder::create(dir.path(), "path = 'typo'\n").unwrap().paths().clone();
        fs::write(paths.steps(), "").unwrap();
        fs::create_dir(paths.tensorboard()).unwrap();
        drop(RunFolder::create(dir.path(), CONFIG).unwrap());
        assert_eq!(fs::read_to_string(paths.config()).unwrap(), CONFIG);
        fs::create_dir(paths.checkpoints()).unwrap();
        let message = RunFolder::create(dir.path(), CONFIG).unwrap_err().to_string();
        assert!(message.contains("\"checkpoints\" in it"), "{message}");
        fs::remove_dir(paths.checkpoints()).unwrap();
        fs::write(paths.steps(), "{}\n").unwrap();
        assert!(RunFolder::create(dir.path(), CONFIG).is_err());
    }

    #[test]
    fn create_leaves_nothing_in_a_folder_of_somebody_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let message = RunFolder::create(dir.path(), CONFIG).unwrap_err().to_string();
        assert!(message.contains("\"thesis.tex\""), "{message}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let message = RunFolder::create(dir.path().join("thesis.tex"), CONFIG).unwrap_err().to_string();
        assert!(message.contains("expected a folder, found the file"), "{message}");
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        let first = RunFolder::create(&out, CONFIG).unwrap();
        let error = RunFolder::open(&out, CONFIG).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
        drop(first);
        // The lock file is still there, the lock is not.
        assert!(out.join(LOCK).exists());
        RunFolder::open(&out, CONFIG).unwrap();
    }

    #[test]
    fn resume_needs_the_same_config() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        drop(RunFolder::create(&out, CONFIG).unwrap());
        // Another order and a comment say the same.
        drop(RunFolder::open(&out, "superhf.beta = 0.35 # same\nseed = 1\n").unwrap());
        drop(RunFolder::open(&out, "seed = 1 # same\nsuperhf = { beta = 0.35 }\n").unwrap());
        let error = RunFolder::open(&out, "seed = 1\n[superhf]\nbeta = 0.5\n").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(message.contains("config.toml: superhf.beta: expected 0.35 as in"), "{message}");
        assert!(message.ends_with("found 0.5"), "{message}");
        let message = RunFolder::open(&out, "[superhf]\nbeta = 0.35\n").unwrap_err().to_string();
        assert!(message.contains("seed: expected 1 as in"), "{message}");
        assert!(message.ends_with("found no such key"), "{message}");
    }

    #[test]
    fn resume_of_what_is_no_run() {
        let dir = tempfile::tempdir().unwrap();
        let message = RunFolder::open(dir.path().join("typo"), CONFIG).unwrap_err().to_string();
        assert!(message.contains("typo is no folder"), "{message}");
        fs::write(dir.path().join("notes"), "").unwrap();
        let message = RunFolder::open(dir.path(), CONFIG).unwrap_err().to_string();
        assert!(message.contains("without config.toml"), "{message}");
    }

    #[test]
    fn killed_before_the_config_was_written() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK), "1\n").unwrap();
        fs::write(dir.path().join(".rlhf-tmp-x"), "see").unwrap();
        let folder = RunFolder::open(dir.path(), CONFIG).unwrap();
        assert_eq!(fs::read_to_string(folder.paths().config()).unwrap(), CONFIG);
        assert!(!dir.path().join(".rlhf-tmp-x").exists());
    }
}
