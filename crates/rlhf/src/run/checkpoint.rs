//! Checkpoints: one file each, made of named sections of bytes, every one with its checksum.
//!
//! ```text
//! 8 bytes   magic "RLHFCKPT"
//! u32 LE    version of this layout
//! u64 LE    length H of the header
//! H bytes   header, JSON: {"step":…,"sections":[{"name":…,"len":…,"blake3":…},…]}
//! 32 bytes  BLAKE3 of the header
//! …         the sections one after another, nothing between or behind them
//! ```
//!
//! A file is written under a temporary name and renamed, so it is whole unless the disk or a hand damaged it
//! later; the checksums are for that case. What a section means is its writer's business: model tensors as
//! safetensors bytes, optimiser state, counters as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic;
use crate::error::Error;

const MAGIC: &[u8; 8] = b"RLHFCKPT";
const VERSION: u32 = 1;
/// Magic, version and length of the header.
const PREAMBLE: usize = 8 + 4 + 8;
const EXTENSION: &str = "ckpt";

/// A named piece of a checkpoint to be written.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// Its name, once in a checkpoint.
    pub name: &'a str,
    /// Its contents.
    pub bytes: &'a [u8],
}

/// A checkpoint that was read and found intact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last step whose effect it holds.
    pub step: u64,
    /// Contents by name.
    pub sections: BTreeMap<String, Vec<u8>>,
}

impl Checkpoint {
    /// The contents of section `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such section, with the names that there are.
    pub fn section(&self, name: &str) -> Result<&[u8], Error> {
        self.sections.get(name).map(Vec::as_slice).ok_or_else(|| {
            let names: Vec<_> = self.sections.keys().map(String::as_str).collect();
            Error::Failed(format!(
                "checkpoint of step {}: expected a section {name:?}, found {}",
                self.step,
                names.join(", ")
            ))
        })
    }
}

/// A checkpoint that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it: expected and found.
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "damaged checkpoint {}: {}", self.path.display(), self.what)
    }
}

/// What [`CheckpointStore::latest`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// The newest intact checkpoint; `None` when none was ever written.
    pub checkpoint: Option<Checkpoint>,
    /// Newer ones that cannot be used.
    pub damaged: Vec<Damage>,
}

/// The folder of the checkpoints, of which the last few are kept.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    folder: PathBuf,
    keep: NonZeroUsize,
}

#[derive(Serialize, Deserialize)]
struct Header {
    step: u64,
    sections: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    len: u64,
    blake3: String,
}

impl CheckpointStore {
    /// The checkpoints in `folder`, which need not exist yet; the last `keep` are kept.
    pub fn new(folder: impl Into<PathBuf>, keep: NonZeroUsize) -> Self {
        Self { folder: folder.into(), keep }
    }

    /// Where the checkpoint of `step` lies.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:010}.{EXTENSION}"))
    }

    /// Writes the checkpoint of `step`, then removes those that are too old. Returns its path.
    ///
    /// # Panics
    ///
    /// When two sections have one name.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the checkpoints that were there are then still there.
    #[track_caller]
    pub fn save(&self, step: u64, sections: &[Section<'_>]) -> Result<PathBuf, Error> {
        let path = self.path(step);
        let header = header(step, sections);
        atomic::write_with(&path, |out| {
            out.write_all(MAGIC)?;
            out.write_all(&VERSION.to_le_bytes())?;
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(&header)?;
            out.write_all(blake3::hash(&header).as_bytes())?;
            sections.iter().try_for_each(|s| out.write_all(s.bytes))
        })?;
        let files = self.files()?;
        for old in files.iter().rev().skip(self.keep.get()) {
            fs::remove_file(&old.path).map_err(|e| Error::io("removing", &old.path, e))?;
        }
        Ok(path)
    }

    /// The newest intact checkpoint, and what is wrong with the newer ones.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there are checkpoints and all are damaged, [`Error::Io`] when the folder
    /// cannot be listed.
    pub fn latest(&self) -> Result<Latest, Error> {
        self.latest_where(|_| Ok(()))
    }

    /// As [`CheckpointStore::latest`], for the newest one that `accept` has no objection to as well; its
    /// objection counts as damage.
    ///
    /// # Errors
    ///
    /// As [`CheckpointStore::latest`].
    pub fn latest_where(&self, accept: impl Fn(&Checkpoint) -> Result<(), String>) -> Result<Latest, Error> {
        let mut damaged = Vec::new();
        for file in self.files()?.into_iter().rev() {
            let read = read(&file).and_then(|c| accept(&c).map(|()| c));
            match read {
                Ok(checkpoint) => return Ok(Latest { checkpoint: Some(checkpoint), damaged }),
                Err(what) => damaged.push(Damage { path: file.path, what }),
            }
        }
        if damaged.is_empty() {
            return Ok(Latest { checkpoint: None, damaged });
        }
        let all: Vec<_> = damaged.iter().map(ToString::to_string).collect();
        Err(Error::Failed(format!(
            "{}: expected an intact checkpoint, found none: {}",
            self.folder.display(),
            all.join("; ")
        )))
    }

    /// Renames damaged checkpoints to `….damaged`, so that they are neither counted nor tried again.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be renamed.
    pub fn set_aside(&self, damaged: &[Damage]) -> Result<(), Error> {
        for Damage { path, .. } in damaged {
            fs::rename(path, path.with_extension("ckpt.damaged"))
                .map_err(|e| Error::io("renaming", path, e))?;
        }
        Ok(())
    }

    /// The checkpoint files, oldest first.
    fn files(&self) -> Result<Vec<CheckpointFile>, Error> {
        let listing = |e| Error::io("listing", &self.folder, e);
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(listing)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(listing)?.path();
            if let Some(step) = step_of(&path) {
                files.push(CheckpointFile { step, path });
            }
        }
        files.sort();
        Ok(files)
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct CheckpointFile {
    step: u64,
    path: PathBuf,
}

fn step_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("step-")?.strip_suffix(EXTENSION)?.strip_suffix('.')?.parse().ok()
}

