//! Every form of record, every format, every fault.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

mod columnar;

const SCALE: Scale = Scale { min: -4.0, max: 4.0, given: Given::Ratings };

/// A file in a folder that lives as long as it.
struct Temp {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn file(name: &str, content: impl AsRef<[u8]>) -> Temp {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    Temp { _dir: dir, path }
}

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn plain() -> Layout {
    Layout::default()
}

/// The message of `result`, without the file's path.
fn message<T: fmt::Debug>(file: &Temp, result: Result<T, Error>) -> String {
    let path = file.path.display().to_string();
    result.unwrap_err().to_string().replace(&path, "F")
}

/// What loading `text` as preferences says.
fn preference_fault(text: &str) -> String {
    let f = file("a.jsonl", text);
    message(&f, preferences(&f.path, &plain()).and_then(|r| r.load(OnBadRecord::Fail)))
}

fn rating_fault(name: &str, text: &str, scale: Scale) -> String {
    let f = file(name, text);
    message(&f, ratings(&f.path, &plain(), scale).and_then(|r| r.load(OnBadRecord::Fail)))
}

fn completions(f: &Temp) -> Vec<(usize, PromptCompletion)> {
    prompt_completions(&f.path, &plain())
        .unwrap()
        .map(|r| r.map(|(place, r)| (place.line, r)).unwrap())
        .collect()
}

fn pair(prompt: &str, completion: &str) -> PromptCompletion {
    PromptCompletion { prompt: prompt.into(), completion: completion.into() }
}

#[test]
fn json_lines_keep_their_line_numbers() {
    let text = "\u{feff}\n{\"prompt\": \"a\", \"completion\": \" b\"}\r\n\n  \n{\"completion\": \"d\", \"prompt\": \"\"}";
    let expected = [(2, pair("a", " b")), (5, pair("", "d"))];
    assert_eq!(completions(&file("a.jsonl", text)), expected);
    assert_eq!(completions(&file("a.JSONL.GZ", gz(text))), expected);
    assert_eq!(completions(&file("a.json", text)), expected);
    // Several gzip members one after another are one stream.
    let (head, tail) = text.split_at(20);
    assert_eq!(completions(&file("a.jsonl.gz", [gz(head), gz(tail)].concat())), expected);
}

#[test]
fn a_json_array_is_read_element_by_element() {
    let text =
        "[\n{\"prompt\": \"a\", \"completion\": \"b\"},\n\n{\"prompt\":\n\"c\", \"completion\": \"d\"}\n]\n";
    let expected = [(2, pair("a", "b")), (4, pair("c", "d"))];
    assert_eq!(completions(&file("a.json", text)), expected);
    assert_eq!(completions(&file("a.json.gz", gz(text))), expected);
}

#[test]
fn a_broken_array_ends_the_file() {
    let fault = |text: &str| {
        let f = file("a.json", text);
        message(&f, prompts(&f.path, &plain()).and_then(|r| r.load(OnBadRecord::Skip)))
    };
    let one = "[{\"prompt\": \"a\"}";
    assert_eq!(
        fault(&format!("{one}\n")),
        "F:2: json: expected `,` or `]` after a record, found the end of the file"
    );
    assert_eq!(fault(&format!("{one} {{")), "F:1: json: expected `,` or `]` after a record, found '{'");
    assert_eq!(fault(&format!("{one}, 3]")), "F:1: json: expected an object that starts with `{`, found '3'");
    assert_eq!(fault(&format!("{one}]\nx")), "F:2: json: expected nothing after the array, found 'x'");
    assert_eq!(
        fault(&format!("{one},\n{{\"prompt\" 3}}]")),
        "F:2: json: expected one JSON object, found expected `:`"
    );
    assert_eq!(fault("[]"), "F:0: file: expected at least one record, found none");
}

#[test]
fn csv_cells_may_be_quoted() {
    let text = "prompt,completion\r\n\"a, \"\"b\"\"\nc\",d\r\n\r\n\"e\",\"f \"\"\"\r\ng \"h\",i\r\n";
    let expected = [(2, pair("a, \"b\"\nc", "d")), (5, pair("e", "f \"")), (6, pair("g \"h\"", "i"))];
    assert_eq!(completions(&file("a.csv", text)), expected);
    assert_eq!(completions(&file("a.csv.gz", gz(text))), expected);
}

#[test]
fn tsv_quotation_marks_are_text() {
    let text = "prompt\tcompletion\n\"a\tb\"\r\n\n\tc,\n";
    assert_eq!(completions(&file("a.tsv", text)), [(2, pair("\"a", "b\"")), (4, pair("", "c,"))]);
}

#[test]
fn a_file_without_header_is_given_one() {
    let f = file("a.tsv", "What is it ?\t0.2\nWhich one ?\t1.0\n");
    let layout = Layout { header: Some(vec!["text".into(), "mean".into()]), ..plain() };
    let scale = Scale { min: 0.0, max: 1.0, given: Given::Mean };
    let loaded = ratings(&f.path, &layout, scale).unwrap().load(OnBadRecord::Fail).unwrap();
    let expected =
        |id: &str, text: &str, mean| Rating { id: id.into(), text: text.into(), ratings: vec![], mean };
    assert_eq!(loaded.records, [expected("1", "What is it ?", 0.2), expected("2", "Which one ?", 1.0)]);
    let f = file("a.jsonl", "{}");
    assert_eq!(
        message(&f, prompts(&f.path, &layout)),
        "F: header: expected no column names for a format that has its own, found some"
    );
}

#[test]
fn preferences_have_a_prompt_or_share_one() {
    let text = concat!(
        r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#,
        "\n",
        r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}"#,
        "\n",
        r#"{"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: s", "rejected": "\n\nHuman: q\n\nAssistant: b"}"#,
        "\n",
        r#"{"chosen": "good", "rejected": "bad"}"#,
        "\n",
        r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}"#,
        "\n",
        r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
    );
    let f = file("a.jsonl", text);
    let loaded = preferences(&f.path, &plain()).unwrap().load(OnBadRecord::Fail).unwrap();
    let p = |prompt: &str, chosen: &str, rejected: &str, origin| Preference {
        prompt: prompt.into(),
        chosen: chosen.into(),
        rejected: rejected.into(),
        origin,
        group: String::new(),
    };
    let q = "\n\nHuman: q\n\nAssistant:";
    assert_eq!(
        loaded.records,
        [
            p("p", "a", "b", PromptOrigin::Given),
            p(q, " a", " b", PromptOrigin::Shared),
            p(q, " a\n\nHuman: r\n\nAssistant: s", " b", PromptOrigin::SharedEarlier),
            p("", "good", "bad", PromptOrigin::Given),
            p(q, " a", " b", PromptOrigin::Shared),
            p(q, " a", " b", PromptOrigin::Given),
        ]
    );
}

