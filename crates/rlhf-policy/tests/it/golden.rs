//! Models of `transformers`, where their folders stand beside the workspace; a scratch model's own
//! definition elsewhere.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rlhf_core::contract::PolicyModel;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_policy::batch::{Batch, Sequence};
use rlhf_policy::classifier::Classifier;
use rlhf_policy::config::{DecoderConfig, ModelKind};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Decoding, Finish, Generation, generate};
use rlhf_policy::hf::{Checkpoint, load_decoder};
use rlhf_policy::rope::{Rope, RopeScaling};
use rlhf_policy::sft::token_losses;

use crate::expected::{CAUSAL, Expected, golden};
use crate::support::{classifier, close, decoder, devices, logits, rows, small};

/// Three attention implementations of PyTorch differ by 4e-6 on these models; the bar is 25 times that.
const TOLERANCE: f64 = 1e-4;

fn causal(dir: &Path, device: &Device) -> Decoder {
    load_decoder(dir, &DecoderConfig::load(dir).expect("config"), device).expect("loads")
}

/// Calls `check` with every golden language model on every CPU device.
fn each(check: impl Fn(&str, &Decoder, &Expected, &Device)) {
    for name in CAUSAL {
        let Some(dir) = golden(name) else { continue };
        let expected = Expected::open(&dir);
        for device in devices() {
            check(&format!("{name} on {device:?}"), &causal(&dir, &device), &expected, &device);
        }
    }
}

/// The logits of a whole right-padded batch, `[B, T, V]` flat.
fn batch_logits(model: &Decoder, tokens: Vec<i64>, shape: [usize; 2], device: &Device) -> Vec<f64> {
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, shape), device);
    model.logits(tokens).into_data().convert::<f64>().try_into_vec().expect("f64")
}

#[test]
fn logits_equal_those_of_transformers_at_every_real_position() {
    each(|name, model, expected, device| {
        let padded = expected.whole_numbers("input_ids_right");
        let lengths: Vec<usize> = expected.rows().iter().map(Vec::len).collect();
        let (b, t) = (lengths.len(), padded.len() / lengths.len());
        // Another token than 0 stands in the padding: what is there must not matter.
        let filled: Vec<i64> = padded
            .iter()
            .enumerate()
            .map(|(i, x)| if i % t < lengths[i / t] { *x } else { (i % 300) as i64 })
            .collect();
        let found = batch_logits(model, filled, [b, t], device);
        let v = found.len() / (b * t);
        let (right, left) = (expected.floats("logits_right"), expected.floats("logits_left"));
        let mut worst = 0.0f64;
        for (row, n) in lengths.iter().enumerate() {
            for i in 0..n * v {
                let ours = found[row * t * v + i];
                worst = worst.max((ours - right[row * t * v + i]).abs());
                worst = worst.max((ours - left[(row * t + t - n) * v + i]).abs());
            }
        }
        eprintln!("{name}: logits differ by at most {worst:.1e}");
        close(name, worst, 0.0, TOLERANCE);
    });
}

/// −∑ p log p of one row of logits, in nats.
fn entropy(logits: &[f64]) -> f64 {
    let top = logits.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let z: f64 = logits.iter().map(|x| (x - top).exp()).sum();
    logits.iter().map(|x| (x - top).exp() / z * (z.ln() - (x - top))).sum()
}

#[test]
fn token_log_probabilities_entropies_and_their_sums_equal_trls() {
    each(|name, model, expected, device| {
        let rows = expected.rows();
        let sequences: Vec<Sequence> = rows.iter().map(|r| Sequence::new(&[], r)).collect();
        let batch = Batch::new(&sequences.iter().collect::<Vec<_>>(), 0, 1, device);
        let losses: Vec<f64> =
            token_losses(model, &batch).into_data().convert::<f64>().try_into_vec().expect("f64");
        let (fused, entropies) = (expected.floats("fused_log_probs"), expected.floats("fused_entropy"));
        let (lengths, sums) = (rows.iter().map(Vec::len), expected.list(&["sequence_logps"]));
        let entropy_sums = expected.list(&["entropy_sum"]);
        let width = fused.len() / lengths.len();
        let mut at = 0;
        for (row, n) in lengths.enumerate() {
            let mine = &losses[at..at + n - 1];
            at += n - 1;
            for (i, loss) in mine.iter().enumerate() {
                close(name, -loss, fused[row * width + i], TOLERANCE);
            }
            let spread: Vec<f64> = logits(model, &rows[row], device).iter().map(|x| entropy(x)).collect();
            for (i, e) in spread[..n - 1].iter().enumerate() {
                close(name, *e, entropies[row * width + i], TOLERANCE);
            }
            // Up to 15 tokens are summed, and the sums are printed to seven digits.
            close(name, -mine.iter().sum::<f64>(), sums[row], 5e-4);
            close(name, spread[..n - 1].iter().sum(), entropy_sums[row], 5e-4);
        }
        assert_eq!(at, losses.len(), "every token but the first of each row is scored");
    });
}

