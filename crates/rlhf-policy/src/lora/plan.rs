//! Which slot of a model gets what: PEFT's rules of matching names.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::family::Family;
use crate::lora::config::{LoraConfig, Targets, Task, ends_with, wrong};
use crate::lora::file::module_name;
use crate::lora::sites::{Adaptable, Role};

/// What PEFT adds to `modules_to_save` of a classifier.
pub(crate) const CLASSIFIER_HEADS: [&str; 2] = ["classifier", "score"];

/// What a slot gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Choice {
    /// Nothing: it is frozen.
    Leave,
    /// An adapter.
    Adapter { rank: usize, scale: f64 },
    /// The adapter of the embedding it is tied to.
    Share,
    /// It is trained as a whole.
    Whole,
}

/// Whether every name of the settings must be one of the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matching {
    /// Each, for settings made here.
    Each,
    /// At least one, as PEFT asks: a file's names may be meant for several families.
    Any,
}

/// The settings beside a model, and which of their names were met.
pub(crate) struct Plan<'a> {
    lora: &'a LoraConfig,
    family: Family,
    is_tied: bool,
    task: Task,
    met: BTreeSet<&'a str>,
    adapters: usize,
}

impl<'a> Plan<'a> {
    /// For a model of type `M`.
    pub(crate) fn new<M: Adaptable>(lora: &'a LoraConfig, family: Family, model: &M) -> Result<Self, Error> {
        lora.check()?;
        if let Some(task) = lora.task_type.filter(|task| *task != M::TASK) {
            return Err(wrong("task_type", M::TASK.name(), task.name()));
        }
        let is_tied = model.is_tied();
        if is_tied && lora.use_dora && lora.ensure_weight_tying {
            return Err(wrong("ensure_weight_tying", "false beside use_dora", true));
        }
        Ok(Self { lora, family, is_tied, task: M::TASK, met: BTreeSet::new(), adapters: 0 })
    }

    /// What the slot with the inner name `name` gets.
    pub(crate) fn choose(&mut self, name: &str, role: Role) -> Result<Choice, Error> {
        let disk = module_name(self.family, name);
        let whole = self.saves(&disk) || role == Role::Score && self.lora.task_type == Some(Task::Classifier);
        if self.is_tied && matches!(role, Role::Table | Role::TiedHead) && name != "model.embed_positions" {
            return self.choose_tied(&disk, role, whole);
        }
        if whole {
            return Ok(Choice::Whole);
        }
        if self.targets(&disk, role) { self.adapter(&disk) } else { Ok(Choice::Leave) }
    }

    /// An embedding or the head tied to it.
    fn choose_tied(&mut self, disk: &str, role: Role, whole: bool) -> Result<Choice, Error> {
        let head = "lm_head";
        if !self.lora.ensure_weight_tying {
            if whole {
                let expected =
                    "maps and embeddings that no other is tied to, unless ensure_weight_tying is true";
                return Err(wrong("modules_to_save", expected, disk));
            }
            return if self.targets(disk, role) { self.adapter(disk) } else { Ok(Choice::Leave) };
        }
        let table = module_name(self.family, "model.embed_tokens");
        let whole = whole || self.saves(head) || self.saves(&table);
        let targeted = self.targets(head, Role::TiedHead) | self.targets(&table, Role::Table);
        match (role, whole, targeted) {
            (Role::Table, true, _) => Ok(Choice::Whole),
            (Role::Table, false, true) => self.adapter(disk),
            (Role::TiedHead, false, true) => Ok(Choice::Share),
            _ => Ok(Choice::Leave),
        }
    }

    fn saves(&mut self, disk: &str) -> bool {
        let found = self.lora.modules_to_save.iter().filter(|key| ends_with(disk, key));
        let found: Vec<&str> = found.map(String::as_str).collect();
        self.met.extend(&found);
        !found.is_empty()
    }

    fn targets(&mut self, disk: &str, role: Role) -> bool {
        let excluded = self.lora.exclude_modules.iter().any(|key| ends_with(disk, key));
        match &self.lora.target_modules {
            Targets::AllLinear => role == Role::Linear && !excluded,
            Targets::Names(_) if role == Role::Score => false,
            Targets::Names(names) => {
                let here =
                    |key: &&String| disk == key.as_str() || ends_with(disk, key) && self.in_layers(disk);
                let found: Vec<&String> = names.iter().filter(here).collect();
                self.met.extend(found.iter().map(|key| key.as_str()));
                !found.is_empty() && !excluded
            }
        }
    }

    /// Whether the block's index, the first number behind two parts of a name, is among the chosen.
    fn in_layers(&self, disk: &str) -> bool {
        let Some(chosen) = &self.lora.layers_to_transform else { return true };
        let index = disk.split('.').skip(2).find_map(|part| part.parse::<usize>().ok());
        index.is_some_and(|i| chosen.contains(&i))
    }

    fn adapter(&mut self, disk: &str) -> Result<Choice, Error> {
        self.adapters += 1;
        let lora = self.lora;
        let rank = pattern("rank_pattern", lora.rank_pattern.iter().map(|(k, r)| (k, *r)), disk)?;
        let alpha = pattern("alpha_pattern", lora.alpha_pattern.iter().map(|(k, x)| (k, *x)), disk)?;
        let (rank, alpha) = (rank.unwrap_or(lora.r), alpha.unwrap_or(lora.lora_alpha));
        let scale = if lora.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 };
        Ok(Choice::Adapter { rank, scale })
    }

    /// Checks that the names were those of this model.
    pub(crate) fn finish(&self, matching: Matching) -> Result<(), Error> {
        let of_classifier = |key: &str| self.task == Task::Classifier && CLASSIFIER_HEADS.contains(&key);
        let left = |names: &'a [String]| {
            names.iter().find(|key| !self.met.contains(key.as_str()) && !of_classifier(key))
        };
        let expected = "names of linear maps or embeddings of this model";
        if let Some(key) = left(&self.lora.modules_to_save) {
            return Err(wrong("modules_to_save", expected, key));
        }
        match &self.lora.target_modules {
            Targets::AllLinear if self.adapters == 0 => {
                Err(wrong("target_modules", "linear maps in this model", "none"))
            }
            Targets::AllLinear => Ok(()),
            Targets::Names(names) if self.adapters == 0 => {
                Err(wrong("target_modules", expected, format!("{names:?}, which match nothing")))
            }
            Targets::Names(names) => match (matching, left(names)) {
                (Matching::Each, Some(key)) => Err(wrong("target_modules", expected, key)),
                _ => Ok(()),
            },
        }
    }
}

/// The value of the entry whose key fits `disk`.
fn pattern<'a, T: Copy + PartialEq>(
    field: &str,
    entries: impl Iterator<Item = (&'a String, T)>,
    disk: &str,
) -> Result<Option<T>, Error> {
    let fits = |key: &str| match key.strip_prefix('^') {
        Some(whole) => disk == whole,
        None => ends_with(disk, key),
    };
    let fitting: Vec<(&String, T)> = entries.filter(|(key, _)| fits(key)).collect();
    match fitting.as_slice() {
        // PEFT takes the first of the file; the order of an object's keys is nothing to build on.
        [(a, x), rest @ ..] => match rest.iter().find(|(_, y)| y != x) {
            Some((b, _)) => {
                Err(wrong(field, format!("one value for {disk}"), format!("those of {a} and {b}")))
            }
            None => Ok(Some(*x)),
        },
        [] => Ok(None),
    }
}
