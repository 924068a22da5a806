//! Nested rollouts on completions that can be enumerated: bias and variance of every correction.
//!
//! ```text
//! z = Σ_l z_l          π = softmax z          b_S: without the layers of S
//! J = E_π R            g = Σ_t w_t (R − J) ∂ log π(o_t)/∂z,   o ~ b_S,   S uniform
//! ```
//!
//! Where: z_l is a table of logits for every prefix; w_t is a correction's weight, or under `base_clip`
//! what the clip leaves of ρ. The slopes are those of the losses of rlhf-core themselves.

mod estimate;
mod law;
mod train;

use rlhf_core::host::interval::Interval;
use rlhf_core::host::off_policy::{Correction, mixture_logp};
use rlhf_core::loss::ppo_clip::PpoClipConfig;
use rlhf_core::number::{Prob, Weight};
use rlhf_nested::schedule::Inner;
use rlhf_nested::step::RolloutCorrection;
use serde_json::{Value, json};

use self::estimate::{Answer, Estimator, Moments, distance, dot, norm};
use self::law::{Layers, Shape, Table, Token};
use crate::error::Error;
use crate::input::Input;

/// Completions times sets of layers that are still enumerated quickly.
const MAX_OUTCOMES: usize = 100_000;
/// Logits of all layers that are still held easily.
const MAX_LOGITS: usize = 20_000_000;
/// Largest deviation of a layer's logits.
const MAX_SCALE: f64 = 5.0;

/// Everything that the answers follow from.
struct Case {
    layers: Layers,
    answers: Vec<Answer>,
    border: usize,
    clip: PpoClipConfig,
    groups: Vec<u32>,
}

pub(super) fn run(mut input: Input) -> Result<Value, Error> {
    let seed: u64 = input.optional("seed", "a whole number")?.unwrap_or(3);
    let epsilon: Weight = optional_number(&mut input, "epsilon", 0.2)?;
    let clip = PpoClipConfig::new(epsilon);
    let case = case(&mut input, seed, clip)?;
    let skip: Vec<usize> = input.optional("skip", "an array of whole numbers")?.unwrap_or(vec![1, 2, 3]);
    let train = train::read(&mut input, seed, clip)?;
    input.finish()?;
    let sets = skip.iter().map(|k| case.sets(&input, *k)).collect::<Result<Vec<_>, _>>()?;
    let mut report = case.report(&sets);
    if has_null(&report) {
        let expected = "rewards whose moments are within the range of numbers";
        return Err(input.error("reward", expected, "larger ones"));
    }
    if let Some(train) = train {
        report["train"] = train.run();
    }
    Ok(report)
}

/// Whether a figure could not be written: JSON has no infinity and no NaN.
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

/// A number that is not negative.
fn optional_number(input: &mut Input, field: &'static str, default: f64) -> Result<Weight, Error> {
    let expected = "a finite number of at least 0";
    match input.optional(field, expected)? {
        Some(x) => Ok(x),
        None => Weight::new(default).map_err(|e| input.error(field, expected, e.to_string())),
    }
}

