//! Rows of any format as JSON objects, one at a time.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Layout;
use super::columnar::ParquetRows;
use super::fault::{Fault, describe, quote};
use super::source::{Format, Lines, format_of};
use crate::error::Error;

/// One row: its place and its cells by column.
#[derive(Debug)]
pub(super) struct Row {
    /// Line or row, from 1.
    pub(super) line: usize,
    /// Cells; from CSV and TSV all are strings.
    pub(super) cells: Map<String, Value>,
    /// Where the row stands.
    pub(super) kind: RowKind,
}

/// What a cell's type and a missing column mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKind {
    /// JSON: cells have types, each row its own keys.
    Object,
    /// CSV, TSV: cells are text, numbers are read from it; all rows have the same columns.
    Text,
    /// Parquet: cells have types; all rows have the same columns.
    Typed,
}

/// The rows of a file, streaming.
#[derive(Debug)]
pub(super) enum Rows {
    JsonLines(Lines),
    JsonArray { lines: Lines, before: Before },
    Delimited(Delimited),
    Parquet(ParquetRows),
}

/// What stands before the next element of a JSON array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Bracket,
    Element,
    End,
}

impl Rows {
    /// Opens `path`, whose name gives the format; an unreadable header is an error here.
    pub(super) fn open(path: &Path, layout: &Layout) -> Result<Self, Error> {
        let (format, gzipped) = format_of(path)?;
        if matches!(format, Format::Json | Format::Parquet) && layout.header.is_some() {
            let expected = "no column names for a format that has its own";
            return Err(Error::config(path.display().to_string(), "header", expected, "some"));
        }
        let opened = |rows: Result<Self, Fault>| rows.map_err(|fault| fault.into_error(path));
        match format {
            Format::Parquet => ParquetRows::open(path).map(Self::Parquet),
            Format::Json => opened(Self::json(Lines::open(path, gzipped)?)),
            Format::Csv => opened(
                Delimited::start(Lines::open(path, gzipped)?, Quoting::Rfc4180, layout).map(Self::Delimited),
            ),
            Format::Tsv => opened(
                Delimited::start(Lines::open(path, gzipped)?, Quoting::None, layout).map(Self::Delimited),
            ),
        }
    }

    /// The first character tells an array from lines: data sets use the ending `.json` for both.
    fn json(mut lines: Lines) -> Result<Self, Fault> {
        lines.skip_mark()?;
        Ok(match lines.peek()? {
            Some(b'[') => Self::JsonArray { lines, before: Before::Bracket },
            _ => Self::JsonLines(lines),
        })
    }

    /// The next row; `None` at the end. After a fault that ends the stream the caller stops.
    pub(super) fn next(&mut self) -> Option<Result<Row, Fault>> {
        match self {
            Self::JsonLines(lines) => next_line(lines).transpose(),
            Self::JsonArray { lines, before } => next_element(lines, before).transpose(),
            Self::Delimited(rows) => rows.next().transpose(),
            Self::Parquet(rows) => rows.next(),
        }
    }
}

/// The next line that is not blank, as an object.
fn next_line(lines: &mut Lines) -> Result<Option<Row>, Fault> {
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let line = lines.line();
        if !lines.append_line(&mut buffer)? {
            return Ok(None);
        }
        let text = utf8(&buffer, line, "line")?.trim();
        if text.is_empty() {
            continue;
        }
        let value = serde_json::from_str(text)
            .map_err(|e| Fault::new(line, "json", "one JSON object", json_problem(&e, text)))?;
        return object(value, line).map(Some);
    }
}

/// What the parser said, with the text around the place where it stopped.
fn json_problem(e: &serde_json::Error, text: &str) -> String {
    let message = e.to_string();
    // A record is one line, so "at line 1" would mislead.
    let what = message.split(" at line ").next().unwrap_or(&message);
    format!("{} ({what} at column {})", quote(text), e.column())
}

/// The next element of an array of objects. A broken one ends the stream: nothing says where the
/// next begins.
fn next_element(lines: &mut Lines, before: &mut Before) -> Result<Option<Row>, Fault> {
    let next = lines.peek()?;
    let line = lines.line();
    let unexpected = |expected: &str, byte: Option<u8>| {
        let found = byte.map_or("the end of the file".to_owned(), |b| format!("{:?}", char::from(b)));
        Fault::end(line, "json", expected, found)
    };
    match (*before, next) {
        (Before::Bracket, Some(b'[')) | (Before::Element, Some(b',')) => lines.skip(),
        (Before::Element, Some(b']')) => {
            lines.skip();
            *before = Before::End;
            return next_element(lines, before);
        }
        (Before::End, None) => return Ok(None),
        (Before::End, byte) => return Err(unexpected("nothing after the array", byte)),
        (_, byte) => return Err(unexpected("`,` or `]` after a record", byte)),
    }
    let first = lines.peek()?;
    let line = lines.line();
    if first == Some(b']') && *before == Before::Bracket {
        *before = Before::Element;
        return next_element(lines, before);
    }
    *before = Before::Element;
    if first != Some(b'{') {
        let found = first.map_or("the end of the file".to_owned(), |b| format!("{:?}", char::from(b)));
        return Err(Fault::end(line, "json", "an object that starts with `{`", found));
    }
    let mut parser = serde_json::Deserializer::from_reader(&mut *lines);
    let parsed = Value::deserialize(&mut parser);
    drop(parser);
    let value = parsed.map_err(|e| {
        if e.is_io() {
            return lines.fault(e.into());
        }
        let message = e.to_string();
        let what = message.split(" at line ").next().unwrap_or(&message);
        Fault::end(lines.line(), "json", "one JSON object", what)
    })?;
    object(value, line).map(Some)
}

