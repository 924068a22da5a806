//! A task from the user's own files: prompts, and if there are any, examples for supervised
//! fine-tuning and preferences for the two reward models.
//!
//! The prompts are split into evaluation and training. Examples and preferences whose prompt is an
//! evaluation prompt are left out; of the others 10 % are held out. Preferences of one prompt stay
//! together, and without prompts those that share a text; 10 % measure both reward models, and the
//! rest is halved. Whatever comes twice is used once. All of it is counted in the notes.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::path::Path;

use rlhf_core::rng::stream;

use crate::data::{self, Layout, Loaded, OnBadRecord};
use crate::error::Error;
use crate::task::{Example, Gold, Pair, Sizes, TaskData, first, shuffle};

/// One in so many examples or preferences is held out.
const HELD_OUT: usize = 10;

/// The user's files.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Prompts.
    pub prompts: &'a Path,
    /// Prompts with completions; without it the policy stays as it is loaded.
    pub sft: Option<&'a Path>,
    /// Preferences; without it the reward models are loaded, too.
    pub preferences: Option<&'a Path>,
    /// What a record at fault does.
    pub on_bad_record: OnBadRecord,
}

/// The task of the user's files.
///
/// # Errors
/// Those of the readers, and [`Error::Record`] for a file with too few distinct records to be split.
pub fn files(seed: u64, sizes: &Sizes, files: &Files<'_>) -> Result<TaskData, Error> {
    let mut task = TaskData::new("files", Gold::Judge);
    let layout = Layout::default();
    let loaded = data::prompts(files.prompts, &layout)?.load(files.on_bad_record)?;
    split_prompts(seed, sizes, files.prompts, loaded, &mut task)?;
    let taken: HashSet<String> = task.eval_prompts.iter().cloned().collect();
    if let Some(path) = files.sft {
        let loaded = data::prompt_completions(path, &layout)?.load(files.on_bad_record)?;
        let loaded = map(loaded, |r| Example { prompt: r.prompt, completion: r.completion });
        split_examples(seed, sizes, path, loaded, &taken, &mut task)?;
    }
    if let Some(path) = files.preferences {
        let loaded = data::preferences(path, &layout)?.load(files.on_bad_record)?;
        let loaded = map(loaded, |r| Pair { prompt: r.prompt, chosen: r.chosen, rejected: r.rejected });
        split_pairs(seed, sizes, path, loaded, &taken, &mut task)?;
    }
    task.notes.push("no exact gold reward: the judge stands for it".to_owned());
    Ok(task)
}

fn map<T, U>(loaded: Loaded<T>, f: impl Fn(T) -> U) -> Loaded<U> {
    Loaded {
        records: loaded.records.into_iter().map(f).collect(),
        skipped: loaded.skipped,
        first_skipped: loaded.first_skipped,
    }
}

/// Distinct records that `keep` keeps, with a note of the rest.
fn distinct<T: Eq + Hash + Clone>(
    path: &Path,
    loaded: Loaded<T>,
    keep: impl Fn(&T) -> bool,
    notes: &mut Vec<String>,
) -> Vec<T> {
    let n = loaded.records.len();
    let mut seen = HashSet::new();
    let unique: Vec<T> = loaded.records.into_iter().filter(|r| seen.insert(r.clone())).collect();
    let n_unique = unique.len();
    let kept: Vec<T> = unique.into_iter().filter(keep).collect();
    notes.push(format!(
        "{}: {n} records, {} bad ones passed over, {} duplicates and {} with evaluation prompts removed; {} left",
        path.display(),
        loaded.skipped,
        n - n_unique,
        n_unique - kept.len(),
        kept.len()
    ));
    kept
}

fn too_few(path: &Path, field: &str, expected: String, found: usize) -> Error {
    Error::record(path, 0, field, expected, found.to_string())
}

