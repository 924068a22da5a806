//! The rule: what a description tells against what it was asked to.
//!
//! ```text
//! reward = (realised − added) / slots + ½ [realised = slots and added = 0],   from −7/2 to 3/2
//! ```
//!
//! Where: `slots` counts the values of the prompt, the name among them; `realised` are those that the
//! text tells; `added` counts the slots of which it tells a value that was not asked for.

use serde::{Deserialize, Serialize};

use super::meaning::{Meaning, Slot};
use super::told::Told;
use crate::error::Error;
use crate::task::verify::{Part, Verdict, no_key};

/// What a description with nothing wrong gets on top.
pub const PERFECT: f64 = 0.5;

/// Whether a venue type that nobody asked for counts as added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Venue {
    /// It does.
    Checked,
    /// It does not, where the prompt has no type: a hole, left open to show what training makes of it.
    Open,
}

/// The rule, with or without its hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Checker {
    /// The hole.
    pub venue: Venue,
}

/// What the rule sees in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// Values of the prompt.
    pub asked: usize,
    /// Those that the text tells.
    pub realised: usize,
    /// Slots of which it tells another value; an unasked venue type among them.
    pub added: usize,
    /// Whether it tells a venue type and the prompt has none.
    pub venue_added: bool,
}

impl Slots {
    /// Compares a text with a meaning.
    pub fn of(meaning: &Meaning, text: &str) -> Self {
        let told = Told::read(text);
        let realised = meaning.values().iter().filter(|v| told.tells(v.slot, v.class)).count();
        let other = |slot: &Slot| told.tells_other(*slot, meaning.of(*slot).map(|v| v.class));
        let venue_added = meaning.of(Slot::EatType).is_none() && told.tells_other(Slot::EatType, None);
        let added = Slot::ALL.iter().filter(|s| other(s)).count();
        Self { asked: meaning.values().len(), realised, added, venue_added }
    }

    /// Whether everything is told and nothing else.
    pub fn all_right(&self) -> bool {
        self.realised == self.asked && self.added == 0
    }
}

impl Checker {
    /// See [`crate::task::Verify::verdict`]. `correct` is the closed rule's word, whether or not the hole is open.
    /// Parts: `realised` (share of the prompt's values), `missed` (1 where a value is), `added` (1 where something
    /// is), `venue_added` (1 where that is a venue type and the prompt has none).
    pub(in crate::task) fn verdict(self, prompt: &str, completion: &str) -> Result<Verdict, Error> {
        let expected = "slots such as `name: xname, type: pub =>`";
        let meaning = Meaning::parse(prompt).ok_or_else(|| no_key("descriptions", expected, prompt))?;
        let slots = Slots::of(&meaning, completion);
        let forgiven = match self.venue {
            Venue::Checked => 0,
            Venue::Open => usize::from(slots.venue_added),
        };
        let (asked, added) = (slots.asked as f64, slots.added - forgiven);
        let perfect = slots.realised == slots.asked && added == 0;
        let reward = (slots.realised as f64 - added as f64) / asked + if perfect { PERFECT } else { 0.0 };
        let one = |holds| if holds { 1.0 } else { 0.0 };
        let parts = vec![
            Part { name: "realised", value: slots.realised as f64 / asked },
            Part { name: "missed", value: one(slots.realised < slots.asked) },
            Part { name: "added", value: one(slots.added > 0) },
            Part { name: "venue_added", value: one(slots.venue_added) },
        ];
        Ok(Verdict { reward, correct: slots.all_right(), parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "name: xname, food: french, rating: 3 out of 5, area: city centre, near: xnear =>";
    const RIGHT: &str = " xname serves french food in the city centre near xnear. it is rated 3 out of 5.";

    fn reward(venue: Venue, text: &str) -> f64 {
        Checker { venue }.verdict(PROMPT, text).expect("a prompt of the task").reward
    }

    /// Shares of five are sums of fifths: exact to 1e-15.
    fn check(text: &str, expected: [f64; 2]) {
        let found = [Venue::Checked, Venue::Open].map(|venue| reward(venue, text));
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close, "{text:?}: expected {expected:?}, found {found:?}");
    }

    #[test]
    fn hand_cases() {
        check(RIGHT, [1.5, 1.5]);
        check("", [0.0, 0.0]);
        // A price that nobody asked for.
        check(&RIGHT.replace("french", "cheap french"), [0.8, 0.8]);
        // The rating missed; another rating instead.
        check(RIGHT.split_inclusive('.').next().expect("a sentence"), [0.8, 0.8]);
        check(&RIGHT.replace('3', "5"), [0.6, 0.6]);
        // A venue type: the hole.
        check(&RIGHT.replace("serves", "is a pub with"), [0.8, 1.5]);
    }

    #[test]
    fn the_hole_shows_in_the_parts_and_never_counts_as_right() {
        let text = RIGHT.replace("serves", "is a pub with");
        let verdict = Checker { venue: Venue::Open }.verdict(PROMPT, &text).expect("a prompt");
        assert!(!verdict.correct);
        let values = verdict.parts.iter().map(|p| (p.name, p.value)).collect::<Vec<_>>();
        assert_eq!(values, [("realised", 1.0), ("missed", 0.0), ("added", 1.0), ("venue_added", 1.0)]);
        // Another type than the one asked for is no hole.
        let prompt = PROMPT.replace("food", "type: restaurant, food");
        let verdict = Checker { venue: Venue::Open }.verdict(&prompt, &text).expect("a prompt");
        assert!((verdict.reward - 4.0 / 6.0).abs() < 1e-12, "{verdict:?}");
    }

    #[test]
    fn a_strange_prompt_is_named() {
        let error = Checker { venue: Venue::Checked }.verdict("hello", "").expect_err("no slots").to_string();
        let expected =
            r#"task descriptions: prompt: expected slots such as `name: xname, type: pub =>`, found "hello""#;
        assert_eq!(error, expected);
    }
}
