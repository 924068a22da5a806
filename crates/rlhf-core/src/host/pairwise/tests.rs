use super::*;
use crate::loss::gpm::gpm_score_scalar;

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "expected {expected}, found {found}");
    }
}

/// Three answers of one PairRM step; the digits below are its scores and win rates.
fn logits() -> Vec<Vec<f64>> {
    vec![vec![0.0, 1.2, -0.3], vec![-1.0, 0.0, -2.1], vec![0.5, 1.9, 0.0]]
}

#[test]
fn a_pair_rm_step_by_hand() {
    let scores = pair_rm_scores(&logits()).expect("three answers");
    // (2.2 − 0.8) / 3, (−2.2 − 4) / 3, (0.8 + 4) / 3.
    close(&scores, &[1.4 / 3.0, -6.2 / 3.0, 1.6], 1e-15);
    let table = Preferences::from_scores(&scores).expect("finite");
    close(&table.win_rates(), &[0.556_664_1, 0.199_492_9, 0.743_843_0], 5e-8);
    let pair = best_and_worst(&scores).expect("finite");
    assert_eq!((pair.best, pair.worst), (2, 1));
    assert_eq!(table.best_and_worst(), pair);
    assert!((table.prob(2, 1) - 0.975_075_6).abs() < 5e-8);
}

#[test]
fn five_scores_give_targets_of_three_hundred() {
    let table = Preferences::from_scores(&[2.0, 1.0, 0.0, -1.0, -2.0]).expect("finite");
    let rates = table.win_rates();
    close(&rates, &[0.809_288_7, 0.666_674_2, 0.5, 0.333_325_8, 0.190_711_3], 5e-8);
    // η (P − ½) at η = 1000.
    close(&[1e3 * (rates[0] - 0.5), 1e3 * (rates[4] - 0.5)], &[309.288_71, -309.288_71], 5e-6);
}

#[test]
fn probabilities_lead_to_the_scores_of_the_logits_they_came_from() {
    let raw = Preferences::from_logits(&logits()).expect("three answers");
    // σ((1.2 + 1) / 2).
    assert!((raw.prob(0, 1) - 1.0 / (1.0 + (-1.1f64).exp())).abs() < 1e-15);
    close(&raw.pair_rm_scores(), &pair_rm_scores(&logits()).expect("three answers"), 1e-14);
    assert_eq!(raw.scored(Scoring::Raw), raw);
    let ranked = raw.scored(Scoring::PairRm);
    close(&ranked.win_rates(), &[0.556_664_1, 0.199_492_9, 0.743_843_0], 5e-8);
}

#[test]
fn one_number_an_answer_destroys_a_cycle() {
    let v = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]];
    let score = |i: usize, j: usize| gpm_score_scalar::<f64>(&v[i], &v[j]);
    // M = S / τ at τ = 0.1: S is skew, so σ((M − Mᵀ) / 2) is σ(S / τ).
    let m: Vec<Vec<f64>> = (0..3).map(|i| (0..3).map(|j| score(i, j) / 0.1).collect()).collect();
    let raw = Preferences::from_logits(&m).expect("three answers");
    for (i, j) in [(0, 1), (1, 2), (2, 0)] {
        assert!(raw.prob(i, j) > 0.9999, "{i} beats {j}");
    }
    close(&raw.pair_rm_scores(), &[0.0; 3], 1e-9);
    for row in raw.scored(Scoring::PairRm).rows() {
        close(row, &[0.5; 3], 1e-9);
    }
    // The first answer was drawn twice: whoever beats it has the highest raw win rate.
    let twice: Vec<Vec<f64>> =
        [0, 0, 1, 2].map(|i| [0, 0, 1, 2].map(|j| score(i, j) / 0.1).to_vec()).to_vec();
    let raw = Preferences::from_logits(&twice).expect("four answers");
    assert_eq!(raw.best_and_worst(), BestWorst { best: 3, worst: 2 });
}

#[test]
fn certain_preferences_have_finite_scores_in_the_same_order() {
    let p = Preferences::from_pairs(3, &[Prob::ONE, Prob::ONE, Prob::ONE]).expect("three answers");
    let scores = p.pair_rm_scores();
    let bound = (2.0 / 3.0) * 2.0 * ((1.0 - CERTAIN) / CERTAIN).ln();
    close(&scores, &[bound, 0.0, -bound], 1e-7);
    close(&p.win_rates(), &[2.5 / 3.0, 0.5, 0.5 / 3.0], 1e-15);
    assert_eq!(p.scored(Scoring::PairRm).best_and_worst(), BestWorst { best: 0, worst: 2 });
}

