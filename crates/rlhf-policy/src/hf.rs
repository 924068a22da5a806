//! Hugging Face model folders: `config.json` and safetensors, in and out.
//!
//! What is saved here loads in `transformers` with `from_pretrained`; what it saves loads here.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::Value;

use crate::error::Error;

mod checkpoint;
mod file;
mod header;
mod save;

pub use checkpoint::{Checkpoint, load_decoder};
pub use file::TensorFile;
pub use save::{FileType, Saving, deserialize, save, save_as, serialize};

/// The model's weights in one file.
pub const MODEL_FILE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// A file's text.
///
/// # Errors
/// A file that cannot be read or is not UTF-8; the error names the line.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|e| Error::file(path, format!("reading: {e}")))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let before = &e.as_bytes()[..at];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let found = e.as_bytes().get(at).copied().unwrap_or_default();
        Error::file(path, format!("line {line}: expected UTF-8 text, found the byte 0x{found:02x}"))
    })
}

pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Writes a file that appears whole or not at all: under another name, synced, renamed.
pub(crate) fn write_whole(
    path: &Path,
    fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), Error>,
) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let failed = |e: std::io::Error| Error::file(path, format!("writing: {e}"));
    let mut attempt = || {
        let file = fs::File::create(&temporary).map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        out.flush().map_err(failed)?;
        out.get_ref().sync_all().map_err(failed)?;
        fs::rename(&temporary, path).map_err(failed)
    };
    attempt().inspect_err(|_| {
        // The first error is the one to tell; a file that cannot be removed changes nothing.
        let _ = fs::remove_file(&temporary);
    })
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_whole(path, &mut |out| out.write_all(bytes).map_err(|e| Error::file(path, format!("writing: {e}"))))
}
