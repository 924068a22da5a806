//! The contracts with fakes of a few lines, and the crates' functions on what they say.

use std::convert::Infallible;

use rlhf::core::contract::{Candidate, Comparison, PreferenceOracle, RewardModel};
use rlhf::core::host::select::top_k;
use rlhf::core::number::Prob;
use rlhf::eval::stats::{LEVEL_95, Tally, wilson};

/// Likes short answers.
struct Brevity;

impl RewardModel for Brevity {
    type Error = Infallible;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Infallible> {
        Ok(items.iter().map(|c| -(c.completion.len() as f64)).collect())
    }
}

/// Prefers what a reward model scores higher.
struct By(Box<dyn RewardModel<Error = Infallible>>);

impl PreferenceOracle for By {
    type Error = Infallible;

    fn prefer(&mut self, pairs: &[Comparison<'_>]) -> Result<Vec<Prob>, Infallible> {
        let a: Vec<_> = pairs.iter().map(|p| p.a).collect();
        let b: Vec<_> = pairs.iter().map(|p| p.b).collect();
        let (a, b) = (self.0.score(&a)?, self.0.score(&b)?);
        let sure = |(a, b): (f64, f64)| match a.total_cmp(&b) {
            std::cmp::Ordering::Less => 0.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Greater => 1.0,
        };
        Ok(a.into_iter().zip(b).map(|pair| Prob::new(sure(pair)).unwrap()).collect())
    }
}

#[test]
fn a_fake_reward_chooses_and_a_fake_oracle_judges() {
    let answers = ["long answer", "short", "tiny", "a middling one"];
    let candidates =
        answers.map(|completion| Candidate { prompt: "q", completion, prompt_ids: &[], completion_ids: &[] });
    let scores = Brevity.score(&candidates).unwrap();
    assert_eq!(scores, [-11.0, -5.0, -4.0, -14.0]);
    assert_eq!(top_k(&scores, 2), [2, 1]);

    let pairs = candidates.map(|b| Comparison { a: candidates[1], b });
    let mut oracle: Box<dyn PreferenceOracle<Error = Infallible>> = Box::new(By(Box::new(Brevity)));
    let wins: Vec<f64> = oracle.prefer(&pairs).unwrap().iter().map(|p| p.get()).collect();
    assert_eq!(wins, [1.0, 0.5, 0.0, 1.0]);

    // p̂ = ½, n = 4, z² = 3.8414588: ½ ± √(z²/16 + z⁴/64) / (1 + z²/4) = ½ ± 0.3499610.
    let interval = wilson(Tally { hits: 2, total: 4 }, LEVEL_95).unwrap();
    let half = 0.349_961_0;
    assert!((interval.low - (0.5 - half)).abs() < 1e-6, "{interval:?}");
    assert!((interval.high - (0.5 + half)).abs() < 1e-6, "{interval:?}");
}
