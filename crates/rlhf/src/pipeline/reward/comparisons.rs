//! The pairs that a reward pipeline learns from, and which of them are held out when.

use std::collections::BTreeMap;
use std::path::Path;

use rlhf_core::rng::stream;
use rlhf_reward::folds::folds;

use crate::config::{RewardPipeline, RewardRecords};
use crate::data::{self, Given, Layout, Scale};
use crate::error::Error;
use crate::pipeline::ground::existing;
use crate::task::ratings::{Pairing, paired_parts};
use crate::task::{Pair, Sizes, restaurants};

/// Comparisons of the embedded task.
const EMBEDDED: usize = 2000;

/// Indices of one fold's pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Split {
    /// Learned from.
    pub(crate) train: Vec<usize>,
    /// Held out.
    pub(crate) test: Vec<usize>,
}

/// The pairs and their folds.
#[derive(Debug, Clone)]
pub(crate) struct Comparisons {
    /// All pairs.
    pub(crate) pairs: Vec<Pair>,
    /// Each held out once, except those of rated texts that share a text with an earlier one.
    pub(crate) folds: Vec<Split>,
    /// The group of each pair, where held-out pairs are not independent.
    pub(crate) groups: Option<Vec<usize>>,
    /// What was counted while reading.
    pub(crate) notes: Vec<String>,
}

/// The pairs of the file, or of the embedded task.
pub(crate) fn comparisons(config: &RewardPipeline) -> Result<Comparisons, Error> {
    if config.data.path.is_empty() {
        let sizes = Sizes { n_sft: 1, n_preferences: EMBEDDED, n_prompts: 1, n_eval_prompts: 1 };
        let task = restaurants::restaurants(config.seed, &sizes)?;
        let notes = vec![format!("{} comparisons of invented restaurants.", task.train_preferences.len())];
        return alone(config, task.train_preferences, notes);
    }
    existing("data.path", &config.data.path)?;
    match config.data.records {
        RewardRecords::Preferences => preferences(config),
        RewardRecords::Ratings => rated(config),
    }
}

fn preferences(config: &RewardPipeline) -> Result<Comparisons, Error> {
    let path = Path::new(&config.data.path);
    let layout = Layout { columns: config.data.columns.clone(), header: None };
    let loaded = data::preferences(path, &layout)?.load(config.data.on_bad_record)?;
    let mut notes = vec![format!("{} comparisons of {}.", loaded.records.len(), path.display())];
    if loaded.skipped > 0 {
        let first = loaded.first_skipped.unwrap_or_default();
        notes.push(format!("{} records at fault were left out, the first: {first}.", loaded.skipped));
    }
    let names: Vec<String> =
        loaded.records.iter().map(|r| group(&r.group, &config.data.group_until).to_owned()).collect();
    let pairs: Vec<Pair> = loaded
        .records
        .into_iter()
        .map(|p| Pair { prompt: p.prompt, chosen: p.chosen, rejected: p.rejected })
        .collect();
    if config.data.columns.contains_key("group") {
        grouped(config, pairs, &names, notes)
    } else {
        alone(config, pairs, notes)
    }
}

/// A group's name: its cell up to the first `until`.
fn group<'a>(cell: &'a str, until: &str) -> &'a str {
    if until.is_empty() { cell } else { cell.split(until).next().unwrap_or(cell) }
}

/// Folds of pairs.
fn alone(config: &RewardPipeline, pairs: Vec<Pair>, notes: Vec<String>) -> Result<Comparisons, Error> {
    let n = pairs.len();
    let parts = parts(config, n, "pair")?;
    let folds = parts.into_iter().map(|test| split(n, test)).collect();
    Ok(Comparisons { pairs, folds, groups: None, notes })
}

/// Folds of groups: none is both learned from and held out.
fn grouped(
    config: &RewardPipeline,
    pairs: Vec<Pair>,
    names: &[String],
    mut notes: Vec<String>,
) -> Result<Comparisons, Error> {
    let mut numbers: BTreeMap<&str, usize> = names.iter().map(|name| (name.as_str(), 0)).collect();
    numbers.values_mut().zip(0..).for_each(|(number, i)| *number = i);
    let groups: Vec<usize> = names.iter().map(|name| numbers[name.as_str()]).collect();
    let parts = parts(config, numbers.len(), "group")?;
    notes.push(format!("{} groups; each is held out as a whole.", numbers.len()));
    let test = |part: Vec<usize>| (0..pairs.len()).filter(|i| part.contains(&groups[*i])).collect();
    let folds = parts.into_iter().map(|part| split(pairs.len(), test(part))).collect();
    Ok(Comparisons { pairs, folds, groups: Some(groups), notes })
}

