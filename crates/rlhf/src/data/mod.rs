//! Data files as typed records, one at a time.
//!
//! | ending | layout |
//! | --- | --- |
//! | `.jsonl`, `.ndjson`, `.json` | one object a line, or one array of objects |
//! | `.csv` | RFC 4180, column names in the first line |
//! | `.tsv` | a tab between cells, no quoting, column names in the first line |
//! | `.parquet` | uncompressed, snappy or gzip |
//!
//! All but Parquet may be gzipped (`.gz`). Files are streamed: one record, or one row group of
//! Parquet, is in memory at a time.
//!
//! | record | fields, first form that is there |
//! | --- | --- |
//! | [`PromptRecord`] | `prompt` · `messages` · `question` |
//! | [`PromptCompletion`] | `prompt`, `completion` · `messages` · `question`, `answer` · `text` |
//! | [`Preference`] | `prompt`, `chosen`, `rejected` · `chosen`, `rejected` |
//! | [`Rating`] | `text`, `ratings` and/or `mean`, `id` if there is one |
//!
//! `prompt`, `completion`, `chosen` and `rejected` are text, or messages
//! `[{"role": …, "content": …}]`, which are joined as HH-RLHF writes transcripts:
//! `\n\nHuman: …\n\nAssistant: …`. Two transcripts without a `prompt` are split at the last
//! `\n\nAssistant:` of their common beginning; [`Preference::origin`] says when that is not the last
//! turn of both. Columns with other names are mapped by a [`Layout`].
//!
//! A record at fault is an [`Error::Record`] with file, line, field, what was expected and what was
//! found. [`OnBadRecord::Skip`] passes over such records and counts them. It never passes over
//! what hides how much is missing: a stream cut short or damaged, a column that no row has, an
//! array or quotation mark that is never closed, a file without one good record. These are errors
//! either way.

mod columnar;
mod fault;
mod inspect;
mod records;
mod rows;
mod source;
#[cfg(test)]
mod tests;
mod transcript;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Error;

use self::fault::Fault;
pub use self::inspect::{EndToken, InspectOptions, InspectedRow, Inspection, Scored, inspect};
use self::records::Cells;
pub use self::records::{Given, Preference, PromptCompletion, PromptOrigin, PromptRecord, Rating, Scale};
use self::rows::Rows;

/// Names of columns, where a file has others than the records' fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Layout {
    /// Field → column, as in `chosen = "good"`. A field that is mapped must be there.
    ///
    /// With `label = "…"` in it, that column holds the name of the better column of each row: with
    /// `chosen = "a1"`, `rejected = "a2"`, `label = "winner"`, a row whose `winner` is `a2` has its
    /// `a2` as chosen text. With `group = "…"`, that column says what a comparison belongs to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Column names of a CSV or TSV file whose first line is a record already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<Vec<String>>,
}

impl Layout {
    /// A layout from pairs of field and column.
    pub fn with_columns<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        let columns =
            pairs.into_iter().map(|(field, column)| (field.to_owned(), column.to_owned())).collect();
        Self { columns, header: None }
    }

    /// The column that holds `field`.
    fn column<'a>(&'a self, field: &'a str) -> &'a str {
        self.columns.get(field).map_or(field, String::as_str)
    }

    /// A mapped name that is no field would never be read: most likely it is misspelt.
    fn check(&self, path: &Path, fields: &[&str]) -> Result<(), Error> {
        match self.columns.keys().find(|key| !fields.contains(&key.as_str())) {
            Some(unknown) => {
                let expected = format!("one of {}", fields.join(", "));
                Err(Error::config(path.display().to_string(), "columns", expected, unknown.as_str()))
            }
            None => Ok(()),
        }
    }
}

/// What happens at a record that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRecord {
    /// The file is refused.
    Fail,
    /// The record is passed over and counted.
    Skip,
}

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub path: Arc<Path>,
    /// Its first line, or its row in Parquet, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// All records of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded<T> {
    /// The good ones, in file order; at least one.
    pub records: Vec<T>,
    /// How many were passed over.
    pub skipped: usize,
    /// What was wrong with the first of those.
    pub first_skipped: Option<String>,
}

type Parse<T> = Box<dyn Fn(&Cells<'_>) -> Result<T, Fault> + Send>;

/// The records of a file, read as they are asked for.
///
/// A record at fault is an item like any other, and the next one follows it. After a fault that
/// spoils the rest of the file, and after the error that a file without any record gives, the
/// iterator is at its end.
pub struct Records<T> {
    path: Arc<Path>,
    layout: Layout,
    rows: Rows,
    parse: Parse<T>,
    n_read: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Done,
}

impl<T> fmt::Debug for Records<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("path", &self.path)
            .field("n_read", &self.n_read)
            .finish_non_exhaustive()
    }
}

/// The prompts in `path`. Fields: `prompt`, `messages`, `question`.
///
/// # Errors
/// A file that cannot be opened or has a name of no known format, a layout with unknown fields.
pub fn prompts(path: impl AsRef<Path>, layout: &Layout) -> Result<Records<PromptRecord>, Error> {
    let fields = ["prompt", "messages", "question"];
    Records::open(path.as_ref(), layout, &fields, Box::new(records::prompt))
}

