//! Exact bandits: what a method does to a finite set of answers, by enumeration and not by sampling.
//!
//! A bandit is a JSON object; [`HELP`] lists its fields.

mod superhf;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::input::{Input, text_of};

/// The tasks that there are.
const TASKS: [&str; 1] = ["superhf"];

/// What `rlhf bandit --help` says of the input and the output.
pub const HELP: &str = r#"Input, one JSON object:
  task           "superhf"
  preset         "A5": the 20 answers k = 0 … 19 with gold = sin k, train = gold + cos 3k,
                 test = gold + cos(7k + 1) and a uniform prior; no other field beside it
  reward         [R, …], one number an answer; or {"train": [R, …], "test": […], …}, of which `train`
                 is the one that selects and the others are only measured
  p0             [p, …], the prior; uniform when left out
  N              samples of a prompt, of which the best is kept; at least 1
  beta           β ≥ 0, the coefficient of KL(p₀ ‖ p) that acts on the mean over a minibatch (the
                 authors' β counts B times: their 0.35 with B = 2 is 0.7 here)
  steps          steps of gradient descent on a table of logits, from p0; none when left out
  learning_rate  their length
  record_every   steps between two records of the trajectory; 1/100 of `steps` when left out

Output, one JSON object; E of each reward by its name, collision = Σ p², kl = KL(p ‖ p₀):
  prior            p₀
  best_of_n        q_N, the law of the best of N samples of p₀; kl_bound = ln N − (N − 1)/N ≥ kl
  inner_minimiser  (q_N + β p₀)/(1 + β): the minimum of CE_q(p) + β KL(p₀ ‖ p)
  fixed_point      p with (1 + β) p = q_N(p) + β p₀, where a round changes nothing;
                   residual = the largest difference of the two sides
  rl_optimum       p ∝ p₀ exp(R/β), with objective J* = β ln E_{p₀} exp(R/β); null at β = 0
  trajectory       the policy after a number of steps of θ ← θ − η [p − q_N(p) + β (p − p₀)]
The preset's output: rewards, and a table with one row a method, N and β.

Example: {"task": "superhf", "p0": [0.5, 0.5], "reward": [0, 1], "N": 2, "beta": 1}
  its fixed point holds √½ = 0.70710678 on the better answer."#;

/// Computes the bandit that a file describes, or standard input for `-`.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read, and those of [`run`].
pub fn from_file(file: &Path) -> Result<Value, Error> {
    run(&file.display().to_string(), &text_of(file)?)
}

/// Computes the bandit that `text` describes; `place` names it in errors.
///
/// ```
/// let out = rlhf::bandit::run("example", r#"{"task": "superhf", "reward": [0, 1], "N": 2, "beta": 1}"#)?;
/// let better = out["fixed_point"]["policy"][1].as_f64().unwrap_or_default();
/// assert!((better - 0.5f64.sqrt()).abs() < 1e-15);
/// # Ok::<(), rlhf::error::Error>(())
/// ```
///
/// # Errors
/// [`Error::Config`] for text that is no JSON object, a field that is unknown, missing, of another
/// type or out of its range, and an unknown task.
pub fn run(place: &str, text: &str) -> Result<Value, Error> {
    let mut input = Input::parse(place, text)?;
    let task: String = input.required("task", "a text")?;
    match task.as_str() {
        "superhf" => superhf::run(input),
        other => Err(input.error("task", format!("one of {}", TASKS.join(", ")), format!("`{other}`"))),
    }
}
