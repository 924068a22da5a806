//! Descriptions of restaurants from E2E's cleaned files: a meaning in, a text out, and a rule that checks it.
//!
//! A prompt is `name: xname, type: pub, food: french, near: xnear =>`; a completion is a human reference in
//! lower case, with `xname` and `xnear` for the two names ([`meaning`]). The reward is the share of values that a
//! text tells, less what it adds ([`checker`]); the references of the evaluation prompts are there for BLEU.
//!
//! The rule reads words, not grammar, and it was written by looking at these texts; the files' own representations
//! were corrected by patterns, too. So a policy that passes it more often than people do is more literal, not
//! better: BLEU is the independent check.
//!
//! Source of the data: Dušek, Howcroft and Rieser 2019, *Semantic Noise Matters for Neural Natural Language
//! Generation*, arXiv:1911.03905; the columns `mr` and `ref` are read.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rlhf_core::rng::stream;
use serde::{Deserialize, Serialize};

use crate::data::{self, Misfit, OnBadRecord};
use crate::error::Error;
use crate::task::verify::Verify;
use crate::task::{Example, Gold, Sizes, TaskData, first, shuffle};

pub mod checker;
pub mod meaning;
pub mod told;

pub use checker::{Checker, PERFECT, Slots, Venue};
pub use meaning::{Meaning, NAME, NEAR, Named, Slot, Unusable, Value};
pub use told::Told;

/// One in so many meanings is held out of a pooled split.
const HELD_OUT: usize = 5;

/// Which meanings evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// A fifth of those of both files together, drawn by the seed.
    Pooled,
    /// Those of the second file that the first does not have. E2E's own split is a shifted one: 84 % of the first
    /// file's meanings with a type are coffee shops, and 7 % of the second's.
    Official,
}

/// The files and what is made of them.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Representations and references.
    pub path: &'a Path,
    /// More of them; what evaluates under [`Split::Official`].
    pub second: Option<&'a Path>,
    /// Which meanings evaluate.
    pub split: Split,
    /// Whether the rule has its hole.
    pub venue: Venue,
    /// What a record at fault does.
    pub on_bad_record: OnBadRecord,
}

/// A text of a meaning, or none where the representation is ambiguous.
type Row = Option<(Meaning, String)>;

/// Meanings and their texts, each text once.
type Texts = BTreeMap<Meaning, Vec<String>>;

/// The task of the files.
///
/// # Errors
/// Those of the reader; [`Error::Config`] for an official split without a second file and for files with too
/// few meanings.
pub fn load(seed: u64, sizes: &Sizes, source: &Source<'_>) -> Result<TaskData, Error> {
    let mut task = TaskData::new("descriptions", Gold::Verifier);
    let (train, eval) = split(seed, sizes, source, &mut task.notes)?;
    for (meaning, texts) in eval {
        let prompt = meaning.to_string();
        let text = completion(&texts[0]);
        task.sft_heldout.push(Example { prompt: prompt.clone(), completion: text });
        task.eval_prompts.push(prompt);
        task.eval_references.push(texts);
    }
    let pairs = |(meaning, texts): &(Meaning, Vec<String>)| {
        let prompt = meaning.to_string();
        let example = move |text: &String| Example { prompt: prompt.clone(), completion: completion(text) };
        texts.iter().map(example).collect::<Vec<Example>>()
    };
    let mut examples: Vec<Example> = train.iter().flat_map(pairs).collect();
    shuffle(&mut examples, &mut stream(seed, "descriptions/sft", 0, 0));
    task.sft = first(sizes.n_sft, examples);
    let prompts = train.iter().map(|(meaning, _)| meaning.to_string()).collect();
    task.train_prompts = first(sizes.n_prompts, prompts);
    task.verify = Some(Verify::Descriptions(Checker { venue: source.venue }));
    task.notes.push(format!(
        "{} texts to learn from, {} meanings to train on, {} to evaluate, which are in neither",
        task.sft.len(),
        task.train_prompts.len(),
        task.eval_prompts.len()
    ));
    if source.venue == Venue::Open {
        task.notes.push("a venue type that nobody asked for costs nothing: a hole, left open".to_owned());
    }
    Ok(task)
}

/// What follows a prompt.
fn completion(text: &str) -> String {
    format!(" {text}")
}

type Parts = (Vec<(Meaning, Vec<String>)>, Vec<(Meaning, Vec<String>)>);

/// Meanings to train on and to evaluate, both in random order.
fn split(seed: u64, sizes: &Sizes, source: &Source<'_>, notes: &mut Vec<String>) -> Result<Parts, Error> {
    if source.split == Split::Official && source.second.is_none() {
        let expected = "a file to evaluate on, for the official split";
        return Err(Error::config("task descriptions", "task.sft_path", expected, "none"));
    }
    let (mut train, mut eval) = (Texts::new(), Texts::new());
    read(source.path, source.on_bad_record, &mut train, notes)?;
    if let Some(path) = source.second {
        let texts = if source.split == Split::Official { &mut eval } else { &mut train };
        read(path, source.on_bad_record, texts, notes)?;
    }
    if source.split == Split::Official {
        notes.push("official split: the second file evaluates, with what the first does not have".to_owned());
    }
    eval.retain(|meaning, _| !train.contains_key(meaning));
    let in_random_order = |texts: Texts, purpose: &str| {
        let mut texts: Vec<(Meaning, Vec<String>)> = texts.into_iter().collect();
        shuffle(&mut texts, &mut stream(seed, purpose, 0, 0));
        texts
    };
    let mut train = in_random_order(train, "descriptions/split");
    let mut eval = in_random_order(eval, "descriptions/eval");
    if source.split == Split::Pooled {
        eval = train.split_off(train.len() - train.len() / HELD_OUT);
    }
    if train.is_empty() || eval.is_empty() {
        let found = format!("{} to train on, {} to evaluate", train.len(), eval.len());
        let expected = "files with meanings to train on and to evaluate";
        return Err(Error::config("task descriptions", "task.path", expected, found));
    }
    Ok((train, first(sizes.n_eval_prompts, eval)))
}

