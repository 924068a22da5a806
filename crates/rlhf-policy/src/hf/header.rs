//! The header of a safetensors file, read once and checked before anything is believed.
//!
//! ```text
//! u64 little-endian n | n bytes of JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}} | data
//! ```
//!
//! Every tensor lies inside the data, none overlaps another, and none of the data is nobody's.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::Error;

/// Longest header that is read, in bytes, as in the safetensors crate.
const LONGEST: u64 = 100_000_000;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// As the file spells it.
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) bytes: Range<usize>,
}

#[derive(Debug, Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The JSON object, with a second tensor of one name refused.
#[derive(Debug)]
struct Raw(BTreeMap<String, RawEntry>);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Names)
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry: RawEntry = map.next_value()?;
            if all.contains_key(&name) {
                return Err(A::Error::custom(format!("the tensor {name} twice")));
            }
            all.insert(name, entry);
        }
        Ok(Raw(all))
    }
}

/// The tensors of a file whose whole content is `bytes`; `path` is for errors.
///
/// # Errors
/// A header that is cut short, too long, no JSON, or that contradicts itself or the file's length.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Entry>, Error> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let found = format!("header: expected 8 bytes of its length, found a file of {} bytes", bytes.len());
        return Err(Error::file(path, found));
    };
    let length = u64::from_le_bytes(*length);
    let here = u64::try_from(rest.len()).unwrap_or(u64::MAX);
    if length > here.min(LONGEST) {
        let most = here.min(LONGEST);
        let what = format!("header length: expected at most {most} bytes in this file, found {length}");
        return Err(Error::file(path, what));
    }
    let (header, data) = rest.split_at(usize::try_from(length).unwrap_or(rest.len()));
    let raw: Raw = serde_json::from_slice(header).map_err(|e| {
        Error::file(
            path,
            format!("header: expected a JSON object of dtype, shape and data_offsets, found {e}"),
        )
    })?;
    let start = bytes.len() - data.len();
    let mut entries = BTreeMap::new();
    for (name, entry) in raw.0 {
        check(&name, &entry, data.len()).map_err(|what| Error::file(path, what))?;
        let [begin, end] = entry.data_offsets;
        let Some(bytes) = start.checked_add(begin).map(|b| b..start + end) else {
            return Err(Error::file(
                path,
                format!("tensor {name}: data_offsets: expected a place in the file"),
            ));
        };
        entries.insert(name, Entry { dtype: entry.dtype, shape: entry.shape, bytes });
    }
    tiled(&entries, start..bytes.len()).map_err(|what| Error::file(path, what))?;
    Ok(entries)
}

/// One tensor against the length of the data and its own shape.
fn check(name: &str, entry: &RawEntry, data: usize) -> Result<(), String> {
    let [begin, end] = entry.data_offsets;
    if begin > end || end > data {
        return Err(format!(
            "tensor {name}: data_offsets: expected a range within the file's {data} bytes of data, found \
             [{begin}, {end}]"
        ));
    }
    let n = entry.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let Some(n) = n else {
        let shape = &entry.shape;
        return Err(format!("tensor {name}: shape: expected a size that fits the file, found {shape:?}"));
    };
    // Of a type unknown here nothing but the place is known; asking for the tensor is the error.
    let Some(bits) = bits(&entry.dtype) else { return Ok(()) };
    match n.checked_mul(bits) {
        Some(total) if total.is_multiple_of(8) && total / 8 == end - begin => Ok(()),
        _ => Err(format!(
            "tensor {name}: data_offsets: expected the bytes of {} {:?}, found {}",
            entry.dtype,
            entry.shape,
            end - begin
        )),
    }
}

fn bits(dtype: &str) -> Option<usize> {
    let name = serde_json::Value::String(dtype.to_owned());
    serde_json::from_value::<Dtype>(name).ok().map(|dtype| dtype.bitsize())
}

/// Whether the tensors cover `data` end to end.
fn tiled(entries: &BTreeMap<String, Entry>, data: Range<usize>) -> Result<(), String> {
    let mut by_place: Vec<(&String, &Entry)> = entries.iter().collect();
    by_place.sort_by_key(|(_, e)| (e.bytes.start, e.bytes.end));
    let mut at = data.start;
    for (name, entry) in by_place {
        if entry.bytes.start != at {
            let (expected, found) = (at - data.start, entry.bytes.start - data.start);
            return Err(format!(
                "tensor {name}: data_offsets: expected to begin at {expected}, found {found}"
            ));
        }
        at = entry.bytes.end;
    }
    if at != data.end {
        let (expected, found) = (at - data.start, data.len());
        return Err(format!("data: expected {expected} bytes, found {found}"));
    }
    Ok(())
}
