//! The length-controlled win rate against scikit-learn 1.9.1's `LogisticRegression` and `LogisticRegressionCV`
//! (liblinear, L1, tolerance 1e-12), called as AlpacaEval calls them.

use rlhf_eval::error::EvalError;
use rlhf_eval::length_controlled::{
    Compared, Form, Gamed, Judged, LengthControlled, Penalty, Regularization, Weights, head_to_head,
    length_controlled,
};
use rlhf_eval::stats::sample_sd;

/// Preference, characters of the baseline, characters of the model, difficulty.
type Prompt = (Option<f64>, usize, usize, f64);

const PROMPTS: [Prompt; 16] = [
    (Some(0.5241), 1497, 1288, 0.917),
    (Some(1.0), 617, 644, -0.974),
    (Some(0.0658), 1774, 633, 0.908),
    (Some(0.8985), 2049, 2211, 1.342),
    (Some(0.3676), 1173, 1340, -2.39),
    (Some(0.0492), 1529, 790, -0.549),
    (Some(0.4648), 222, 1380, -0.388),
    (Some(0.9398), 1669, 620, 0.648),
    (Some(0.9467), 580, 526, -0.121),
    (Some(0.6708), 1386, 1005, -0.23),
    (Some(0.8005), 373, 2892, -0.058),
    (Some(0.9426), 859, 323, 1.853),
    (Some(1.0), 1280, 1661, 2.16),
    (Some(0.0), 1490, 2809, -0.525),
    (Some(0.0), 133, 1411, -0.926),
    (Some(1.0), 2771, 1127, 2.693),
];

/// Preference and scaled difference of two gamed baselines, each on all prompts.
const GAMED: [(f64, f64); 32] = [
    (0.2507, 0.5494),
    (0.0887, 1.1536),
    (0.8491, -0.8012),
    (0.4697, -1.7704),
    (0.5898, 1.1937),
    (0.482, 0.0178),
    (0.2128, 0.7087),
    (0.5572, -1.3323),
    (0.3828, 1.733),
    (0.5649, 0.7386),
    (0.4818, -0.1261),
    (0.7833, -0.352),
    (0.878, 0.1139),
    (0.4892, -0.1667),
    (0.2936, -0.2787),
    (0.4386, -1.1196),
    (0.096, 1.2628),
    (0.3543, -0.0396),
    (0.3104, 0.0746),
    (0.195, 0.0929),
    (0.8194, -2.3582),
    (0.0433, 0.5271),
    (0.2684, -0.3292),
    (0.9086, -0.2892),
    (0.7247, 0.0698),
    (0.7812, -0.9725),
    (0.4427, 0.8434),
    (0.9147, -0.6959),
    (0.7779, -0.9037),
    (0.6846, -0.8622),
    (0.1998, 0.1588),
    (0.3304, 0.7458),
];

/// Eight prompts by hand; the baseline's texts have 2000 characters.
const EIGHT: [(f64, f64, isize); 8] = [
    (0.1, -1.2, 300),
    (0.7, -0.4, -200),
    (0.05, 0.3, 900),
    (0.9, 0.9, -1500),
    (0.6, 1.5, 50),
    (0.2, -0.8, 700),
    (0.55, 0.1, -400),
    (0.35, 0.6, 1200),
];

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() < tolerance, "expected {expected}, found {found}");
}

fn compared(prompts: &[Prompt]) -> Vec<Compared> {
    let row = |&(preference, baseline_characters, model_characters, _): &Prompt| Compared {
        preference,
        baseline_characters,
        model_characters,
    };
    prompts.iter().map(row).collect()
}

fn eight() -> (Vec<Compared>, Vec<f64>) {
    let row = |&(y, _, difference): &(f64, f64, isize)| Compared {
        preference: Some(y),
        baseline_characters: 2000,
        model_characters: 2000usize.checked_add_signed(-difference).expect("shorter than 2000"),
    };
    (EIGHT.iter().map(row).collect(), EIGHT.iter().map(|(_, d, _)| *d).collect())
}

