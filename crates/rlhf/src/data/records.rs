//! The kinds of record, and how each is read from a row.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fault::{Fault, describe, quote};
use super::rows::{Row, RowKind};
use super::transcript::{self, LastTurn, Message, Parting};
use super::{Layout, Misfit};

/// Something to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRecord {
    /// The text, never blank.
    pub prompt: String,
}

/// Something to imitate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptCompletion {
    /// What is read; may be empty.
    pub prompt: String,
    /// What is learned, never blank. Prompt and completion stand together as they are: nothing is
    /// put between them.
    pub completion: String,
}

/// Two answers, the better one known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference {
    /// What both answer; may be empty.
    pub prompt: String,
    /// The better one, never blank.
    pub chosen: String,
    /// The other one, never blank, never equal to `chosen`.
    pub rejected: String,
    /// Where the prompt comes from.
    pub origin: PromptOrigin,
    /// What it belongs to, as a topic; empty where the layout maps no column to `group`.
    pub group: String,
}

/// Where the prompt of a [`Preference`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptOrigin {
    /// A column of its own, or none: the two texts are no transcripts.
    Given,
    /// The beginning that two transcripts share, up to the last turn of both.
    Shared,
    /// The beginning that two transcripts share, up to an earlier turn: their last turns answer
    /// different prompts, so the completions hold more than one turn.
    SharedEarlier,
}

/// A text and what people thought of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rating {
    /// The file's identifier, or the line number where it has none.
    pub id: String,
    /// The text, never blank.
    pub text: String,
    /// One number a rater; empty under [`Given::Mean`].
    pub ratings: Vec<f64>,
    /// Mean of the ratings.
    pub mean: f64,
}

/// The range of a file's ratings, and which of them it has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Lowest rating there is.
    pub min: f64,
    /// Highest rating there is.
    pub max: f64,
    /// Whether each rating or only the mean stands in the file.
    pub given: Given,
}

/// What a file of ratings holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Given {
    /// `ratings`, a list (in CSV and TSV: numbers with spaces between them); `mean` is optional,
    /// and checked where it stands.
    Ratings,
    /// `mean` only.
    Mean,
}

/// How far a stated mean may be from the mean of its ratings: half of the second decimal, which is
/// where people round, and a little for the rounding of that sum.
const MEAN_TOLERANCE: f64 = 0.005 + 1e-9;

/// The cells of a row, found by the layout's names.
pub(super) struct Cells<'a> {
    pub(super) row: &'a Row,
    pub(super) layout: &'a Layout,
}

/// Text, or turns of a conversation.
enum Said<'a> {
    Text(&'a str),
    Turns(Vec<Message>),
}

impl<'a> Cells<'a> {
    fn fault(
        &self,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Fault {
        Fault::new(self.row.line, field, expected, found)
    }

    fn has(&self, field: &str) -> bool {
        // A column that the user named must be there, so its absence is found where it is read.
        self.layout.columns.contains_key(field) || self.row.cells.contains_key(field)
    }

    fn value(&self, field: &str) -> Result<&'a Value, Fault> {
        let column = self.layout.column(field);
        if let Some(value) = self.row.cells.get(column) {
            return Ok(value);
        }
        let columns: Vec<&str> = self.row.cells.keys().map(String::as_str).collect();
        let found = match columns.as_slice() {
            [] => "an empty row".to_owned(),
            some => format!("only {}", some.join(", ")),
        };
        let line = self.row.line;
        Err(match self.row.kind {
            RowKind::Object => Fault::new(line, column, format!("a field `{column}`"), found),
            // No later row has the column either.
            RowKind::Text | RowKind::Typed => Fault::end(line, column, format!("a column `{column}`"), found),
        })
    }

