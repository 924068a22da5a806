//! Files that are either the old ones or the new ones, never half of each.
//!
//! A file is written under a temporary name in its own folder, flushed to the disk, renamed over the old
//! one, and the folder is flushed too: without that last step the rename itself can be lost with the power.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::Error;

/// How the temporary names begin; a killed process may leave one behind, see [`remove_leftovers`].
pub(crate) const TEMPORARY_PREFIX: &str = ".rlhf-tmp-";

/// Puts `bytes` at `path`, in place of what is there. The folder is made where it is missing.
///
/// # Errors
///
/// [`Error::Io`] with the path, a full disk among them. The old file then stays as it was, and the temporary
/// one is removed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_with(path, |out| out.write_all(bytes))
}

/// As [`write()`], for contents that are produced piece by piece.
///
/// # Errors
///
/// As [`write()`]; an error of `contents` counts as one of writing.
pub fn write_with(path: &Path, contents: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(|e| Error::io("making the folder", folder, e))?;
    replace(folder, path, contents).map_err(|e| Error::io("writing", path, e))?;
    sync_folder(folder).map_err(|e| Error::io("flushing the folder", folder, e))
}

/// Removes the temporary files that a killed process left in `folder` and below; a missing folder has none.
///
/// # Errors
///
/// [`Error::Io`] when the folder cannot be listed or a file not removed.
pub fn remove_leftovers(folder: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| Error::io("listing", folder, e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("listing", folder, e))?;
        let kind = entry.file_type().map_err(|e| Error::io("listing", entry.path(), e))?;
        // A link's target is not ours, so links to folders are not followed.
        if kind.is_dir() {
            remove_leftovers(&entry.path())?;
        } else if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            fs::remove_file(entry.path()).map_err(|e| Error::io("removing", entry.path(), e))?;
        }
    }
    Ok(())
}

fn replace(
    folder: &Path,
    path: &Path,
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    // Temporary files are private by default; this one becomes an ordinary file, under the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // Dropping the handle on any `?` below removes the temporary file.
    let mut file = builder.tempfile_in(folder)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    contents(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Flushes the names in `folder`, so that a rename or a new file survives a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file, and renames are written through.
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Tmpfs;
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.txt");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(&dir.path().join("a")), ["b.txt"]);
    }

    #[cfg(unix)]
    #[test]
    fn mode_is_that_of_an_ordinary_file() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        write(&ours, b"").unwrap();
        fs::write(&theirs, b"").unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&theirs));
    }

    #[test]
    fn failure_half_way_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"old").unwrap();
        let failed = write_with(&path, |out| {
            out.write_all(&[0; 4 << 20])?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), format!("writing {}: no more", path.display()));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn leftovers_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("reward/proxy")).unwrap();
        for half in [".rlhf-tmp-Ab3", "reward/proxy/.rlhf-tmp-Cd4"] {
            fs::write(dir.path().join(half), b"half").unwrap();
        }
        fs::write(dir.path().join("kept"), b"").unwrap();
        remove_leftovers(dir.path()).unwrap();
        remove_leftovers(&dir.path().join("missing")).unwrap();
        assert_eq!(names(dir.path()), ["kept", "reward"]);
        assert!(names(&dir.path().join("reward/proxy")).is_empty());
    }

    #[test]
    fn full_disk_is_named_and_keeps_the_old_file() {
        let Some(disk) = Tmpfs::mount("64k") else {
            eprintln!("skipped: mounting a tmpfs needs root");
            return;
        };
        let path = disk.path().join("model.safetensors");
        write(&path, &[7; 20 << 10]).unwrap();
        let error = write(&path, &[8; 60 << 10]).unwrap_err();
        let Error::Io { doing, path: at, source } = &error else { panic!("{error}") };
        assert_eq!((*doing, at), ("writing", &path));
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), [7; 20 << 10]);
        assert_eq!(names(disk.path()), ["model.safetensors"]);
        // 20 + 40 KiB fit beside each other: the failed attempt has given its space back.
        write(&path, &[9; 40 << 10]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [9; 40 << 10]);
    }
}
