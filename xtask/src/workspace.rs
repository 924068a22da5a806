//! Where the workspace lies, and which files are in it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The workspace, by its root folder.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

/// One thing a check found: where, and what was expected and found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Path below the root.
    pub(crate) file: String,
    /// Line, from 1; 0 when the whole file is meant.
    pub(crate) line: usize,
    /// What is wrong, what was expected, what was found.
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

/// Folders that hold no source of ours.
const SKIPPED: &[&str] = &["target", ".git", "runs", ".venv", "__pycache__", "node_modules"];

impl Workspace {
    /// The workspace that this program belongs to.
    pub(crate) fn here() -> Self {
        // `cargo run` and `cargo test` set the variable; a program started by hand knows where it was built.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .filter(|folder| folder.ends_with("xtask"))
            .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        Self { root: manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf) }
    }

    /// The root folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder, absolute: `CARGO_TARGET_DIR`, else `target` at the root.
    pub(crate) fn target(&self) -> PathBuf {
        let folder = env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty());
        let folder = folder.map_or_else(|| self.root.join("target"), PathBuf::from);
        std::path::absolute(&folder).unwrap_or(folder)
    }

    /// The text of a file below the root.
    ///
    /// # Errors
    /// A finding that names the file, when it cannot be read as UTF-8.
    pub(crate) fn read(&self, file: &str) -> Result<String, Finding> {
        fs::read_to_string(self.root.join(file)).map_err(|error| Finding {
            file: file.to_owned(),
            line: 0,
            message: format!("expected a readable text file, found: {error}"),
        })
    }

    /// Files below `folder` that end in one of `extensions`, sorted, as paths below the root.
    pub(crate) fn files(&self, folder: &str, extensions: &[&str]) -> Vec<String> {
        let mut files = Vec::new();
        collect(&self.root.join(folder), &mut files);
        let mut names: Vec<String> = files
            .iter()
            .filter(|path| path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)))
            .filter_map(|path| path.strip_prefix(&self.root).ok())
            .map(|path| path.to_string_lossy().replace('\\', "/"))
            .collect();
        names.sort();
        names
    }

    /// Every file, hidden ones too, as paths below the root.
    pub(crate) fn all_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect(&self.root, &mut files);
        // A target folder by another name is no source either.
        files.retain(|path| !path.starts_with(self.target()));
        files.iter().filter_map(|path| path.strip_prefix(&self.root).ok()).map(Path::to_path_buf).collect()
    }

    /// Names of the examples, from their files.
    pub(crate) fn examples(&self) -> Vec<String> {
        let files = self.files("examples", &["rs"]);
        let names = files.iter().filter_map(|f| Path::new(f).file_stem()?.to_str().map(str::to_owned));
        names.collect()
    }

    /// Names of the folders directly below `crates/` that hold a manifest, sorted.
    pub(crate) fn crates(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("crates")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().join("Cargo.toml").is_file())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// Every file below `folder`; a folder that does not exist has none.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries: Vec<io::Result<fs::DirEntry>> = fs::read_dir(folder).into_iter().flatten().collect();
    for entry in entries.into_iter().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) => {
                collect(&path, files);
            }
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}
