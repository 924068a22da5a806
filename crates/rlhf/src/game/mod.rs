//! Exact preference games: what self-play does to a policy over a few actions, without a neural network.
//!
//! A game is a JSON object; [`HELP`] lists its fields.

mod fields;
mod plot;
#[cfg(test)]
mod tests;

use std::path::Path;

use rlhf_selfplay::game::{Algorithm, Length, Policy, RegularizedGame, Regularizer, play, solve};
use serde_json::{Map, Value, json};

pub use plot::plot;

use crate::error::Error;
use crate::input::{Input, text_of};
use crate::run::atomic;

use self::fields::{Method, Task, config_error};

/// What `rlhf game --help` says of the input and the output.
pub const HELP: &str = r#"Input, one JSON object:
  P              [[P(a ≻ b), …], …], the preference matrix, with P + Pᵀ = 1
  mu             [p, …], the reference policy; uniform when left out
  start          [p, …], the first policy; mu when left out
  algorithm      what is done:
                   solve    finds the equilibrium
                   rspo     iterates the loss of RSPO on a softmax table
                   gmmd     argmax_π η ⟨P π_t, π⟩ − η Σ τ R(π, μ) − KL(π ‖ π_t), exactly
                   mwu      π ∝ π_t exp(η P(y ≻ π_t)); nothing pulls
                   nash-md  π ∝ m exp(η P(y ≻ m)), m ∝ π_t^(1 − ητ) μ^(ητ); the reverse KL alone pulls
                   inpo     π ∝ π_t^(1 − τ/η) μ^(τ/η) exp(P(y ≻ π_t)/η); the reverse KL alone pulls
  regularizer    {"reverse_kl": λ, "forward_kl": λ, "chi2": λ}, any of them: the weights in the loss of
                 rspo, of KL(π ‖ μ), KL(μ ‖ π) and Σ (π − μ)²/μ. They act as τ = 2λ/η, λ/η and λ/(2η).
                 With another algorithm the numbers are the τ themselves
  tau            the same with τ for any algorithm, instead of regularizer; one number is that of the
                 reverse KL
  eta            η > 0, the length of a step; of inpo the η of its loss, which is 1/length + τ; of nash-md
                 also "theorem" for 2/(τ(t + 2))
  steps          how many
  record_every   steps between two records of the trajectory; 1/100 of `steps` when left out
  kl             true to solve the game too and to record KL(equilibrium ‖ policy)
Of rspo alone:
  update         "minimum" of each iterate's loss, which is meant when left out, or gradient descent on the
                 logits: {"learning_rate": r, "n_steps": n}
  responses      "expected", each as often as it is played, which is meant when left out, or draws:
                 {"n": K, "choice": "all" or "best_worst"} with K ≥ 2; they want gradient descent
  seed           of the draws; 0 when left out
  bound          R, the largest log-ratio that forward_kl and chi2 exponentiate; 10 when left out
Several in one:
  runs           [{"name": …, fields that differ}, …]: each is the object without `runs`, with these fields
                 instead; all are drawn in one plot
  name           what a run is called in the plot

Output, one JSON object; with `runs`, {"runs": [one, …]}:
  policy           the last policy, or the equilibrium. Without a pull it may not be unique: the analytic
                   centre of all, largest in the product of what is played and what the rest loses by
  tau              τ of each divergence
  regularized_gap  2 [max_q (P(q ≻ π) − Σ τ R(q, μ)) − ½ + Σ τ R(π, μ)], 0 at the equilibrium alone
  gap              2 [max_y P(y ≻ π) − ½], the same without the pull
  trajectory       [{"step", "policy", "regularized_gap", "gap", "average_gap", "kl"}, …]; average_gap is
                   the gap of the mean of all policies so far. Empty after solve

Example: {"P": [[0.5, 0.7], [0.3, 0.5]], "algorithm": "solve", "tau": {"reverse_kl": 0.1}}
  its policy holds σ(0.2/τ) = 0.88079708 on the better action."#;

