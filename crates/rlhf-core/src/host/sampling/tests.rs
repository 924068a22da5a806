//! Small rows whose answer can be read off, ties included.

use super::*;
use crate::rng::stream;

const GONE: f32 = f32::NEG_INFINITY;

fn kept(sampling: Sampling, logits: &[f32]) -> Vec<usize> {
    let mut row = logits.to_vec();
    sampling.process(&mut row, &[], &[], 0);
    (0..row.len()).filter(|i| row[*i] > GONE).collect()
}

fn log_probs(p: &[f32]) -> Vec<f32> {
    p.iter().map(|p| p.ln()).collect()
}

#[test]
fn plain_changes_no_bit() {
    let row = [0.1f32, -3.7, 12.5];
    let mut found = row;
    Sampling::plain().process(&mut found, &[0, 1], &[2], 0);
    assert_eq!(found.map(f32::to_bits), row.map(f32::to_bits));
}

#[test]
fn top_k_keeps_ties_of_the_kth() {
    let top = |k| Sampling { top_k: k, ..Sampling::plain() };
    assert_eq!(kept(top(2), &[1.0, 3.0, 2.0, 2.0]), [1, 2, 3]);
    assert_eq!(kept(top(9), &[1.0, 3.0]), [0, 1]);
}

#[test]
fn top_p_keeps_the_later_tie_and_always_one() {
    let top = |p| Sampling { top_p: p, ..Sampling::plain() };
    let row = log_probs(&[0.4, 0.2, 0.2, 0.2]);
    assert_eq!(kept(top(0.5), &row), [0, 3]);
    assert_eq!(kept(top(0.7), &row), [0, 2, 3]);
    assert_eq!(kept(top(0.0), &row), [0]);
    // The mass above the second is exactly p: it goes.
    assert_eq!(kept(top(0.5), &[0.0, 0.0]), [1]);
    // The two zeros are equal, and negative logits sort as numbers do: −1 above −2.
    assert_eq!(kept(top(0.3), &[0.0, -0.0]), [1]);
    assert_eq!(kept(top(0.5), &[-2.0, -1.0, -3.0]), [1]);
    // So do positive ones: shares 0.665, 0.090 and 0.245; and both together: 0.705, 0.035 and 0.259.
    assert_eq!(kept(top(0.5), &[3.0, 1.0, 2.0]), [0]);
    assert_eq!(kept(top(0.9), &[2.0, -1.0, 1.0]), [0, 2]);
}

#[test]
fn top_p_of_a_long_flat_row_counts_right() {
    // 10,000 equal tokens, 62.505 %: more than two rounds of the growing front.
    let row = vec![0.5f32; 10_000];
    let keep = kept(Sampling { top_p: 0.62505, ..Sampling::plain() }, &row);
    assert_eq!((keep.len(), keep[0]), (6251, 3749));
}

#[test]
fn min_p_is_relative_to_the_largest() {
    let row = log_probs(&[0.5, 0.26, 0.24]);
    assert_eq!(kept(Sampling { min_p: 0.5, ..Sampling::plain() }, &row), [0, 1]);
}

#[test]
fn epsilon_keeps_the_best_when_none_reaches_it() {
    let row = log_probs(&[0.5, 0.3, 0.2]);
    let cut = |epsilon_cutoff| Sampling { epsilon_cutoff, ..Sampling::plain() };
    assert_eq!(kept(cut(0.25), &row), [0, 1]);
    assert_eq!(kept(cut(0.9), &row), [0]);
}

#[test]
fn typical_may_drop_the_likeliest() {
    // Surprises 0.69, 1.61 (three times), 2.30; entropy 1.54: the three are nearest.
    let row = log_probs(&[0.5, 0.2, 0.1, 0.2]);
    let entropy: f64 = [0.5f64, 0.2, 0.1, 0.2].iter().map(|p| -p * p.ln()).sum();
    assert!((entropy - 1.2206).abs() < 1e-4);
    assert_eq!(kept(Sampling { typical_p: 0.3, ..Sampling::plain() }, &row), [1, 3]);
    assert_eq!(kept(Sampling { typical_p: 0.6, ..Sampling::plain() }, &row), [0, 1, 3]);
}

#[test]
fn repetition_pushes_both_signs_down_once() {
    let mut row = [2.0f32, -2.0, 2.0];
    Sampling { repetition_penalty: 2.0, ..Sampling::plain() }.process(&mut row, &[0, 0, 1, 77], &[], 0);
    assert_eq!(row.map(f32::to_bits), [1.0f32, -4.0, 2.0].map(f32::to_bits));
}