fn split_prompts(
    seed: u64,
    sizes: &Sizes,
    path: &Path,
    loaded: Loaded<data::PromptRecord>,
    task: &mut TaskData,
) -> Result<(), Error> {
    let loaded = map(loaded, |r| r.prompt);
    let mut prompts = distinct(path, loaded, |_| true, &mut task.notes);
    let n_eval = sizes.n_eval_prompts;
    if n_eval == 0 {
        return Err(Error::config("task files", "task.n_eval_prompts", "at least 1", "0"));
    }
    if prompts.len() <= n_eval {
        let expected = format!("more than the {n_eval} distinct prompts of task.n_eval_prompts");
        return Err(too_few(path, "prompt", expected, prompts.len()));
    }
    shuffle(&mut prompts, &mut stream(seed, "files/prompts", 0, 0));
    let rest = prompts.split_off(n_eval);
    task.eval_prompts = prompts;
    task.train_prompts = first(sizes.n_prompts, rest);
    Ok(())
}

fn split_examples(
    seed: u64,
    sizes: &Sizes,
    path: &Path,
    loaded: Loaded<Example>,
    taken: &HashSet<String>,
    task: &mut TaskData,
) -> Result<(), Error> {
    let mut examples = distinct(path, loaded, |e| !taken.contains(&e.prompt), &mut task.notes);
    if examples.len() < 2 {
        return Err(too_few(path, "completion", "at least 2 distinct examples".to_owned(), examples.len()));
    }
    shuffle(&mut examples, &mut stream(seed, "files/sft", 0, 0));
    let n_heldout = examples.len().div_ceil(HELD_OUT);
    let rest = examples.split_off(n_heldout);
    task.sft_heldout = examples;
    task.sft = first(sizes.n_sft, rest);
    Ok(())
}

fn split_pairs(
    seed: u64,
    sizes: &Sizes,
    path: &Path,
    loaded: Loaded<Pair>,
    taken: &HashSet<String>,
    task: &mut TaskData,
) -> Result<(), Error> {
    let pairs =
        distinct(path, loaded, |p| p.prompt.is_empty() || !taken.contains(&p.prompt), &mut task.notes);
    let n = pairs.len();
    let mut groups = together(pairs);
    if groups.len() < 3 {
        let expected = "preferences of at least 3 prompts (without prompts: 3 pairs that share no text)";
        return Err(too_few(path, "prompt", expected.to_owned(), groups.len()));
    }
    shuffle(&mut groups, &mut stream(seed, "files/preferences", 0, 0));
    // Held out first, then always the half that has less: a large group cannot leave one empty.
    for group in groups {
        if task.heldout_preferences.len() < n.div_ceil(HELD_OUT) {
            task.heldout_preferences.extend(group);
        } else if task.train_preferences.len() <= task.judge_preferences.len() {
            task.train_preferences.extend(group);
        } else {
            task.judge_preferences.extend(group);
        }
    }
    for (what, part) in [("train", &task.train_preferences), ("judge", &task.judge_preferences)] {
        if part.is_empty() {
            let expected = format!("prompts with fewer pairs each, so that some are left to {what}");
            return Err(too_few(path, "prompt", expected, 0));
        }
    }
    let cut = |pairs: &mut Vec<Pair>| *pairs = first(sizes.n_preferences, std::mem::take(pairs));
    cut(&mut task.train_preferences);
    cut(&mut task.judge_preferences);
    Ok(())
}

/// Pairs in groups that must not be split: those of one prompt; without prompts, those that are
/// linked by equal texts. Groups come in the order of their first pair.
fn together(pairs: Vec<Pair>) -> Vec<Vec<Pair>> {
    let mut parent: Vec<usize> = (0..pairs.len()).collect();
    let mut owner: HashMap<String, usize> = HashMap::new();
    for (i, pair) in pairs.iter().enumerate() {
        let keys =
            if pair.prompt.is_empty() { vec![&pair.chosen, &pair.rejected] } else { vec![&pair.prompt] };
        for key in keys {
            let other = *owner.entry(key.clone()).or_insert(i);
            let (a, b) = (root(&mut parent, i), root(&mut parent, other));
            // The smaller is the root, so a group stands where its first pair does.
            parent[a.max(b)] = a.min(b);
        }
    }
    let mut groups: Vec<Vec<Pair>> = pairs.iter().map(|_| Vec::new()).collect();
    for (i, pair) in pairs.into_iter().enumerate() {
        groups[root(&mut parent, i)].push(pair);
    }
    groups.retain(|g| !g.is_empty());
    groups
}