fn case(input: &mut Input, seed: u64, clip: PpoClipConfig) -> Result<Case, Error> {
    let mut whole = |field, default: usize, least: usize| {
        let expected = format!("a whole number of at least {least}");
        match input.optional::<usize>(field, &expected)?.unwrap_or(default) {
            n if n < least => Err(input.error(field, expected, n.to_string())),
            n => Ok(n),
        }
    };
    let (vocabulary, length) = (whole("vocabulary", 3, 2)?, whole("length", 4, 1)?);
    let (layers, border) = (whole("layers", 6, 1)?, whole("border", 1, 0)?);
    let scale = optional_number(input, "scale", 0.3)?.get();
    if scale > MAX_SCALE {
        let expected = format!("at most {MAX_SCALE}: logits beyond leave ratios that no number holds");
        return Err(input.error("scale", expected, scale.to_string()));
    }
    let n = u32::try_from(length).ok().and_then(|length| vocabulary.checked_pow(length));
    let Some(n) = n.filter(|n| *n <= MAX_OUTCOMES) else {
        let expected = format!("vocabulary^length of at most {MAX_OUTCOMES} completions");
        return Err(input.error("length", expected, format!("{vocabulary}^{length}")));
    };
    let rewards: Option<Vec<f64>> = input.optional("reward", "an array of numbers")?;
    if let Some(wrong) = rewards.as_ref().filter(|r| r.len() != n) {
        return Err(input.error("reward", format!("{n} numbers, one a completion"), wrong.len().to_string()));
    }
    if rewards.as_ref().is_some_and(|r| r.windows(2).all(|w| w[0].to_bits() == w[1].to_bits())) {
        return Err(input.error("reward", "rewards that differ, so that there is a gradient", "equal ones"));
    }
    let groups: Vec<u32> = input.optional("groups", "an array of whole numbers")?.unwrap_or(vec![2, 4, 8]);
    if let Some(wrong) = groups.iter().find(|g| **g == 0) {
        return Err(input.error("groups", "group sizes of at least 1", wrong.to_string()));
    }
    let answer = |code: usize| answer(code, vocabulary, length, rewards.as_deref());
    let rows: usize = (0..length).map(|t| vocabulary.pow(t as u32)).sum();
    if layers.saturating_mul(rows * vocabulary) > MAX_LOGITS {
        let expected =
            format!("at most {MAX_LOGITS} logits: layers times {rows} prefixes times {vocabulary} tokens");
        return Err(input.error("layers", expected, layers.to_string()));
    }
    Ok(Case {
        layers: Layers::random(Shape { layers, rows, vocabulary, scale }, seed),
        answers: (0..n).map(answer).collect(),
        border,
        clip,
        groups,
    })
}

/// Completion number `code`, its digits in base V; 1 is paid where at least half of the tokens are the
/// last of the vocabulary, unless rewards are given.
fn answer(code: usize, vocabulary: usize, length: usize, rewards: Option<&[f64]>) -> Answer {
    let (mut tokens, mut first, mut prefix) = (Vec::new(), 0, 0);
    for t in 0..length {
        let token = code / vocabulary.pow((length - 1 - t) as u32) % vocabulary;
        tokens.push(Token { row: first + prefix, token });
        first += vocabulary.pow(t as u32);
        prefix = prefix * vocabulary + token;
    }
    let n_last = tokens.iter().filter(|t| t.token + 1 == vocabulary).count();
    let reward = rewards.map_or(f64::from(u8::from(2 * n_last >= length)), |r| r[code]);
    Answer { tokens, reward }
}

/// Every correction there is, at the numbers of the specification's table.
fn corrections() -> Vec<RolloutCorrection> {
    let upto = |c: f64| Interval::new(0.0, c).expect("ordered");
    let late = Prob::new(0.95).expect("a probability");
    let weights = [
        Correction::None,
        Correction::Sequence,
        Correction::Token,
        Correction::Prefix,
        Correction::SequenceTruncate(upto(2.0)),
        Correction::SequenceTruncate(upto(1.0)),
        Correction::SequenceMask(upto(2.0)),
        Correction::TokenTruncate(upto(2.0)),
        Correction::TokenMask(upto(2.0)),
        Correction::RetraceToken(Prob::ONE),
        Correction::RetraceTraces(Prob::ONE),
        Correction::RetraceTraces(late),
        Correction::Geometric,
        Correction::GeometricMask(upto(1.2)),
    ];
    weights.map(RolloutCorrection::Weights).into_iter().chain([RolloutCorrection::BaseClip]).collect()
}

/// What J, ∇J and on-policy sampling are.
struct Truth {
    policy: Table,
    objective: f64,
    gradient: Vec<Vec<f64>>,
    /// Of one completion of π, without and with the baseline J.
    variance: [f64; 2],
    /// sup ‖(R − J) ∂ log π‖².
    largest_square: f64,
}

