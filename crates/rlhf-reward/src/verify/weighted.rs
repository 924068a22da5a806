//! A weighted sum of verifiers.

use std::fmt;

use rlhf_core::contract::{Candidate, RewardModel};
use rlhf_core::number::Weight;

use crate::error::Error;

type Score = Box<dyn FnMut(&[Candidate<'_>]) -> Result<Vec<f64>, String> + Send>;

struct Part {
    name: String,
    weight: Weight,
    score: Score,
}

/// `Σ wᵢ sᵢ` over named parts: any [`RewardModel`], a user's own among them.
///
/// ```
/// use rlhf_core::contract::{Candidate, RewardModel};
/// use rlhf_core::number::Weight;
/// use rlhf_reward::verify::{Extract, Format, LengthBounds, LengthUnit, Weighted};
///
/// let weight = |x| Weight::new(x).expect("not negative");
/// let mut reward = Weighted::default()
///     .with("form", weight(0.5), Format::Answer(Extract::Boxed))
///     .with("short", weight(0.25), LengthBounds { unit: LengthUnit::Words, bounds: 0..=3 });
/// let item = Candidate { prompt: "", completion: "\\boxed{4}", prompt_ids: &[], completion_ids: &[] };
/// assert_eq!(reward.score(&[item]), Ok(vec![0.75]));
/// ```
#[derive(Default)]
pub struct Weighted {
    parts: Vec<Part>,
}

impl fmt::Debug for Weighted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.parts.iter().map(|part| (&part.name, part.weight))).finish()
    }
}

impl Weighted {
    /// The same with one part more.
    #[must_use]
    pub fn with<M>(mut self, name: &str, weight: Weight, mut model: M) -> Self
    where
        M: RewardModel + Send + 'static,
    {
        let score: Score = Box::new(move |items| model.score(items).map_err(|e| e.to_string()));
        self.parts.push(Part { name: name.to_owned(), weight, score });
        self
    }

    /// Names of the parts, in the order of [`Weighted::parts`].
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| part.name.as_str())
    }

    /// What each part says, unweighted: one row a part, one number a candidate.
    ///
    /// # Errors
    /// [`Error::Part`] with the part's name when it fails or does not answer one number a candidate,
    /// [`Error::NotFinite`] for a score that is NaN or infinite.
    pub fn parts(&mut self, items: &[Candidate<'_>]) -> Result<Vec<Vec<f64>>, Error> {
        let row = |part: &mut Part| {
            let fault = |message| Error::Part { name: part.name.clone(), message };
            let scores = (part.score)(items).map_err(fault)?;
            if scores.len() != items.len() {
                return Err(fault(format!("expected {} scores, found {}", items.len(), scores.len())));
            }
            match scores.iter().position(|s| !s.is_finite()) {
                Some(index) => Err(Error::NotFinite { what: "score", index, found: scores[index] }),
                None => Ok(scores),
            }
        };
        self.parts.iter_mut().map(row).collect()
    }
}

impl RewardModel for Weighted {
    type Error = Error;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        let rows = self.parts(items)?;
        let mut sums = vec![0.0; items.len()];
        for (part, row) in self.parts.iter().zip(rows) {
            for (sum, score) in sums.iter_mut().zip(row) {
                *sum += part.weight.get() * score;
            }
        }
        Ok(sums)
    }
}