    fn text(&self, field: &str) -> Result<&'a str, Fault> {
        let value = self.value(field)?;
        value.as_str().ok_or_else(|| self.fault(self.layout.column(field), "text", describe(value)))
    }

    /// A text, or a number as it is written.
    fn written(&self, field: &str) -> Result<Cow<'a, str>, Fault> {
        match self.value(field)? {
            Value::Number(number) => Ok(Cow::Owned(number.to_string())),
            _ => self.text(field).map(Cow::Borrowed),
        }
    }

    fn said(&self, field: &str) -> Result<Said<'a>, Fault> {
        let column = self.layout.column(field);
        match self.value(field)? {
            Value::String(text) => Ok(Said::Text(text)),
            Value::Array(items) => match transcript::messages(items) {
                Ok(turns) => Ok(Said::Turns(turns)),
                Err((place, expected, found)) => Err(self.fault(format!("{column}{place}"), expected, found)),
            },
            other => Err(self.fault(column, "text or a list of messages", describe(other))),
        }
    }

    fn not_blank(&self, field: &str, text: String) -> Result<String, Fault> {
        if text.trim().is_empty() {
            return Err(self.fault(self.layout.column(field), "a text that is not blank", quote(&text)));
        }
        Ok(text)
    }

    /// `field` as what follows a prompt of the same form.
    fn completion(&self, field: &str, prompt: &Said<'_>) -> Result<String, Fault> {
        let column = self.layout.column(field);
        let text = match (self.said(field)?, prompt) {
            (Said::Text(text), Said::Text(_)) => text.to_owned(),
            (Said::Turns(turns), Said::Turns(_)) => transcript::completion(&turns)
                .ok_or_else(|| self.fault(column, "messages that start with the assistant's", "others"))?,
            (Said::Text(_), _) => return Err(self.fault(column, "messages, as the prompt is", "text")),
            (Said::Turns(_), _) => return Err(self.fault(column, "text, as the prompt is", "messages")),
        };
        self.not_blank(field, text)
    }

    fn number(&self, field: &str) -> Result<f64, Fault> {
        let value = self.value(field)?;
        let number = match (self.row.kind, value) {
            (RowKind::Text, Value::String(text)) => text.trim().parse().ok(),
            (_, value) => value.as_f64(),
        };
        number.ok_or_else(|| self.fault(self.layout.column(field), "a number", describe(value)))
    }

    fn numbers(&self, field: &str) -> Result<Vec<f64>, Fault> {
        let column = self.layout.column(field);
        match (self.row.kind, self.value(field)?) {
            (RowKind::Text, Value::String(text)) => text
                .split_whitespace()
                .map(|word| {
                    word.parse().map_err(|_| self.fault(column, "numbers with spaces between", quote(word)))
                })
                .collect(),
            (_, Value::Array(items)) => items
                .iter()
                .enumerate()
                .map(|(i, item)| {
                    item.as_f64()
                        .ok_or_else(|| self.fault(format!("{column}[{i}]"), "a number", describe(item)))
                })
                .collect(),
            (_, other) => Err(self.fault(column, "a list of numbers", describe(other))),
        }
    }
}

impl Said<'_> {
    fn into_prompt(self) -> String {
        match self {
            Said::Text(text) => text.to_owned(),
            Said::Turns(turns) => transcript::prompt(&turns),
        }
    }

    fn into_whole(self) -> String {
        match self {
            Said::Text(text) => text.to_owned(),
            Said::Turns(turns) => transcript::render(&turns),
        }
    }
}

/// What `make` builds from the cells of `columns`.
pub(super) fn of_table<T>(
    cells: &Cells<'_>,
    columns: &[&str],
    make: fn(&[&str]) -> Result<T, Misfit>,
) -> Result<T, Fault> {
    let texts = columns.iter().map(|column| cells.written(column)).collect::<Result<Vec<_>, Fault>>()?;
    make(&texts.iter().map(AsRef::as_ref).collect::<Vec<&str>>())
        .map_err(|misfit| cells.fault(columns[misfit.column], misfit.expected, misfit.found))
}

/// `prompt`, else `messages`, else `question`.
pub(super) fn prompt(cells: &Cells<'_>) -> Result<PromptRecord, Fault> {
    let field = ["prompt", "messages", "question"].into_iter().find(|f| cells.has(f)).unwrap_or("prompt");
    let prompt = cells.not_blank(field, cells.said(field)?.into_prompt())?;
    Ok(PromptRecord { prompt })
}

/// `prompt` and `completion`, else `messages`, else `question` and `answer`, else `text`.
pub(super) fn prompt_completion(cells: &Cells<'_>) -> Result<PromptCompletion, Fault> {
    if !cells.has("prompt") && cells.has("messages") {
        return conversation(cells);
    }
    if !cells.has("prompt") && !cells.has("question") && cells.has("text") {
        let completion = cells.not_blank("text", cells.text("text")?.to_owned())?;
        return Ok(PromptCompletion { prompt: String::new(), completion });
    }
    let (asked, answered) = if !cells.has("prompt") && cells.has("question") {
        ("question", "answer")
    } else {
        ("prompt", "completion")
    };
    let prompt = cells.said(asked)?;
    let completion = cells.completion(answered, &prompt)?;
    Ok(PromptCompletion { prompt: prompt.into_prompt(), completion })
}

fn conversation(cells: &Cells<'_>) -> Result<PromptCompletion, Fault> {
    let column = cells.layout.column("messages");
    let expected = "messages that end with the assistant's";
    let Said::Turns(turns) = cells.said("messages")? else {
        return Err(cells.fault(column, expected, "text"));
    };
    let found = || format!("{} messages that do not", turns.len());
    let (prompt, completion) =
        transcript::last_turn(&turns).ok_or_else(|| cells.fault(column, expected, found()))?;
    // The turn has its leading space, so the text alone is asked.
    let completion = cells.not_blank("messages", completion)?;
    Ok(PromptCompletion { prompt, completion })
}