#[test]
fn greedy_continuations_equal_those_of_transformers() {
    each(|name, model, expected, device| {
        let how = |eos: Vec<u32>| Generation {
            sampling: Sampling { temperature: 0.0, ..Sampling::plain() },
            max_completion_length: 20,
            num_generations: 1,
            eos_token_ids: eos,
            pad_token_id: 0,
            context_length: 128,
            max_rows: 8,
            stop: None,
            layers: None,
            decoding: Decoding::for_device(device),
        };
        let random = |p: usize, s: usize| stream(0, "greedy", p as u64, s as u64);
        let run = |eos| generate(model, &expected.rows(), &how(eos), &random, device).expect("runs");
        let found: Vec<Vec<u32>> = run(vec![]).into_iter().map(|r| r.tokens).collect();
        assert_eq!(found, expected.tokens("greedy"), "{name}");
        if expected.json["greedy_with_eos"].is_null() {
            return;
        }
        let eos = expected.json["greedy_with_eos"]["eos_token_id"].as_u64().expect("a token") as u32;
        for (r, padded) in run(vec![eos]).iter().zip(expected.tokens("greedy_with_eos")) {
            // transformers pads behind the end token with 0; here the row ends.
            let end = padded.iter().position(|t| *t == eos).map_or(padded.len(), |i| i + 1);
            assert_eq!(r.tokens, padded[..end], "{name}");
            assert_eq!(r.finish == Finish::Eos, padded[..end].ends_with(&[eos]), "{name}");
        }
    });
}

#[test]
fn reward_scores_equal_those_of_transformers() {
    let Some(dir) = golden("llama_reward") else { return };
    let config = DecoderConfig::load(&dir).expect("config");
    assert_eq!(config.kind(), ModelKind::REWARD);
    let expected = Expected::open(&dir);
    let rows = expected.rows();
    for device in devices() {
        let mut checkpoint = Checkpoint::open(&dir, config.family()).expect("safetensors");
        let model = Classifier::build(&config, &mut |n, s| checkpoint.tensor(n, s), &device).expect("built");
        checkpoint.finish().expect("nothing left over");
        for (found, score) in model.score_rows(&rows, 0, 3).iter().zip(expected.list(&["scores_right"])) {
            close("score", *found, score, TOLERANCE);
        }
        let refs: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let batch: Vec<f64> =
            model.scores(&refs, 7).into_data().convert::<f64>().try_into_vec().expect("f64");
        for (found, score) in batch.iter().zip(expected.list(&["scores_left"])) {
            close("score", *found, score, TOLERANCE);
        }
    }
}

/// Without any golden folder: the decoder against its equations in `f64`, position by position.
#[test]
fn a_scratch_decoder_equals_its_equations() {
    let config = small();
    let model = decoder(&config, 5, &devices()[0]);
    let row = &rows(9, 32, &[7])[0];
    let p = rlhf_policy::weights::parameters(&model);
    let found = logits(&model, row, &devices()[0]);
    let expected = reference::logits(&config, &p, row);
    for (f, e) in found.iter().zip(&expected) {
        for (f, e) in f.iter().zip(e) {
            close("logit", *f, *e, 2e-5);
        }
    }
    let score = classifier(&config, 5, &devices()[0]);
    let p = rlhf_policy::weights::parameters(&score);
    let hidden = reference::hidden(&config, &p, row);
    let head = &p["score.weight"].data;
    let by_hand: f64 = hidden[6].iter().zip(head).map(|(h, w)| h * f64::from(*w)).sum();
    close("score", score.score_rows(std::slice::from_ref(row), 0, 1)[0], by_hand, 2e-5);
}

#[test]
fn llama_3_stretches_long_wavelengths_only() {
    let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64.0 };
    let (cos, sin) = Rope::new(8, 1e4, scaling).tables(1, 1, &devices()[0]);
    // Frequencies 1, 0.1, 0.01, 0.001: wavelengths 2π times 1, 10, 100, 1000. Below 64 / 4 = 16 one is
    // kept, beyond 64 / 1 divided by 8; 62.8 lies between: s = (64 / 20π − 1) / (4 − 1).
    let s = (64.0 / (20.0 * std::f64::consts::PI) - 1.0) / 3.0;
    let expected = [1.0, (1.0 - s) * 0.1 / 8.0 + s * 0.1, 0.01 / 8.0, 0.001 / 8.0];
    let host = |x: Tensor<4>| -> Vec<f64> { x.into_data().convert::<f64>().try_into_vec().expect("f64") };
    for ((c, s), f) in host(cos).iter().zip(host(sin)).zip(expected) {
        close("cosine", *c, f64::cos(f), 1e-7);
        close("sine", s, f64::sin(f), 1e-7);
    }
}