fn root(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SIZES: Sizes = Sizes { n_sft: 0, n_preferences: 0, n_prompts: 0, n_eval_prompts: 3 };

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lines = |n, line: &dyn Fn(usize) -> String| (0..n).map(line).collect::<String>();
        let write = |name: &str, text: String| fs::write(folder.path().join(name), text).expect("writable");
        // Twelve prompts, the last two of them twice.
        write(
            "prompts.jsonl",
            lines(14, &|i| format!("{{\"prompt\":\"p{}\"}}\n", i.min(i % 12 + i / 12 * 10))),
        );
        write("sft.jsonl", lines(20, &|i| format!("{{\"prompt\":\"p{i}\",\"completion\":\" c\"}}\n")));
        let pair =
            |i: usize| format!("{{\"prompt\":\"p{}\",\"chosen\":\" a{i}\",\"rejected\":\" b{i}\"}}\n", i / 2);
        write("pairs.jsonl", lines(40, &pair));
        folder
    }

    fn load(folder: &Path, seed: u64) -> Result<TaskData, Error> {
        let [prompts, sft, pairs] = ["prompts.jsonl", "sft.jsonl", "pairs.jsonl"].map(|f| folder.join(f));
        let source = Files {
            prompts: &prompts,
            sft: Some(&sft),
            preferences: Some(&pairs),
            on_bad_record: OnBadRecord::Fail,
        };
        files(seed, &SIZES, &source)
    }

    #[test]
    fn splits_share_no_prompt_with_evaluation_and_reward_models_none_with_each_other() {
        let folder = folder();
        let task = load(folder.path(), 0).expect("good files");
        assert_eq!((task.eval_prompts.len(), task.train_prompts.len()), (3, 9));
        let eval: HashSet<&String> = task.eval_prompts.iter().collect();
        assert!(task.train_prompts.iter().all(|p| !eval.contains(p)));
        // Three of the twenty prompts evaluate; 17 examples are left, ⌈1.7⌉ held out.
        assert_eq!((task.sft.len(), task.sft_heldout.len()), (15, 2));
        assert!(task.sft.iter().chain(&task.sft_heldout).all(|e| !eval.contains(&e.prompt)));
        // 34 pairs of 17 prompts: 4 held out, then 16 and 14.
        let parts = [&task.heldout_preferences, &task.train_preferences, &task.judge_preferences];
        assert_eq!(parts.map(Vec::len), [4, 16, 14]);
        let [heldout, train, judge] = parts.map(|p| p.iter().map(|p| &p.prompt).collect::<HashSet<_>>());
        assert!(train.is_disjoint(&judge) && heldout.is_disjoint(&train) && heldout.is_disjoint(&judge));
        assert!(
            task.notes[0].contains("14 records, 0 bad ones passed over, 2 duplicates"),
            "{}",
            task.notes[0]
        );
        assert_eq!(load(folder.path(), 0).expect("good files"), task);
        assert_ne!(load(folder.path(), 1).expect("good files").eval_prompts, task.eval_prompts);
    }

    #[test]
    fn pairs_without_prompts_stay_with_those_that_share_a_text() {
        let pair = |a: &str, b: &str| Pair { prompt: String::new(), chosen: a.into(), rejected: b.into() };
        let groups =
            together(vec![pair("a", "b"), pair("c", "d"), pair("e", "b"), pair("f", "e"), pair("d", "g")]);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
    }

    #[test]
    fn too_few_records_are_named() {
        let folder = folder();
        let pairs = folder.path().join("pairs.jsonl");
        let two: String =
            fs::read_to_string(&pairs).expect("written").lines().take(2).map(|l| format!("{l}\n")).collect();
        fs::write(&pairs, two).expect("writable");
        let error = load(folder.path(), 0).expect_err("one prompt").to_string();
        assert!(
            error.contains("pairs.jsonl:0: prompt: expected preferences of at least 3 prompts"),
            "{error}"
        );
        fs::write(folder.path().join("prompts.jsonl"), "{\"prompt\":\"p\"}\n").expect("writable");
        let error = load(folder.path(), 0).expect_err("one prompt").to_string();
        let expected = "prompts.jsonl:0: prompt: expected more than the 3 distinct prompts of task.n_eval_prompts, found 1";
        assert!(error.contains(expected), "{error}");
        fs::write(folder.path().join("prompts.jsonl"), "").expect("writable");
        assert!(load(folder.path(), 0).is_err());
    }
}