impl Case {
    /// All sets of `k` layers between the borders.
    fn sets(&self, input: &Input, k: usize) -> Result<Vec<Vec<usize>>, Error> {
        let layers = self.layers.count();
        let inner = Inner::new(self.border, layers).map_err(|_| {
            let expected = format!("less than half of {layers} layers");
            input.error("border", expected, self.border.to_string())
        })?;
        let eligible: Vec<usize> = inner.blocks().collect();
        if k > eligible.len() || k == layers {
            let most = eligible.len().min(layers - 1);
            let expected = format!("at most {most} of {layers} layers, for the borders and one that stays");
            return Err(input.error("skip", expected, k.to_string()));
        }
        let mut sets = vec![Vec::new()];
        for (i, layer) in eligible.iter().enumerate() {
            let left = eligible.len() - i;
            let with = sets.iter().filter(|s: &&Vec<usize>| s.len() < k);
            let more: Vec<Vec<usize>> = with.map(|s| [s.as_slice(), &[*layer]].concat()).collect();
            sets.retain(|s| s.len() + left > k);
            sets.extend(more);
            if sets.len() * self.answers.len() > MAX_OUTCOMES {
                let expected = format!("at most {MAX_OUTCOMES} completions under all sets of layers");
                return Err(input.error("skip", expected, format!("more for {k}")));
            }
        }
        Ok(sets)
    }

    fn truth(&self) -> Truth {
        let policy = self.layers.whole();
        let prob = |a: &Answer| a.logp(&policy).exp();
        let objective = self.answers.iter().map(|a| prob(a) * a.reward).sum::<f64>();
        let moments = |baseline: f64| {
            let mut moments = Moments::new(&policy);
            for a in &self.answers {
                moments.add(prob(a), a, &vec![a.reward - baseline; a.tokens.len()], &policy);
            }
            moments
        };
        let square = |a: &Answer| {
            let mut one = Moments::new(&policy);
            one.add(1.0, a, &vec![a.reward - objective; a.tokens.len()], &policy);
            one.square
        };
        let (without, with) = (moments(0.0), moments(objective));
        Truth {
            variance: [without.variance(), with.variance()],
            gradient: without.mean,
            objective,
            largest_square: self.answers.iter().map(square).fold(0.0, f64::max),
            policy,
        }
    }

    fn report(&self, sets: &[Vec<Vec<usize>>]) -> Value {
        let truth = self.truth();
        let skip: Vec<Value> = sets.iter().map(|sets| self.skipping(&truth, sets)).collect();
        json!({
            "task": "nested",
            "n_completions": self.answers.len(),
            "objective": truth.objective,
            "gradient_norm": norm(&truth.gradient),
            "variance": { "no_baseline": truth.variance[0], "baseline": truth.variance[1] },
            "largest_square": truth.largest_square,
            "skip": skip,
        })
    }

    fn skipping(&self, truth: &Truth, sets: &[Vec<usize>]) -> Value {
        let kept =
            |set: &Vec<usize>| (0..self.layers.count()).filter(|l| !set.contains(l)).collect::<Vec<_>>();
        let behaviors: Vec<Table> = sets.iter().map(|set| self.layers.through(&kept(set))).collect();
        let mean = |of: &dyn Fn(f64, f64) -> f64| {
            let each =
                |b: &Table| self.answers.iter().map(|a| of(a.logp(b), a.logp(&truth.policy))).sum::<f64>();
            behaviors.iter().map(each).sum::<f64>() / sets.len() as f64
        };
        let estimators: Vec<Value> =
            corrections().into_iter().map(|c| self.estimator(truth, &behaviors, c)).collect();
        json!({
            "n_skipped": sets.first().map_or(0, Vec::len),
            "n_sets": sets.len(),
            "kl": mean(&|b, p| b.exp() * (b - p)),
            "mean_square_ratio": mean(&|b, p| (2.0 * p - b).exp()),
            "total_variation": mean(&|b, p| 0.5 * (b.exp() - p.exp()).abs()),
            "mean_token_ratio": self.mean_token_ratio(truth, &behaviors),
            "estimators": estimators,
            "mixture": self.mixture(truth, &behaviors),
            "group_mean": self.groups.iter().map(|g| self.group_mean(truth, &behaviors, *g)).collect::<Vec<_>>(),
        })
    }

