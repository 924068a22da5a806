//! The SuperHF gradient against its scalar definition, central differences and hand-made cases.

use std::collections::BTreeMap;

use burn::tensor::Device;
use rlhf_core::loss::superhf::{KlPositions, KlReduction, SuperhfConfig, SuperhfExample, superhf_scalar};
use rlhf_core::number::Weight;
use rlhf_policy::batch::Sequence;
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::Grads;
use rlhf_policy::sft;
use rlhf_policy::superhf::{MinibatchRecord, gradients, keep_best};
use rlhf_policy::weights::{HostTensor, parameters, replaced};

use serde_json::json;

use crate::support::{close, decoder, logits, rows, small, with};

const ALL: [(KlPositions, KlReduction); 4] = [
    (KlPositions::Aligned, KlReduction::Mean),
    (KlPositions::Aligned, KlReduction::Sum),
    (KlPositions::Official, KlReduction::Mean),
    (KlPositions::Official, KlReduction::Sum),
];

fn config(beta: f64, positions: KlPositions, reduction: KlReduction, inverse: f64) -> SuperhfConfig {
    let weight = |x| Weight::new(x).expect("a weight");
    SuperhfConfig { beta: weight(beta), reduction, positions, inverse_loss: weight(inverse) }
}

fn aligned(beta: f64) -> SuperhfConfig {
    config(beta, KlPositions::Aligned, KlReduction::Mean, 0.0)
}

fn minibatch() -> Vec<Sequence> {
    let (prompts, completions) = (rows(53, 32, &[2, 11, 1]), rows(52, 32, &[9, 1, 4]));
    prompts.iter().zip(&completions).map(|(p, c)| Sequence::new(p, c)).collect()
}

fn policy() -> Decoder {
    decoder(&small(), 61, &Device::flex().autodiff())
}

fn prior() -> Decoder {
    decoder(&small(), 62, &Device::flex())
}

fn run(policy: &Decoder, prior: &Decoder, all: &[Sequence], c: &SuperhfConfig) -> (Grads, MinibatchRecord) {
    gradients(policy, prior, &all.iter().collect::<Vec<_>>(), c, 0)
}

/// `(loss, cross-entropy, mean KL)` of the definition, on logits computed row by row.
fn definition(policy: &Decoder, prior: &Decoder, all: &[Sequence], c: SuperhfConfig) -> (f64, f64, f64) {
    let of = |m: &Decoder, s: &Sequence| logits(m, &s.tokens, &m.device());
    let tables: Vec<_> = all.iter().map(|s| (of(policy, s), of(prior, s))).collect();
    let target = |s: &Sequence| -> Vec<Option<usize>> {
        s.tokens.iter().zip(&s.mask).map(|(t, m)| m.then_some(*t as usize)).collect()
    };
    let targets: Vec<_> = all.iter().map(target).collect();
    let examples: Vec<SuperhfExample<'_>> = tables
        .iter()
        .zip(&targets)
        .map(|((policy, prior), targets)| SuperhfExample { policy, prior, targets })
        .collect();
    let out = superhf_scalar(c, &examples);
    (out.loss, out.cross_entropy, out.kl_sum / all.len() as f64)
}

fn host(grads: &Grads) -> BTreeMap<String, Vec<f32>> {
    grads.names().map(|n| (n.to_owned(), grads.host(n).expect("named"))).collect()
}

fn largest(grads: &BTreeMap<String, Vec<f32>>) -> f32 {
    grads.values().flatten().fold(0.0, |m, x| m.max(x.abs()))
}

#[test]
fn loss_and_its_parts_equal_the_definition() {
    let (policy, prior, all) = (policy(), prior(), minibatch());
    for (positions, reduction) in ALL {
        for inverse in [0.0, 0.3] {
            let c = config(0.35, positions, reduction, inverse);
            let (_, found) = run(&policy, &prior, &all, &c);
            let (loss, nll, kl) = definition(&policy, &prior, &all, c);
            let name = format!("{positions:?} {reduction:?} {inverse}");
            close(&name, found.nll, nll, 2e-6);
            close(&name, found.kl, kl, 2e-6);
            close(&name, found.loss, loss, 5e-6);
            assert!(kl > 0.1 && found.n_tokens == 14, "{name}: {kl}");
        }
    }
    // Sum and mean differ by the minibatch's size, 3, and the two positions are two numbers.
    let loss = |p, r| run(&policy, &prior, &all, &config(0.35, p, r, 0.0)).1;
    let (mean, sum) = (loss(ALL[0].0, ALL[0].1), loss(ALL[1].0, ALL[1].1));
    close("β B", sum.loss - sum.nll, 3.0 * (mean.loss - mean.nll), 1e-5);
    assert!((mean.kl - loss(ALL[2].0, ALL[2].1).kl).abs() > 1e-3);
}