/// `chosen` and `rejected`, with `prompt` or with the prompt inside both.
pub(super) fn preference(cells: &Cells<'_>) -> Result<Preference, Fault> {
    let (chosen, rejected) = winner(cells)?;
    let mut record = if cells.has("prompt") {
        let prompt = cells.said("prompt")?;
        let (chosen, rejected) = (cells.completion(chosen, &prompt)?, cells.completion(rejected, &prompt)?);
        Preference {
            prompt: prompt.into_prompt(),
            chosen,
            rejected,
            origin: PromptOrigin::Given,
            group: String::new(),
        }
    } else {
        shared_prompt(cells, chosen, rejected)?
    };
    if record.chosen.trim() == record.rejected.trim() {
        let expected = format!("a text other than that of `{}`", cells.layout.column(chosen));
        return Err(cells.fault(cells.layout.column(rejected), expected, "the same text"));
    }
    // Only where it is mapped: a column that happens to have this name may hold anything.
    if cells.layout.columns.contains_key("group") {
        record.group = cells.not_blank("group", cells.text("group")?.to_owned())?;
    }
    Ok(record)
}

/// Which of the two fields is the better one. Where the layout has `label`, that column names it.
fn winner(cells: &Cells<'_>) -> Result<(&'static str, &'static str), Fault> {
    if !cells.layout.columns.contains_key("label") {
        return Ok(("chosen", "rejected"));
    }
    let label = cells.text("label")?;
    let [a, b] = ["chosen", "rejected"].map(|field| cells.layout.column(field));
    match label {
        l if l == a => Ok(("chosen", "rejected")),
        l if l == b => Ok(("rejected", "chosen")),
        other => Err(cells.fault(cells.layout.column("label"), format!("`{a}` or `{b}`"), quote(other))),
    }
}

fn shared_prompt(cells: &Cells<'_>, chosen: &str, rejected: &str) -> Result<Preference, Fault> {
    let a = cells.said(chosen)?.into_whole();
    let b = cells.said(rejected)?.into_whole();
    let (n_prompt, origin) = match transcript::part(&a, &b) {
        Parting::NoPrompt => (0, PromptOrigin::Given),
        Parting::At { prompt, last: LastTurn::Yes } => (prompt, PromptOrigin::Shared),
        // Equal transcripts have all turns in common, whatever follows.
        Parting::At { prompt, last: LastTurn::No } => (prompt, PromptOrigin::SharedEarlier),
        Parting::NothingShared => {
            let expected = format!("a transcript that begins like `{}`", cells.layout.column(chosen));
            return Err(cells.fault(cells.layout.column(rejected), expected, quote(&b)));
        }
    };
    Ok(Preference {
        prompt: a[..n_prompt].to_owned(),
        chosen: cells.not_blank(chosen, a[n_prompt..].to_owned())?,
        rejected: cells.not_blank(rejected, b[n_prompt..].to_owned())?,
        origin,
        group: String::new(),
    })
}

/// `text` with `ratings` or `mean`, and `id` where there is one.
pub(super) fn rating(cells: &Cells<'_>, scale: &Scale) -> Result<Rating, Fault> {
    let id = if cells.has("id") { identifier(cells)? } else { cells.row.line.to_string() };
    let text = cells.not_blank("text", cells.text("text")?.to_owned())?;
    let stated = if scale.given == Given::Mean || cells.has("mean") {
        Some(in_range(cells, "mean", "", cells.number("mean")?, scale)?)
    } else {
        None
    };
    let ratings = match scale.given {
        Given::Mean => Vec::new(),
        Given::Ratings => cells.numbers("ratings")?,
    };
    for (i, rating) in ratings.iter().enumerate() {
        in_range(cells, "ratings", &format!("[{i}]"), *rating, scale)?;
    }
    let mean = match (scale.given, stated) {
        (Given::Mean, Some(mean)) => mean,
        _ => mean_of(cells, &ratings, stated)?,
    };
    Ok(Rating { id, text, ratings, mean })
}

fn identifier(cells: &Cells<'_>) -> Result<String, Fault> {
    match cells.value("id")? {
        Value::String(id) => Ok(id.clone()),
        Value::Number(id) => Ok(id.to_string()),
        other => Err(cells.fault(cells.layout.column("id"), "text or a number", describe(other))),
    }
}

/// NaN is outside every range.
fn in_range(cells: &Cells<'_>, field: &str, place: &str, x: f64, scale: &Scale) -> Result<f64, Fault> {
    if (scale.min..=scale.max).contains(&x) {
        return Ok(x);
    }
    let column = cells.layout.column(field);
    let expected = format!("a number from {} to {}", scale.min, scale.max);
    Err(cells.fault(format!("{column}{place}"), expected, x.to_string()))
}

/// The mean of `ratings`, which the file's own, if there is one, must agree with.
fn mean_of(cells: &Cells<'_>, ratings: &[f64], stated: Option<f64>) -> Result<f64, Fault> {
    if ratings.is_empty() {
        return Err(cells.fault(cells.layout.column("ratings"), "at least one rating", "an empty list"));
    }
    let mean = ratings.iter().sum::<f64>() / ratings.len() as f64;
    match stated {
        Some(stated) if (stated - mean).abs() > MEAN_TOLERANCE => {
            let expected = format!("{mean}, the mean of the {} ratings", ratings.len());
            Err(cells.fault(cells.layout.column("mean"), expected, stated.to_string()))
        }
        _ => Ok(mean),
    }
}