#[test]
fn columns_are_mapped_and_a_label_names_the_winner() {
    let f = file("a.tsv", "topic\tlabel\ta1\ta2\nt\ta1\tx\ty\nt\ta2\tx\ty\nt\ta3\tx\ty\n");
    let pairs = [("prompt", "topic"), ("chosen", "a1"), ("rejected", "a2"), ("label", "label")];
    let layout = Layout::with_columns(pairs);
    let loaded = preferences(&f.path, &layout).unwrap().load(OnBadRecord::Skip).unwrap();
    let texts: Vec<_> = loaded.records.iter().map(|r| (r.chosen.as_str(), r.rejected.as_str())).collect();
    assert_eq!((texts, loaded.skipped), (vec![("x", "y"), ("y", "x")], 1));
    let expected = format!("{}:4: label: expected `a1` or `a2`, found \"a3\"", f.path.display());
    assert_eq!(loaded.first_skipped.unwrap(), expected);

    let grouped = Layout::with_columns([pairs[1], pairs[2], pairs[3], ("group", "topic")]);
    let loaded = preferences(&f.path, &grouped).unwrap().load(OnBadRecord::Skip).unwrap();
    assert!(loaded.records.iter().all(|r| r.group == "t" && r.prompt.is_empty()));

    let layout = Layout::with_columns([("prompt", "question"), ("chosen", "a1"), ("rejected", "a2")]);
    let fault = message(&f, preferences(&f.path, &layout).and_then(|r| r.load(OnBadRecord::Skip)));
    assert_eq!(fault, "F:2: question: expected a column `question`, found only a1, a2, label, topic");
    let fault = message(&f, preferences(&f.path, &Layout::with_columns([("choosen", "a1")])));
    assert_eq!(fault, "F: columns: expected one of prompt, chosen, rejected, label, group, found choosen");
}

#[test]
fn completions_come_in_four_forms() {
    let text = concat!(
        r#"{"question": "q", "answer": "a"}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
        "\n",
        r#"{"text": "t"}"#,
        "\n",
        r#"{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}"#,
    );
    let q = "\n\nHuman: q\n\nAssistant:";
    let expected = [(1, pair("q", "a")), (2, pair(q, " a")), (3, pair("", "t")), (4, pair(q, " a"))];
    assert_eq!(completions(&file("a.jsonl", text)), expected);
}

