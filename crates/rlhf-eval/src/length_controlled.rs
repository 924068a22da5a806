//! Length-controlled win rate: what a judge's preferences come to where both texts are equally long.
//!
//! ```text
//! P(model wins on prompt i) = σ( w₁ tanh(Δᵢ / s) + w₂ dᵢ + w₃ )
//! minimise  ‖w‖₁ + C Σᵢ vᵢ H(yᵢ, P)                    H: cross-entropy with the judged preference yᵢ
//! LC = (1/n) Σᵢ σ(w₃ + w₂ dᵢ)
//! ```
//!
//! Where: Δᵢ is the baseline's length less the model's, in characters; s their standard deviation (divisor
//! n − 1, not centred); dᵢ the prompt's difficulty, larger where the baseline is easier to beat; v is 1 for the
//! model's rows. Rows of "gamed" baselines (the baseline asked to be verbose or concise) may join the fit with
//! a smaller weight and without w₃: they hold the length's effect near what it is for the baseline itself.
//! Paper: Dubois et al., *Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators*,
//! arXiv:2404.04475, section 3, by the released code (alpaca_eval 0.6.6, `metrics/glm_winrate.py`).
//! Departures: shares in [0, 1], where AlpacaEval has percentages. The fit is exact, liblinear's is not. Prompts
//! are assigned to folds as scikit-learn's `GroupKFold` does with a stable sort; its own sort is not stable, so
//! from 17 rows on its folds depend on the machine. Difficulties are given row by row, where the released code
//! looks them up by a row's place in its file and is wrong where rows are missing.
//!
//! Difficulties and gamed rows belong to one judge and one baseline. Without difficulties the fit has two weights,
//! which AlpacaEval calls `length_controlled_minimal`; the result's [`Form`] says which it was.

mod glm;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::win_rate::{check_preferences, check_probabilities};
use glm::{Row, dot, fit, sigmoid};

/// One prompt, answered by the model and by its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Probability that the model's text is preferred; none where the judge did not answer. Such a prompt is not
    /// learnt from, but counts in the length-controlled win rate.
    pub preference: Option<f64>,
    /// Characters (Unicode scalar values) of the baseline's text.
    pub baseline_characters: usize,
    /// Characters of the model's text.
    pub model_characters: usize,
}

/// A prompt answered by a gamed baseline, in place of a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gamed {
    /// Probability that the gamed text is preferred.
    pub preference: f64,
    /// Δ / s, with the s of the gamed baseline's own rows.
    pub scaled_difference: f64,
    /// The prompt's difficulty; not used where the model's rows have none.
    pub difficulty: f64,
}

/// Rows that hold the fit near the baseline's own effect of length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regularization<'a> {
    /// Rows of all gamed baselines.
    pub rows: &'a [Gamed],
    /// What each row weighs beside the model's; 0.1 in AlpacaEval, which is λ = 0.2 over two gamed baselines.
    pub weight: f64,
}

/// What is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged<'a> {
    /// The model's rows.
    pub rows: &'a [Compared],
    /// A difficulty for each of them; none to fit without.
    pub difficulty: Option<&'a [f64]>,
    /// Gamed rows; none to fit without.
    pub regularization: Option<Regularization<'a>>,
}

/// How C, the inverse strength of the penalty, is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Penalty {
    /// This C, positive. Over AlpacaEval's 805 prompts 1e4 moves the
    /// win rate by less than 0.001; over a dozen it may move it by much.
    Fixed(f64),
    /// The one of ten from 1e-4 to 1e4, evenly spaced in their logarithms, with the smallest loss on prompts left
    /// out; the smaller of two that tie. AlpacaEval leaves out a fifth at a time.
    CrossValidated {
        /// Parts that are left out one at a time, at least 2.
        folds: usize,
    },
}

/// Which of AlpacaEval's models was fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Length, difficulty, model and gamed rows: `length_controlled_v1`.
    Full,
    /// Length, difficulty and model: `length_controlled_noreg`.
    Unregularized,
    /// Length and model: `length_controlled_minimal`.
    Minimal,
    /// Length, model and gamed rows, without difficulties: none of AlpacaEval's.
    MinimalRegularized,
}

/// A fitted model's weights; all 0 for the baseline itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// w₁, of `tanh(Δ / s)`: below 0 where the judge prefers the longer text.
    pub length: f64,
    /// w₂, of the difficulty; 0 where there was none.
    pub difficulty: f64,
    /// w₃, of the model.
    pub model: f64,
}

impl Weights {
    fn of([length, difficulty, model]: [f64; 3]) -> Self {
        Self { length, difficulty, model }
    }

    fn array(self) -> [f64; 3] {
        [self.length, self.difficulty, self.model]
    }
}

