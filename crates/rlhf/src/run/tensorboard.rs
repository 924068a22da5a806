//! TensorBoard event files.
//!
//! The messages are the part of TensorFlow's `event.proto` and `summary.proto` that scalars need, with the
//! published field numbers. The file is a sequence of TFRecords:
//!
//! ```text
//! u64 LE    length n
//! u32 LE    masked CRC32C of the 8 bytes of the length
//! n bytes   an Event message
//! u32 LE    masked CRC32C of these n bytes
//! ```
//!
//! A run has one file under one name, which a resumed run cuts back to its checkpoint and continues: as
//! steps are the same the second time, so are the lengths, and a TensorBoard that follows the file stays in
//! step with it.

use std::path::Path;

use prost::Message;

use super::log::{AppendLog, Mark};
use super::steps::{StepRecord, TIME_PREFIX};
use crate::error::Error;

/// TensorBoard looks for `tfevents` in the name.
pub const EVENTS_FILE: &str = "events.out.tfevents.0.rlhf";

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    // Fields 3 and 5 are members of the oneof `what`; at most one is ever set here.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    // A member of the oneof `value`, so a zero is written too; a plain field would drop it.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The writer of an event file.
#[derive(Debug)]
pub struct EventsWriter {
    log: AppendLog,
}

impl EventsWriter {
    /// A file at `path` with nothing but its version; what was there is cut off. `wall_time` is in seconds
    /// since 1970.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn create(path: &Path, wall_time: f64) -> Result<Self, Error> {
        let mut writer = Self { log: AppendLog::create(path)? };
        let version = Event { wall_time, file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
        writer.write(&version)?;
        Ok(writer)
    }

    /// The file at `path`, cut back to what it was at `mark`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::Failed`] when what the file holds before `mark` has changed since.
    pub fn reopen(path: &Path, mark: &Mark) -> Result<Self, Error> {
        super::log::check(path, mark).map_err(Error::Failed)?;
        Ok(Self { log: AppendLog::reopen(path, mark)? })
    }

    /// Adds the values and times of a record as scalars (rounded to `f32`, as the format has them), tagged
    /// `phase/key`, or `key` where the phase is empty. `wall_time` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn append(&mut self, record: &StepRecord, wall_time: f64) -> Result<(), Error> {
        let values = record.values.iter().map(|(key, &v)| scalar(&record.phase, "", key, v));
        let times = record.times.iter().map(|(key, &v)| scalar(&record.phase, TIME_PREFIX, key, v));
        let summary = Summary { value: values.chain(times).collect() };
        // The format's steps are signed; a run does not reach 2⁶³ of them.
        let step = i64::try_from(record.step).unwrap_or(i64::MAX);
        self.write(&Event { wall_time, step, summary: Some(summary), file_version: None })
    }

    /// Waits until everything is on the disk; the mark goes into the checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<Mark, Error> {
        self.log.sync()
    }

    fn write(&mut self, event: &Event) -> Result<(), Error> {
        self.log.append(&framed(&event.encode_to_vec()))
    }
}

fn scalar(phase: &str, prefix: &str, key: &str, value: f64) -> Value {
    let separator = if phase.is_empty() { "" } else { "/" };
    Value { tag: format!("{phase}{separator}{prefix}{key}"), simple_value: Some(value as f32) }
}

fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc(data).to_le_bytes());
    record
}

/// TFRecord's mask: a checksum of data that holds checksums is a poor one, so each is rotated by 15 bits and
/// shifted by a constant.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An event as a test sees it; the times of writing are left out.
    #[derive(Debug, PartialEq)]
    pub(crate) struct Seen {
        pub(crate) step: i64,
        pub(crate) scalars: Vec<(String, f32)>,
    }

    /// Reads an event file back, checking every frame.
    pub(crate) fn read_back(mut bytes: &[u8]) -> Vec<Seen> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(bytes[8..12], masked_crc(&bytes[..8]).to_le_bytes());
            let data = &bytes[12..12 + n];
            assert_eq!(bytes[12 + n..16 + n], masked_crc(data).to_le_bytes());
            let event = Event::decode(data).unwrap();
            let scalars = event.summary.unwrap_or_default().value;
            let scalars = scalars.into_iter().map(|v| (v.tag, v.simple_value.unwrap())).collect();
            events.push(Seen { step: event.step, scalars });
            bytes = &bytes[16 + n..];
        }
        events
    }

    #[test]
    fn checksum_of_the_published_example() {
        // RFC 3720, B.4: the CRC32C of 32 zero bytes is 0x8a9136aa; rotated right by 15 bits that is
        // 0x6d551522, and 0x6d551522 + 0xa282ead8 = 0x1_0fd7_fffa, of which 32 bits stay.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x0fd7_fffa);
    }

    #[test]
    fn bytes_of_a_scalar() {
        let event = Event {
            wall_time: 1.0,
            step: 3,
            file_version: None,
            summary: Some(Summary { value: vec![scalar("", "", "a", 0.0)] }),
        };
        let expected = [
            0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, // field 1, 64 bits: 1.0
            0x10, 3, // field 2, varint: 3
            0x2a, 10, // field 5, 10 bytes: Summary
            0x0a, 8, // field 1, 8 bytes: Value
            0x0a, 1, b'a', // field 1: tag
            0x15, 0, 0, 0, 0, // field 2, 32 bits: 0.0, written although it is zero
        ];
        assert_eq!(event.encode_to_vec(), expected);
    }

    #[test]
    fn reads_back_and_continues_at_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tensorboard").join(EVENTS_FILE);
        let record = |step| StepRecord::new(step, "sft").value("loss", 0.5).time("step", 0.25);
        let mut events = EventsWriter::create(&path, 0.0).unwrap();
        events.append(&record(1), 0.0).unwrap();
        let mark = events.sync().unwrap();
        events.append(&record(9), 0.0).unwrap();
        drop(events);
        let mut events = EventsWriter::reopen(&path, &mark).unwrap();
        events.append(&record(2), 0.0).unwrap();
        let scalars = || vec![("sft/loss".to_owned(), 0.5), ("sft/time/step".to_owned(), 0.25)];
        let expected = [
            Seen { step: 0, scalars: Vec::new() },
            Seen { step: 1, scalars: scalars() },
            Seen { step: 2, scalars: scalars() },
        ];
        assert_eq!(read_back(&std::fs::read(&path).unwrap()), expected);
    }
}
