//! From the fields of the JSON object to a game and what is done with it.

use std::collections::BTreeMap;

use rlhf_core::loss::rspo::{RspoConfig, RspoRegularizer, RspoTerm};
use rlhf_core::number::{Beta, Bound, Positive, Weight};
use rlhf_selfplay::game::{
    Algorithm, Choice, Draws, Game, GameError, Length, NashMdStep, Policy, RegularizedGame, Regularizer,
    Responses, Rspo, Update,
};
use serde::Deserialize;

use crate::error::Error;
use crate::input::Input;

/// The algorithms that there are.
const ALGORITHMS: [&str; 6] = ["rspo", "gmmd", "mwu", "nash-md", "inpo", "solve"];
/// The divergences that pull, and c of τ = c λ/η in the loss of RSPO.
const DIVERGENCES: [(&str, f64); 3] = [("reverse_kl", 2.0), ("forward_kl", 1.0), ("chi2", 0.5)];
/// Steps that are still quick with a few dozen actions.
const MAX_STEPS: u64 = 1_000_000;
/// Draws of one step that are still quick.
const MAX_DRAWS: usize = 100_000;
/// Records of a trajectory when nobody says how many.
const N_RECORDS: u64 = 100;
/// R of the authors' best runs.
const BOUND: f64 = 10.0;

/// All that the object says.
pub(super) struct Task {
    pub(super) name: Option<String>,
    pub(super) algorithm: String,
    pub(super) game: RegularizedGame,
    pub(super) start: Policy,
    pub(super) method: Method,
    /// Whether the distance to the equilibrium is recorded.
    pub(super) kl: bool,
}