/// What [`length_controlled`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthControlled {
    /// Mean predicted preference at equal lengths, in [0, 1].
    pub win_rate: f64,
    /// AlpacaEval's `lc_standard_error`: sample standard deviation of the predictions over √n. It is the spread
    /// over prompts alone and 0 without difficulties; for the uncertainty of the win rate resample the rows.
    pub standard_error: f64,
    /// The fitted weights.
    pub weights: Weights,
    /// s, in characters.
    pub length_scale: f64,
    /// The C that the fit used.
    pub c: f64,
    /// What was fitted.
    pub form: Form,
    /// How far the weights are from optimal, relative to the terms of the slope; at most 1e-11.
    pub residual: f64,
}

/// The length-controlled win rate of a model against its baseline, of at least two prompts.
///
/// The baseline against itself has no spread of lengths and cannot be fitted; it is ½ by construction.
///
/// ```
/// use rlhf_eval::length_controlled::{Compared, Form, Judged, Penalty, length_controlled};
///
/// // The judge wants the longer text, nothing else: 9 of 10 wins vanish.
/// let row = |preference, model_characters| Compared {
///     preference: Some(preference), baseline_characters: 100, model_characters,
/// };
/// let mut rows = vec![row(0.8, 200); 9];
/// rows.push(row(0.2, 0));
/// let judged = Judged { rows: &rows, difficulty: None, regularization: None };
/// let found = length_controlled(&judged, Penalty::Fixed(1e4))?;
/// assert!((found.win_rate - 0.5).abs() < 1e-3 && found.weights.length < 0.0);
/// assert_eq!(found.form, Form::Minimal);
/// # Ok::<(), rlhf_eval::error::EvalError>(())
/// ```
///
/// # Errors
/// Fewer than two prompts, none with an answer, fewer learnt rows than folds; a preference outside [0, 1]; another
/// number of difficulties than of rows; a difficulty, gamed row, weight or C that is not finite or out of its
/// range; differences of length that are all equal.
pub fn length_controlled(judged: &Judged<'_>, penalty: Penalty) -> Result<LengthControlled, EvalError> {
    check(judged)?;
    let length_scale = length_scale(judged.rows)?;
    let rows = learnt(judged, length_scale);
    let c = match penalty {
        Penalty::Fixed(c) => positive("C of the length-controlled fit", c)?,
        Penalty::CrossValidated { folds } => cross_validated(&rows, folds)?,
    };
    let fitted = fit(&rows, c)?;
    let weights = Weights::of(fitted.w);
    let predicted: Vec<f64> =
        (0..judged.rows.len()).map(|i| sigmoid(dot(fitted.w, [0.0, difficulty(judged, i), 1.0]))).collect();
    let (win_rate, standard_error) = mean_and_error(&predicted);
    let form = match (judged.difficulty.is_some(), judged.regularization.is_some()) {
        (true, true) => Form::Full,
        (true, false) => Form::Unregularized,
        (false, false) => Form::Minimal,
        (false, true) => Form::MinimalRegularized,
    };
    Ok(LengthControlled {
        win_rate,
        standard_error,
        weights,
        length_scale,
        c,
        form,
        residual: fitted.residual,
    })
}

/// The win rate of one model against another at equal lengths, from the weights that each was fitted with against
/// the same baseline: the mean over `difficulty` of `σ(Δw₃ + Δw₂ d)`. The baseline's own weights are 0. For models
/// that were fitted without difficulties any one number will do.
///
/// # Errors
/// No difficulty, or one that is not finite.
pub fn head_to_head(model: Weights, opponent: Weights, difficulty: &[f64]) -> Result<f64, EvalError> {
    if difficulty.is_empty() {
        return Err(EvalError::TooFew { what: "head-to-head, difficulties", expected: 1, found: 0 });
    }
    finite("difficulty", difficulty)?;
    let w: Vec<f64> = model.array().iter().zip(opponent.array()).map(|(a, b)| a - b).collect();
    Ok(difficulty.iter().map(|d| sigmoid(w[2] + w[1] * d)).sum::<f64>() / difficulty.len() as f64)
}

fn check(judged: &Judged<'_>) -> Result<(), EvalError> {
    let n = judged.rows.len();
    if n < 2 {
        return Err(EvalError::TooFew { what: "length-controlled win rate, prompts", expected: 2, found: n });
    }
    let preferences: Vec<Option<f64>> = judged.rows.iter().map(|row| row.preference).collect();
    check_preferences("length-controlled win rate", &preferences)?;
    if preferences.iter().all(Option::is_none) {
        return Err(EvalError::TooFew { what: "length-controlled win rate, answers", expected: 1, found: 0 });
    }
    if let Some(difficulty) = judged.difficulty {
        if difficulty.len() != n {
            let what = "length-controlled win rate, prompts and difficulties";
            return Err(EvalError::Lengths { what, left: n, right: difficulty.len() });
        }
        finite("difficulty", difficulty)?;
    }
    let Some(regularization) = judged.regularization else { return Ok(()) };
    positive("weight of the gamed rows", regularization.weight)?;
    let column = |of: fn(&Gamed) -> f64| regularization.rows.iter().map(of).collect::<Vec<f64>>();
    check_probabilities("gamed rows, preference", &column(|row| row.preference))?;
    finite("gamed rows, scaled difference", &column(|row| row.scaled_difference))?;
    finite("gamed rows, difficulty", &column(|row| row.difficulty))
}