#[track_caller]
fn header(step: u64, sections: &[Section<'_>]) -> Vec<u8> {
    let mut names: Vec<_> = sections.iter().map(|s| s.name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|w| w[0] == w[1]) {
        panic!("checkpoint of step {step}: expected sections of different names, found {:?} twice", pair[0]);
    }
    let entries = sections.iter().map(|s| Entry {
        name: s.name.to_owned(),
        len: s.bytes.len() as u64,
        blake3: blake3::hash(s.bytes).to_hex().to_string(),
    });
    let header = Header { step, sections: entries.collect() };
    serde_json::to_vec(&header).expect("text and whole numbers always make JSON")
}

fn read(file: &CheckpointFile) -> Result<Checkpoint, String> {
    let bytes = fs::read(&file.path).map_err(|e| e.to_string())?;
    let checkpoint = parse(&bytes)?;
    if checkpoint.step != file.step {
        return Err(format!("expected step {} as in its name, found {}", file.step, checkpoint.step));
    }
    Ok(checkpoint)
}

fn parse(bytes: &[u8]) -> Result<Checkpoint, String> {
    let mut rest = bytes;
    let preamble = take(&mut rest, PREAMBLE as u64, "preamble")?;
    let (magic, numbers) = preamble.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(format!(
            "expected magic {:?}, found {:?}",
            MAGIC.escape_ascii().to_string(),
            magic.escape_ascii().to_string()
        ));
    }
    let (version, length) = numbers.split_at(4);
    let version = little_endian(version);
    if version != u64::from(VERSION) {
        return Err(format!("expected layout version {VERSION}, found {version}"));
    }
    let header = take(&mut rest, little_endian(length), "header")?;
    let stored = take(&mut rest, 32, "checksum of the header")?;
    let found = blake3::hash(header);
    if found.as_bytes() != stored {
        return Err(format!("header: expected checksum {}, found {found}", hex(stored)));
    }
    let header: Header = serde_json::from_slice(header).map_err(|e| format!("header: {e}"))?;
    let mut sections = BTreeMap::new();
    for entry in header.sections {
        let contents = take(&mut rest, entry.len, &format!("section {:?}", entry.name))?;
        let found = blake3::hash(contents).to_hex();
        if found.as_str() != entry.blake3 {
            return Err(format!(
                "section {:?}: expected checksum {}, found {found}",
                entry.name, entry.blake3
            ));
        }
        sections.insert(entry.name, contents.to_vec());
    }
    if !rest.is_empty() {
        return Err(format!("expected the end of the file, found {} more bytes", rest.len()));
    }
    Ok(Checkpoint { step: header.step, sections })
}

