//! A disk that fills: what was written stays whole, and more room is all that a resume needs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{assert_same, contents, resumed, run, superhf};

/// A disk of its own size. Unmounts also when the test fails.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where this process may not mount.
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir.path());
        mount.output().is_ok_and(|o| o.status.success()).then(|| Self(dir))
    }

    fn grow(&self, size: &str) {
        let option = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &option]).arg(self.0.path()).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Bytes of all files below a folder.
fn n_bytes(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            if entry.path().is_dir() { n_bytes(&entry.path()) } else { entry.metadata().unwrap().len() }
        })
        .sum()
}

#[test]
fn is_named_and_a_resume_with_more_room_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &superhf("whole", &[])).ok();
    let expected = contents(&dir.path().join("whole"));
    // The first checkpoint does not fit; one half-way; one of the last, with 40 KiB less than all needs.
    let whole = n_bytes(&dir.path().join("whole")) >> 10;
    for size in ["64k".to_owned(), format!("{}k", whole / 2), format!("{}k", whole - 40)] {
        let Some(disk) = Tmpfs::mount(&size) else {
            eprintln!("skipped: mounting a tmpfs needs root");
            return;
        };
        let out = disk.0.path().join("run");
        let args = superhf(out.to_str().unwrap(), &[]);
        let failed = run(dir.path(), &args);
        let place = format!("{}/", out.display());
        failed.fails_with(1, &["writing", "No space left on device"]);
        assert!(failed.stderr.contains(&place), "{}", failed.stderr);
        eprintln!("{size}: {}", failed.stderr.lines().last().unwrap_or_default());
        for folder in [&out, &out.join("checkpoints"), &out.join("model")] {
            let halves =
                names(folder).into_iter().find(|n| n.starts_with(".rlhf-tmp-") || n.ends_with(".tmp"));
            assert_eq!(halves, None, "{size}");
        }
        disk.grow("8m");
        run(dir.path(), &resumed(&args)).ok();
        assert_same(&expected, &out, &size);
    }
}