/// s: the standard deviation of the differences of length.
fn length_scale(rows: &[Compared]) -> Result<f64, EvalError> {
    let differences: Vec<f64> = rows.iter().map(difference).collect();
    // Characters are whole numbers: equal differences have a variance of exactly 0.
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
    if differences.iter().all(|d| d.total_cmp(&differences[0]).is_eq()) {
        let what = "length-controlled win rate, differences of length";
        return Err(EvalError::Constant { what, found: differences[0] });
    }
    Ok((squares / (differences.len() as f64 - 1.0)).sqrt())
}

/// Δ.
fn difference(row: &Compared) -> f64 {
    row.baseline_characters as f64 - row.model_characters as f64
}

fn difficulty(judged: &Judged<'_>, index: usize) -> f64 {
    judged.difficulty.map_or(0.0, |difficulty| difficulty[index])
}

/// Gamed rows first, then the model's, as AlpacaEval stacks them: the order decides the folds.
fn learnt(judged: &Judged<'_>, length_scale: f64) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(Regularization { rows: gamed, weight }) = judged.regularization {
        let used = |d: f64| if judged.difficulty.is_some() { d } else { 0.0 };
        let row = |row: &Gamed| Row {
            x: [row.scaled_difference.tanh(), used(row.difficulty), 0.0],
            y: row.preference,
            weight,
        };
        rows.extend(gamed.iter().map(row));
    }
    let row = |(i, row): (usize, &Compared)| {
        let x = [(difference(row) / length_scale).tanh(), difficulty(judged, i), 1.0];
        row.preference.map(|y| Row { x, y, weight: 1.0 })
    };
    rows.extend(judged.rows.iter().enumerate().filter_map(row));
    rows
}

/// The C with the smallest loss on rows that were left out, each fold's mean counted alike.
fn cross_validated(rows: &[Row], folds: usize) -> Result<f64, EvalError> {
    if folds < 2 {
        let (what, expected) = ("folds of the length-controlled fit", "at least 2");
        return Err(EvalError::Range { what, expected, found: folds as f64 });
    }
    if rows.len() < folds {
        let what = "length-controlled win rate, rows to divide into folds";
        return Err(EvalError::TooFew { what, expected: folds, found: rows.len() });
    }
    // Counted from the last row: `GroupKFold` turns its sorted groups round.
    let fold = |i: usize| (rows.len() - 1 - i) % folds;
    let part = |wanted: &dyn Fn(usize) -> bool| -> Vec<Row> {
        (0..rows.len()).filter(|i| wanted(fold(*i))).map(|i| rows[i]).collect()
    };
    let mut best = (f64::INFINITY, f64::NAN);
    for step in 0..10 {
        let c = 10f64.powf(-4.0 + 8.0 * f64::from(step) / 9.0);
        let mut loss = 0.0;
        for k in 0..folds {
            let w = fit(&part(&|fold| fold != k), c)?.w;
            loss += left_out(&part(&|fold| fold == k), w);
        }
        if loss < best.0 {
            best = (loss, c);
        }
    }
    Ok(best.1)
}

/// Mean weighted cross-entropy; a prediction is held 1e-15 away from 0 and 1, as AlpacaEval's is.
fn left_out(rows: &[Row], w: [f64; 3]) -> f64 {
    let loss = |row: &Row| {
        let p = sigmoid(dot(w, row.x)).clamp(1e-15, 1.0 - 1e-15);
        -row.weight * (row.y * p.ln() + (1.0 - row.y) * (1.0 - p).ln())
    };
    rows.iter().map(loss).sum::<f64>() / rows.len() as f64
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    // Counted from the first, so that equal predictions have an error of exactly 0.
    let mean = values[0] + values.iter().map(|v| v - values[0]).sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

fn finite(what: &'static str, values: &[f64]) -> Result<(), EvalError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(EvalError::NotFinite { what, index, found: values[index] }),
        None => Ok(()),
    }
}

fn positive(what: &'static str, found: f64) -> Result<f64, EvalError> {
    if found > 0.0 && found.is_finite() {
        return Ok(found);
    }
    Err(EvalError::Range { what, expected: "a positive finite number", found })
}