fn take<'a>(rest: &mut &'a [u8], len: u64, what: &str) -> Result<&'a [u8], String> {
    let short = || format!("short file: {what}: expected {len} bytes, found {}", rest.len());
    let len = usize::try_from(len).map_err(|_| short())?;
    let (head, tail) = rest.split_at_checked(len).ok_or_else(short)?;
    *rest = tail;
    Ok(head)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &b| (n << 8) | u64::from(b))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: NonZeroUsize = NonZeroUsize::new(2).unwrap();

    fn store(dir: &tempfile::TempDir) -> CheckpointStore {
        CheckpointStore::new(dir.path().join("checkpoints"), KEEP)
    }

    fn save(store: &CheckpointStore, step: u64) -> PathBuf {
        let state = step.to_string();
        let model = [step as u8; 40];
        let sections =
            [Section { name: "state", bytes: state.as_bytes() }, Section { name: "model", bytes: &model }];
        store.save(step, &sections).unwrap()
    }

    #[test]
    fn comes_back_as_it_was_and_the_last_two_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        assert_eq!(store.latest().unwrap(), Latest { checkpoint: None, damaged: Vec::new() });
        for step in [9, 10, 11] {
            save(&store, step);
        }
        let latest = store.latest().unwrap();
        assert!(latest.damaged.is_empty());
        let checkpoint = latest.checkpoint.unwrap();
        assert_eq!(checkpoint.step, 11);
        assert_eq!(checkpoint.section("state").unwrap(), b"11");
        assert_eq!(checkpoint.section("model").unwrap(), [11; 40]);
        let message = checkpoint.section("optimizer").unwrap_err().to_string();
        assert_eq!(message, "checkpoint of step 11: expected a section \"optimizer\", found model, state");
        assert!(!store.path(9).exists() && store.path(10).exists());
    }

    #[test]
    fn empty_sections_and_no_sections() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        store.save(0, &[Section { name: "", bytes: b"" }]).unwrap();
        assert_eq!(store.latest().unwrap().checkpoint.unwrap().section("").unwrap(), b"");
        store.save(1, &[]).unwrap();
        assert!(store.latest().unwrap().checkpoint.unwrap().sections.is_empty());
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let intact = fs::read(save(&store(&dir), 3)).unwrap();
        assert_eq!(parse(&intact).unwrap().step, 3);
        for len in 0..intact.len() {
            let what = parse(&intact[..len]).unwrap_err();
            assert!(what.starts_with("short file: "), "{len}: {what}");
        }
        for at in 0..intact.len() {
            let mut bytes = intact.clone();
            bytes[at] ^= 0x10;
            parse(&bytes).unwrap_err();
        }
        let longer = [intact.as_slice(), b"x"].concat();
        assert_eq!(parse(&longer).unwrap_err(), "expected the end of the file, found 1 more bytes");
    }

    #[test]
    fn damage_is_named_and_the_one_before_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        save(&store, 1);
        let newest = save(&store, 2);
        let mut bytes = fs::read(&newest).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&newest, &bytes).unwrap();
        let latest = store.latest().unwrap();
        assert_eq!(latest.checkpoint.unwrap().step, 1);
        let [damage] = &latest.damaged[..] else { panic!("{:?}", latest.damaged) };
        let message = damage.to_string();
        assert!(
            message.starts_with(&format!("damaged checkpoint {}: section", newest.display())),
            "{message}"
        );
        let expected = blake3::hash(&[2; 40]);
        assert!(message.contains(&format!("\"model\": expected checksum {expected}, found ")), "{message}");
        store.set_aside(&latest.damaged).unwrap();
        assert!(store.latest().unwrap().damaged.is_empty());
        assert!(newest.with_extension("ckpt.damaged").exists());
    }

    #[test]
    fn all_damaged_is_an_error_that_names_each() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        fs::write(save(&store, 1), b"not a checkpoint, but long enough").unwrap();
        fs::write(save(&store, 2), b"").unwrap();
        let message = store.latest().unwrap_err().to_string();
        for part in [
            "expected an intact checkpoint, found none",
            "step-0000000002.ckpt: short file: preamble: expected 20 bytes, found 0",
            "step-0000000001.ckpt: expected magic \"RLHFCKPT\", found \"not a ch\"",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn of_another_step_or_of_a_later_version() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        save(&store, 1);
        fs::copy(store.path(1), store.path(2)).unwrap();
        let mut bytes = fs::read(store.path(1)).unwrap();
        bytes[8] = 2;
        fs::write(store.path(1), bytes).unwrap();
        let message = store.latest().unwrap_err().to_string();
        assert!(message.contains("expected step 2 as in its name, found 1"), "{message}");
        assert!(message.contains("expected layout version 1, found 2"), "{message}");
    }

    #[test]
    #[should_panic(expected = "found \"a\" twice")]
    fn one_name_twice() {
        let a = Section { name: "a", bytes: b"" };
        drop(CheckpointStore::new("unused", KEEP).save(0, &[a, a]));
    }
}