/// Folds of rated texts: a text of a held-out pair is in no other pair that is held out, and in none that
/// is learned from.
fn rated(config: &RewardPipeline) -> Result<Comparisons, Error> {
    let c = &config.data;
    let path = Path::new(&c.path);
    let scale = Scale { min: c.rating_min, max: c.rating_max, given: Given::Ratings };
    let loaded = data::ratings(path, &Layout::default(), scale)?.load(c.on_bad_record)?;
    let mut notes = Vec::new();
    if let Some(first) = loaded.first_skipped {
        notes.push(format!("{} records at fault were left out, the first: {first}.", loaded.skipped));
    }
    let k = c.folds.get();
    if k < 2 {
        return Err(Error::config("config", "data.folds", "at least 2", k.to_string()));
    }
    let how = Pairing { min_gap: c.min_rating_gap.get(), pairs_per_text: c.pairs_per_text.get() };
    let parts = paired_parts(config.seed, k, how, &loaded.records, &mut notes)?;
    let n = parts.iter().map(|p| p.pairs.len()).sum();
    let mut from = 0;
    let folds: Vec<Split> = parts
        .iter()
        .map(|part| {
            let own = from..from + part.pairs.len();
            from = own.end;
            let test = (own.start..own.start + part.n_apart).collect();
            Split { train: (0..n).filter(|i| !own.contains(i)).collect(), test }
        })
        .collect();
    let n_test: usize = folds.iter().map(|f| f.test.len()).sum();
    notes.push(format!(
        "{n} pairs of texts whose means differ by more than {}, texts in {k} parts; {n_test} pairs that share no \
         text are held out.",
        how.min_gap
    ));
    let pairs = parts.into_iter().flat_map(|p| p.pairs).collect();
    Ok(Comparisons { pairs, folds, groups: None, notes })
}

fn parts(config: &RewardPipeline, n: usize, what: &str) -> Result<Vec<Vec<usize>>, Error> {
    let mut rng = stream(config.seed, "reward/folds", 0, 0);
    folds(n, config.data.folds.get(), &mut rng).map_err(|_| {
        let expected = format!("2 to {n} (at most one a {what})");
        Error::config("config", "data.folds", expected, config.data.folds.to_string())
    })
}

fn split(n: usize, test: Vec<usize>) -> Split {
    let mut held_out = vec![false; n];
    test.iter().for_each(|i| held_out[*i] = true);
    Split { train: (0..n).filter(|i| !held_out[*i]).collect(), test }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, Pipeline, load};
    use std::collections::HashSet;

    fn config(set: &[String]) -> RewardPipeline {
        let overrides = Overrides { set: set.to_vec(), ..Overrides::default() };
        match load("reward", &overrides).expect("loads").pipeline {
            Pipeline::Reward(config) => *config,
            other => panic!("expected the reward pipeline, found {other:?}"),
        }
    }

    fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        let path = path.to_str().expect("UTF-8").to_owned();
        (dir, path)
    }

    #[test]
    fn a_topic_is_never_on_both_sides() {
        let rows: String =
            (0..60).map(|i| format!("t{}_{}\ta{}\tx{i}\ty{i}\n", i % 5, i % 2, i % 2 + 1)).collect();
        let (_dir, path) = file("pairs.tsv", &format!("topic\tlabel\ta1\ta2\n{rows}"));
        let columns =
            "data.columns={chosen=\"a1\",rejected=\"a2\",label=\"label\",group=\"topic\"}".to_owned();
        let set = [
            format!("data.path={path}"),
            columns,
            "data.group_until=_".to_owned(),
            "data.folds=3".to_owned(),
        ];
        let found = comparisons(&config(&set)).expect("sixty pairs");
        assert_eq!((found.pairs.len(), found.folds.len()), (60, 3));
        assert_eq!((&*found.pairs[1].chosen, &*found.pairs[1].rejected), ("y1", "x1"));
        let groups = found.groups.expect("grouped");
        assert_eq!(groups.iter().collect::<HashSet<_>>().len(), 5, "a topic's two sides are one group");
        let of = |some: &[usize]| some.iter().map(|i| groups[*i]).collect::<HashSet<usize>>();
        for fold in &found.folds {
            assert!(of(&fold.train).is_disjoint(&of(&fold.test)) && !fold.test.is_empty());
            assert_eq!(fold.train.len() + fold.test.len(), 60);
        }
        let set = [&set[..3], &["data.folds=6".to_owned()]].concat();
        let error = comparisons(&config(&set)).expect_err("more folds than topics").to_string();
        assert!(error.contains("data.folds: expected 2 to 5 (at most one a group), found 6"), "{error}");
    }

    #[test]
    fn rated_texts_are_held_out_with_all_their_pairs() {
        let rows: String = (0..60).map(|i| format!("{} {}\tfilm{i}\n", i % 7, (i + 3) % 8)).collect();
        let (_dir, path) = file("rated.tsv", &format!("ratings\ttext\n{rows}"));
        let set =
            [format!("data.path={path}"), "data.records=ratings".to_owned(), "data.rating_max=8".to_owned()];
        let found = comparisons(&config(&set)).expect("sixty texts");
        assert!(found.groups.is_none() && found.folds.len() == 5);
        for fold in &found.folds {
            let texts = |some: &[usize]| -> Vec<&str> {
                some.iter().flat_map(|i| [&*found.pairs[*i].chosen, &*found.pairs[*i].rejected]).collect()
            };
            let test = texts(&fold.test);
            let distinct: HashSet<&str> = test.iter().copied().collect();
            assert!(!test.is_empty() && distinct.len() == test.len(), "held-out pairs share no text");
            assert!(texts(&fold.train).iter().all(|t| !distinct.contains(t)));
        }
    }
}
