//! A file that only grows, and that can be cut back to where a checkpoint saw it.
//!
//! Each record is written whole by one call, so that somebody who follows the file sees whole records. A
//! [`Mark`] is a length that is safely on the disk, with the checksum of everything before it; opening with
//! a mark cuts off what came later, and the file continues as if the later records had never been.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic;
use crate::error::Error;

/// A place in a log that is safely on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Bytes before it.
    pub len: u64,
    /// BLAKE3 of those bytes, in hexadecimal.
    pub blake3: String,
}

/// An append-only file with a running checksum.
#[derive(Debug)]
pub(crate) struct AppendLog {
    path: PathBuf,
    file: File,
    len: u64,
    hasher: blake3::Hasher,
}

impl AppendLog {
    /// An empty log at `path`; what was there is cut off.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::io("making the folder", folder, e))?;
        }
        Self::cut(path, 0, blake3::Hasher::new())
    }

    /// The log at `path`, cut to `mark`, which must have been checked with [`check`].
    pub(crate) fn reopen(path: &Path, mark: &Mark) -> Result<Self, Error> {
        let hasher = hash_prefix(path, mark.len).map_err(|e| Error::io("reading", path, e))?.hasher;
        Self::cut(path, mark.len, hasher)
    }

    fn cut(path: &Path, len: u64, hasher: blake3::Hasher) -> Result<Self, Error> {
        // Appending, and not at a remembered place: after the cut the next byte is always the last one.
        let mut options = File::options();
        let file = options.create(true).append(true).open(path).map_err(|e| Error::io("opening", path, e))?;
        file.set_len(len).map_err(|e| Error::io("cutting back", path, e))?;
        Ok(Self { path: path.to_owned(), file, len, hasher })
    }

    /// Adds `record`, whole.
    pub(crate) fn append(&mut self, record: &[u8]) -> Result<(), Error> {
        if let Err(e) = self.file.write_all(record) {
            // Part of it may stand there. The cut is a courtesy to readers; a resume makes it anyway.
            let _ = self.file.set_len(self.len);
            return Err(Error::io("writing", &self.path, e));
        }
        self.hasher.update(record);
        self.len += record.len() as u64;
        Ok(())
    }

    /// Waits until everything is on the disk.
    pub(crate) fn sync(&mut self) -> Result<Mark, Error> {
        self.file.sync_all().map_err(|e| Error::io("flushing", &self.path, e))?;
        if let Some(folder) = self.path.parent() {
            atomic::sync_folder(folder).map_err(|e| Error::io("flushing the folder", folder, e))?;
        }
        Ok(Mark { len: self.len, blake3: self.hasher.finalize().to_hex().to_string() })
    }
}

/// Says what is wrong when the file at `path` does not begin with the bytes that `mark` saw.
pub(crate) fn check(path: &Path, mark: &Mark) -> Result<(), String> {
    let found = hash_prefix(path, mark.len).map_err(|e| format!("reading {}: {e}", path.display()))?;
    if found.len < mark.len {
        return Err(format!("{}: expected at least {} bytes, found {}", path.display(), mark.len, found.len));
    }
    let hash = found.hasher.finalize().to_hex();
    if hash.as_str() != mark.blake3 {
        return Err(format!(
            "{}: expected checksum {} of the first {} bytes, found {hash}",
            path.display(),
            mark.blake3,
            mark.len
        ));
    }
    Ok(())
}

struct Prefix {
    len: u64,
    hasher: blake3::Hasher,
}

fn hash_prefix(path: &Path, len: u64) -> std::io::Result<Prefix> {
    let mut hasher = blake3::Hasher::new();
    let len = std::io::copy(&mut File::open(path)?.take(len), &mut hasher)?;
    Ok(Prefix { len, hasher })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_back_to_a_mark_and_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/log");
        let mut log = AppendLog::create(&path).unwrap();
        log.append(b"one\n").unwrap();
        let mark = log.sync().unwrap();
        assert_eq!(mark.len, 4);
        assert_eq!(mark.blake3, blake3::hash(b"one\n").to_hex().as_str());
        log.append(b"two, lost\n").unwrap();
        drop(log);
        check(&path, &mark).unwrap();
        let mut log = AppendLog::reopen(&path, &mark).unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(log.sync().unwrap().blake3, blake3::hash(b"one\ntwo\n").to_hex().as_str());
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        drop(AppendLog::create(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_file_that_was_touched_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = AppendLog::create(&path).unwrap();
        log.append(b"one\n").unwrap();
        let mark = log.sync().unwrap();
        fs::write(&path, b"on").unwrap();
        assert!(check(&path, &mark).unwrap_err().ends_with("expected at least 4 bytes, found 2"));
        fs::write(&path, b"two\nmore").unwrap();
        assert!(check(&path, &mark).unwrap_err().contains("expected checksum"));
        fs::remove_file(&path).unwrap();
        assert!(check(&path, &mark).unwrap_err().starts_with("reading "));
    }
}