fn fixed(c: f64, rows: &[Compared], difficulty: Option<&[f64]>) -> Result<LengthControlled, EvalError> {
    length_controlled(&Judged { rows, difficulty, regularization: None }, Penalty::Fixed(c))
}

#[test]
fn eight_prompts_by_hand() {
    let (rows, difficulty) = eight();
    let strong = fixed(1.0, &rows, Some(&difficulty)).expect("eight prompts");
    // Squares of 5 282 500 less 8 · 131.25², over 7.
    close(strong.length_scale, (5_144_687.5f64 / 7.0).sqrt(), 1e-12);
    close(strong.weights.length, -0.337_536, 5e-7);
    // The penalty leaves nothing of the other two.
    assert_eq!(strong.weights, Weights { length: strong.weights.length, ..Weights::default() });
    close(strong.win_rate, 0.5, 1e-15);
    let weak = fixed(100.0, &rows, Some(&difficulty)).expect("eight prompts");
    close(weak.weights.length, -1.748_248, 5e-7);
    close(weak.weights.difficulty, 0.524_005, 5e-7);
    close(weak.weights.model, -0.132_201, 5e-7);
    close(100.0 * weak.win_rate, 48.412_3, 5e-5);
    close(100.0 * weak.standard_error, 4.024_03, 5e-6);
    assert_eq!(weak.form, Form::Unregularized);
}

#[test]
fn gamed_rows_and_the_choice_of_c_are_scikit_learns() {
    let rows = compared(&PROMPTS);
    let difficulty: Vec<f64> = PROMPTS.iter().map(|prompt| prompt.3).collect();
    let gamed: Vec<Gamed> = (GAMED.iter().zip(difficulty.iter().cycle()))
        .map(|(&(preference, scaled_difference), &difficulty)| Gamed {
            preference,
            scaled_difference,
            difficulty,
        })
        .collect();
    let regularization = Some(Regularization { rows: &gamed, weight: 0.1 });
    let judged = Judged { rows: &rows, difficulty: Some(&difficulty), regularization };
    let cases = [
        (Penalty::Fixed(1.0), [0.0, 0.460_652_431_628, 0.057_854_141_399], 0.541_9, 0.035_328_697_152),
        (
            Penalty::Fixed(100.0),
            [-0.046_721_996_437, 0.611_373_110_955, 0.313_869_629_019],
            0.603_274_735_338,
            0.043_104_974_903,
        ),
        (
            Penalty::Fixed(1e4),
            [-0.054_691_894_759, 0.614_335_153_118, 0.316_152_878_618],
            0.603_806_966_814,
            0.043_251_266_73,
        ),
        (
            Penalty::CrossValidated { folds: 5 },
            [0.0, 0.548_052_545_01, 0.221_465_518_013],
            0.581_938_664_601,
            0.040_092_491_527,
        ),
    ];
    for (penalty, weights, win_rate, standard_error) in cases {
        let found = length_controlled(&judged, penalty).expect("sixteen prompts");
        let w = found.weights;
        for (found, expected) in [w.length, w.difficulty, w.model].into_iter().zip(weights) {
            close(found, expected, 1e-9);
        }
        close(found.win_rate, win_rate, 1e-10);
        close(found.standard_error, standard_error, 1e-10);
        assert!(found.form == Form::Full && found.residual <= 1e-11);
    }
    let chosen = length_controlled(&judged, Penalty::CrossValidated { folds: 5 }).expect("sixteen prompts");
    close(chosen.c, 10f64.powf(4.0 / 9.0), 1e-12);
}

