//! The first rows of a file as the model will see them, with the loss mask visible.
//!
//! A wrong mask is silent: training runs, and learns the prompt, or nothing. So the whole file is
//! tokenised and checked, and a few rows are shown.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use rlhf_policy::batch::Sequence;
use rlhf_policy::tokenizer::{Specials, Tokenizer};

use super::rows::Rows;
use super::{Layout, Loaded, OnBadRecord, preferences, prompt_completions};
use crate::error::Error;

/// Which tokens of a record are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scored {
    /// The completion.
    Completion,
    /// Prompt and completion, which the check refuses for records that have a prompt.
    Everything,
}

/// How a sequence ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndToken {
    /// With the tokenizer's end token, which is learned.
    Append,
    /// With the completion: the model is not taught to stop.
    AsWritten,
}

/// How a file is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectOptions {
    /// Records that are shown; all are checked.
    pub n_rows: usize,
    /// Names of columns.
    pub layout: Layout,
    /// What happens at a record that cannot be used.
    pub on_bad_record: OnBadRecord,
    /// Which tokens are learned.
    pub scored: Scored,
    /// How a sequence ends.
    pub end: EndToken,
    /// Tokens that the model takes; the end of a longer sequence is cut off.
    pub max_tokens: Option<usize>,
}

impl InspectOptions {
    /// What supervised fine-tuning does: completions and their end token are learned. Shows
    /// `n_rows` records, refuses a bad one, and cuts nothing.
    pub fn sft(n_rows: usize) -> Self {
        Self {
            n_rows,
            layout: Layout::default(),
            on_bad_record: OnBadRecord::Fail,
            scored: Scored::Completion,
            end: EndToken::Append,
            max_tokens: None,
        }
    }
}

/// Vocabulary of the tokenizer that is trained on the file when none is given. Only the shape of
/// the masks matters here, not how well the text is compressed.
const VOCAB_SIZE: usize = 4096;

/// What a file looks like to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// The first records.
    pub rows: Vec<InspectedRow>,
    /// Records that can be used.
    pub n_records: usize,
    /// Records passed over.
    pub skipped: usize,
    /// What was wrong with the first of those.
    pub first_skipped: Option<String>,
    /// Sequences: one a record, two of a preference.
    pub n_sequences: usize,
    /// Tokens of all sequences.
    pub n_tokens: usize,
    /// Those that are targets of the loss.
    pub n_scored: usize,
    /// Tokens of the longest sequence, before cutting.
    pub longest: usize,
    /// Sequences cut at `max_tokens`.
    pub n_cut: usize,
    /// Sequences whose end token is a target.
    pub n_end_scored: usize,
    /// How the end token is spelled.
    pub end_token: String,
}

/// One sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedRow {
    /// Its line, or row of a Parquet file.
    pub line: usize,
    /// `completion`, `chosen` or `rejected`.
    pub field: &'static str,
    /// The tokens, and which are scored.
    pub sequence: Sequence,
    /// The text, with the scored part in ‹…›.
    pub text: String,
}

/// Reads `path`, which holds preferences, prompts with completions, or texts, and checks every
/// loss mask. Without a tokenizer one is trained on the file's own texts.
///
/// # Errors
/// Whatever the file's records are refused for; a sequence without any target, a record with a
/// prompt all of whose tokens are targets, a text that writes out the start token which the
/// tokenizer adds. An end token that is never a target is no error here but a figure and a line of
/// the [`Inspection`].
pub fn inspect(
    path: impl AsRef<Path>,
    options: &InspectOptions,
    tokenizer: Option<&Tokenizer>,
) -> Result<Inspection, Error> {
    let path = path.as_ref();
    let examples = load(path, options)?;
    let trained;
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer,
        None => {
            let texts = examples.records.iter().flatten().flat_map(|e| [&e.prompt, &e.completion]);
            trained = Tokenizer::train(texts, VOCAB_SIZE, &Specials::gpt2())?;
            &trained
        }
    };
    let mut inspection = Inspection::empty(path, &examples, tokenizer);
    for (i, record) in examples.records.iter().enumerate() {
        for example in record {
            let row = inspection.add(example, options, tokenizer)?;
            if i < options.n_rows {
                inspection.rows.push(row);
            }
        }
    }
    Ok(inspection)
}