#[test]
fn a_pair_is_two_answers_even_among_equals() {
    let of = |scores: &[f64]| best_and_worst(scores).map(|pair| [pair.best, pair.worst]);
    assert_eq!(of(&[1.0; 4]), Ok([0, 1]));
    assert_eq!(of(&[0.0, 1.0, 0.0, 1.0]), Ok([1, 0]));
    assert_eq!(of(&[3.0, 2.0, 2.0]), Ok([0, 1]));
    assert_eq!(of(&[1.0, 2.0]), Ok([1, 0]));
    assert_eq!(of(&[5.0]), Err(PairwiseError::TooFew { what: "scores", found: 1 }));
    let error = of(&[5.0, f64::NAN]).expect_err("NaN");
    assert_eq!(error.to_string(), "scores: entry 1: expected a finite number, found NaN");
}

#[test]
fn pairs_are_asked_for_once_and_filled_in_both_ways() {
    assert_eq!(pairs(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
    assert_eq!(pairs(1).count() + pairs(0).count(), 0);
    let probs = [0.9, 0.2, 0.8].map(|p| Prob::new(p).expect("a probability"));
    let table = Preferences::from_pairs(3, &probs).expect("three answers");
    close(&table.rows()[2], &[0.8, 1.0 - 0.8, 0.5], 1e-15);
    assert_eq!(Preferences::new(table.rows().to_vec()), Ok(table));
}

#[test]
#[should_panic(expected = "preferences of 3 answers: expected 3 pairs")]
fn another_number_of_pairs_is_a_mistake_in_the_code() {
    let _ = Preferences::from_pairs(3, &[Prob::ONE]);
}

#[test]
fn what_is_no_table_of_preferences_is_named() {
    let message = |rows: &[&[f64]]| {
        let rows = rows.iter().map(|row| row.to_vec()).collect();
        Preferences::new(rows).expect_err("no table").to_string()
    };
    assert_eq!(message(&[&[0.5]]), "preferences: expected at least 2 answers, found 1");
    assert_eq!(message(&[]), "preferences: expected at least 2 answers, found 0");
    assert_eq!(
        message(&[&[0.5, 0.5], &[0.5]]),
        "preferences: row 1: expected 2 entries, one an answer, found 1"
    );
    assert_eq!(
        message(&[&[0.5, 1.5], &[-0.5, 0.5]]),
        "preferences: entry (0, 1): expected a number from 0 to 1, found 1.5"
    );
    assert_eq!(
        message(&[&[0.5, 0.5], &[f64::NAN, 0.5]]),
        "preferences: entry (1, 0): expected a number from 0 to 1, found NaN"
    );
    assert_eq!(
        message(&[&[0.5, 0.75], &[0.5, 0.5]]),
        "preferences: entries (0, 1) and (1, 0): expected a sum of 1, found 1.25"
    );
    assert_eq!(
        message(&[&[0.5, 0.75], &[0.25, 1.0]]),
        "preferences: entries (1, 1) and (1, 1): expected a sum of 1, found 2"
    );
    let infinite = [vec![0.0, f64::INFINITY], vec![0.0, 0.0]];
    let expected = "logits: entry (0, 1): expected a finite number, found inf";
    assert_eq!(Preferences::from_logits(&infinite).expect_err("infinite").to_string(), expected);
    assert_eq!(pair_rm_scores(&infinite).expect_err("infinite").to_string(), expected);
}

#[test]
fn a_table_is_checked_when_it_is_read() {
    let table: Preferences = serde_json::from_str("[[0.5,0.7],[0.3,0.5]]").expect("a table");
    assert_eq!(serde_json::to_string(&table).expect("written"), "[[0.5,0.7],[0.3,0.5]]");
    let error = serde_json::from_str::<Preferences>("[[0.5,2.0],[-1.0,0.5]]").expect_err("no table");
    assert!(error.to_string().contains("entry (0, 1): expected a number from 0 to 1"), "{error}");
    // What f32 leaves of a sum is kept as it stands.
    let rounded = Preferences::new(vec![vec![0.5, 0.3], vec![0.700_000_05, 0.5]]).expect("within rounding");
    assert!((rounded.prob(1, 0) - 0.700_000_05).abs() <= 0.0);
}