#[test]
fn prompts_without_an_answer_are_predicted_and_not_learnt_from() {
    let (mut rows, mut difficulty) = eight();
    let all = fixed(100.0, &rows, Some(&difficulty)).expect("eight prompts");
    // The mean of the eight differences is 131.25: one more there shrinks the scale by √(7/8).
    rows.push(Compared { preference: None, baseline_characters: 2131, model_characters: 2000 });
    difficulty.push(2.5);
    let found = fixed(100.0, &rows, Some(&difficulty)).expect("nine prompts");
    close(found.length_scale / all.length_scale, (7.0f64 / 8.0).sqrt(), 1e-6);
    let at = |d: f64| 1.0 / (1.0 + (-found.weights.model - found.weights.difficulty * d).exp());
    close(found.win_rate, difficulty.iter().map(|d| at(*d)).sum::<f64>() / 9.0, 1e-14);
    difficulty[8] = -7.0;
    let moved = fixed(100.0, &rows, Some(&difficulty)).expect("nine prompts");
    assert_eq!(moved.weights, found.weights);
    assert!(moved.win_rate < found.win_rate);
}

#[test]
fn without_difficulties_two_weights_are_fitted() {
    let (rows, difficulty) = eight();
    let found = fixed(100.0, &rows, None).expect("eight prompts");
    assert_eq!(found.form, Form::Minimal);
    let w = found.weights;
    assert!(w.difficulty.abs() <= 0.0 && w.length < -1.0 && w.model.abs() > 0.01);
    close(found.win_rate, 1.0 / (1.0 + (-w.model).exp()), 1e-15);
    // All predictions are one.
    assert!(found.standard_error.abs() <= 0.0);
    // Difficulties that do not differ say what the model's own weight says: the penalty takes either.
    let ones = fixed(100.0, &rows, Some(&[1.0; 8])).expect("eight prompts");
    close(ones.win_rate, found.win_rate, 1e-9);
    close(ones.weights.length, w.length, 1e-9);
    // Gamed rows without difficulties pull the length's weight and nothing else.
    let gamed = [0.5, 0.5].map(|preference| Gamed { preference, scaled_difference: 1.0, difficulty: 9.0 });
    let regularization = Some(Regularization { rows: &gamed, weight: 50.0 });
    let judged = Judged { rows: &rows, difficulty: None, regularization };
    let pulled = length_controlled(&judged, Penalty::Fixed(100.0)).expect("eight prompts");
    assert_eq!(pulled.form, Form::MinimalRegularized);
    assert!(pulled.weights.length.abs() < 0.1 * w.length.abs() && difficulty.len() == 8);
}

#[test]
fn a_judge_who_only_counts_characters_leaves_a_tie() {
    let lengths: Vec<usize> = (0..55).map(|i| 200 + 37 * (i % 11)).collect();
    let differences: Vec<f64> = lengths.iter().map(|length| 280.0 - *length as f64).collect();
    let scale = sample_sd(&differences).expect("lengths that differ");
    let row = |(model_characters, difference): (&usize, &f64)| {
        let preference = Some(1.0 / (1.0 + (1.5 * (difference / scale).tanh()).exp()));
        Compared { preference, baseline_characters: 280, model_characters: *model_characters }
    };
    let rows: Vec<Compared> = lengths.iter().zip(&differences).map(row).collect();
    let raw = rows.iter().filter_map(|row| row.preference).sum::<f64>() / 55.0;
    assert!(raw > 0.6, "{raw}");
    let found = fixed(1e8, &rows, None).expect("prompts");
    close(found.win_rate, 0.5, 1e-6);
    close(found.weights.length, -1.5, 1e-6);
}

#[test]
fn certain_outcomes_have_finite_weights_that_are_optimal() {
    // The longer text always wins: without the penalty the weights would be infinite.
    let row = |k: usize| {
        let model_characters = if k.is_multiple_of(2) { 200 + k } else { 50 };
        let preference = Some(if k.is_multiple_of(2) { 1.0 } else { 0.0 });
        Compared { preference, baseline_characters: 100, model_characters }
    };
    let rows: Vec<Compared> = (0..100).map(row).collect();
    let mut last = 0.0;
    for c in [1e-1, 1.0, 1e2, 1e4, 1e8] {
        let found = fixed(c, &rows, None).expect("prompts");
        assert!(found.residual <= 1e-11, "C = {c}: {found:?}");
        assert!(found.weights.length < last && found.weights.length > -100.0, "C = {c}: {found:?}");
        last = found.weights.length;
    }
    // A penalty that strong leaves nothing.
    let none = fixed(1e-4, &rows, None).expect("prompts");
    assert!(none.weights == Weights::default() && (none.win_rate - 0.5).abs() <= 0.0);
}

