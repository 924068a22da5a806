use super::*;

/// Answers of one token each, so that they can be told apart.
fn answers(k: u32) -> Vec<Sequence> {
    (0..k).map(|i| Sequence::new(&[9], &[i])).collect()
}

fn judged(probs: &[f64], k: u32) -> Judged {
    Judged::new(7, answers(k), probs).expect("probabilities")
}

fn text<T: std::fmt::Debug>(result: Result<T, StepError>) -> String {
    result.expect_err("refused").to_string()
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "expected {expected}, found {found}");
}

#[test]
fn pair_rm_of_three_answers_reaches_the_pair_unchanged() {
    // M = [[0, 1.2, −0.3], [−1, 0, −2.1], [0.5, 1.9, 0]]: σ of half the difference of both orders.
    let m = [[0.0, 1.2, -0.3], [-1.0, 0.0, -2.1], [0.5, 1.9, 0.0f64]];
    let prob = |(i, j): (usize, usize)| 1.0 / (1.0 + (-0.5 * (m[i][j] - m[j][i])).exp());
    let judged = judged(&pairs(3).map(prob).collect::<Vec<_>>(), 3);
    let rates = judged.win_rates(Scoring::PairRm);
    for (found, expected) in rates.iter().zip([0.556_664_1, 0.199_492_9, 0.743_843_0]) {
        close(*found, expected, 5e-8);
    }
    let all = examples(&[judged], Rows::BestWorst, Scoring::PairRm);
    let Shown::Pair { chosen, rejected, prob } = &all[0].shown else { panic!("a pair") };
    assert_eq!((all.len(), all[0].prompt), (1, 7));
    assert_eq!((&chosen.sequence.tokens, &rejected.sequence.tokens), (&vec![9, 2], &vec![9, 1]));
    close(*prob, 0.975_075_6, 5e-8);
    close(chosen.win_rate, 0.743_843_0, 5e-8);
    close(rejected.win_rate, 0.199_492_9, 5e-8);
    // Targets of the square at η = 1000 for scores (2, 1, 0, −1, −2): ±309.28871.
    let scores = [2.0, 1.0, 0.0, -1.0, -2.0f64];
    let prob = |(i, j): (usize, usize)| 1.0 / (1.0 + (-0.5 * (scores[i] - scores[j])).exp());
    let five = Judged::new(0, answers(5), &pairs(5).map(prob).collect::<Vec<_>>()).expect("fine");
    // Mean differences of these half-logits are the scores themselves.
    let rates = five.win_rates(Scoring::PairRm);
    close(1000.0 * (rates[0] - 0.5), 309.28871, 5e-6);
    close(1000.0 * (rates[4] - 0.5), -309.28871, 5e-6);
}

#[test]
fn a_cycle_is_kept_raw_and_lost_by_scores() {
    // 0 beats 1, 1 beats 2, 2 beats 0, each with 0.9: nobody is best, and every answer still has its row.
    let cycle = judged(&[0.9, 0.1, 0.9], 3);
    for how in [Scoring::Raw, Scoring::PairRm] {
        cycle.win_rates(how).iter().for_each(|rate| close(*rate, 0.5, 1e-12));
        let BestWorst { best, worst } = cycle.best_worst(how);
        assert_ne!(best, worst, "two answers");
    }
    let prob = |how| match &examples(std::slice::from_ref(&cycle), Rows::BestWorst, how)[0].shown {
        Shown::Pair { prob, .. } => *prob,
        Shown::Single(_) => f64::NAN,
    };
    close((prob(Scoring::Raw) - 0.5).abs(), 0.4, 1e-12);
    close(prob(Scoring::PairRm), 0.5, 1e-12);
}

#[test]
fn all_rows_are_all_answers_in_order() {
    let two = [judged(&[0.75], 2), judged(&[0.5, 1.0, 0.5], 3)];
    let all = examples(&two, Rows::All, Scoring::Raw);
    let rates: Vec<f64> = all.iter().map(|e| e.responses()[0].win_rate).collect();
    let last: Vec<u32> = all.iter().map(|e| e.responses()[0].sequence.tokens[1]).collect();
    assert_eq!(last, [0, 1, 0, 1, 2]);
    for (found, expected) in rates.iter().zip([0.625, 0.375, 2.0 / 3.0, 0.5, 1.0 / 3.0]) {
        close(*found, expected, 1e-15);
    }
}

#[test]
fn an_opponents_answers_are_averaged() {
    let table = [vec![1.0, 0.5], vec![0.25, 0.25]];
    let all = against(3, answers(2), &table).expect("probabilities");
    close(all[0].responses()[0].win_rate, 0.75, 1e-15);
    close(all[1].responses()[0].win_rate, 0.25, 1e-15);
    let wrong = |table: &[Vec<f64>]| text(against(3, answers(2), table));
    assert_eq!(wrong(&table[..1]), "prompt 3: lists of preferences: expected 2, one an answer, found 1");
    assert_eq!(wrong(&[vec![], vec![]]), "prompt 3: opponent's answers: expected at least 1, found 0");
    assert_eq!(
        wrong(&[vec![0.5], vec![0.5, 0.5]]),
        "prompt 3: preferences of an answer: expected 1, as the first has, found 2"
    );
    assert_eq!(
        wrong(&[vec![0.5, 0.5], vec![0.5, f64::NAN]]),
        "prompt 3, answers 1 and 1: preference: expected a number from 0 to 1, found NaN"
    );
}

#[test]
fn what_is_refused_is_named() {
    let of = |k: u32, probs: &[f64]| text(Judged::new(7, answers(k), probs));
    assert_eq!(of(1, &[]), "prompt 7: answers: expected at least 2, to be compared, found 1");
    assert_eq!(
        of(3, &[0.5; 2]),
        "prompt 7: preferences: expected 3, one for every two of 3 answers, found 2"
    );
    for bad in [f64::NAN, f64::INFINITY, 1.5, -0.1] {
        assert_eq!(
            of(3, &[0.5, 0.5, bad]),
            format!("prompt 7, answers 1 and 2: preference: expected a number from 0 to 1, found {bad}")
        );
    }
}

#[test]
fn data_always_wins() {
    let example = data_pair(4, Sequence::new(&[1], &[2]), Sequence::new(&[1], &[3, 4]));
    let Shown::Pair { chosen, rejected, prob } = &example.shown else { panic!("a pair") };
    assert_eq!(
        [chosen.win_rate, rejected.win_rate, *prob].map(f64::to_bits),
        [1f64, 0.0, 1.0].map(f64::to_bits)
    );
    assert_eq!(rejected.sequence.tokens, [1, 3, 4]);
}