/// The prompts with their completions in `path`. Fields: `prompt`, `completion`, `messages`,
/// `question`, `answer`, `text`.
///
/// # Errors
/// As [`prompts`].
pub fn prompt_completions(
    path: impl AsRef<Path>,
    layout: &Layout,
) -> Result<Records<PromptCompletion>, Error> {
    let fields = ["prompt", "completion", "messages", "question", "answer", "text"];
    Records::open(path.as_ref(), layout, &fields, Box::new(records::prompt_completion))
}

/// The preferences in `path`. Fields: `prompt`, `chosen`, `rejected`, `label`, `group`.
///
/// # Errors
/// As [`prompts`].
pub fn preferences(path: impl AsRef<Path>, layout: &Layout) -> Result<Records<Preference>, Error> {
    let fields = ["prompt", "chosen", "rejected", "label", "group"];
    Records::open(path.as_ref(), layout, &fields, Box::new(records::preference))
}

/// The rated texts in `path`. Fields: `id`, `text`, `ratings`, `mean`.
///
/// # Errors
/// As [`prompts`]; a scale that is no range of numbers.
pub fn ratings(path: impl AsRef<Path>, layout: &Layout, scale: Scale) -> Result<Records<Rating>, Error> {
    let path = path.as_ref();
    if !(scale.min.is_finite() && scale.max.is_finite() && scale.min < scale.max) {
        let found = format!("min {}, max {}", scale.min, scale.max);
        return Err(Error::config(
            path.display().to_string(),
            "scale",
            "two finite numbers, min < max",
            found,
        ));
    }
    let fields = ["id", "text", "ratings", "mean"];
    Records::open(path, layout, &fields, Box::new(move |cells| records::rating(cells, &scale)))
}

/// A cell of a [`table`] that a record cannot be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Place of the cell's column among those asked for.
    pub column: usize,
    /// What is accepted.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

/// The rows of `path` as records that `make` builds from the cells of `columns`, in their order. The cells are
/// text, or numbers as they are written. For the layouts of single data sets; for prompts, preferences and ratings see above.
///
/// # Errors
/// As [`prompts`]. What `make` refuses is a record at fault, with its line and column.
pub fn table<T: 'static>(
    path: impl AsRef<Path>,
    columns: &'static [&'static str],
    make: fn(&[&str]) -> Result<T, Misfit>,
) -> Result<Records<T>, Error> {
    let parse = move |cells: &Cells<'_>| records::of_table(cells, columns, make);
    Records::open(path.as_ref(), &Layout::default(), columns, Box::new(parse))
}

impl<T> Records<T> {
    fn open(path: &Path, layout: &Layout, fields: &[&str], parse: Parse<T>) -> Result<Self, Error> {
        let path = &crate::hub::data(path)?;
        layout.check(path, fields)?;
        let rows = Rows::open(path, layout)?;
        Ok(Self {
            path: path.as_path().into(),
            layout: layout.clone(),
            rows,
            parse,
            n_read: 0,
            state: State::Reading,
        })
    }

    /// Reads the file to its end.
    ///
    /// # Errors
    /// The first record at fault under [`OnBadRecord::Fail`]; under either choice, whatever spoils
    /// the rest of the file, and a file without one good record.
    pub fn load(mut self, on_bad: OnBadRecord) -> Result<Loaded<T>, Error> {
        let mut loaded = Loaded { records: Vec::new(), skipped: 0, first_skipped: None };
        while let Some(record) = self.advance() {
            match record {
                Ok((_, record)) => loaded.records.push(record),
                Err(fault) if on_bad == OnBadRecord::Fail || fault.ends_stream() => {
                    return Err(fault.into_error(&self.path));
                }
                Err(fault) => {
                    loaded.skipped += 1;
                    loaded.first_skipped.get_or_insert_with(|| fault.into_error(&self.path).to_string());
                }
            }
        }
        if let (true, Some(first)) = (loaded.records.is_empty(), &loaded.first_skipped) {
            let found = format!("none in {}; the first: {first}", loaded.skipped);
            return Err(Error::record(&self.path, 0, "file", "at least one record that can be used", found));
        }
        Ok(loaded)
    }

    /// The same records as something else, made from the line and the record.
    fn map_records<U: 'static>(self, make: fn(usize, T) -> U) -> Records<U>
    where
        T: 'static,
    {
        let Self { path, layout, rows, parse, n_read, state } = self;
        let parse: Parse<U> = Box::new(move |cells| parse(cells).map(|record| make(cells.row.line, record)));
        Records { path, layout, rows, parse, n_read, state }
    }

    fn advance(&mut self) -> Option<Result<(usize, T), Fault>> {
        if self.state == State::Done {
            return None;
        }
        let Some(row) = self.rows.next() else {
            self.state = State::Done;
            let empty = || Fault::end(0, "file", "at least one record", "none");
            return (self.n_read == 0).then(|| Err(empty()));
        };
        self.n_read += 1;
        let record = row.and_then(|row| {
            let cells = Cells { row: &row, layout: &self.layout };
            (self.parse)(&cells).map(|record| (row.line, record))
        });
        if record.as_ref().is_err_and(Fault::ends_stream) {
            self.state = State::Done;
        }
        Some(record)
    }
}

impl<T> Iterator for Records<T> {
    type Item = Result<(Place, T), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.advance()?;
        Some(match record {
            Ok((line, record)) => Ok((Place { path: Arc::clone(&self.path), line }, record)),
            Err(fault) => Err(fault.into_error(&self.path)),
        })
    }
}
