//! One safetensors file, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::header::{self, Entry};
use crate::error::Error;

/// Bytes that are converted before their pages are given back.
const PIECE: usize = 4 << 20;

/// A safetensors file: its header read and checked, its data mapped and converted when asked for.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, Entry>,
}

impl TensorFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// A file that is missing, or whose header lies about it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let map = map(path)?;
        let tensors = header::parse(path, &map)?;
        Ok(Self { path: path.to_owned(), map, tensors })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor; nothing where the file has none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// The tensor `name` as `f32`, row-major. The file's pages are given back piece by piece, so that
    /// the memory in use grows by the numbers alone.
    ///
    /// # Errors
    /// A tensor that is missing, or of a type other than F32, BF16 and F16; no memory for it.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, Error> {
        let wrong = |expected: &str, found: String| {
            let expected = format!("{expected} in {}", self.path.display());
            Error::Tensor { name: name.to_owned(), expected, found }
        };
        let Some(entry) = self.tensors.get(name) else {
            return Err(wrong("a tensor", "nothing".into()));
        };
        let kind = match entry.dtype.as_str() {
            "F32" => Kind::F32,
            "BF16" => Kind::Bf16,
            "F16" => Kind::F16,
            other => return Err(wrong("F32, BF16 or F16", other.to_owned())),
        };
        let mut out = Vec::new();
        let n = entry.bytes.len() / kind.width();
        out.try_reserve_exact(n).map_err(|e| wrong("room in memory", format!("{n} numbers: {e}")))?;
        let mut rest = entry.bytes.clone();
        while !rest.is_empty() {
            let piece = rest.start..rest.end.min(rest.start.saturating_add(PIECE));
            kind.extend(&mut out, &self.map[piece.clone()]);
            forget(&self.map, &piece);
            rest.start = piece.end;
        }
        Ok(out)
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    F32,
    Bf16,
    F16,
}

impl Kind {
    fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    fn extend(self, out: &mut Vec<f32>, bytes: &[u8]) {
        match self {
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::Bf16 => {
                out.extend(bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()));
            }
            Self::F16 => {
                out.extend(bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()));
            }
        }
    }
}

#[expect(unsafe_code, reason = "a memory map is only sound while nobody truncates the file")]
fn map(path: &Path) -> Result<Mmap, Error> {
    let file = File::open(path).map_err(|e| Error::file(path, format!("opening: {e}")))?;
    // SAFETY: model folders are replaced by rename, never rewritten in place, so the pages stay.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::file(path, format!("mapping: {e}")))
}

/// Gives the pages of a range back to the system.
#[cfg(unix)]
#[expect(unsafe_code, reason = "memmap2 cannot know that the map is shared and read-only")]
fn forget(map: &Mmap, bytes: &Range<usize>) {
    // SAFETY: a shared, read-only map of a file has no content of its own to lose: a page that is
    // touched again is read from the file again, with the same bytes.
    let advice =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
    // Advice that is not taken costs memory only.
    drop(advice);
}

#[cfg(not(unix))]
fn forget(_: &Mmap, _: &Range<usize>) {}
