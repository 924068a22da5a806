//! A reward score is the same to the bit whatever stands beside the row.

use rlhf_policy::classifier::Classifier;

use serde_json::json;

use crate::support::{bits, classifier, close, devices, rows, small, with};

/// Rows within one block of columns, at its edges, and beyond.
const LENGTHS: [usize; 10] = [1, 2, 31, 32, 33, 5, 64, 65, 100, 17];

fn alone(model: &Classifier, rows: &[Vec<u32>]) -> Vec<f64> {
    rows.iter().map(|r| model.score_rows(std::slice::from_ref(r), 0, 1)[0]).collect()
}

#[test]
fn alone_and_in_any_company_to_the_bit() {
    for device in devices() {
        // Two widths: one below and one above the block sizes of the matrix products.
        for hidden in [16, 96] {
            let config = with(&small(), &json!({"hidden_size": hidden, "intermediate_size": 2 * hidden}));
            let model = classifier(&config, 41, &device);
            let rows = rows(42, 32, &LENGTHS);
            let expected = alone(&model, &rows);
            assert!(expected.windows(2).all(|w| (w[0] - w[1]).abs() > 1e-4), "scores differ: {expected:?}");
            for max_rows in [1, 2, 3, 7, 64] {
                assert_eq!(bits(&model.score_rows(&rows, 0, max_rows)), bits(&expected), "{max_rows} rows");
            }
            let turned: Vec<Vec<u32>> = rows.iter().rev().cloned().collect();
            let mut back = model.score_rows(&turned, 0, 4);
            back.reverse();
            assert_eq!(bits(&back), bits(&expected), "in reverse order");
            assert_eq!(bits(&model.score_rows(&rows, 23, 64)), bits(&expected), "another pad token");
            // Many copies of one row: the batch's size must not matter either.
            let copies = vec![rows[5].clone(); 40];
            assert!(model.score_rows(&copies, 0, 40).iter().all(|s| s.to_bits() == expected[5].to_bits()));
        }
    }
}

#[test]
fn the_batch_for_training_has_the_same_scores_but_for_rounding() {
    let model = classifier(&small(), 41, &devices()[0]);
    let rows = rows(42, 32, &LENGTHS);
    let refs: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let batch: Vec<f64> = model.scores(&refs, 0).into_data().convert::<f64>().try_into_vec().expect("f64");
    for (found, expected) in batch.iter().zip(alone(&model, &rows)) {
        close("score", *found, expected, 1e-5);
    }
    assert!(model.score_rows(&[], 0, 4).is_empty());
}

#[test]
fn every_token_of_a_row_counts_and_nothing_behind_it() {
    let model = classifier(&small(), 41, &devices()[0]);
    let row: Vec<u32> = (2..12).collect();
    let score = |r: &[u32]| model.score_rows(&[r.to_vec()], 0, 1)[0];
    for i in 0..row.len() {
        let mut other = row.clone();
        other[i] = 20;
        assert!((score(&row) - score(&other)).abs() > 1e-6, "token {i}");
    }
    assert!((score(&row) - score(&row[..9])).abs() > 1e-4);
}

#[test]
fn padding_at_the_end_of_a_row_is_not_read() {
    // As in `transformers`: the last token that is not `pad_token_id`, the first where every one is.
    let device = &devices()[0];
    let config = with(&small(), &json!({"pad_token_id": 7}));
    let model = classifier(&config, 41, device);
    let score = |row: &[u32]| model.score_rows(&[row.to_vec()], 0, 1)[0];
    assert_eq!(bits(&[score(&[3, 4, 7, 7])]), bits(&[score(&[3, 4])]));
    assert_eq!(
        bits(&[score(&[3, 7, 4])]),
        bits(&[classifier(&small(), 41, device).score_rows(&[vec![3, 7, 4]], 0, 1)[0]])
    );
    assert_eq!(bits(&[score(&[7, 7])]), bits(&[score(&[7])]));
    let without = classifier(&small(), 41, device);
    let read = without.score_rows(&[vec![3, 4, 7]], 0, 1)[0];
    assert!((read - score(&[3, 4, 7])).abs() > 1e-6, "without a padding token the last one is read");
}