#[test]
fn ngrams_do_not_repeat() {
    let banned = |n, history: &[u32]| -> Vec<usize> {
        let mut row = [0.0f32; 5];
        Sampling { no_repeat_ngram_size: n, ..Sampling::plain() }.process(&mut row, history, &[], 0);
        (0..5).filter(|i| row[*i] <= GONE).collect()
    };
    assert_eq!(banned(2, &[1, 2, 3, 1]), [2]);
    assert_eq!(banned(3, &[1, 2, 3, 1, 2]), [3]);
    assert_eq!(banned(1, &[1, 2, 1]), [1, 2]);
    assert!(banned(3, &[1]).is_empty() && banned(2, &[]).is_empty());
}

#[test]
fn the_end_waits_for_its_turn_even_when_greedy() {
    let sampling = Sampling { min_new_tokens: 2, ..Sampling::greedy() };
    let mut rng = stream(0, "test", 0, 0);
    for (n_new, expected) in [(1, 0), (2, 1)] {
        assert_eq!(sampling.choose(&mut [0.0, 5.0], &[], &[1], n_new, &mut rng).token, expected);
    }
}

#[test]
fn greedy_takes_the_first_of_equals() {
    assert!(Sampling::greedy().is_greedy() && !Sampling::plain().is_greedy());
    let draw = greedy(&[1.0, 2.0, 2.0]);
    assert_eq!(draw.token, 1);
    assert!((draw.logp + (2.0 + (-1f64).exp()).ln()).abs() < 1e-15);
}

#[test]
fn a_broken_row_says_so() {
    let mut rng = stream(0, "test", 0, 0);
    for row in [[GONE; 3], [0.0, f32::NAN, 1.0], [f32::INFINITY, 0.0, 0.0]] {
        assert!(draw(&row, &mut rng).logp.is_nan(), "{row:?}");
        assert!(greedy(&row).logp.is_nan(), "{row:?}");
    }
    // No processor may hide it.
    let all = Sampling { top_k: 2, top_p: 0.9, min_p: 0.1, typical_p: 0.9, ..Sampling::plain() };
    let all = Sampling { epsilon_cutoff: 0.1, repetition_penalty: 1.1, ..all };
    let mut row = [0.0, f32::NAN, 1.0, 0.5];
    assert!(all.choose(&mut row, &[0, 1], &[], 0, &mut rng).logp.is_nan(), "{row:?}");
}

#[test]
fn draws_follow_the_probabilities() {
    // 1,000 tokens over four blocks, weight i: chi-square of ten bands, 9 degrees of freedom;
    // 33.7 is its 99.99 % point.
    let row: Vec<f32> = (0..1000).map(|i| (i as f32).ln()).collect();
    let n = 20_000;
    let mut bands = [0.0f64; 10];
    for i in 0..n {
        let found = draw(&row, &mut stream(1, "test", 0, i));
        bands[found.token as usize / 100] += 1.0;
        assert!((found.logp - (f64::from(found.token) / 499_500.0).ln()).abs() < 1e-6);
    }
    let mut chi = 0.0;
    for (b, count) in bands.iter().enumerate() {
        let weight: usize = (b * 100..b * 100 + 100).sum();
        let expected = n as f64 * weight as f64 / 499_500.0;
        chi += (count - expected).powi(2) / expected;
    }
    assert!(chi < 33.7, "chi-square {chi}");
}

#[test]
fn a_draw_never_takes_a_removed_token() {
    let mut row = vec![GONE; 600];
    row[299] = -1.0;
    row[511] = -1.0;
    let found: Vec<u32> = (0..200).map(|i| draw(&row, &mut stream(2, "test", 0, i)).token).collect();
    assert!(found.iter().all(|t| *t == 299 || *t == 511));
    assert!(found.contains(&299) && found.contains(&511));
}

#[test]
fn numbers_are_checked_when_read() {
    let read = |s: &str| serde_json::from_str::<Sampling>(s);
    assert_eq!(read("{}").expect("all off"), Sampling::plain());
    assert_eq!(read("{\"top_p\": 0.95}").expect("one key"), Sampling { top_p: 0.95, ..Sampling::plain() });
    let error = read("{\"top_p\": 1.5}").expect_err("too much").to_string();
    assert!(error.starts_with("top_p: expected a number from 0 to 1, found 1.5"), "{error}");
    assert!(read("{\"repetition_penalty\": 0}").is_err() && read("{\"temperature\": -1}").is_err());
    assert!(read("{\"topp\": 0.5}").is_err());
    let text = serde_json::to_string(&Sampling::greedy()).expect("plain numbers");
    assert_eq!(read(&text).expect("its own text"), Sampling::greedy());
}