    /// What an estimator's mean and variance are beside the gradient's.
    fn against(&self, truth: &Truth, moments: &Moments) -> Value {
        let (length, true_length) = (norm(&moments.mean), norm(&truth.gradient));
        json!({
            "relative_bias": distance(&moments.mean, 1.0, &truth.gradient) / true_length,
            "cosine": dot(&moments.mean, &truth.gradient) / (length * true_length),
            "mean_norm": length,
            "variance": moments.variance(),
            "variance_factor": moments.variance() / truth.variance[1],
        })
    }

    fn estimator(&self, truth: &Truth, behaviors: &[Table], correction: RolloutCorrection) -> Value {
        let estimator = Estimator { correction, clip: self.clip, policy: &truth.policy };
        let mut moments = Moments::new(&truth.policy);
        for (b, a) in behaviors.iter().flat_map(|b| self.answers.iter().map(move |a| (b, a))) {
            let behavior = a.logps(b);
            let prob = behavior.iter().sum::<f64>().exp() / behaviors.len() as f64;
            let coefficients = estimator.coefficients(a, &behavior, a.reward - truth.objective);
            moments.add(prob, a, &coefficients, &truth.policy);
        }
        let mut row = self.against(truth, &moments);
        row["correction"] = json!(correction);
        row
    }

    /// The unbiased weight with the mixture of all sets for b.
    fn mixture(&self, truth: &Truth, behaviors: &[Table]) -> Value {
        let share = Prob::new(1.0 / behaviors.len() as f64).unwrap_or(Prob::ONE);
        let (mut moments, mut square) = (Moments::new(&truth.policy), 0.0);
        for a in &self.answers {
            let rows: Vec<Vec<f64>> = behaviors.iter().map(|b| a.logps(b)).collect();
            let all: Vec<(Prob, &[f64])> = rows.iter().map(|row| (share, row.as_slice())).collect();
            let mixture = mixture_logp(&all).iter().sum::<f64>();
            let ratio = (a.logp(&truth.policy) - mixture).exp();
            let weight = ratio * (a.reward - truth.objective);
            moments.add(mixture.exp(), a, &vec![weight; a.tokens.len()], &truth.policy);
            square += mixture.exp() * ratio * ratio;
        }
        let mut row = self.against(truth, &moments);
        row["mean_square_ratio"] = json!(square);
        row
    }

    /// E ρ of a token, which is 1 for every prefix and so for all of them together.
    fn mean_token_ratio(&self, truth: &Truth, behaviors: &[Table]) -> f64 {
        let of = |b: &Table, a: &Answer| {
            let ratios: f64 = a.tokens.iter().map(|t| (t.logp(&truth.policy) - t.logp(b)).exp()).sum();
            a.logp(b).exp() * ratios / a.tokens.len() as f64
        };
        let each = |b: &Table| self.answers.iter().map(|a| of(b, a)).sum::<f64>();
        behaviors.iter().map(each).sum::<f64>() / behaviors.len() as f64
    }

    /// The unbiased weight with the group's mean reward for a baseline. The siblings are drawn apart from
    /// the completion, so that its advantage has the mean R − (R + (G − 1) E_b R)/G.
    fn group_mean(&self, truth: &Truth, behaviors: &[Table], size: u32) -> Value {
        let (mut moments, g) = (Moments::new(&truth.policy), f64::from(size));
        for b in behaviors {
            let sibling = self.answers.iter().map(|a| a.logp(b).exp() * a.reward).sum::<f64>();
            for a in &self.answers {
                let behavior = a.logp(b);
                let ratio = (a.logp(&truth.policy) - behavior).exp();
                let advantage = a.reward - (a.reward + (g - 1.0) * sibling) / g;
                let prob = behavior.exp() / behaviors.len() as f64;
                moments.add(prob, a, &vec![ratio * advantage; a.tokens.len()], &truth.policy);
            }
        }
        let true_square = dot(&truth.gradient, &truth.gradient);
        json!({
            "G": size,
            "factor": dot(&moments.mean, &truth.gradient) / true_square,
            "residual": distance(&moments.mean, 1.0 - 1.0 / g, &truth.gradient) / true_square.sqrt(),
        })
    }
}
