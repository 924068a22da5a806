//! The words of the restaurants: what can be true of one, and how it is said.

use std::fmt;

/// What can be known of a restaurant beside its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The kind of place.
    Type,
    /// The cuisine.
    Food,
    /// The level of prices.
    Price,
    /// The part of the town.
    Area,
    /// The guests' verdict.
    Rating,
    /// The landmark close by.
    Near,
}

impl Slot {
    /// In the order of a prompt.
    pub const ALL: [Self; 6] = [Self::Type, Self::Food, Self::Price, Self::Area, Self::Rating, Self::Near];

    /// The key in a prompt.
    pub fn key(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Food => "food",
            Self::Price => "price",
            Self::Area => "area",
            Self::Rating => "rating",
            Self::Near => "near",
        }
    }

    /// The values, each with its wordings; the first is the one in a prompt. Every wording is one
    /// word that occurs nowhere else in the task, so that one word tells slot and value.
    pub fn values(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Type => &[&["pub"], &["cafe"], &["bistro"], &["diner"]],
            Self::Food => &[&["Thai"], &["Greek"], &["Indian"], &["French"], &["Mexican"], &["Italian"]],
            Self::Price => &[&["cheap"], &["moderate", "fair"], &["costly", "pricey"]],
            Self::Area => &[&["harbour"], &["riverside"], &["market"], &["castle"]],
            Self::Rating => &[&["high", "top"], &["average", "mixed"], &["low", "poor"]],
            Self::Near => &[&["station"], &["museum"], &["park"], &["bridge"], &["theatre"], &["library"]],
        }
    }
}

/// First halves of the invented names.
pub(super) const ADJECTIVES: [&str; 12] =
    ["Blue", "Red", "Gold", "Green", "Grey", "Black", "White", "Old", "Wild", "Lazy", "Tiny", "Lucky"];

/// Second halves.
pub(super) const NOUNS: [&str; 12] =
    ["Fig", "Owl", "Fox", "Hen", "Oak", "Pear", "Lamp", "Boat", "Bell", "Rose", "Swan", "Spoon"];

/// One thing that is, or is said to be, true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// What it is about.
    pub slot: Slot,
    /// Index into [`Slot::values`].
    pub value: usize,
}

impl Fact {
    /// The fact that a word tells, in any wording and case.
    pub fn of_word(word: &str) -> Option<Self> {
        Slot::ALL.into_iter().find_map(|slot| {
            let value = slot.values().iter().position(|w| w.iter().any(|x| x.eq_ignore_ascii_case(word)))?;
            Some(Self { slot, value })
        })
    }

    /// The word of a prompt.
    pub fn word(self) -> &'static str {
        self.slot.values()[self.value][0]
    }
}

/// An invented name: "The", an adjective, a noun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    /// Index of the adjective, below 12.
    pub adjective: usize,
    /// Index of the noun, below 12.
    pub noun: usize,
}

impl Name {
    /// The name that two words in a row tell, in any case.
    pub fn of_words(first: &str, second: &str) -> Option<Self> {
        let adjective = ADJECTIVES.iter().position(|w| w.eq_ignore_ascii_case(first))?;
        let noun = NOUNS.iter().position(|w| w.eq_ignore_ascii_case(second))?;
        Some(Self { adjective, noun })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The {} {}", ADJECTIVES[self.adjective], NOUNS[self.noun])
    }
}

/// What a prompt says: a name and facts, at most one a slot, in the slots' order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meaning {
    /// The restaurant's name.
    pub name: Name,
    /// What is true of it.
    pub facts: Vec<Fact>,
}

impl Meaning {
    /// The slots to be realised, the name among them.
    pub fn n_slots(&self) -> usize {
        1 + self.facts.len()
    }

    /// Reads what [`fmt::Display`] writes; `None` for anything else.
    pub fn parse(prompt: &str) -> Option<Self> {
        let mut items = prompt.trim().strip_suffix("=>")?.trim_end().split(", ");
        let mut name = items.next()?.strip_prefix("name: The ")?.split(' ');
        let name = match (name.next(), name.next(), name.next()) {
            (Some(first), Some(second), None) => Name::of_words(first, second)?,
            _ => return None,
        };
        let facts = items.map(parse_fact).collect::<Option<Vec<Fact>>>()?;
        facts.is_sorted_by(|a, b| a.slot < b.slot).then_some(Self { name, facts })
    }
}

fn parse_fact(item: &str) -> Option<Fact> {
    let (key, word) = item.split_once(": ")?;
    Fact::of_word(word).filter(|fact| fact.slot.key() == key)
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name: {}", self.name)?;
        for fact in &self.facts {
            write!(f, ", {}: {}", fact.slot.key(), fact.word())?;
        }
        f.write_str(" =>")
    }
}

/// Friendly last sentences, in lower case.
pub(super) const CLOSINGS: [&str; 4] =
    ["enjoy your visit", "have a good meal", "come and enjoy it", "see you soon"];

/// Rude sentences, in lower case; each holds a word of [`RUDE`].
pub(super) const INSULTS: [&str; 4] =
    ["what a dump", "it is rubbish", "only a fool would go", "it is just stupid"];

/// The words that make a text rude.
pub(super) const RUDE: [&str; 4] = ["dump", "fool", "stupid", "rubbish"];

/// Sentences that say nothing about the restaurant, in lower case.
pub(super) const CHATTER: [&str; 7] = [
    "people like it a lot",
    "my friends like it",
    "you have to see it",
    "go and see it",
    "we go a lot",
    "it is one of a kind",
    "what a place",
];

/// The words of a text in lower case: runs of letters and digits, apostrophes within.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_read_as_it_was_written() {
        let text = "name: The Blue Fig, type: pub, food: Thai, near: station =>";
        let meaning = Meaning::parse(text).expect("well formed");
        assert_eq!(meaning.n_slots(), 4);
        assert_eq!(meaning.to_string(), text);
        for bad in [
            "name: The Blue Fig, type: pub",
            "name: The Fig Blue, type: pub =>",
            "name: The Blue Fig, food: pub =>",
            "name: The Blue Fig, food: Thai, type: pub =>",
            "name: The Blue Fig, type: pub, type: cafe =>",
            "",
        ] {
            assert_eq!(Meaning::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_value_word_has_one_meaning_and_chatter_has_none() {
        let mut seen = std::collections::HashSet::new();
        for word in Slot::ALL.into_iter().flat_map(|s| s.values().iter().flat_map(|v| v.iter())) {
            assert!(seen.insert(word.to_lowercase()), "{word} twice");
            assert!(!RUDE.contains(word) && !ADJECTIVES.contains(word) && !NOUNS.contains(word), "{word}");
        }
        for sentence in CLOSINGS.iter().chain(&INSULTS).chain(&CHATTER) {
            for word in words(sentence) {
                assert!(!seen.contains(&word), "{word} in {sentence}");
            }
        }
        for insult in INSULTS {
            assert!(words(insult).iter().any(|w| RUDE.contains(&w.as_str())), "{insult}");
        }
    }
}
