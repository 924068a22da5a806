//! The gold reward of a description: exact, and never learned from.
//!
//! ```text
//! gold = 2 S + B / 2 + T / 2 − R / 2,   from −3.5 to 3
//! S = max(−1, (realised − wrong) / slots)
//! B = max(−1, 1 − d / 8)
//! T = friendly − rude − max(0, marks − 1) / 2, within [−1, 1]
//! R = min(1, 4 repeated / (words − 3))
//! ```
//!
//! Where: `slots` counts the name and the facts of the prompt; `realised` are those that the text
//! tells, `wrong` the names and facts that it tells and the prompt does not; d is the distance of
//! the number of words from 8…20 (a name, four facts and a closing fit into three short sentences of
//! 20 words, so nobody needs more); `friendly` is 1 when the last sentence is one of four closings, `rude` 1 when a rude
//! word occurs, `marks` the exclamation marks; `repeated` counts the four words in a row that stood
//! before (three would punish two clauses that both begin "and it is").
//!
//! Slots weigh twice all the rest, for a description that lies is worse than one that rambles. The
//! rule reads words, not grammar: a list of the right words is a description to it.

use std::collections::HashSet;

use rlhf_core::contract::{Candidate, RewardModel};

use super::words::{CLOSINGS, Fact, Meaning, Name, RUDE, words};

/// The words that a description may have without loss.
const BAND: std::ops::RangeInclusive<usize> = 8..=20;

/// What the rule sees in a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldParts {
    /// Slots of the prompt, the name among them.
    pub slots: usize,
    /// Slots that the text tells as they are.
    pub realised: usize,
    /// Names and facts that the text tells and the prompt does not.
    pub wrong: usize,
    /// Words of the text.
    pub words: usize,
    /// B, from −1 to 1.
    pub brevity: f64,
    /// T, from −1 to 1.
    pub tone: f64,
    /// R, from 0 to 1.
    pub repetition: f64,
}

impl GoldParts {
    /// Every slot as it is and nothing else.
    pub fn all_right(&self) -> bool {
        self.realised == self.slots && self.wrong == 0
    }

    /// The reward, from −3.5 to 3.
    pub fn total(&self) -> f64 {
        let told = (self.realised as f64 - self.wrong as f64) / self.slots as f64;
        2.0 * told.max(-1.0) + 0.5 * (self.brevity + self.tone - self.repetition)
    }
}

/// Reads a text against what it should say.
pub fn gold_parts(meaning: &Meaning, text: &str) -> GoldParts {
    let words = words(text);
    let facts: HashSet<Fact> = words.iter().filter_map(|w| Fact::of_word(w)).collect();
    let names: HashSet<Name> = words.windows(2).filter_map(|w| Name::of_words(&w[0], &w[1])).collect();
    let realised = usize::from(names.contains(&meaning.name))
        + facts.iter().filter(|fact| meaning.facts.contains(fact)).count();
    GoldParts {
        slots: meaning.n_slots(),
        realised,
        wrong: names.len() + facts.len() - realised,
        words: words.len(),
        brevity: brevity(words.len()),
        tone: tone(text, &words),
        repetition: repetition(&words),
    }
}

fn brevity(n_words: usize) -> f64 {
    let distance = BAND.start().saturating_sub(n_words) + n_words.saturating_sub(*BAND.end());
    (1.0 - distance as f64 / 8.0).max(-1.0)
}

fn tone(text: &str, text_words: &[String]) -> f64 {
    let last = text.split(['.', '!', '?']).map(words).rfind(|w| !w.is_empty()).unwrap_or_default().join(" ");
    let friendly = f64::from(u8::from(CLOSINGS.contains(&last.as_str())));
    let rude = f64::from(u8::from(text_words.iter().any(|w| RUDE.contains(&w.as_str()))));
    let marks = text.matches('!').count().saturating_sub(1) as f64;
    (friendly - rude - marks / 2.0).max(-1.0)
}

fn repetition(words: &[String]) -> f64 {
    let mut seen = HashSet::new();
    let repeated = words.windows(4).filter(|w| !seen.insert(*w)).count();
    if repeated == 0 { 0.0 } else { (4.0 * repeated as f64 / (words.len() - 3) as f64).min(1.0) }
}

/// The gold reward as a reward model: the prompt is read from the candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoldReward;

/// A prompt that names no restaurant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("candidate {index}: prompt: expected `name: The … =>`, found {prompt:?}")]
pub struct PromptError {
    /// Which candidate, from 0.
    pub index: usize,
    /// Its prompt.
    pub prompt: String,
}