/// What a sequence is made of.
#[derive(Debug)]
struct Example {
    line: usize,
    field: &'static str,
    prompt: String,
    completion: String,
}

/// One or two examples a record.
fn load(path: &Path, options: &InspectOptions) -> Result<Loaded<Vec<Example>>, Error> {
    let layout = &options.layout;
    if holds_preferences(path, layout)? {
        let pairs = preferences(path, layout)?.map_records(|line, pair| {
            let rejected =
                Example { line, field: "rejected", prompt: pair.prompt.clone(), completion: pair.rejected };
            vec![Example { line, field: "chosen", prompt: pair.prompt, completion: pair.chosen }, rejected]
        });
        return pairs.load(options.on_bad_record);
    }
    let completions = prompt_completions(path, layout)?.map_records(|line, record| {
        let (prompt, completion) = (record.prompt, record.completion);
        vec![Example { line, field: "completion", prompt, completion }]
    });
    completions.load(options.on_bad_record)
}

/// Whether the first row that can be read has `chosen`.
fn holds_preferences(path: &Path, layout: &Layout) -> Result<bool, Error> {
    if layout.columns.contains_key("chosen") {
        return Ok(true);
    }
    let mut rows = Rows::open(path, layout)?;
    loop {
        match rows.next() {
            Some(Ok(row)) => return Ok(row.cells.contains_key("chosen")),
            Some(Err(fault)) if !fault.ends_stream() => {}
            // The reader proper meets the same end and says what is wrong.
            Some(Err(_)) | None => return Ok(false),
        }
    }
}

impl Inspection {
    fn empty(path: &Path, examples: &Loaded<Vec<Example>>, tokenizer: &Tokenizer) -> Self {
        Self {
            path: path.to_owned(),
            rows: Vec::new(),
            n_records: examples.records.len(),
            skipped: examples.skipped,
            first_skipped: examples.first_skipped.clone(),
            n_sequences: 0,
            n_tokens: 0,
            n_scored: 0,
            longest: 0,
            n_cut: 0,
            n_end_scored: 0,
            end_token: tokenizer.token(tokenizer.eos()).unwrap_or_default(),
        }
    }

    /// Whether any sequence teaches the model to stop.
    pub fn end_is_scored(&self) -> bool {
        self.n_end_scored > 0
    }

    /// Tokenises, checks and counts one example.
    fn add(&mut self, e: &Example, options: &InspectOptions, t: &Tokenizer) -> Result<InspectedRow, Error> {
        let refuse =
            |expected: &str, found: String| Err(Error::record(&self.path, e.line, e.field, expected, found));
        if let Some(start) = t.start().and_then(|id| t.token(id)) {
            let text = if e.prompt.is_empty() { &e.completion } else { &e.prompt };
            if text.starts_with(&start) {
                return refuse(
                    "one start token, the tokenizer's own",
                    format!("a text that starts with {start} too"),
                );
            }
        }
        let mut sequence = sequence(e, options, t);
        let n_tokens = sequence.tokens.len();
        if let Some(limit) = options.max_tokens {
            sequence.tokens.truncate(limit);
            sequence.mask.truncate(limit);
        }
        if sequence.n_targets() == 0 {
            return refuse("at least one scored token", format!("none in {} tokens", sequence.tokens.len()));
        }
        if !e.prompt.is_empty() && sequence.mask.iter().all(|scored| *scored) {
            let found = format!("a mask that scores all {} tokens", sequence.tokens.len());
            return refuse("a prompt that is read and not scored", found);
        }
        let ends =
            sequence.tokens.iter().zip(&sequence.mask).skip(1).any(|(id, scored)| *scored && *id == t.eos());
        self.n_sequences += 1;
        self.n_tokens += sequence.tokens.len();
        self.n_scored += sequence.n_targets();
        self.longest = self.longest.max(n_tokens);
        self.n_cut += usize::from(n_tokens > sequence.tokens.len());
        self.n_end_scored += usize::from(ends);
        let text = marked(&sequence, t);
        Ok(InspectedRow { line: e.line, field: e.field, sequence, text })
    }
}

fn sequence(e: &Example, options: &InspectOptions, t: &Tokenizer) -> Sequence {
    let mut prompt: Vec<u32> = t.start().into_iter().collect();
    prompt.extend(t.encode(&e.prompt));
    let mut completion = t.encode(&e.completion);
    if options.end == EndToken::Append {
        completion.push(t.eos());
    }
    let mut sequence = Sequence::new(&prompt, &completion);
    if options.scored == Scored::Everything {
        sequence.mask.fill(true);
    }
    sequence
}

