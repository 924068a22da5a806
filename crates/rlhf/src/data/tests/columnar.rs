//! Parquet files, whole and damaged.

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;

/// Three columns: text marked as UTF-8, the same unmarked, numbers.
fn parquet_file(path: &Path) {
    let schema =
        "message m { REQUIRED BYTE_ARRAY text (UTF8); REQUIRED BYTE_ARRAY id; REQUIRED DOUBLE mean; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    // Two row groups.
    for (n, mean) in [("1", 0.5), ("2", -1.0)] {
        let mut group = writer.next_row_group().unwrap();
        for column in [format!("näive {n}"), n.to_owned()] {
            let mut cells = group.next_column().unwrap().unwrap();
            let values = [ByteArray::from(column.as_str())];
            cells.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            cells.close().unwrap();
        }
        let mut cells = group.next_column().unwrap().unwrap();
        cells.typed::<DoubleType>().write_batch(&[mean], None, None).unwrap();
        cells.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_rows_are_numbered() {
    let f = file("a.parquet", "");
    parquet_file(&f.path);
    let scale = Scale { given: Given::Mean, ..SCALE };
    let read: Vec<_> = ratings(&f.path, &plain(), scale).unwrap().map(Result::unwrap).collect();
    let lines: Vec<_> =
        read.iter().map(|(place, r)| (place.line, r.id.as_str(), r.text.as_str(), r.mean)).collect();
    assert_eq!(lines, [(1, "1", "näive 1", 0.5), (2, "2", "näive 2", -1.0)]);
    assert_eq!(read[1].0.to_string(), format!("{}:2", f.path.display()));
}

#[test]
fn parquet_faults() {
    let f = file("a.parquet", "");
    parquet_file(&f.path);
    let missing = message(&f, prompts(&f.path, &plain()).and_then(|r| r.load(OnBadRecord::Skip)));
    assert_eq!(missing, "F:1: prompt: expected a column `prompt`, found only id, mean, text");
    let bytes = fs::read(&f.path).unwrap();
    for n in [0, 3, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&f.path, &bytes[..n]).unwrap();
        let cut = message(&f, prompts(&f.path, &plain()));
        assert!(
            cut.starts_with("F:0: parquet: expected a complete Parquet file (footer, data pages), found "),
            "{cut}"
        );
    }
}

#[test]
fn a_damaged_parquet_file_is_an_error_wherever_the_damage_is() {
    let f = file("a.parquet", "");
    parquet_file(&f.path);
    let whole = fs::read(&f.path).unwrap();
    let scale = Scale { given: Given::Mean, ..SCALE };
    // A flipped byte may change a text or a number; what counts is that none of them panics.
    let n_refused = (0..whole.len()).step_by(2).filter(|i| {
        let mut bytes = whole.clone();
        bytes[*i] ^= 0x55;
        fs::write(&f.path, bytes).unwrap();
        ratings(&f.path, &plain(), scale).and_then(|r| r.load(OnBadRecord::Skip)).is_err()
    });
    assert!(n_refused.count() > whole.len() / 4);
}
