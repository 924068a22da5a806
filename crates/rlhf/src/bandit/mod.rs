//! Exact bandits: what a method does to a finite set of answers, by enumeration and not by sampling.
//!
//! A bandit is a JSON object; [`HELP`] lists its fields.

mod nested;
mod superhf;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::input::{Input, text_of};

/// The tasks that there are.
const TASKS: [&str; 2] = ["superhf", "nested"];

/// What `rlhf bandit --help` says of the input and the output.
pub const HELP: &str = r#"Input, one JSON object whose field `task` is "superhf" or "nested".

Task "superhf": a finite set of answers.
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
  its fixed point holds √½ = 0.70710678 on the better answer.

Task "nested": completions drawn by a part of the policy's layers, all enumerated. The policy is a table of
logits for every prefix, the sum of its layers' tables of normal numbers. No field beside the task is needed.
  task           "nested"
  vocabulary     V, 3 when left out
  length         T, tokens of every completion, 4
  layers         L, 6
  border         first and last layers that always stay, 1
  seed           of the random streams, 3
  scale          standard deviation of a layer's logits, 0.3; at most 5
  reward         [R, …], one number a completion, its tokens read as digits in base V; when left out, 1
                 where at least half of the tokens are V − 1, else 0
  skip           [k, …], how many layers are left out, uniformly drawn; [1, 2, 3]
  epsilon        the range of the ratio that a clip leaves free, 0.2
  groups         [G, …], sizes of groups whose mean is the baseline; [2, 4, 8]
  train          trains a tabular policy by GRPO with nested rollouts; {} for these defaults:
                 {"layers": 10, "border": 1, "prompts": 8, "length": 5, "vocabulary": 5, "scale": 0.3,
                 "push": 2.9, "num_generations": 8, "updates": 150, "learning_rate": 2, "n_seeds": 6,
                 "record_every": 25, "ratios": [0, 0.1, 0.2, 0.3, 0.4], "corrections": ["none", "token",
                 "sequence", {"retrace_traces": 1}, "base_clip"]}; `push` is the logit that all layers
                 together begin with for the one right token of each place

Output, one JSON object:
  objective, gradient_norm, variance   J, ‖∇J‖ and the variance of one completion of the whole policy
  largest_square   sup ‖(R − J) ∂ log π‖²
  skip             for each k: kl = KL(b ‖ π), mean_square_ratio = E ρ², total_variation,
                   mean_token_ratio = E ρ_t, which is 1; and
    estimators     for each correction: relative_bias, cosine to ∇J, mean_norm, variance, variance_factor
                   (by that of the whole policy, both with the baseline J)
    mixture        the same with the mixture of all sets of layers for b
    group_mean     with the group's mean for a baseline: factor on ∇J, which is 1 − 1/G, and residual
  train            for each ratio: the realised one, kl before the first update, the mean reward of
                   rollouts in the first 10 updates, and for each correction the exact accuracy of the
                   whole policy by updates, means over the seeds"#;

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
        "nested" => nested::run(input),
        other => Err(input.error("task", format!("one of {}", TASKS.join(", ")), format!("`{other}`"))),
    }
}