/// The text of a sequence, runs of scored tokens in ‹…›, special tokens spelled out.
fn marked(sequence: &Sequence, t: &Tokenizer) -> String {
    let mut out = String::new();
    let mut i = 0;
    while i < sequence.tokens.len() {
        let scored = sequence.mask[i];
        let end = sequence.mask[i..].iter().position(|m| *m != scored).map_or(sequence.mask.len(), |n| i + n);
        let text = spelled(&sequence.tokens[i..end], t);
        // Writing to a string cannot fail.
        let _ = if scored { write!(out, "‹{text}›") } else { write!(out, "{text}") };
        i = end;
    }
    out
}

/// Decoding leaves special tokens out; here they are what is looked for.
fn spelled(ids: &[u32], t: &Tokenizer) -> String {
    let special = |id: &u32| [Some(t.eos()), Some(t.pad()), t.bos()].contains(&Some(*id));
    let runs = ids.chunk_by(|a, b| !special(a) && !special(b));
    runs.map(|run| match run {
        [id] if special(id) => t.token(*id).unwrap_or_default(),
        run => t.decode(run),
    })
    .collect()
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} records, {} skipped", self.path.display(), self.n_records, self.skipped)?;
        if let Some(first) = &self.first_skipped {
            writeln!(f, "first skipped: {first}")?;
        }
        writeln!(
            f,
            "{} sequences, {} tokens, {} scored in ‹…›; longest {} tokens, {} cut",
            self.n_sequences, self.n_tokens, self.n_scored, self.longest, self.n_cut
        )?;
        writeln!(f, "end token {} scored in {} of {}", self.end_token, self.n_end_scored, self.n_sequences)?;
        if !self.end_is_scored() {
            writeln!(f, "warning: no sequence teaches the model to stop")?;
        }
        for row in &self.rows {
            let (n, scored) = (row.sequence.tokens.len(), row.sequence.n_targets());
            writeln!(f, "\nline {}, {}: {n} tokens, {scored} scored", row.line, row.field)?;
            writeln!(f, "{}", row.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file of that name with that text, in a folder of its own.
    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    /// Bytes only, so that tokens can be counted by hand.
    fn bytes() -> Tokenizer {
        Tokenizer::train(["x"].iter(), 258, &Specials::gpt2()).unwrap()
    }

    #[test]
    fn completions_are_marked_and_counted() {
        let text =
            "{\"prompt\": \"ab\", \"completion\": \"cde\"}\n{\"prompt\": \"é\", \"completion\": \"f\"}\n";
        let (_dir, path) = file("a.jsonl", text);
        let seen = inspect(&path, &InspectOptions::sft(1), Some(&bytes())).unwrap();
        // 2 + 3 + end, and 2 bytes of é + 1 + end.
        assert_eq!((seen.n_records, seen.n_sequences, seen.n_tokens, seen.longest), (2, 2, 10, 6));
        assert_eq!((seen.n_scored, seen.n_end_scored, seen.n_cut), (4 + 2, 2, 0));
        assert_eq!(seen.rows.len(), 1);
        assert_eq!(seen.rows[0].text, "ab‹cde<|endoftext|>›");
        assert_eq!(seen.rows[0].sequence.mask, [false, false, true, true, true, true]);
        let shown = format!(
            "{}: 2 records, 0 skipped\n\
             2 sequences, 10 tokens, 6 scored in ‹…›; longest 6 tokens, 0 cut\n\
             end token <|endoftext|> scored in 2 of 2\n\
             \nline 1, completion: 6 tokens, 4 scored\nab‹cde<|endoftext|>›\n",
            path.display()
        );
        assert_eq!(seen.to_string(), shown);
    }

    #[test]
    fn preferences_show_both_texts() {
        let (_dir, path) = file(
            "a.jsonl",
            "{\"chosen\": \"\\n\\nHuman: q\\n\\nAssistant: y\", \"rejected\": \"\\n\\nHuman: q\\n\\nAssistant: n\"}",
        );
        let seen = inspect(&path, &InspectOptions::sft(3), None).unwrap();
        let texts: Vec<_> = seen.rows.iter().map(|r| (r.field, r.text.as_str())).collect();
        assert_eq!(
            texts,
            [
                ("chosen", "\n\nHuman: q\n\nAssistant:‹ y<|endoftext|>›"),
                ("rejected", "\n\nHuman: q\n\nAssistant:‹ n<|endoftext|>›"),
            ]
        );
    }

    #[test]
    fn a_text_without_prompt_is_scored_from_its_second_token() {
        let (_dir, path) = file("a.tsv", "text\tlabel\nabc\t1\n");
        let options = InspectOptions { end: EndToken::AsWritten, ..InspectOptions::sft(1) };
        let seen = inspect(&path, &options, Some(&bytes())).unwrap();
        assert_eq!((seen.n_tokens, seen.n_scored, seen.rows[0].text.as_str()), (3, 2, "‹abc›"));
    }

    #[test]
    fn an_end_token_that_is_never_learned_is_reported() {
        let (_dir, path) = file("a.jsonl", "{\"prompt\": \"ab\", \"completion\": \"cde\"}\n");
        let warning = "warning: no sequence teaches the model to stop";
        let options = InspectOptions { end: EndToken::AsWritten, ..InspectOptions::sft(1) };
        let seen = inspect(&path, &options, Some(&bytes())).unwrap();
        assert!(!seen.end_is_scored() && seen.to_string().contains(warning));
        // Cutting takes the end token away too.
        let options = InspectOptions { max_tokens: Some(5), ..InspectOptions::sft(1) };
        let seen = inspect(&path, &options, Some(&bytes())).unwrap();
        assert_eq!((seen.n_cut, seen.longest, seen.end_is_scored()), (1, 6, false));
        let seen = inspect(&path, &InspectOptions::sft(1), Some(&bytes())).unwrap();
        assert!(seen.end_is_scored() && !seen.to_string().contains(warning));
    }

    #[test]
    fn masks_that_learn_nothing_or_the_prompt_are_refused() {
        let (_dir, path) = file("a.jsonl", "\n{\"prompt\": \"abcd\", \"completion\": \"e\"}\n");
        let message =
            |options: &InspectOptions| inspect(&path, options, Some(&bytes())).unwrap_err().to_string();
        let options = InspectOptions { max_tokens: Some(4), ..InspectOptions::sft(1) };
        let at = format!("{}:2: completion: ", path.display());
        assert_eq!(
            message(&options),
            format!("{at}expected at least one scored token, found none in 4 tokens")
        );
        let options = InspectOptions { scored: Scored::Everything, ..InspectOptions::sft(1) };
        assert_eq!(
            message(&options),
            format!(
                "{at}expected a prompt that is read and not scored, found a mask that scores all 6 tokens"
            )
        );
    }

    #[test]
    fn a_start_token_that_stands_twice_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        bytes().save(dir.path()).unwrap();
        // The pad token plays the start token, and a post-processor puts it in front.
        let tokenizer = dir.path().join("tokenizer.json");
        let mut json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&tokenizer).unwrap()).unwrap();
        let start = serde_json::json!({"SpecialToken": {"id": "<|pad|>", "type_id": 0}});
        let a = serde_json::json!({"Sequence": {"id": "A", "type_id": 0}});
        let b = serde_json::json!({"Sequence": {"id": "B", "type_id": 0}});
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing", "single": [start, a], "pair": [a, b],
            "special_tokens": {"<|pad|>": {"id": "<|pad|>", "ids": [1], "tokens": ["<|pad|>"]}},
        });
        fs::write(&tokenizer, json.to_string()).unwrap();
        let config = "{\"eos_token\": \"<|endoftext|>\", \"bos_token\": \"<|pad|>\"}";
        fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        let t = Tokenizer::load(dir.path()).unwrap();

        let (_dir, path) = file("a.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
        let seen = inspect(&path, &InspectOptions::sft(1), Some(&t)).unwrap();
        assert_eq!(seen.rows[0].text, "<|pad|>a‹b<|endoftext|>›");
        let (_dir, path) = file("b.jsonl", "{\"prompt\": \"<|pad|>a\", \"completion\": \"b\"}\n");
        let message = inspect(&path, &InspectOptions::sft(1), Some(&t)).unwrap_err().to_string();
        let expected =
            "expected one start token, the tokenizer's own, found a text that starts with <|pad|> too";
        assert_eq!(message, format!("{}:1: completion: {expected}", path.display()));
    }
}
