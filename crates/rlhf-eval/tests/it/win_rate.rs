//! AlpacaEval's preferences and win rates, and intervals clustered by prompt.

use rlhf_eval::error::EvalError;
use rlhf_eval::stats::{LEVEL_95, mean_interval};
use rlhf_eval::win_rate::{AnswerLogp, Shown, alpaca_preference, from_alpaca, win_rate, win_rate_by_prompt};

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() < tolerance, "expected {expected}, found {found}");
}

fn answers(list: &[(&'static str, f64)]) -> Vec<AnswerLogp<'static>> {
    list.iter().map(|(token, logp)| AnswerLogp { token, logp: *logp }).collect()
}

#[test]
fn a_judged_pair_gives_alpaca_evals_number() {
    let top =
        answers(&[("M", -0.017_597_131), ("m", -4.048_847), ("Both", -14.908_222), ("The", -15.705_097)]);
    let found = alpaca_preference(&top, Shown::BaselineFirst).expect("valid").expect("an answer");
    close(found, 1.982_557_51, 5e-9);
    let turned = alpaca_preference(&top, Shown::ModelFirst).expect("valid").expect("an answer");
    close(found + turned, 3.0, 1e-15);
    close(from_alpaca(found).expect("valid"), 0.982_557_51, 5e-9);
}

#[test]
fn a_name_that_is_not_listed_is_impossible() {
    let of = |list: &[(&'static str, f64)]| alpaca_preference(&answers(list), Shown::BaselineFirst);
    assert_eq!(of(&[("m", -0.2), ("x", -2.0)]), Ok(Some(1.0)));
    assert_eq!(of(&[("M", -3.0)]), Ok(Some(2.0)));
    assert_eq!(of(&[("M", -900.0), ("m", -900.0)]), Ok(Some(1.5)));
    assert_eq!(of(&[("Both", -0.1)]), Ok(None));
    assert_eq!(of(&[("m", f64::NEG_INFINITY), ("M", f64::NEG_INFINITY)]), Ok(None));
    assert_eq!(
        of(&[("m", -0.1), ("x", 0.5)]).expect_err("a probability above 1").to_string(),
        "the judge's log-probabilities: expected a number of at most 0, found 0.5 at index 1"
    );
    assert!(of(&[("M", f64::NAN)]).is_err());
}

#[test]
fn the_scale_runs_from_one_to_two_and_zero_is_a_draw() {
    let of = |preference| from_alpaca(preference);
    assert_eq!([of(0.0), of(1.0), of(1.5), of(2.0)], [Ok(0.5), Ok(0.0), Ok(0.5), Ok(1.0)]);
    for wrong in [0.5, 2.1, -1.0, f64::NAN] {
        assert!(matches!(of(wrong), Err(EvalError::Range { .. })), "{wrong}");
    }
}

#[test]
fn win_rates_by_hand() {
    // Preferences 1.9825…, 1, 1.5, 2 and 1.25 of AlpacaEval, and one without an answer.
    let y = [Some(0.982_557_51), Some(0.0), Some(0.5), None, Some(1.0), Some(0.25)];
    let found = win_rate(&y).expect("five answers");
    let mean = 2.732_557_51 / 5.0;
    close(found.win_rate, mean, 1e-15);
    // Squares of the deviations, over 4 and over 5.
    let squares: f64 = y.iter().flatten().map(|y| (y - mean).powi(2)).sum();
    close(found.standard_error, (squares / 20.0).sqrt(), 1e-15);
    close(found.discrete_win_rate, 2.5 / 5.0, 1e-15);
    assert_eq!((found.wins, found.losses, found.draws, found.unanswered), (2, 2, 1, 1));
}

#[test]
fn prompts_of_one_size_have_the_interval_of_their_means() {
    let prompts = [vec![0.9, 0.7], vec![0.2, 0.4], vec![0.5, 1.0], vec![0.6, 0.6]];
    let found = win_rate_by_prompt(&prompts, LEVEL_95).expect("four prompts");
    let means = mean_interval(&[0.8, 0.3, 0.75, 0.6], LEVEL_95).expect("four means");
    close(found.interval.estimate, means.estimate, 1e-15);
    close(found.interval.low, means.low, 1e-12);
    close(found.interval.high, means.high, 1e-12);
    assert_eq!((found.prompts, found.comparisons), (4, 8));
}

#[test]
fn prompts_of_unlike_sizes_weigh_by_their_comparisons() {
    let found = win_rate_by_prompt(&[vec![0.9, 0.9], vec![0.4, 0.1, 0.0]], LEVEL_95).expect("two prompts");
    close(found.interval.estimate, 2.3 / 5.0, 1e-15);
    // Deviations 0.88 and 0.5 − 1.38 = −0.88: √(2 · 2 · 0.88²) / 5.
    close(found.standard_error, 2.0 * 0.88 / 5.0, 1e-15);
    // One degree of freedom: the interval is everything.
    assert!(found.interval.low.abs() <= 0.0 && (found.interval.high - 1.0).abs() <= 0.0);
    // Repeating what a prompt says tells nothing new.
    let once = win_rate_by_prompt(&[[0.9], [0.3], [0.6]], LEVEL_95).expect("three prompts");
    let often = win_rate_by_prompt(&[[0.9; 7], [0.3; 7], [0.6; 7]], LEVEL_95).expect("three prompts");
    close(once.standard_error, often.standard_error, 1e-15);
}

#[test]
fn what_is_no_preference_is_named() {
    let text = |error: EvalError| error.to_string();
    assert_eq!(
        text(win_rate(&[Some(0.5), None, Some(1.5)]).expect_err("above 1")),
        "win rate: expected a number from 0 to 1, found 1.5 at index 2"
    );
    assert_eq!(
        text(win_rate(&[Some(f64::NAN), Some(0.1)]).expect_err("NaN")),
        "win rate: expected a number from 0 to 1, found NaN at index 0"
    );
    assert_eq!(
        text(win_rate(&[Some(0.5), None]).expect_err("one answer")),
        "win rate, answers: expected at least 2 values, found 1"
    );
    assert_eq!(
        text(win_rate_by_prompt(&[vec![0.5], vec![]], LEVEL_95).expect_err("an empty prompt")),
        "win rate, comparisons of a prompt: expected at least one, found 0 at index 1"
    );
    assert_eq!(
        text(win_rate_by_prompt(&[vec![0.5, 0.5], vec![0.1, -0.1]], LEVEL_95).expect_err("below 0")),
        "win rate: expected a number from 0 to 1, found -0.1 at index 3"
    );
    assert!(win_rate_by_prompt(&[vec![0.5]], LEVEL_95).is_err());
    assert!(win_rate_by_prompt(&[[0.5], [0.4]], 1.0).is_err());
}