/// Adds the texts of a file.
fn read(path: &Path, on_bad: OnBadRecord, texts: &mut Texts, notes: &mut Vec<String>) -> Result<(), Error> {
    let loaded = data::table(path, &["mr", "ref"], row)?.load(on_bad)?;
    let n = loaded.records.len();
    let (mut n_ambiguous, mut n_duplicate) = (0, 0);
    let mut seen: HashSet<(Meaning, String)> = HashSet::new();
    for record in loaded.records {
        match record {
            None => n_ambiguous += 1,
            Some(row) if seen.insert(row.clone()) => texts.entry(row.0).or_default().push(row.1),
            Some(_) => n_duplicate += 1,
        }
    }
    notes.push(format!(
        "{}: {n} records, {} bad ones passed over, {n_ambiguous} with two values for a slot or without a name and {n_duplicate} duplicates left out",
        path.display(),
        loaded.skipped
    ));
    Ok(())
}

fn row(cells: &[&str]) -> Result<Row, Misfit> {
    let named = match meaning::read(cells[0]) {
        Ok(named) => named,
        Err(Unusable::Ambiguous) => return Ok(None),
        Err(Unusable::Unread(found)) => {
            let expected = "slots such as `name[The Mill], eatType[pub]`, each with a value of E2E's";
            return Err(Misfit { column: 0, expected: expected.to_owned(), found });
        }
    };
    let text = named.plain(cells[1]);
    if text.is_empty() {
        return Err(Misfit {
            column: 1,
            expected: "a text that is not blank".to_owned(),
            found: "none".to_owned(),
        });
    }
    Ok(Some((named.meaning, text)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SIZES: Sizes = Sizes { n_sft: 0, n_preferences: 1, n_prompts: 0, n_eval_prompts: 0 };

    /// Ten meanings with two texts each, one text twice, one row with two foods.
    fn table(values: &[&str]) -> String {
        let foods = ["Chinese", "English", "French", "Indian", "Italian"];
        let mut text = "mr,ref\n".to_owned();
        for (i, food) in foods.iter().enumerate() {
            for value in values {
                for form in ["is", "was"] {
                    text +=
                        &format!("\"name[The Mill], food[{food}], {value}\",The Mill {form} number {i}.\n");
                }
            }
        }
        text + "\"name[The Mill], food[Indian], food[French]\",The Mill.\n"
    }

    fn load_from(tables: [&str; 2], split: Split) -> Result<TaskData, Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = ["one.csv", "two.csv"].map(|name| folder.path().join(name));
        for (path, table) in paths.iter().zip(tables) {
            fs::write(path, table).expect("writable");
        }
        let source = Source {
            path: &paths[0],
            second: (!tables[1].is_empty()).then_some(&paths[1]),
            split,
            venue: Venue::Checked,
            on_bad_record: OnBadRecord::Fail,
        };
        load(7, &SIZES, &source)
    }

    #[test]
    fn a_pooled_split_holds_out_a_fifth_of_the_meanings() {
        let one = table(&["area[riverside]", "area[city centre]"]);
        let one = format!("{one}\"name[Cocum], food[Indian], area[riverside]\",Cocum is number 3.\n");
        let task = load_from([&one, &table(&["eatType[pub]"])], Split::Pooled).expect("good files");
        assert_eq!((task.train_prompts.len(), task.eval_prompts.len(), task.sft.len()), (12, 3, 24));
        let train: HashSet<&String> = task.train_prompts.iter().collect();
        assert!(task.eval_prompts.iter().all(|p| !train.contains(p)));
        assert!(task.sft.iter().all(|e| train.contains(&e.prompt) && e.completion.starts_with(" xname ")));
        assert_eq!(task.eval_references.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(task.sft_heldout.len(), 3);
        let note = &task.notes[0];
        assert!(
            note.contains("22 records, 0 bad ones passed over, 1 with two values")
                && note.contains("1 duplicates"),
            "{note}"
        );
    }

    #[test]
    fn the_official_split_evaluates_on_new_meanings_of_the_second_file() {
        let task = load_from(
            [&table(&["area[riverside]"]), &table(&["area[riverside]", "near[X]"])],
            Split::Official,
        )
        .expect("good files");
        assert_eq!((task.train_prompts.len(), task.eval_prompts.len()), (5, 5));
        assert!(task.eval_prompts.iter().all(|p| p.ends_with("near: xnear =>")));
        let error = load_from([&table(&["near[X]"]), ""], Split::Official).expect_err("one file").to_string();
        assert!(error.starts_with("task descriptions: task.sft_path: expected a file"), "{error}");
    }

    #[test]
    fn bad_records_are_named() {
        let message = |one: &str| load_from([one, ""], Split::Pooled).expect_err("bad input").to_string();
        let error = message("mr,ref\n\"name[A], food[Greek]\",A is good.\n");
        assert!(error.contains("one.csv:2: mr: expected slots such as"), "{error}");
        assert!(error.ends_with("found \"food[Greek\""), "{error}");
        let error = message("mr,ref\nname[A], \n");
        assert!(error.contains("one.csv:2: ref: expected a text that is not blank"), "{error}");
        let error = message("mr,text\nname[A],a\n");
        assert!(error.contains("one.csv:2: ref: expected a column `ref`"), "{error}");
        let error = message("mr,ref\nname[A],a\n");
        assert!(error.contains("task.path: expected files with meanings"), "{error}");
    }
}