#[test]
fn prompts_come_in_three_forms() {
    let text = concat!(
        "{\"prompt\": \"p\", \"chosen\": 1}\n{\"question\": \"q\"}\n",
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
    );
    let f = file("a.jsonl", text);
    let loaded = prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Fail).unwrap();
    let texts: Vec<_> = loaded.records.iter().map(|r| r.prompt.as_str()).collect();
    assert_eq!(texts, ["p", "q", "\n\nHuman: q\n\nAssistant:"]);
}

#[test]
fn ratings_are_lists_of_numbers() {
    let expected =
        [Rating { id: "7".into(), text: "x".into(), ratings: vec![3.0, -2.0, 1.5], mean: 2.5 / 3.0 }];
    let loaded = |name: &str, text: &str| {
        let f = file(name, text);
        ratings(&f.path, &plain(), SCALE).unwrap().load(OnBadRecord::Fail).unwrap().records
    };
    assert_eq!(loaded("a.tsv", "id\tmean\tratings\ttext\n7\t0.83\t3 -2  1.5\tx\n"), expected);
    assert_eq!(loaded("a.jsonl", "{\"id\": 7, \"ratings\": [3, -2, 1.5], \"text\": \"x\"}"), expected);
}

#[test]
fn rating_faults() {
    let tsv = |ratings: &str| rating_fault("a.tsv", &format!("ratings\ttext\n{ratings}\tx\n"), SCALE);
    assert_eq!(tsv("1 5"), "F:2: ratings[1]: expected a number from -4 to 4, found 5");
    assert_eq!(tsv("NaN"), "F:2: ratings[0]: expected a number from -4 to 4, found NaN");
    assert_eq!(tsv("1 two"), "F:2: ratings: expected numbers with spaces between, found \"two\"");
    assert_eq!(tsv(" "), "F:2: ratings: expected at least one rating, found an empty list");
    let json = |rest: &str| rating_fault("a.jsonl", &format!("{{\"text\": \"x\", {rest}}}"), SCALE);
    assert_eq!(json("\"ratings\": []"), "F:1: ratings: expected at least one rating, found an empty list");
    assert_eq!(json("\"ratings\": [1, -4.5]"), "F:1: ratings[1]: expected a number from -4 to 4, found -4.5");
    assert_eq!(json("\"ratings\": [\"1\"]"), "F:1: ratings[0]: expected a number, found the text \"1\"");
    assert_eq!(
        json("\"ratings\": \"1 2\""),
        "F:1: ratings: expected a list of numbers, found the text \"1 2\""
    );
    assert_eq!(
        json("\"ratings\": [1, 2], \"mean\": 1.51"),
        "F:1: mean: expected 1.5, the mean of the 2 ratings, found 1.51"
    );
    let mean = Scale { given: Given::Mean, ..SCALE };
    let fault = rating_fault("a.jsonl", "{\"text\": \"x\", \"mean\": 9}", mean);
    assert_eq!(fault, "F:1: mean: expected a number from -4 to 4, found 9");
    let fault = rating_fault("a.jsonl", "{\"text\": \" \", \"mean\": 1}", mean);
    assert_eq!(fault, "F:1: text: expected a text that is not blank, found \" \"");
    let fault = rating_fault("a.jsonl", "{}", Scale { min: 1.0, max: 1.0, given: Given::Mean });
    assert_eq!(fault, "F: scale: expected two finite numbers, min < max, found min 1, max 1");
}