/// Computes the game that a file describes, or standard input for `-`, and draws its [`plot()`] where asked to.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read or written, and those of [`run`] and [`plot()`].
pub fn from_file(file: &Path, to: Option<&Path>) -> Result<Value, Error> {
    let value = run(&file.display().to_string(), &text_of(file)?)?;
    if let Some(to) = to {
        atomic::write(to, plot(&value)?.as_bytes())?;
    }
    Ok(value)
}

/// Computes the game, or the games, that `text` describes; `place` names it in errors.
///
/// ```
/// let text = r#"{"P": [[0.5, 0.7], [0.3, 0.5]], "algorithm": "solve", "tau": {"chi2": 0.1}}"#;
/// let out = rlhf::game::run("example", text)?;
/// assert!((out["policy"][0].as_f64().unwrap_or_default() - 0.75).abs() < 1e-12);
/// # Ok::<(), rlhf::error::Error>(())
/// ```
///
/// # Errors
/// [`Error::Config`] for text that is no JSON object, a field that is unknown, missing, of another type
/// or out of its range, and for a game, a policy or a step that does not fit the rest;
/// [`Error::Failed`] where a step of the play comes to nothing.
pub fn run(place: &str, text: &str) -> Result<Value, Error> {
    let mut input = Input::parse(place, text)?;
    let Some(runs) = input.optional::<Vec<Map<String, Value>>>("runs", "an array of objects")? else {
        return one(input);
    };
    if runs.is_empty() {
        return Err(input.error("runs", "at least 1 object", "none"));
    }
    let shared = input.rest();
    let each = runs.into_iter().enumerate().map(|(i, differing)| {
        let mut fields = shared.clone();
        fields.extend(differing);
        one(Input::of(&format!("{place}: runs[{i}]"), fields))
    });
    Ok(json!({ "runs": each.collect::<Result<Vec<_>, _>>()? }))
}

fn one(mut input: Input) -> Result<Value, Error> {
    let task = Task::read(&mut input)?;
    let mut value = match &task.method {
        Method::Solve => solved(&task.game, input.place())?,
        Method::Play { algorithm, length } => played(&task, algorithm, *length, input.place())?,
    };
    value["algorithm"] = json!(task.algorithm);
    value["tau"] = shown(task.game.tau());
    if let Some(name) = task.name {
        value["name"] = json!(name);
    }
    Ok(value)
}

fn shown(tau: &Regularizer) -> Value {
    json!({ "reverse_kl": tau.reverse_kl, "forward_kl": tau.forward_kl, "chi2": tau.chi2 })
}

fn failed(place: &str, e: &dyn std::error::Error) -> Error {
    Error::Failed(format!("{place}: {e}"))
}

fn solved(game: &RegularizedGame, place: &str) -> Result<Value, Error> {
    let found = solve(game).map_err(|e| failed(place, &e))?;
    Ok(json!({
        "policy": found.policy.probs(),
        "regularized_gap": found.regularized_gap,
        "gap": found.gap,
        "trajectory": [],
    }))
}

fn played(task: &Task, algorithm: &Algorithm, length: Length, place: &str) -> Result<Value, Error> {
    algorithm.check(&task.game).map_err(|e| config_error(place, e))?;
    task.game.check_start(&task.start).map_err(|e| config_error(place, e))?;
    let end: Option<Policy> =
        task.kl.then(|| solve(&task.game)).transpose().map_err(|e| failed(place, &e))?.map(|e| e.policy);
    let records = play(&task.game, &task.start, algorithm, length).map_err(|e| failed(place, &e))?;
    let trajectory: Vec<Value> = records
        .iter()
        .map(|record| {
            let mut value = json!({
                "step": record.step,
                "policy": record.policy.probs(),
                "regularized_gap": record.regularized_gap,
                "gap": record.gap,
                "average_gap": record.average_gap,
            });
            if let Some(end) = &end {
                value["kl"] = json!(end.kl(&record.policy));
            }
            value
        })
        .collect();
    let last = trajectory.last().cloned().unwrap_or_default();
    Ok(json!({
        "policy": last["policy"],
        "regularized_gap": last["regularized_gap"],
        "gap": last["gap"],
        "trajectory": trajectory,
    }))
}