#[test]
fn gradients_equal_central_differences_of_the_definition() {
    let (policy, prior, all) = (policy(), prior(), minibatch());
    let plain = decoder(&small(), 61, &Device::flex());
    for (positions, reduction) in [ALL[0], ALL[3]] {
        let c = config(0.7, positions, reduction, 0.2);
        let grads = host(&run(&policy, &prior, &all, &c).0);
        for name in
            ["model.norm.weight", "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"]
        {
            // These three lie as on disk, so an index means the same in both.
            let g = &grads[name];
            let at = (0..g.len()).max_by(|a, b| g[*a].abs().total_cmp(&g[*b].abs())).expect("not empty");
            let moved = |by: f64| {
                let mut p = parameters(&plain);
                let x = &mut p.get_mut(name).expect("there").data[at];
                *x = (f64::from(*x) + by) as f32;
                definition(&replaced(plain.clone(), &p).expect("same shapes"), &prior, &all, c).0
            };
            // Fourth order. Halving h again moves the slope by less than 1.1e-4, a third of the bar; at
            // 1/64 the embedding's curvature would show.
            let h = 1.0 / 512.0;
            let slope = (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h);
            close(name, f64::from(g[at]), slope, 3e-4 * f64::from(g[at].abs()).max(1.0));
            assert!(g[at].abs() > 0.02, "{name}: a gradient to speak of, found {}", g[at]);
        }
    }
}

