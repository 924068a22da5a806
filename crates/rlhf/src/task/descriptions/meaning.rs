//! What is to be told of a restaurant: the meaning representations of E2E, names left out.

use std::fmt;

/// What a meaning representation can say, in the order of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The restaurant's name; in prompts and texts [`NAME`].
    Name,
    /// Restaurant, pub or coffee shop.
    EatType,
    /// Cuisine.
    Food,
    /// Price, in words or in pounds.
    Price,
    /// Customers' rating, in words or out of 5.
    Rating,
    /// Part of the town.
    Area,
    /// Whether families are welcome.
    Family,
    /// A place nearby; in prompts and texts [`NEAR`].
    Near,
}

/// Stands for the name in prompts and texts.
pub const NAME: &str = "xname";
/// Stands for the place nearby.
pub const NEAR: &str = "xnear";

impl Slot {
    /// Every slot, in order.
    pub const ALL: [Self; 8] = [
        Self::Name,
        Self::EatType,
        Self::Food,
        Self::Price,
        Self::Rating,
        Self::Area,
        Self::Family,
        Self::Near,
    ];

    /// Its name in E2E's files.
    pub fn column(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::EatType => "eatType",
            Self::Food => "food",
            Self::Price => "priceRange",
            Self::Rating => "customer rating",
            Self::Area => "area",
            Self::Family => "familyFriendly",
            Self::Near => "near",
        }
    }

    /// Its name in prompts.
    pub fn key(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::EatType => "type",
            Self::Food => "food",
            Self::Price => "price",
            Self::Rating => "rating",
            Self::Area => "area",
            Self::Family => "family",
            Self::Near => "near",
        }
    }

    /// Its values in lower case, those that mean the same together.
    ///
    /// E2E says prices and ratings in two ways that people mix freely: `less than £20` is told as cheap,
    /// `5 out of 5` as a high rating.
    pub fn values(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Name => &[&[NAME]],
            Self::EatType => &[&["restaurant"], &["pub"], &["coffee shop"]],
            Self::Food => &[
                &["chinese"],
                &["english"],
                &["french"],
                &["indian"],
                &["italian"],
                &["japanese"],
                &["fast food"],
            ],
            Self::Price => {
                &[&["cheap", "less than £20"], &["moderate", "£20-25"], &["high", "more than £30"]]
            }
            Self::Rating => &[&["low", "1 out of 5"], &["average", "3 out of 5"], &["high", "5 out of 5"]],
            Self::Area => &[&["city centre"], &["riverside"]],
            Self::Family => &[&["no"], &["yes"]],
            Self::Near => &[&[NEAR]],
        }
    }

    fn value(self, word: &str) -> Option<Value> {
        let values = self.values();
        values.iter().enumerate().find_map(|(class, words)| {
            let word = words.iter().find(|w| **w == word)?;
            Some(Value { slot: self, class, word })
        })
    }
}

/// A slot with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// What it is about.
    pub slot: Slot,
    /// Index into [`Slot::values`]: what it means.
    pub class: usize,
    /// How it is said in the prompt.
    pub word: &'static str,
}

/// What is to be told, at most one value a slot, in the slots' order, the name among them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Meaning {
    values: Vec<Value>,
}

/// A meaning as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Without the names.
    pub meaning: Meaning,
    /// The restaurant's name.
    pub name: String,
    /// The place nearby.
    pub near: Option<String>,
}

/// Why a meaning representation is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It has two values for a slot, or no name: the cleaned files have such, and no text tells them well.
    Ambiguous,
    /// It cannot be read; what was found.
    Unread(String),
}

impl Meaning {
    /// The values, the name's first.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The value of a slot.
    pub fn of(&self, slot: Slot) -> Option<Value> {
        self.values.iter().copied().find(|v| v.slot == slot)
    }

    /// Reads what [`fmt::Display`] writes; `None` for anything else.
    ///
    /// ```
    /// use rlhf::task::descriptions::Meaning;
    /// let prompt = "name: xname, type: pub, rating: 5 out of 5 =>";
    /// assert_eq!(Meaning::parse(prompt).unwrap().to_string(), prompt);
    /// assert_eq!(Meaning::parse("name: xname, type: castle =>"), None);
    /// ```
    pub fn parse(prompt: &str) -> Option<Self> {
        let items = prompt.trim().strip_suffix("=>")?.trim_end().split(", ");
        let value = |item: &str| {
            let (key, word) = item.split_once(": ")?;
            Slot::ALL.into_iter().find(|s| s.key() == key)?.value(word)
        };
        let values = items.map(value).collect::<Option<Vec<Value>>>()?;
        let good = values.first()?.slot == Slot::Name && values.is_sorted_by(|a, b| a.slot < b.slot);
        good.then_some(Self { values })
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for value in &self.values {
            write!(f, "{}: {}", value.slot.key(), value.word)?;
            f.write_str(if Some(value) == self.values.last() { " =>" } else { ", " })?;
        }
        Ok(())
    }
}