#[test]
fn preference_faults() {
    assert_eq!(
        preference_fault(r#"{"prompt": "p", "chosen": "a", "rejected": "a "}"#),
        "F:1: rejected: expected a text other than that of `chosen`, found the same text"
    );
    let same = r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a"}"#;
    assert_eq!(
        preference_fault(same),
        "F:1: rejected: expected a text other than that of `chosen`, found the same text"
    );
    assert_eq!(
        preference_fault(
            r#"{"chosen": "\n\nHuman: q\n\nAssistant: ", "rejected": "\n\nHuman: q\n\nAssistant: a"}"#
        ),
        "F:1: chosen: expected a text that is not blank, found \" \""
    );
    assert_eq!(
        preference_fault(
            r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: a"}"#
        ),
        "F:1: rejected: expected a transcript that begins like `chosen`, \
         found \"\\n\\nHuman: r\\n\\nAssistant: a\""
    );
    assert_eq!(
        preference_fault(r#"{"chosen": "a", "text": 1}"#),
        "F:1: rejected: expected a field `rejected`, found only chosen, text"
    );
    assert_eq!(
        preference_fault(r#"{"chosen": "a", "rejected": null}"#),
        "F:1: rejected: expected text or a list of messages, found null"
    );
    assert_eq!(
        preference_fault(
            r#"{"prompt": "p", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}"#
        ),
        "F:1: chosen: expected text, as the prompt is, found messages"
    );
    assert_eq!(
        preference_fault(r#"{"prompt": [{"role": "user", "content": 3}], "chosen": "a", "rejected": "b"}"#),
        "F:1: prompt[0].content: expected text, found the number 3"
    );
}

#[test]
fn completion_faults() {
    let fault = |text: &str| {
        let f = file("a.jsonl", text);
        message(&f, prompt_completions(&f.path, &plain()).and_then(|r| r.load(OnBadRecord::Fail)))
    };
    assert_eq!(
        fault(r#"{"prompt": "p", "completion": " \n"}"#),
        "F:1: completion: expected a text that is not blank, found \" \\n\""
    );
    assert_eq!(
        fault(r#"{"prompt": "p", "completion": ["a"]}"#),
        "F:1: completion[0]: expected an object with `role` and `content`, found the text \"a\""
    );
    assert_eq!(
        fault(r#"{"messages": [{"role": "user", "content": "q"}]}"#),
        "F:1: messages: expected messages that end with the assistant's, found 1 messages that do not"
    );
    assert_eq!(
        fault(r#"{"prompt": "p"}"#),
        "F:1: completion: expected a field `completion`, found only prompt"
    );
}

#[test]
fn a_broken_line_in_the_middle_is_named_or_counted() {
    let f = file("a.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \n{\"prompt\": \"c\"}\n[1]\n");
    let broken = "F:2: json: expected one JSON object, \
                  found \"{\\\"prompt\\\":\" (EOF while parsing a value at column 10)";
    assert_eq!(message(&f, prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Fail)), broken);
    let loaded = prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Skip).unwrap();
    let texts: Vec<_> = loaded.records.iter().map(|r| r.prompt.as_str()).collect();
    assert_eq!((texts, loaded.skipped), (vec!["a", "c"], 2));
    assert_eq!(loaded.first_skipped.unwrap().replace(&f.path.display().to_string(), "F"), broken);
    // Streaming, the good records around it are still there.
    let items: Vec<_> = prompts(&f.path, &plain()).unwrap().map(|r| r.is_ok()).collect();
    assert_eq!(items, [true, false, true, false]);
}

#[test]
fn invalid_utf8_is_named() {
    let f = file("a.jsonl", b"{\"prompt\": \"a\"}\n{\"prompt\": \"\xff\"}\n");
    let fault = message(&f, prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Fail));
    assert_eq!(fault, "F:2: line: expected valid UTF-8, found the byte 0xff after 12 bytes");
    let f = file("a.csv", b"id,prompt\n1,a\n2,b\xe9\n");
    let fault = message(&f, prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Fail));
    assert_eq!(fault, "F:3: prompt: expected valid UTF-8, found the byte 0xe9 after 1 bytes");
    assert_eq!(prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Skip).unwrap().skipped, 1);
}

#[test]
fn a_stream_cut_short_is_never_skipped() {
    // Lines that do not compress to nothing, so that a cut loses whole lines.
    let line = |i: u32| format!("{{\"prompt\": \"{}\"}}\n", i.wrapping_mul(2_654_435_761));
    let text: String = (0..2000).map(line).collect();
    let whole = gz(&text);
    let f = file("a.jsonl.gz", &whole[..whole.len() / 2]);
    for on_bad in [OnBadRecord::Fail, OnBadRecord::Skip] {
        let fault = message(&f, prompts(&f.path, &plain()).unwrap().load(on_bad));
        let (place, rest) = fault.split_once(": ").unwrap();
        assert_eq!(rest, "gzip: expected a complete stream, found a stream cut short in this line");
        // The line it names is the one after the last whole record.
        let n_good = prompts(&f.path, &plain()).unwrap().filter(Result::is_ok).count();
        assert!((100..1900).contains(&n_good), "{n_good}");
        assert_eq!(place, format!("F:{}", n_good + 1));
    }
    // The last bytes are the checksum: all lines are there, and still the file is not whole.
    let f = file("a.jsonl.gz", &whole[..whole.len() - 1]);
    let items: Vec<_> = prompts(&f.path, &plain()).unwrap().collect();
    assert_eq!(items.iter().filter(|r| r.is_ok()).count(), 2000);
    assert!(
        items[2000].as_ref().unwrap_err().to_string().contains(":2001: gzip: expected a complete stream")
    );
    let mut damaged = whole.clone();
    let last = damaged.len() - 8;
    damaged[last] ^= 1;
    let f = file("a.jsonl.gz", damaged);
    let fault = message(&f, prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Skip));
    assert!(fault.starts_with("F:2001: gzip: expected an undamaged stream, found "), "{fault}");
    let f = file("a.jsonl.gz", "{\"prompt\": \"not gzip\"}\n");
    let fault = message(&f, prompts(&f.path, &plain()));
    assert!(fault.starts_with("F:1: gzip: expected an undamaged stream, found "), "{fault}");
}

#[test]
fn rows_of_another_width_are_named() {
    let f = file("a.csv", "id,prompt\n1,a\n2\n3,c,d\n4,e\n");
    let fault = message(&f, prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Fail));
    assert_eq!(fault, "F:3: row: expected 2 cells, found 1 cells");
    let loaded = prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Skip).unwrap();
    assert_eq!((loaded.records.len(), loaded.skipped), (2, 2));
}

