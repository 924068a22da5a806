//! SuperHF on a finite set of answers: the laws of [`rlhf_core::host::best_of_n`] as JSON.
//!
//! ```text
//! θ ← θ − η [p − q_N(p) + β (p − p₀)],   p = softmax θ,   θ = ln p₀ at the start
//! ```
//!
//! Where: η is `learning_rate`; the bracket is the exact gradient of `CE_{q_N(p)} + β KL(p₀ ‖ p)` with
//! q_N(p) held still, which is what SuperHF's step has in the mean over samples.

use std::collections::BTreeMap;

use rlhf_core::host::best_of_n::{
    best_of_n, collision, divergence, expectation, fixed_point, inner_minimiser, rl_optimum,
};
use rlhf_core::host::stable::log_softmax;
use rlhf_core::number::{Beta, Weight};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::input::Input;

/// Steps of a trajectory that are still quick on a few hundred answers.
const MAX_STEPS: u32 = 1_000_000;
/// How far a prior may be from a sum of 1, for decimals that were rounded; it is divided by its sum.
const SUM_TOLERANCE: f64 = 1e-6;
/// Records of a trajectory when nobody says how many.
const N_RECORDS: u32 = 100;

type Rewards = BTreeMap<String, Vec<f64>>;

/// One array, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum RewardField {
    One(Vec<f64>),
    Named(Rewards),
}

struct Bandit {
    prior: Vec<f64>,
    /// `train` is among them; all as long as `prior`.
    rewards: Rewards,
}

struct Flow {
    steps: u32,
    learning_rate: f64,
    record_every: u32,
}

pub(super) fn run(mut input: Input) -> Result<Value, Error> {
    if let Some(preset) = input.optional::<String>("preset", "a text")? {
        if preset != "A5" {
            return Err(input.error("preset", "A5", format!("`{preset}`")));
        }
        input.finish()?;
        return Ok(a5());
    }
    let bandit = bandit(&mut input)?;
    let n: u32 = input.required("N", "a whole number of at least 1")?;
    if n == 0 {
        return Err(input.error("N", "a whole number of at least 1", "0"));
    }
    let beta: Weight = input.required("beta", "a finite number of at least 0")?;
    let flow = flow(&mut input)?;
    input.finish()?;
    Ok(bandit.report(n, beta.get(), flow.as_ref()))
}

fn bandit(input: &mut Input) -> Result<Bandit, Error> {
    let expected = "an array of numbers, or arrays by name";
    let rewards = match input.required("reward", expected)? {
        RewardField::One(reward) => Rewards::from([("train".to_owned(), reward)]),
        RewardField::Named(rewards) => rewards,
    };
    let Some(n_arms) = rewards.get("train").map(Vec::len) else {
        let names = rewards.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(input.error("reward", "an array named `train` among them", names));
    };
    if n_arms < 2 {
        return Err(input.error("reward", "at least 2 answers", n_arms.to_string()));
    }
    for (name, reward) in &rewards {
        if reward.len() != n_arms {
            let expected = format!("{n_arms} numbers, as `train` has");
            return Err(input.error(&format!("reward.{name}"), expected, reward.len().to_string()));
        }
    }
    let prior = prior(input, n_arms)?;
    Ok(Bandit { prior, rewards })
}

fn prior(input: &mut Input, n_arms: usize) -> Result<Vec<f64>, Error> {
    let Some(prior) = input.optional::<Vec<f64>>("p0", "an array of numbers")? else {
        return Ok(vec![1.0 / n_arms as f64; n_arms]);
    };
    if prior.len() != n_arms {
        return Err(input.error(
            "p0",
            format!("{n_arms} numbers, as many as rewards"),
            prior.len().to_string(),
        ));
    }
    if let Some((i, p)) = prior.iter().enumerate().find(|(_, p)| **p < 0.0) {
        return Err(input.error(&format!("p0[{i}]"), "a number from 0 to 1", p.to_string()));
    }
    let sum: f64 = prior.iter().sum();
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        return Err(input.error("p0", "numbers with the sum 1", format!("the sum {sum}")));
    }
    Ok(prior.into_iter().map(|p| p / sum).collect())
}

fn flow(input: &mut Input) -> Result<Option<Flow>, Error> {
    let range = format!("a whole number from 1 to {MAX_STEPS}");
    let steps: Option<u32> = input.optional("steps", &range)?;
    let learning_rate: Option<Beta> = input.optional("learning_rate", "a positive finite number")?;
    let every: Option<u32> = input.optional("record_every", "a whole number of at least 1")?;
    let (steps, learning_rate) = match (steps, learning_rate) {
        (Some(steps), Some(learning_rate)) => (steps, learning_rate.get()),
        (None, None) if every.is_none() => return Ok(None),
        (None, _) => return Err(input.error("steps", range, "nothing")),
        (_, None) => return Err(input.error("learning_rate", "a positive finite number", "nothing")),
    };
    if steps == 0 || steps > MAX_STEPS {
        return Err(input.error("steps", range, steps.to_string()));
    }
    if every == Some(0) {
        return Err(input.error("record_every", "a whole number of at least 1", "0"));
    }
    let record_every = every.unwrap_or_else(|| steps.div_ceil(N_RECORDS));
    Ok(Some(Flow { steps, learning_rate, record_every }))
}