/// Reads E2E's form, `name[Blue Spice], eatType[coffee shop], area[city centre]`.
///
/// # Errors
/// See [`Unusable`].
pub fn read(text: &str) -> Result<Named, Unusable> {
    let (mut values, mut name, mut near) = (Vec::<Value>::new(), None, None);
    for item in text.trim().trim_end_matches(']').split("],") {
        let unread = || Unusable::Unread(format!("{:?}", item.trim()));
        let (column, said) = item.split_once('[').ok_or_else(unread)?;
        let slot = Slot::ALL.into_iter().find(|s| s.column() == column.trim()).ok_or_else(unread)?;
        let word = match slot {
            Slot::Name => NAME.to_owned(),
            Slot::Near => NEAR.to_owned(),
            _ => said.trim().to_lowercase(),
        };
        let value = slot.value(&word).filter(|_| !said.trim().is_empty()).ok_or_else(unread)?;
        if values.iter().any(|v| v.slot == slot) {
            return Err(Unusable::Ambiguous);
        }
        match slot {
            Slot::Name => name = Some(said.trim().to_owned()),
            Slot::Near => near = Some(said.trim().to_owned()),
            _ => {}
        }
        values.push(value);
    }
    values.sort();
    let name = name.ok_or(Unusable::Ambiguous)?;
    Ok(Named { meaning: Meaning { values }, name, near })
}

impl Named {
    /// A text about it in lower case, without accents, one space between words, the names replaced.
    pub fn plain(&self, text: &str) -> String {
        let text = tidy(text);
        let text = replace(&text, &tidy(&self.name), NAME);
        match &self.near {
            Some(near) => replace(&text, &tidy(near), NEAR),
            None => text,
        }
    }
}

/// Lower case, `é` as `e` (people write *café* both ways), one space between words.
fn tidy(text: &str) -> String {
    text.to_lowercase().replace('é', "e").split_whitespace().collect::<Vec<&str>>().join(" ")
}

/// Puts `mark` for each `name`, with or without its article, where it stands as words of its own.
fn replace(text: &str, name: &str, mark: &str) -> String {
    let name = name.strip_prefix("the ").unwrap_or(name);
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let open = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        // Before the first find nothing is in `out` that touches the rest.
        let starts = open(before.chars().next_back().or_else(|| out.chars().next_back()));
        if starts && open(after.chars().next()) {
            let article = before.strip_suffix("the ").filter(|b| open(b.chars().next_back()));
            out.push_str(article.unwrap_or(before));
            out.push_str(mark);
        } else {
            out.push_str(before);
            out.push_str(name);
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_representation_becomes_a_prompt_and_back() {
        let mr =
            "near[Café Rouge], name[The Mill], eatType[coffee shop], priceRange[£20-25], familyFriendly[no]";
        let named = read(mr).expect("well formed");
        let prompt = "name: xname, type: coffee shop, price: £20-25, family: no, near: xnear =>";
        assert_eq!(named.meaning.to_string(), prompt);
        assert_eq!(Meaning::parse(prompt), Some(named.meaning.clone()));
        assert_eq!((named.name.as_str(), named.near.as_deref()), ("The Mill", Some("Café Rouge")));
        for bad in
            ["", "name: xname", "type: pub =>", "name: xname, name: xname =>", "name: xname, food: x =>"]
        {
            assert_eq!(Meaning::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn faults_of_a_representation_are_told_apart() {
        let found = |mr| read(mr).expect_err("of no use");
        assert_eq!(found("name[A], food[Indian], food[French]"), Unusable::Ambiguous);
        assert_eq!(found("food[Indian]"), Unusable::Ambiguous);
        assert_eq!(found("name[A], food[Greek]"), Unusable::Unread("\"food[Greek\"".to_owned()));
        assert_eq!(found("name[A], wine[red]"), Unusable::Unread("\"wine[red\"".to_owned()));
        assert_eq!(found("name[]"), Unusable::Unread("\"name[\"".to_owned()));
        assert_eq!(found("hello"), Unusable::Unread("\"hello\"".to_owned()));
    }

    #[test]
    fn names_are_replaced_as_words() {
        let named = read("name[The Mill], near[Café Rouge]").expect("well formed");
        let plain = |text| named.plain(text);
        assert_eq!(plain("The Mill's  at the Café Rouge; cafe rouge."), "xname's at xnear; xnear.");
        assert_eq!(
            plain("Millers love Mill, windmill and bathe Mill"),
            "millers love xname, windmill and bathe xname"
        );
        assert_eq!(plain("millmill the mill"), "millmill xname");
    }
}
