//! From a path to a stream of lines: the format by file name, gzip on the way.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::fault::Fault;
use crate::error::Error;

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON object a line, or one array of objects.
    Json,
    /// Comma-separated, RFC 4180.
    Csv,
    /// Tab-separated, without quoting: a cell is what stands between two tabs.
    Tsv,
    /// Parquet.
    Parquet,
}

/// The format that the name of `path` says, and whether it is gzipped.
pub(super) fn format_of(path: &Path) -> Result<(Format, bool), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (stem, gzipped) = match name.strip_suffix(".gz") {
        Some(stem) => (stem, true),
        None => (name.as_str(), false),
    };
    let format = match stem.rsplit_once('.').map(|(_, ext)| ext) {
        Some("jsonl" | "ndjson" | "json") => Format::Json,
        Some("csv") => Format::Csv,
        Some("tsv") => Format::Tsv,
        Some("parquet") if !gzipped => Format::Parquet,
        _ => {
            let expected =
                "a name ending in .jsonl, .ndjson, .json, .csv, .tsv (each also with .gz) or .parquet";
            return Err(Error::config(path.display().to_string(), "file name", expected, name));
        }
    };
    Ok((format, gzipped))
}

/// A byte stream that knows its line.
pub(super) struct Lines {
    inner: Box<dyn BufRead + Send>,
    gzipped: bool,
    /// Line feeds read so far.
    n_read: usize,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("gzipped", &self.gzipped).field("n_read", &self.n_read).finish()
    }
}

impl Lines {
    pub(super) fn open(path: &Path, gzipped: bool) -> Result<Self, Error> {
        let file = BufReader::new(File::open(path).map_err(|e| Error::io("opening", path, e))?);
        let inner: Box<dyn BufRead + Send> =
            if gzipped { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) };
        Ok(Self { inner, gzipped, n_read: 0 })
    }

    /// The line that the next byte stands on, from 1.
    pub(super) fn line(&self) -> usize {
        self.n_read + 1
    }

    /// Appends the next line, line feed and all; `false` at the end of the stream.
    pub(super) fn append_line(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Fault> {
        match self.inner.read_until(b'\n', buffer) {
            Ok(0) => Ok(false),
            Ok(_) => {
                self.n_read += usize::from(buffer.last() == Some(&b'\n'));
                Ok(true)
            }
            Err(e) => Err(self.fault(e)),
        }
    }

    /// The next byte that is no white space, left in place.
    pub(super) fn peek(&mut self) -> Result<Option<u8>, Fault> {
        loop {
            let first = match self.inner.fill_buf() {
                Ok(bytes) => bytes.first().copied(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.fault(e)),
            };
            match first {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.skip(),
                other => return Ok(other),
            }
        }
    }

    /// Passes over the byte that [`Lines::peek`] returned.
    pub(super) fn skip(&mut self) {
        if let Ok(bytes) = self.inner.fill_buf() {
            self.n_read += usize::from(bytes.first() == Some(&b'\n'));
            let n = bytes.len().min(1);
            self.inner.consume(n);
        }
    }

    /// Passes over a byte order mark at the start, as Windows programs write it.
    pub(super) fn skip_mark(&mut self) -> Result<(), Fault> {
        match self.inner.fill_buf() {
            Ok(bytes) if bytes.starts_with(b"\xef\xbb\xbf") => {
                self.inner.consume(3);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(e) => Err(self.fault(e)),
        }
    }

    /// What a failed read means; nothing can be read after it.
    pub(super) fn fault(&self, e: io::Error) -> Fault {
        let line = self.line();
        match e.kind() {
            io::ErrorKind::UnexpectedEof if self.gzipped => {
                Fault::end(line, "gzip", "a complete stream", "a stream cut short in this line")
            }
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput if self.gzipped => {
                Fault::end(line, "gzip", "an undamaged stream", e.to_string())
            }
            _ => Fault::Io(e),
        }
    }
}

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.n_read += buffer[..n].iter().filter(|b| **b == b'\n').count();
        Ok(n)
    }
}
