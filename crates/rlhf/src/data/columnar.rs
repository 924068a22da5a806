//! Rows of a Parquet file, one row group in memory at a time.

use std::fs::File;
use std::path::Path;

use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as ParquetRow};
use serde_json::{Map, Number, Value};

use super::fault::Fault;
use super::rows::{Row, RowKind};
use crate::error::Error;

/// The rows of one file. A row's place is its number, from 1: the format has no lines.
pub(super) struct ParquetRows {
    rows: RowIter<'static>,
    n_read: usize,
}

impl std::fmt::Debug for ParquetRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetRows").field("n_read", &self.n_read).finish_non_exhaustive()
    }
}

impl ParquetRows {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io("opening", path, e))?;
        let reader = SerializedFileReader::new(file).map_err(|e| {
            Error::record(path, 0, "parquet", "a complete Parquet file (footer, data pages)", e.to_string())
        })?;
        let columns = reader.metadata().row_groups().iter().flat_map(|group| group.columns());
        for column in columns {
            check(column).map_err(|(expected, found)| {
                Error::record(path, 0, column.column_path().string(), expected, found)
            })?;
        }
        Ok(Self { rows: RowIter::from_file_into(Box::new(reader)), n_read: 0 })
    }

    pub(super) fn next(&mut self) -> Option<Result<Row, Fault>> {
        let row = self.rows.next()?;
        self.n_read += 1;
        let line = self.n_read;
        Some(match row {
            Ok(row) => object(&row, line).map(|cells| Row { line, cells, kind: RowKind::Typed }),
            Err(e) => Err(Fault::end(line, "parquet", "a readable row", e.to_string())),
        })
    }
}

/// What the crate finds only when it reads a page, the first by an error, the second by a panic.
fn check(column: &ColumnChunkMetaData) -> Result<(), (&'static str, String)> {
    if !matches!(column.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_))
    {
        return Err(("no compression, snappy or gzip", format!("{:?}", column.compression())));
    }
    let place =
        [column.data_page_offset(), column.dictionary_page_offset().unwrap_or(0), column.compressed_size()];
    if place.iter().any(|n| *n < 0) {
        return Err(("a place in the file", format!("offsets and size {place:?}")));
    }
    Ok(())
}

fn object(row: &ParquetRow, line: usize) -> Result<Map<String, Value>, Fault> {
    row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(field, name, line)?))).collect()
}

fn value(field: &Field, name: &str, line: usize) -> Result<Value, Fault> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::Bool(*b),
        Field::Byte(n) => Value::from(*n),
        Field::Short(n) => Value::from(*n),
        Field::Int(n) | Field::Date(n) | Field::TimeMillis(n) => Value::from(*n),
        Field::Long(n) | Field::TimeMicros(n) | Field::TimestampMillis(n) | Field::TimestampMicros(n) => {
            Value::from(*n)
        }
        Field::UByte(n) => Value::from(*n),
        Field::UShort(n) => Value::from(*n),
        Field::UInt(n) => Value::from(*n),
        Field::ULong(n) => Value::from(*n),
        Field::Float16(x) => float(f64::from(f32::from(*x))),
        Field::Float(x) => float(f64::from(*x)),
        Field::Double(x) => float(*x),
        Field::Str(s) => Value::String(s.clone()),
        // Writers that do not mark a text column as UTF-8 leave bytes.
        Field::Bytes(bytes) => match bytes.as_utf8() {
            Ok(text) => Value::String(text.to_owned()),
            Err(e) => return Err(Fault::new(line, name, "valid UTF-8", e.to_string())),
        },
        Field::Group(row) => Value::Object(object(row, line)?),
        Field::ListInternal(list) => {
            let items = list.elements().iter().map(|item| value(item, name, line));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Field::Decimal(_) | Field::MapInternal(_) => {
            return Err(Fault::new(line, name, "text, a number or a list", "a decimal or a map"));
        }
    })
}

/// JSON has no NaN and no infinity: they stay readable, as text, and fail where a number is needed.
fn float(x: f64) -> Value {
    Number::from_f64(x).map_or_else(|| Value::String(x.to_string()), Value::Number)
}