#[test]
fn two_models_meet_over_their_baseline() {
    let (rows, difficulty) = eight();
    let found = fixed(100.0, &rows, Some(&difficulty)).expect("eight prompts");
    let baseline = Weights::default();
    let against_baseline = head_to_head(found.weights, baseline, &difficulty).expect("difficulties");
    close(against_baseline, found.win_rate, 1e-15);
    let other = Weights { length: -9.0, difficulty: -0.4, model: 1.3 };
    let there = head_to_head(found.weights, other, &difficulty).expect("difficulties");
    let back = head_to_head(other, found.weights, &difficulty).expect("difficulties");
    close(there + back, 1.0, 1e-15);
    // σ(−1.3 + 0.4 · 2) of one prompt.
    let one = head_to_head(baseline, other, &[2.0]).expect("a difficulty");
    close(one, 1.0 / (1.0 + 0.5f64.exp()), 1e-15);
    assert!(head_to_head(baseline, other, &[]).is_err());
    assert!(head_to_head(baseline, other, &[f64::INFINITY]).is_err());
}

#[test]
fn bad_numbers_are_named() {
    let (rows, difficulty) = eight();
    let text = |found: Result<LengthControlled, EvalError>| found.expect_err("bad input").to_string();
    let judged = Judged { rows: &rows, difficulty: Some(&difficulty), regularization: None };
    let folds = |folds| text(length_controlled(&judged, Penalty::CrossValidated { folds }));
    assert_eq!(
        folds(9),
        "length-controlled win rate, rows to divide into folds: expected at least 9 values, found 8"
    );
    assert_eq!(folds(1), "folds of the length-controlled fit: expected at least 2, found 1");
    for c in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        assert!(
            text(fixed(c, &rows, None)).starts_with("C of the length-controlled fit: expected a positive")
        );
    }
    let mut wrong = rows.clone();
    wrong[3].preference = Some(1.9);
    assert_eq!(
        text(fixed(1.0, &wrong, None)),
        "length-controlled win rate: expected a number from 0 to 1, found 1.9 at index 3"
    );
    assert_eq!(
        text(fixed(1.0, &rows, Some(&difficulty[1..]))),
        "length-controlled win rate, prompts and difficulties: expected two slices of one length, found 8 and 7"
    );
    let mut nan = difficulty.clone();
    nan[5] = f64::NAN;
    assert_eq!(
        text(fixed(1.0, &rows, Some(&nan))),
        "difficulty: expected finite values, found NaN at index 5"
    );
    let same = [rows[0]; 3];
    assert_eq!(
        text(fixed(1.0, &same, None)),
        "length-controlled win rate, differences of length: expected values that differ, found 300 everywhere"
    );
    assert!(matches!(fixed(1.0, &rows[..1], None), Err(EvalError::TooFew { expected: 2, found: 1, .. })));
    let silent = [rows[0], rows[1]].map(|row| Compared { preference: None, ..row });
    assert_eq!(
        text(fixed(1.0, &silent, None)),
        "length-controlled win rate, answers: expected at least 1 values, found 0"
    );
    let gamed = [Gamed { preference: -0.5, scaled_difference: 0.0, difficulty: 0.0 }];
    let regularized = |weight| {
        let regularization = Some(Regularization { rows: &gamed, weight });
        text(length_controlled(&Judged { regularization, ..judged }, Penalty::Fixed(1.0)))
    };
    assert_eq!(
        regularized(0.1),
        "gamed rows, preference: expected a number from 0 to 1, found -0.5 at index 0"
    );
    assert_eq!(regularized(-0.1), "weight of the gamed rows: expected a positive finite number, found -0.1");
}