fn object(value: Value, line: usize) -> Result<Row, Fault> {
    match value {
        Value::Object(cells) => Ok(Row { line, cells, kind: RowKind::Object }),
        other => Err(Fault::new(line, "json", "one JSON object", describe(&other))),
    }
}

fn utf8<'a>(bytes: &'a [u8], line: usize, field: &str) -> Result<&'a str, Fault> {
    std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let found = format!("the byte 0x{:02x} after {at} bytes", bytes[at]);
        Fault::new(line, field, "valid UTF-8", found)
    })
}

/// How a cell may be quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoting {
    /// Comma-separated; `"…"` around cells with commas, line feeds or doubled quotation marks.
    Rfc4180,
    /// Tab-separated; quotation marks are text.
    None,
}

/// Rows of a CSV or TSV file.
#[derive(Debug)]
pub(super) struct Delimited {
    lines: Lines,
    quoting: Quoting,
    columns: Vec<String>,
}

impl Delimited {
    fn start(mut lines: Lines, quoting: Quoting, layout: &Layout) -> Result<Self, Fault> {
        lines.skip_mark()?;
        let columns = match &layout.header {
            Some(names) => names.clone(),
            None => match next_cells(&mut lines, quoting)? {
                Some(RawRow { line, cells }) => header(line, cells)?,
                None => Vec::new(),
            },
        };
        Ok(Self { lines, quoting, columns })
    }

    fn next(&mut self) -> Result<Option<Row>, Fault> {
        let Some(RawRow { line, cells }) = next_cells(&mut self.lines, self.quoting)? else {
            return Ok(None);
        };
        let n = self.columns.len();
        if cells.len() != n {
            return Err(Fault::new(line, "row", format!("{n} cells"), format!("{} cells", cells.len())));
        }
        let mut row = Map::new();
        for (column, cell) in self.columns.iter().zip(cells) {
            let text = utf8(&cell, line, column)?;
            row.insert(column.clone(), Value::String(text.to_owned()));
        }
        Ok(Some(Row { line, cells: row, kind: RowKind::Text }))
    }
}

/// Column names; each once, since a cell is found by its name.
fn header(line: usize, cells: Vec<Vec<u8>>) -> Result<Vec<String>, Fault> {
    let mut names: Vec<String> = Vec::with_capacity(cells.len());
    for cell in cells {
        let name = utf8(&cell, line, "header").map_err(|_| {
            Fault::end(line, "header", "column names in UTF-8", String::from_utf8_lossy(&cell))
        })?;
        if names.iter().any(|n| n == name) {
            return Err(Fault::end(line, "header", "each column once", format!("{name:?} twice")));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// A row before its cells have names.
struct RawRow {
    /// The line it starts on.
    line: usize,
    cells: Vec<Vec<u8>>,
}

/// The next row that is not blank.
fn next_cells(lines: &mut Lines, quoting: Quoting) -> Result<Option<RawRow>, Fault> {
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let line = lines.line();
        if !lines.append_line(&mut buffer)? {
            return Ok(None);
        }
        if without_line_end(&buffer).is_empty() {
            continue;
        }
        return match quoting {
            Quoting::None => {
                let cells = without_line_end(&buffer).split(|b| *b == b'\t').map(<[u8]>::to_vec);
                Ok(Some(RawRow { line, cells: cells.collect() }))
            }
            Quoting::Rfc4180 => csv_cells(lines, buffer, line).map(|cells| Some(RawRow { line, cells })),
        };
    }
}

/// Cells of the CSV row that starts with `row`; reads on while a quoted cell is open.
///
/// Rows are put together here, not by the reader of the crate `csv`, so that the line is exact and
/// a quotation mark that is never closed is a fault and not one long last cell.
fn csv_cells(lines: &mut Lines, mut row: Vec<u8>, line: usize) -> Result<Vec<Vec<u8>>, Fault> {
    let mut state = QuoteState::CellStart;
    let mut seen = 0;
    loop {
        state = row[seen..].iter().fold(state, |state, byte| state.after(*byte));
        if state != QuoteState::Quoted {
            break;
        }
        seen = row.len();
        if !lines.append_line(&mut row)? {
            return Err(Fault::end(line, "row", "a closing quotation mark", "the end of the file"));
        }
    }
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).buffer_capacity(row.len()).from_reader(row.as_slice());
    let mut record = csv::ByteRecord::new();
    reader.read_byte_record(&mut record).map_err(|e| Fault::new(line, "row", "a CSV row", e.to_string()))?;
    Ok(record.iter().map(<[u8]>::to_vec).collect())
}

/// Where in a CSV row a byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QuoteState {
    CellStart,
    Plain,
    Quoted,
    /// After a quotation mark inside quotes: the end of the quotes, or the first of two.
    MaybeClosed,
}

impl QuoteState {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::CellStart, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::MaybeClosed,
            (Self::Quoted, _) | (Self::MaybeClosed, b'"') => Self::Quoted,
            (_, b',') => Self::CellStart,
            _ => Self::Plain,
        }
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
