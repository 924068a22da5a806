//! Data files that cannot be read: every message names the file, the line, the field, what was expected
//! and what was found. Through `data inspect`, which reads as the pipelines do, and through a run.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::support::{run, superhf};

fn inspect(name: &str, bytes: &[u8]) -> crate::support::Done {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), bytes).unwrap();
    run(dir.path(), &["data", "inspect", name])
}

fn reward(dir: &Path, path: &str) -> crate::support::Done {
    let path = format!("data.path={path}");
    run(dir, &["run", "reward", "--smoke", "--out", "run", "--set", &path])
}

#[test]
fn missing_empty_and_unknown() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["data", "inspect", "none.jsonl"])
        .fails(1, "opening none.jsonl: No such file or directory (os error 2)");
    inspect("empty.jsonl", b"").fails(1, "empty.jsonl:0: file: expected at least one record, found none");
    inspect("blank.jsonl", b"\n \n")
        .fails(1, "blank.jsonl:0: file: expected at least one record, found none");
    inspect("notes.txt", b"x").fails_with(2, &["notes.txt: file name: expected a name ending in .jsonl"]);
    inspect("rows.jsonl", b"{\"question\":\"a\"}\n")
        .fails(1, "rows.jsonl:1: answer: expected a field `answer`, found only question");
}

#[test]
fn a_broken_line_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let good = |i: usize| format!("{{\"prompt\":\"p{i}\",\"completion\":\" c{i}\"}}\n");
    let text = format!("{}{{\"prompt\":\"e\",\n{}", good(1), good(3));
    fs::write(dir.path().join("rows.jsonl"), text).unwrap();
    let message = "rows.jsonl:2: json: expected one JSON object, found \"{\\\"prompt\\\":\\\"e\\\",\" \
                   (EOF while parsing a value at column 14)";
    run(dir.path(), &["data", "inspect", "rows.jsonl"]).fails(1, message);
    let skip = ["data", "inspect", "rows.jsonl", "--on-bad-record", "skip"];
    let done = run(dir.path(), &skip).ok();
    assert!(
        done.stdout.starts_with(&format!("rows.jsonl: 2 records, 1 skipped\nfirst skipped: {message}\n")),
        "{}",
        done.stdout
    );
    assert!(done.stdout.contains("\nline 3, completion: "), "{}", done.stdout);
}

#[test]
fn a_gz_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for i in 0..400 {
        writeln!(gz, "{{\"prompt\":\"p{i}\",\"chosen\":\" a{}\",\"rejected\":\" b{i}\"}}", i * 7919 % 1000)
            .unwrap();
    }
    let bytes = gz.finish().unwrap();
    fs::write(dir.path().join("pairs.jsonl.gz"), &bytes[..bytes.len() / 2]).unwrap();
    let expected =
        ["pairs.jsonl.gz:", ": gzip: expected a complete stream, found a stream cut short in this line"];
    run(dir.path(), &["data", "inspect", "pairs.jsonl.gz"]).fails_with(1, &expected);
    // What is missing cannot be counted, so skipping does not help.
    let skip = ["data", "inspect", "pairs.jsonl.gz", "--on-bad-record", "skip"];
    run(dir.path(), &skip).fails_with(1, &expected);
    reward(dir.path(), "pairs.jsonl.gz").fails_with(1, &expected);
    fs::write(dir.path().join("text.jsonl.gz"), "{\"text\":\"not compressed\"}\n").unwrap();
    run(dir.path(), &["data", "inspect", "text.jsonl.gz"])
        .fails_with(1, &["text.jsonl.gz:1: gzip: expected an undamaged stream, found "]);
}

#[test]
fn a_preference_with_equal_texts() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"prompt\":\"p\",\"chosen\":\" a\",\"rejected\":\" b\"}\n\
                {\"prompt\":\"p\",\"chosen\":\" same\",\"rejected\":\" same \"}\n";
    fs::write(dir.path().join("pairs.jsonl"), text).unwrap();
    let message = "pairs.jsonl:2: rejected: expected a text other than that of `chosen`, found the same text";
    reward(dir.path(), "pairs.jsonl").fails(1, message);
    run(dir.path(), &["data", "inspect", "pairs.jsonl"]).fails(1, message);
}

#[test]
fn a_rating_outside_its_range() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String =
        (0..40).map(|i| format!("{i}\ta text {i}\t{} {}\n", i % 5 - 2, (i + 1) % 5 - 2)).collect();
    let path = dir.path().join("ratings.tsv");
    let set = ["task.name=ratings", "task.path=ratings.tsv"];
    fs::write(&path, format!("id\ttext\tratings\n{rows}x\tanother\t1 5\n")).unwrap();
    run(dir.path(), &superhf("run", &set))
        .fails(1, "ratings.tsv:42: ratings[1]: expected a number from -4 to 4, found 5");
    fs::write(&path, format!("id\ttext\tratings\n{rows}x\tanother\t1 NaN\n")).unwrap();
    run(dir.path(), &superhf("run", &set))
        .fails(1, "ratings.tsv:42: ratings[1]: expected a number from -4 to 4, found NaN");
    fs::write(&path, format!("id\ttext\n{rows}")).unwrap();
    run(dir.path(), &superhf("run", &set))
        .fails_with(1, &["ratings.tsv:2: row: expected 2 cells, found 3 cells"]);
}