#[test]
fn csv_faults_that_hide_rows_end_the_file() {
    let f = file("a.csv", "id,prompt\n1,a\n2,\"b\n3,c\n");
    let fault = message(&f, prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Skip));
    assert_eq!(fault, "F:3: row: expected a closing quotation mark, found the end of the file");
    let f = file("a.csv", "id,text\n1,a\n");
    let fault = message(&f, prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Skip));
    assert_eq!(fault, "F:2: prompt: expected a column `prompt`, found only id, text");
    let f = file("a.csv", "id,id\n1,a\n");
    assert_eq!(
        message(&f, prompts(&f.path, &plain())),
        "F:1: header: expected each column once, found \"id\" twice"
    );
}

#[test]
fn files_that_are_missing_empty_or_unknown() {
    let f = file("a.jsonl", "");
    let empty = "F:0: file: expected at least one record, found none";
    for (name, content) in [("a.jsonl", ""), ("a.jsonl", " \n\n"), ("a.csv", ""), ("a.tsv", "prompt\n")] {
        let f = file(name, content);
        for on_bad in [OnBadRecord::Fail, OnBadRecord::Skip] {
            assert_eq!(message(&f, prompts(&f.path, &plain()).unwrap().load(on_bad)), empty, "{name}");
        }
    }
    let items: Vec<_> = prompts(&f.path, &plain()).unwrap().map(|r| r.is_err()).collect();
    assert_eq!(items, [true]);
    let gone = Temp { path: f.path.with_file_name("gone.jsonl"), ..f };
    let fault = message(&gone, prompts(&gone.path, &plain()));
    assert!(fault.starts_with("opening F: "), "{fault}");
    let odd = Temp { path: gone.path.with_file_name("data.xml"), ..gone };
    assert_eq!(
        message(&odd, prompts(&odd.path, &plain())),
        "F: file name: expected a name ending in .jsonl, .ndjson, .json, .csv, .tsv (each also with .gz) \
         or .parquet, found data.xml"
    );
}

#[test]
fn a_file_without_one_good_record_is_no_file() {
    let f = file("a.jsonl", "{}\n{\"prompt\": 3}\n");
    assert_eq!(
        message(&f, prompts(&f.path, &plain()).unwrap().load(OnBadRecord::Skip)),
        "F:0: file: expected at least one record that can be used, found none in 2; \
         the first: F:1: prompt: expected a field `prompt`, found an empty row"
    );
}

#[test]
fn choices_in_a_config_are_snake_case() {
    assert_eq!(serde_json::from_str::<OnBadRecord>("\"skip\"").unwrap(), OnBadRecord::Skip);
    let layout: Layout = serde_json::from_str(r#"{"columns": {"chosen": "good"}}"#).unwrap();
    assert_eq!(layout, Layout::with_columns([("chosen", "good")]));
    assert!(serde_json::from_str::<Layout>(r#"{"column": {}}"#).is_err());
    let scale: Scale = serde_json::from_str(r#"{"min": -4, "max": 4, "given": "ratings"}"#).unwrap();
    assert_eq!(scale, SCALE);
}