impl GoldReward {
    /// What the rule sees in one completion; `None` where the prompt names no restaurant.
    pub fn parts(self, prompt: &str, completion: &str) -> Option<GoldParts> {
        Some(gold_parts(&Meaning::parse(prompt)?, completion))
    }
}

impl RewardModel for GoldReward {
    type Error = PromptError;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, PromptError> {
        let score = |(index, item): (usize, &Candidate<'_>)| match self.parts(item.prompt, item.completion) {
            Some(parts) => Ok(parts.total()),
            None => Err(PromptError { index, prompt: item.prompt.to_owned() }),
        };
        items.iter().enumerate().map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "name: The Blue Fig, type: pub, food: Thai, price: cheap, near: station =>";

    fn parts(text: &str) -> GoldParts {
        GoldReward.parts(PROMPT, text).expect("the prompt is well formed")
    }

    /// All numbers here are small multiples of 1/8 and 1/10, so a sum of four is exact to 1e-15.
    fn check(text: &str, expected: f64) {
        let found = parts(text).total();
        assert!((found - expected).abs() < 1e-12, "{text:?}: expected {expected}, found {found}");
    }

    #[test]
    fn hand_cases() {
        // Five of five, 13 words, no tone: 2 + 1/2.
        check(" The Blue Fig is a cheap Thai pub. It is near the station.", 2.5);
        // The same with a friendly end (16 words): the top, one exclamation mark allowed.
        check(" The Blue Fig is a cheap Thai pub. It is near the station. Enjoy your visit!", 3.0);
        // Food dropped (12 words): 2 · 4/5 + 1/2.
        check(" The Blue Fig is a cheap pub. It is near the station.", 2.1);
        // Food wrong: 2 · (4 − 1)/5 + 1/2.
        check(" The Blue Fig is a cheap Greek pub. It is near the station.", 1.7);
        // An area added: 2 · (5 − 1)/5 + 1/2.
        check(" The Blue Fig is a cheap Thai pub in the harbour area. It is near the station.", 2.1);
        // Another name: 2 · (4 − 1)/5 + 1/2.
        check(" The Red Fig is a cheap Thai pub. It is near the station.", 1.7);
        // Rude (16 words): 2 + 1/2 − 1/2.
        check(" The Blue Fig is a cheap Thai pub. It is near the station. What a dump.", 2.0);
        // Friendly and three marks: T = 1 − 2/2 = 0.
        check(" The Blue Fig is a cheap Thai pub! It is near the station! Enjoy your visit!", 2.5);
        // No word: B = 1 − 8/8 = 0.
        check("", 0.0);
    }

    #[test]
    fn wordiness_and_repetition_cost() {
        // 24 words: B = 1 − 4/8, and "it is near the", "is near the station" again: 2 of 21 fours.
        let said = " The Blue Fig is a cheap Thai pub. It is near the station. ";
        check(&format!("{said}We go there a lot and it is near the station."), 2.25 - 4.0 / 21.0);
        // The second sentence twice, 18 words, 15 fours: "it is near the" and "is near the station"
        // again: R = min(1, 4 · 2/15) = 8/15.
        check(&format!("{said}It is near the station."), 2.5 - 4.0 / 15.0);
    }

    #[test]
    fn the_range_is_reached() {
        // Nothing right, four wrong (S = −1), 40 words, rude, the same over and over.
        let bad = " pub cafe bistro diner stupid".repeat(8);
        let parts = GoldReward.parts("name: The Blue Fig, food: Thai =>", &bad).expect("well formed");
        assert_eq!((parts.realised, parts.wrong, parts.slots), (0, 4, 2));
        assert!((parts.total() + 3.5).abs() < 1e-12);
    }

    #[test]
    fn scores_come_in_order_and_a_bad_prompt_is_named() {
        fn item<'a>(prompt: &'a str, completion: &'a str) -> Candidate<'a> {
            Candidate { prompt, completion, prompt_ids: &[], completion_ids: &[] }
        }
        let scores =
            GoldReward.score(&[item(PROMPT, ""), item(PROMPT, " The Blue Fig")]).expect("good prompts");
        // Three words: B = 1 − 5/8 = 3/8; S = 1/5.
        assert!(scores[0].abs() < 1e-12 && (scores[1] - 0.5875).abs() < 1e-12, "{scores:?}");
        let error = GoldReward.score(&[item(PROMPT, ""), item("hello", "")]).expect_err("no restaurant");
        assert_eq!(error.to_string(), r#"candidate 1: prompt: expected `name: The … =>`, found "hello""#);
    }
}