pub(super) enum Method {
    Solve,
    Play { algorithm: Algorithm, length: Length },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EtaField {
    Number(Positive),
    Name(EtaName),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum EtaName {
    Theorem,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PullField {
    One(f64),
    Named(BTreeMap<String, f64>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum UpdateField {
    Name(UpdateName),
    Gradient(GradientField),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum UpdateName {
    Minimum,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GradientField {
    learning_rate: Positive,
    n_steps: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ResponsesField {
    Name(ResponsesName),
    Draws(DrawsField),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ResponsesName {
    Expected,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrawsField {
    n: usize,
    choice: ChoiceField,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChoiceField {
    All,
    BestWorst,
}

/// What the library refuses, under the place of the input.
pub(super) fn config_error(place: &str, e: GameError) -> Error {
    Error::config(place, e.place, e.expected, e.found)
}

impl Task {
    pub(super) fn read(input: &mut Input) -> Result<Self, Error> {
        let algorithm: String = input.required("algorithm", "a text")?;
        if !ALGORITHMS.contains(&algorithm.as_str()) {
            let expected = format!("one of {}", ALGORITHMS.join(", "));
            return Err(input.error("algorithm", expected, format!("`{algorithm}`")));
        }
        let place = input.place().to_owned();
        let refused = |e| config_error(&place, e);
        let rows: Vec<Vec<f64>> = input.required("P", "an array of arrays of numbers")?;
        let game = Game::new(&rows).map_err(refused)?;
        let reference = policy(input, "mu")?.unwrap_or_else(|| Policy::uniform(game.n_actions()));
        let start = policy(input, "start")?.unwrap_or_else(|| reference.clone());
        let pulls = Pulls::read(input)?;
        let (tau, method) = match algorithm.as_str() {
            "solve" => (pulls.temperatures(input)?, Method::Solve),
            "rspo" => rspo(input, &pulls)?,
            name => mirror(input, name, &pulls)?,
        };
        let kl = match method {
            Method::Solve => false,
            Method::Play { .. } => input.optional("kl", "true or false")?.unwrap_or(false),
        };
        let name = input.optional("name", "a text")?;
        input.finish()?;
        let game = RegularizedGame::new(game, reference, tau).map_err(refused)?;
        Ok(Self { name, algorithm, game, start, method, kl })
    }
}

fn policy(input: &mut Input, field: &'static str) -> Result<Option<Policy>, Error> {
    let probs: Option<Vec<f64>> = input.optional(field, "an array of numbers")?;
    let policy = probs.map(|probs| Policy::new(field, &probs)).transpose();
    policy.map_err(|e| config_error(input.place(), e))
}

/// The numbers of `regularizer` or of `tau`, in the order of [`DIVERGENCES`].
struct Pulls {
    field: &'static str,
    numbers: [f64; 3],
}

impl Pulls {
    fn read(input: &mut Input) -> Result<Self, Error> {
        let expected = "an object of reverse_kl, forward_kl and chi2";
        let weights: Option<BTreeMap<String, f64>> = input.optional("regularizer", expected)?;
        let taus: Option<PullField> = input.optional("tau", &format!("{expected}, or a number"))?;
        let (field, named) = match (weights, taus) {
            (Some(_), Some(_)) => return Err(input.error("tau", "no tau beside regularizer", "both")),
            (Some(weights), None) => ("regularizer", weights),
            (None, Some(PullField::Named(taus))) => ("tau", taus),
            (None, Some(PullField::One(tau))) => ("tau", BTreeMap::from([("reverse_kl".to_owned(), tau)])),
            (None, None) => ("tau", BTreeMap::new()),
        };
        let mut numbers = [0.0; 3];
        for (name, x) in named {
            let Some(i) = DIVERGENCES.iter().position(|(known, _)| *known == name) else {
                let known = DIVERGENCES.map(|(known, _)| known).join(", ");
                return Err(input.error(
                    &format!("{field}.{name}"),
                    format!("one of {known}"),
                    "another name",
                ));
            };
            numbers[i] = x;
            weight(input, &format!("{field}.{name}"), x)?;
        }
        Ok(Self { field, numbers })
    }

    /// The numbers as τ.
    fn temperatures(&self, input: &Input) -> Result<Regularizer, Error> {
        let tau = |i: usize| weight(input, &format!("{}.{}", self.field, DIVERGENCES[i].0), self.numbers[i]);
        Ok(Regularizer { reverse_kl: tau(0)?, forward_kl: tau(1)?, chi2: tau(2)? })
    }

    /// The terms of the loss of RSPO with η.
    fn terms(&self, input: &Input, eta: f64, bound: Bound) -> Result<Vec<RspoTerm>, Error> {
        let regularizers = [
            RspoRegularizer::ReverseKl,
            RspoRegularizer::ForwardImportance(bound),
            RspoRegularizer::Chi2(bound),
        ];
        let mut terms = Vec::new();
        for (i, regularizer) in regularizers.into_iter().enumerate() {
            let (name, factor) = DIVERGENCES[i];
            let lambda = if self.field == "tau" { self.numbers[i] * eta / factor } else { self.numbers[i] };
            if lambda > 0.0 {
                let weight = weight(input, &format!("{}.{name}", self.field), lambda)?;
                terms.push(RspoTerm { regularizer, weight });
            }
        }
        Ok(terms)
    }
}

fn weight(input: &Input, field: &str, x: f64) -> Result<Weight, Error> {
    Weight::new(x).map_err(|e| input.error(field, e.expected, x.to_string()))
}

fn length(input: &mut Input) -> Result<Length, Error> {
    let range = format!("a whole number from 1 to {MAX_STEPS}");
    let n_steps: u64 = input.required("steps", &range)?;
    if n_steps == 0 || n_steps > MAX_STEPS {
        return Err(input.error("steps", range, n_steps.to_string()));
    }
    let every: Option<u64> = input.optional("record_every", "a whole number of at least 1")?;
    if every == Some(0) {
        return Err(input.error("record_every", "a whole number of at least 1", "0"));
    }
    Ok(Length { n_steps, record_every: every.unwrap_or_else(|| n_steps.div_ceil(N_RECORDS)) })
}

/// A method of mirror descent.
fn mirror(input: &mut Input, name: &str, pulls: &Pulls) -> Result<(Regularizer, Method), Error> {
    let expected = if name == "nash-md" { "a positive number, or \"theorem\"" } else { "a positive number" };
    let algorithm = match (name, input.required("eta", expected)?) {
        ("nash-md", EtaField::Number(eta)) => Algorithm::NashMd { eta: NashMdStep::Constant(eta) },
        ("nash-md", EtaField::Name(EtaName::Theorem)) => Algorithm::NashMd { eta: NashMdStep::Decreasing },
        ("gmmd", EtaField::Number(eta)) => Algorithm::Gmmd { eta },
        ("mwu", EtaField::Number(eta)) => Algorithm::Mwu { eta },
        (_, EtaField::Number(eta)) => Algorithm::Inpo { eta },
        (_, EtaField::Name(_)) => return Err(input.error("eta", expected, "\"theorem\"")),
    };
    let length = length(input)?;
    Ok((pulls.temperatures(input)?, Method::Play { algorithm, length }))
}

fn rspo(input: &mut Input, pulls: &Pulls) -> Result<(Regularizer, Method), Error> {
    let eta: Positive = input.required("eta", "a positive number")?;
    let beta = Beta::new(eta.get().recip()).map_err(|_| {
        input.error("eta", "a number whose inverse is positive and finite", eta.get().to_string())
    })?;
    let length = length(input)?;
    let bound = match input.optional("bound", "a positive number, or \"inf\"")? {
        Some(bound) => bound,
        None => Bound::new(BOUND).map_err(|e| Error::Failed(e.to_string()))?,
    };
    let config = RspoConfig { beta, terms: pulls.terms(input, eta.get(), bound)? };
    let gradient = "\"minimum\", or an object of a positive learning_rate and n_steps";
    let update = match input.optional("update", gradient)? {
        None | Some(UpdateField::Name(UpdateName::Minimum)) => Update::Minimum,
        Some(UpdateField::Gradient(GradientField { learning_rate, n_steps })) => {
            Update::Gradient { learning_rate, n_steps }
        }
    };
    let seed: u64 = input.optional("seed", "a whole number of at least 0")?.unwrap_or(0);
    let draws = "\"expected\", or an object of n and choice, which is all or best_worst";
    let responses = match input.optional("responses", draws)? {
        None | Some(ResponsesField::Name(ResponsesName::Expected)) => Responses::Expected,
        Some(ResponsesField::Draws(DrawsField { n, .. })) if n > MAX_DRAWS => {
            return Err(input.error("responses.n", format!("at most {MAX_DRAWS}"), n.to_string()));
        }
        Some(ResponsesField::Draws(DrawsField { n, choice })) => {
            let choice = match choice {
                ChoiceField::All => Choice::All,
                ChoiceField::BestWorst => Choice::BestWorst,
            };
            Responses::Sampled(Draws::new(n, choice, seed).map_err(|e| config_error(input.place(), e))?)
        }
    };
    if update == Update::Minimum && responses != Responses::Expected {
        return Err(input.error(
            "update",
            "learning_rate and n_steps, as responses are drawn",
            "the minimum",
        ));
    }
    let tau = Regularizer::of_rspo(&config).map_err(|e| config_error(input.place(), e))?;
    let algorithm = Algorithm::Rspo(Rspo { config, responses, update });
    Ok((tau, Method::Play { algorithm, length }))
}