/// `ln N − (N − 1)/N`, which KL(q_N ‖ p) never exceeds.
fn kl_bound(n: u32) -> f64 {
    f64::from(n).ln() - f64::from(n - 1) / f64::from(n)
}

impl Bandit {
    fn train(&self) -> &[f64] {
        // Checked where it was read, and part of the preset.
        self.rewards.get("train").map_or(&[], Vec::as_slice)
    }

    /// The policy with all that is said of one, and what `more` adds.
    fn state<const K: usize>(&self, policy: &[f64], more: [(&str, Value); K]) -> Value {
        let expected: Map<String, Value> = self
            .rewards
            .iter()
            .map(|(name, reward)| (name.clone(), json!(expectation(policy, reward))))
            .collect();
        let mut state = json!({
            "policy": policy,
            "reward": expected,
            "collision": collision(policy),
            "kl": divergence(policy, &self.prior),
        });
        for (name, value) in more {
            state[name] = value;
        }
        state
    }

    fn report(&self, n: u32, beta: f64, flow: Option<&Flow>) -> Value {
        let q = best_of_n(&self.prior, self.train(), n);
        let end = fixed_point(&self.prior, self.train(), n, beta);
        let rl = if beta > 0.0 {
            let best = rl_optimum(&self.prior, self.train(), beta);
            self.state(&best.policy, [("objective", json!(best.objective))])
        } else {
            Value::Null
        };
        let mut report = json!({
            "task": "superhf",
            "N": n,
            "beta": beta,
            "prior": self.state(&self.prior, []),
            "best_of_n": self.state(&q, [("kl_bound", json!(kl_bound(n)))]),
            "inner_minimiser": self.state(&inner_minimiser(&q, &self.prior, beta), []),
            "fixed_point": self.state(&end.policy, [("residual", json!(end.residual))]),
            "rl_optimum": rl,
        });
        if let Some(flow) = flow {
            report["trajectory"] = self.trajectory(n, beta, flow);
        }
        report
    }

    fn trajectory(&self, n: u32, beta: f64, flow: &Flow) -> Value {
        let mut logits: Vec<f64> = self.prior.iter().map(|p| p.ln()).collect();
        let mut policy = self.prior.clone();
        let mut records = vec![self.state(&policy, [("step", json!(0))])];
        for step in 1..=flow.steps {
            let q = best_of_n(&policy, self.train(), n);
            for (a, logit) in logits.iter_mut().enumerate() {
                let gradient = policy[a] - q[a] + beta * (policy[a] - self.prior[a]);
                *logit -= flow.learning_rate * gradient;
            }
            policy = log_softmax(&logits).iter().map(|l| l.exp()).collect();
            if step % flow.record_every == 0 || step == flow.steps {
                records.push(self.state(&policy, [("step", json!(step))]));
            }
        }
        Value::Array(records)
    }
}

/// 20 answers on which over-optimisation can be seen: the test reward of best-of-N rises and falls.
fn a5() -> Value {
    let k = || (0..20).map(f64::from);
    let gold: Vec<f64> = k().map(f64::sin).collect();
    let with = |f: fn(f64) -> f64| gold.iter().zip(k()).map(|(g, k)| g + f(k)).collect::<Vec<f64>>();
    let rewards = [
        ("train".to_owned(), with(|k| (3.0 * k).cos())),
        ("test".to_owned(), with(|k| (7.0 * k + 1.0).cos())),
        ("gold".to_owned(), gold.clone()),
    ];
    let bandit = Bandit { prior: vec![0.05; 20], rewards: Rewards::from(rewards) };
    let row = |method: &str, n: Option<u32>, beta: Option<f64>, policy: &[f64]| {
        let of = |name: &str| bandit.rewards.get(name).map(|reward| expectation(policy, reward));
        json!({
            "method": method, "N": n, "beta": beta, "train": of("train"), "test": of("test"),
            "gold": of("gold"), "collision": collision(policy), "kl": divergence(policy, &bandit.prior),
        })
    };
    let mut table = vec![row("prior", None, None, &bandit.prior)];
    for (n, beta) in [(2, 0.0), (2, 0.2), (2, 1.0), (2, 5.0), (16, 0.35), (16, 1.0)] {
        let end = fixed_point(&bandit.prior, bandit.train(), n, beta);
        table.push(row("superhf", Some(n), Some(beta), &end.policy));
    }
    for n in [2, 8, 64] {
        table.push(row("best_of_n", Some(n), None, &best_of_n(&bandit.prior, bandit.train(), n)));
    }
    table.push(row("rl", None, Some(0.5), &rl_optimum(&bandit.prior, bandit.train(), 0.5).policy));
    json!({ "task": "superhf", "preset": "A5", "prior": bandit.prior, "rewards": bandit.rewards, "table": table })
}