/// The decoder's head comment as loops over `f64`.
mod reference {
    use std::collections::BTreeMap;

    use rlhf_policy::config::DecoderConfig;
    use rlhf_policy::weights::HostTensor;

    type Parameters = BTreeMap<String, HostTensor>;
    type Matrix = Vec<Vec<f64>>;

    pub(super) fn logits(config: &DecoderConfig, p: &Parameters, row: &[u32]) -> Matrix {
        linear(p, "lm_head", &hidden(config, p, row))
    }

    pub(super) fn hidden(config: &DecoderConfig, p: &Parameters, row: &[u32]) -> Matrix {
        let table = &p["model.embed_tokens.weight"];
        let d = table.shape[1];
        let embed = |t: &u32| table.data[*t as usize * d..][..d].iter().map(|x| f64::from(*x)).collect();
        let mut h: Matrix = row.iter().map(embed).collect();
        for layer in 0..config.architecture().layers.len() {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let a = attention(config, p, &name("self_attn"), &norm(p, &name("input_layernorm"), &h));
            add(&mut h, &a);
            let x = norm(p, &name("post_attention_layernorm"), &h);
            let up = linear(p, &name("mlp.up_proj"), &x);
            let mut gate = linear(p, &name("mlp.gate_proj"), &x);
            for (g, u) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
                *g = *g / (1.0 + (-*g).exp()) * u;
            }
            add(&mut h, &linear(p, &name("mlp.down_proj"), &gate));
        }
        norm(p, "model.norm", &h)
    }

    fn attention(config: &DecoderConfig, p: &Parameters, name: &str, x: &Matrix) -> Matrix {
        let it = config.architecture();
        let (heads, kv, d) = (it.num_attention_heads, it.num_key_value_heads, it.head_dim);
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|part| linear(p, &format!("{name}.{part}"), x));
        let mut out = vec![vec![0.0; heads * d]; x.len()];
        for head in 0..heads {
            let (mine, shared) = (head * d, head / (heads / kv) * d);
            for t in 0..x.len() {
                let query = rotate(&q[t][mine..mine + d], t, 1e4);
                let score = |s: usize| {
                    let key = rotate(&k[s][shared..shared + d], s, 1e4);
                    query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt()
                };
                let weights: Vec<f64> = (0..=t).map(|s| score(s).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..d {
                    out[t][mine + i] = (0..=t).map(|s| weights[s] * v[s][shared + i]).sum::<f64>() / total;
                }
            }
        }
        linear(p, &format!("{name}.o_proj"), &out)
    }

    fn rotate(x: &[f64], t: usize, base: f64) -> Vec<f64> {
        let half = x.len() / 2;
        let angle = |i: usize| t as f64 * base.powf(-((2 * i) as f64) / x.len() as f64);
        let first = (0..half).map(|i| x[i] * angle(i).cos() - x[half + i] * angle(i).sin());
        first.chain((0..half).map(|i| x[half + i] * angle(i).cos() + x[i] * angle(i).sin())).collect()
    }

    fn linear(p: &Parameters, name: &str, x: &Matrix) -> Matrix {
        let w = &p[&format!("{name}.weight")];
        let dot = |row: &[f32], x: &[f64]| row.iter().zip(x).map(|(a, b)| f64::from(*a) * b).sum();
        x.iter().map(|x| w.data.chunks(w.shape[1]).map(|row| dot(row, x)).collect()).collect()
    }

    fn norm(p: &Parameters, name: &str, x: &Matrix) -> Matrix {
        let gain = &p[&format!("{name}.weight")].data;
        let one = |x: &Vec<f64>| {
            let mean = x.iter().map(|a| a * a).sum::<f64>() / x.len() as f64;
            x.iter().zip(gain).map(|(a, g)| a / (mean + 1e-6).sqrt() * f64::from(*g)).collect()
        };
        x.iter().map(one).collect()
    }

    fn add(h: &mut Matrix, x: &Matrix) {
        for (a, b) in h.iter_mut().flatten().zip(x.iter().flatten()) {
            *a += b;
        }
    }
}
