//! Any cut of an accumulation window gives the same gradient.

use burn::tensor::Device;
use rlhf_policy::batch::{Batch, Sequence};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::Grads;
use rlhf_policy::sft::{evaluate, gradients, token_losses};

use crate::support::{close, decoder, devices, logits, rows, small};

/// Prompt and completion lengths far apart: a mean over rows would be another number.
fn window() -> Vec<Sequence> {
    let prompts = rows(31, 32, &[1, 9, 3, 20, 2]);
    let completions = rows(32, 32, &[1, 30, 2, 7, 12]);
    prompts.iter().zip(&completions).map(|(p, c)| Sequence::new(p, c)).collect()
}

fn policy() -> Decoder {
    decoder(&small(), 17, &Device::flex().autodiff())
}

/// Every parameter's gradient and the largest entry of all.
fn host(grads: &Grads) -> (Vec<(String, Vec<f32>)>, f32) {
    let all: Vec<_> = grads.names().map(|n| (n.to_owned(), grads.host(n).expect("named"))).collect();
    let largest = all.iter().flat_map(|(_, g)| g).fold(0.0f32, |m, x| m.max(x.abs()));
    (all, largest)
}

#[track_caller]
fn same(what: &str, found: &Grads, expected: &Grads) {
    let ((found, _), (expected, largest)) = (host(found), host(expected));
    assert!(largest > 1e-2, "{what}: a gradient to speak of");
    assert_eq!(found.len(), expected.len(), "{what}");
    for ((name, f), (other, e)) in found.iter().zip(&expected) {
        assert_eq!(name, other);
        for (f, e) in f.iter().zip(e) {
            assert!((f - e).abs() <= 1e-6 * largest, "{what}: {name}: expected {e}, found {f}");
        }
    }
}

#[test]
fn any_split_gives_the_gradient_of_the_whole() {
    let policy = policy();
    let window = window();
    let all: Vec<&Sequence> = window.iter().collect();
    // The definition: the mean over all scored tokens in one pass.
    let batch = Batch::new(&all, 0, 1, &policy.device());
    assert_eq!(batch.n_targets(), 1 + 30 + 2 + 7 + 12);
    let whole = Grads::of(&policy, &token_losses(&policy, &batch).mean().backward());
    let names: Vec<&str> = whole.names().collect();
    assert_eq!(names.len(), 2 * 9 + 3, "every parameter is reached: {names:?}");
    for micro_batch in [1, 2, 3, 5, 100] {
        let (grads, loss) = gradients(&policy, &all, micro_batch, 0);
        same(&format!("micro-batch {micro_batch}"), &grads, &whole);
        close("loss", loss, by_hand(&policy, &window).0, 1e-6);
    }
    let turned: Vec<&Sequence> = window.iter().rev().collect();
    same("turned round", &gradients(&policy, &turned, 2, 0).0, &whole);
    same("another pad token", &gradients(&policy, &all, 3, 29).0, &whole);
}

/// Mean over tokens, and mean over rows of their means, from logits computed row by row.
fn by_hand(policy: &Decoder, window: &[Sequence]) -> (f64, f64) {
    let (mut tokens, mut row_means) = (Vec::new(), Vec::new());
    for s in window {
        let all = logits(policy, &s.tokens, &policy.device());
        let scored = (1..s.tokens.len()).filter(|i| s.mask[*i]);
        let row: Vec<f64> = scored
            .map(|i| rlhf_core::loss::cross_entropy::cross_entropy_scalar(&all[i - 1], s.tokens[i] as usize))
            .collect();
        row_means.push(row.iter().sum::<f64>() / row.len() as f64);
        tokens.extend(row);
    }
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    (mean(&tokens), mean(&row_means))
}

#[test]
fn the_normaliser_is_the_windows_token_count() {
    let policy = policy();
    let window = window();
    let (over_tokens, over_rows) = by_hand(&policy, &window);
    assert!((over_tokens - over_rows).abs() > 0.05, "the two means can be told apart");
    let all: Vec<&Sequence> = window.iter().collect();
    close("loss", gradients(&policy, &all, 2, 0).1, over_tokens, 1e-6);
    let plain = decoder(&small(), 17, &devices()[0]);
    for size in [1, 2, 5] {
        let (sum, n) = evaluate(&plain, &all, size, 0);
        assert_eq!(n, 52);
        close("perplexity", sum / 52.0, over_tokens, 1e-6);
    }
}

#[test]
fn prompt_tokens_are_read_but_not_scored() {
    let policy = policy();
    let (prompt, completion) = (vec![3, 4, 5], vec![6, 7]);
    let one = Sequence::new(&prompt, &completion);
    let batch = Batch::new(&[&one], 0, 1, &policy.device());
    assert_eq!((batch.n_targets(), batch.counts.clone(), batch.rows.clone()), (2, vec![2], vec![0, 0]));
    // Positions 2 and 3 predict the two completion tokens; the last token is not fed.
    let host = |t: burn::tensor::Tensor<1, burn::tensor::Int>| -> Vec<i64> {
        t.into_data().convert::<i64>().try_into_vec().expect("i64")
    };
    assert_eq!((host(batch.positions), host(batch.targets)), (vec![2, 3], vec![6, 7]));
    assert_eq!(batch.tokens.dims(), [1, 4]);
    // Another prompt gives another loss.
    let other = Sequence::new(&[3, 9, 5], &completion);
    let loss = |s: &Sequence| gradients(&policy, &[s], 1, 0).1;
    assert!((loss(&one) - loss(&other)).abs() > 1e-3);
}

#[test]
fn a_batch_is_padded_to_the_multiple_asked_for() {
    let device = devices()[0].clone();
    let (a, b) = (Sequence::new(&[1], &[2, 3]), Sequence::new(&[1, 2, 3], &[4, 5]));
    let batch = Batch::new(&[&a, &b], 9, 8, &device);
    assert_eq!(batch.tokens.dims(), [2, 8]);
    let tokens: Vec<i64> = batch.tokens.into_data().convert::<i64>().try_into_vec().expect("i64");
    assert_eq!(tokens, [1, 2, 9, 9, 9, 9, 9, 9, 1, 2, 3, 4, 9, 9, 9, 9]);
    assert_eq!((batch.counts, batch.rows), (vec![2, 2], vec![0, 0, 1, 1]));
}

#[test]
#[should_panic(expected = "sft: no scored token in 1 rows")]
fn a_window_that_scores_nothing_is_refused() {
    gradients(&policy(), &[&Sequence { tokens: vec![1, 2], mask: vec![true, false] }], 1, 0);
}