#[test]
fn without_beta_it_is_supervised_fine_tuning() {
    let (policy, all) = (policy(), minibatch());
    let (found, record) = run(&policy, &prior(), &all, &aligned(0.0));
    let (expected, loss) = sft::gradients(&policy, &all.iter().collect::<Vec<_>>(), all.len(), 0);
    let (found, expected) = (host(&found), host(&expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let bar = 1e-6 * largest(&expected);
    for (name, g) in &expected {
        for (f, e) in found[name].iter().zip(g) {
            assert!((f - e).abs() <= bar, "{name}: expected {e}, found {f}");
        }
    }
    close("loss", record.loss, loss, 1e-6);
    assert!(record.kl > 0.1, "the KL is reported all the same");
}

#[test]
fn a_policy_that_equals_its_prior_has_no_kl_and_no_kl_gradient() {
    let (policy, all) = (policy(), minibatch());
    let twin = decoder(&small(), 61, &Device::flex());
    for (positions, reduction) in ALL {
        let with = run(&policy, &twin, &all, &config(50.0, positions, reduction, 0.0));
        let without = run(&policy, &twin, &all, &config(0.0, positions, reduction, 0.0));
        close("KL", with.1.kl, 0.0, 1e-6);
        let (with, without) = (host(&with.0), host(&without.0));
        // β = 50 and three examples multiply a rounding of 1e-7 in p − p₀.
        let bar = 50.0 * 3.0 * 1e-6 * largest(&without);
        for (name, g) in &without {
            for (w, o) in with[name].iter().zip(g) {
                assert!((w - o).abs() <= bar, "{name}: {w} with the prior, {o} without");
            }
        }
    }
}

#[test]
fn the_kl_gradient_is_linear_in_beta_and_pulls_to_the_prior() {
    let (policy, prior, all) = (policy(), prior(), minibatch());
    let at = |beta: f64| host(&run(&policy, &prior, &all, &aligned(beta)).0);
    let (zero, one, two) = (at(0.0), at(1.0), at(2.0));
    let bar = 3e-6 * largest(&two);
    for (name, g) in &two {
        for i in 0..g.len() {
            let line = 2.0 * one[name][i] - zero[name][i];
            assert!((g[i] - line).abs() <= bar, "{name}: {} and {line}", g[i]);
        }
    }
    // A small step against the KL's own gradient lowers the KL.
    let plain = decoder(&small(), 61, &Device::flex());
    let before = definition(&plain, &prior, &all, aligned(1.0)).2;
    let mut p = parameters(&plain);
    let name = "model.embed_tokens.weight";
    for (i, x) in p.get_mut(name).expect("there").data.iter_mut().enumerate() {
        *x -= 0.002 * (one[name][i] - zero[name][i]);
    }
    let moved = replaced(plain, &p).expect("same shapes");
    assert!(definition(&moved, &prior, &all, aligned(1.0)).2 < before - 1e-4);
}

#[test]
fn company_and_padding_change_no_example() {
    let (policy, prior, all) = (policy(), prior(), minibatch());
    for (positions, _) in [ALL[0], ALL[2]] {
        let c = config(1.0, positions, KlReduction::Sum, 0.0);
        let alone: Vec<MinibatchRecord> =
            all.iter().map(|s| run(&policy, &prior, std::slice::from_ref(s), &c).1).collect();
        let nll: f64 = alone.iter().map(|r| r.nll * r.n_tokens as f64).sum::<f64>() / 14.0;
        let kl: f64 = alone.iter().map(|r| r.kl).sum::<f64>() / 3.0;
        let turned: Vec<Sequence> = all.iter().rev().cloned().collect();
        for batch in [&all, &turned] {
            for pad in [0, 30] {
                let refs: Vec<&Sequence> = batch.iter().collect();
                let found = gradients(&policy, &prior, &refs, &c, pad).1;
                close("cross-entropy", found.nll, nll, 2e-6);
                close("KL", found.kl, kl, 2e-6);
            }
        }
    }
}

/// A policy whose logits after a token are a row of a table: no block, one-hot embeddings, so that
/// the norm gives `√V` in one place, and a head of `log p / √V`.
fn table(p: &[[f64; 4]; 4], device: &Device) -> Decoder {
    let changes = json!({"vocab_size": 4, "hidden_size": 4, "num_hidden_layers": 0, "num_attention_heads": 1,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-12});
    let config: DecoderConfig = with(&small(), &changes);
    let mut source = |name: &str, _: &[usize]| {
        Ok(match name {
            "model.embed_tokens.weight" => (0..16).map(|i| f32::from(u8::from(i % 5 == 0))).collect(),
            "model.norm.weight" => vec![1.0; 4],
            // The checkpoint's layout is [out, in]: entry (v, token).
            _ => (0..16).map(|i| (p[i % 4][i / 4].max(1e-13).ln() / 2.0) as f32).collect(),
        })
    };
    Decoder::build(&config, &mut source, device).expect("built")
}

/// Specification A4-4: tokens P1 P2 C1 C2 = 2 3 1 0; tokens 2 and 3 have no probability, so the
/// vocabulary acts as {0, 1}.
fn two_of_four(rows: [[f64; 2]; 4]) -> [[f64; 4]; 4] {
    let wide = |r: [f64; 2]| [r[0], r[1], 0.0, 0.0];
    // Row of the table by token: after C2 = 0, after C1 = 1, after P1 = 2, after P2 = 3.
    [wide(rows[3]), wide(rows[2]), wide(rows[0]), wide(rows[1])]
}

#[test]
fn aligned_and_official_positions_are_those_of_the_worked_example() {
    let policy =
        table(&two_of_four([[0.5, 0.5], [0.2, 0.8], [0.7, 0.3], [0.5, 0.5]]), &Device::flex().autodiff());
    let prior = table(&two_of_four([[0.5, 0.5], [0.5, 0.5], [0.6, 0.4], [0.9, 0.1]]), &Device::flex());
    let s = vec![Sequence::new(&[2, 3], &[1, 0])];
    // CE = −½ (ln 0.8 + ln 0.7). KL after P2: ½ ln(.5/.2) + ½ ln(.5/.8) = ½ ln(25/16);
    // after C1: .6 ln(6/7) + .4 ln(4/3); after C2: .9 ln 1.8 + .1 ln .2.
    let nll = -0.5 * (0.8f64.ln() + 0.7f64.ln());
    let after_p2 = 0.5 * (25.0f64 / 16.0).ln();
    let after_c1 = 0.6 * (6.0f64 / 7.0).ln() + 0.4 * (4.0f64 / 3.0).ln();
    let after_c2 = 0.9 * 1.8f64.ln() + 0.1 * 0.2f64.ln();
    for (positions, kl, printed) in [
        (KlPositions::Aligned, 0.5 * (after_p2 + after_c1), [0.12286299, 0.33291129]),
        (KlPositions::Official, 0.5 * (after_c1 + after_c2), [0.19532331, 0.35827241]),
    ] {
        let (_, found) = run(&policy, &prior, &s, &config(0.35, positions, KlReduction::Sum, 0.0));
        close("CE", found.nll, nll, 1e-6);
        close("KL", found.kl, kl, 1e-6);
        close("KL as printed", found.kl, printed[0], 1e-6);
        close("L as printed", found.loss, printed[1], 1e-6);
    }
    close("CE as printed", nll, 0.28990925, 5e-9);
}

#[test]
fn the_gradient_of_one_token_is_the_worked_one() {
    // A4-2: p = (.6, .3, .1), p₀ = (.5, .3, .2), label 0, β = .35: (p − e) + β (p − p₀) on the logits.
    let row = |x: [f64; 3]| [[x[0], x[1], x[2], 0.0]; 4];
    let policy = table(&row([0.6, 0.3, 0.1]), &Device::flex().autodiff());
    let prior = table(&row([0.5, 0.3, 0.2]), &Device::flex());
    let (grads, found) = run(&policy, &prior, &[Sequence::new(&[3], &[0])], &aligned(0.35));
    close("CE", found.nll, 0.51082562, 1e-6);
    close("KL", found.kl, 0.04746866, 1e-6);
    close("L", found.loss, 0.52743965, 1e-6);
    // Burn holds the head as [hidden, V]; token 3 reaches row 3 with a hidden value of √4.
    let head = grads.host("lm_head.weight").expect("reached");
    for (v, slope) in [-0.365, 0.3, 0.065, 0.0].iter().enumerate() {
        close("gradient", f64::from(head[3 * 4 + v]) / 2.0, *slope, 1e-6);
        assert!((0..3).all(|row| head[row * 4 + v].abs() < 1e-12), "no other token was read");
    }
}

#[test]
fn what_the_prompt_says_about_itself_does_not_matter() {
    // The head row of P1 is used for prompt position 0 only, which predicts the prompt token P2.
    let base = [[0.5, 0.5], [0.2, 0.8], [0.7, 0.3], [0.5, 0.5]];
    let mut other = base;
    other[0] = [0.99, 0.01];
    let prior = table(&two_of_four(base), &Device::flex());
    let s = vec![Sequence::new(&[2, 3], &[1, 0])];
    for (positions, reduction) in ALL {
        let c = config(0.35, positions, reduction, 0.0);
        let of = |rows| run(&table(&two_of_four(rows), &Device::flex().autodiff()), &prior, &s, &c);
        let ((a, x), (b, y)) = (of(base), of(other));
        close("loss", x.loss, y.loss, 1e-7);
        let (a, b) = (a.host("lm_head.weight").expect("reached"), b.host("lm_head.weight").expect("reached"));
        assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-7), "{a:?} {b:?}");
        // Token 2 stands in the prompt only, before the last prompt token: no gradient at all.
        assert!(a[2 * 4..3 * 4].iter().all(|g| g.abs() < 1e-12));
    }
}

#[test]
fn the_prior_is_left_as_it_was() {
    let (policy, prior, all) = (policy(), prior(), minibatch());
    let before: BTreeMap<String, HostTensor> = parameters(&prior);
    let (grads, _) = run(&policy, &prior, &all, &aligned(2.0));
    assert_eq!(parameters(&prior), before);
    let own: Vec<String> = parameters(&policy).into_keys().collect();
    assert_eq!(grads.names().collect::<Vec<_>>(), own, "the policy's parameters and no others");
}

#[test]
fn the_best_are_kept_in_order_and_empty_ones_never() {
    // A4-7: scores (1, 3, 3, 2), K = 2 → (1, 2).
    let texts = ["a", "b", "c", "d"];
    assert_eq!(keep_best(&texts, &[1.0, 3.0, 3.0, 2.0], 2), [1, 2]);
    assert_eq!(keep_best(&texts, &[1.0, 3.0, 3.0, 2.0], 9), [1, 2, 3, 0]);
    assert_eq!(keep_best(&["a", " \n", "c", ""], &[1.0, 9.0, 2.0, 8.0], 2), [2, 0]);
    assert!(keep_best(&["", " "], &[1.0, 2.0], 1).is_empty());
}
