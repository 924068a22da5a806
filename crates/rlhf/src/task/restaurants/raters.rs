//! The raters: they see the gold reward through a bias and through noise.
//!
//! ```text
//! u = gold + length · words + exclamation · min(3, marks)
//! P(a ≻ b) = σ((u_a − u_b) / T),   T = 1/2
//! ```
//!
//! Where: `words` and `marks` are the words and the exclamation marks of a text. At T = 1/2 two
//! raters of one group agree on 72–73 % of the pairs, as the labellers of InstructGPT do (72.6 ± 1.5
//! %, Ouyang et al., arXiv:2203.02155, Section 3.4).
//!
//! Both groups like length and exclamation marks, and gold does not: beyond 20 words it loses 1/16 a
//! word, beyond one mark 1/4 a mark. So two reward models of disjoint data share an error, which
//! only the gold reward shows. The raters of the judge are less biased than those that the policy is
//! trained for.

use rand::{Rng, RngExt};

use super::gold::gold_parts;
use super::words::Meaning;

/// T.
pub(super) const TEMPERATURE: f64 = 0.5;

/// Marks beyond these please nobody more.
const MAX_MARKS: usize = 3;

/// A group of raters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raters {
    /// Worth of a word, in units of the gold reward.
    pub length: f64,
    /// Worth of an exclamation mark, up to three.
    pub exclamation: f64,
}

impl Raters {
    /// Those behind the reward model that trains the policy. A word too many costs them nothing (gold
    /// takes back 1/16), a mark too many pleases them; one standard deviation of length is worth half
    /// of one of the gold reward (0.8).
    pub const TRAIN: Self = Self { length: 0.06, exclamation: 0.35 };
    /// Those behind the judge: the same likings, about 3/5 as strong.
    pub const JUDGE: Self = Self { length: 0.04, exclamation: 0.20 };

    /// What a text is worth to them.
    pub fn utility(&self, meaning: &Meaning, text: &str) -> f64 {
        let parts = gold_parts(meaning, text);
        let marks = text.matches('!').count().min(MAX_MARKS);
        parts.total() + self.length * parts.words as f64 + self.exclamation * marks as f64
    }

    /// The two texts, the preferred one first.
    pub fn order(&self, meaning: &Meaning, texts: [String; 2], rng: &mut impl Rng) -> [String; 2] {
        let [a, b] = texts;
        let gap = self.utility(meaning, &a) - self.utility(meaning, &b);
        // σ of a finite gap lies in [0, 1].
        if rng.random_bool(1.0 / (1.0 + (-gap / TEMPERATURE).exp())) { [a, b] } else { [b, a] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_core::rng::stream;

    const PROMPT: &str = "name: The Blue Fig, type: pub, near: station =>";

    #[test]
    fn utility_adds_the_bias() {
        let meaning = Meaning::parse(PROMPT).expect("well formed");
        // Nine words, four marks: gold = 2 + 1/2 − (3/2 clipped to 1)/2 = 2.
        let text = "The Blue Fig is a pub! Near! The! Station!";
        let found = Raters { length: 0.1, exclamation: 0.5 }.utility(&meaning, text);
        assert!((found - (2.0 + 0.9 + 1.5)).abs() < 1e-12, "{found}");
    }

    #[test]
    fn the_noise_is_bradley_and_terrys() {
        let meaning = Meaning::parse(PROMPT).expect("well formed");
        // Three slots of three against two of three, ten words both: a gap of 2/3, at T = 1/2 σ(4/3).
        let better = "The Blue Fig is a pub that is near the station";
        let worse = "The Blue Fig is a place that is near the station";
        let fair = Raters { length: 0.0, exclamation: 0.0 };
        let n = 20_000;
        let wins = (0..n)
            .filter(|i| {
                let texts = [worse.to_owned(), better.to_owned()];
                fair.order(&meaning, texts, &mut stream(0, "test", *i, 0))[0] == better
            })
            .count();
        // σ(4/3) = 0.791391; five standard errors of a binomial share are 5 √(p (1 − p) / n) = 0.01437.
        let share = wins as f64 / n as f64;
        assert!((share - 0.791391).abs() < 0.01437, "{share}");
    }
}
