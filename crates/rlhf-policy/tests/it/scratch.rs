//! Scratch parameters come from the seed and the tensor's own name.

use rlhf_policy::config::DecoderConfig;
use rlhf_policy::hf::serialize;
use rlhf_policy::weights::{HostTensor, parameters, replaced, scratch};

use serde_json::json;

use crate::support::{classifier, close, decoder, devices, small, with};

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let bytes = |seed| serialize(&parameters(&decoder(&small(), seed, &devices()[0]))).expect("fits");
    assert_eq!(bytes(7), bytes(7));
    assert_ne!(bytes(7), bytes(8));
}

#[test]
fn a_tensor_does_not_depend_on_the_others() {
    let device = devices()[0].clone();
    let deeper = with(&small(), &json!({"num_hidden_layers": 4, "tie_word_embeddings": true}));
    let (a, b) = (parameters(&decoder(&small(), 7, &device)), parameters(&decoder(&deeper, 7, &device)));
    let shared: Vec<&String> = a.keys().filter(|n| b.contains_key(*n)).collect();
    assert_eq!(shared.len(), a.len() - 1, "all but lm_head.weight");
    assert!(shared.iter().all(|n| a[*n] == b[*n]));
    let trunk = parameters(&classifier(&small(), 7, &device));
    assert_eq!(trunk["model.layers.1.mlp.up_proj.weight"], a["model.layers.1.mlp.up_proj.weight"]);
    // Two tensors of one shape are not the same numbers.
    assert_ne!(a["model.layers.0.self_attn.k_proj.weight"], a["model.layers.0.self_attn.v_proj.weight"]);
    assert_ne!(a["model.layers.0.self_attn.k_proj.weight"], a["model.layers.1.self_attn.k_proj.weight"]);
}

#[test]
fn weights_are_normal_norms_one_and_biases_zero() {
    let mut source = scratch(3, &with(&small(), &json!({"initializer_range": 0.02})));
    let n = 40_000usize;
    let w: Vec<f64> =
        source("a.weight", &[200, 200]).expect("given").iter().map(|x| f64::from(*x) / 0.02).collect();
    let moment = |k: i32| w.iter().map(|x| x.powi(k)).sum::<f64>() / n as f64;
    // Standard errors: mean 1/√n = 0.005, variance √(2/n) = 0.007, fourth moment √(96/n) = 0.049.
    assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.028 && (moment(4) - 3.0).abs() < 0.2);
    assert_eq!(source("x.input_layernorm.weight", &[3]).expect("given"), [1.0; 3]);
    assert_eq!(source("model.norm.weight", &[3]).expect("given"), [1.0; 3]);
    assert_eq!(source("q_proj.bias", &[2]).expect("given"), [0.0; 2]);
}

#[test]
fn replaced_parameters_are_those_given_and_a_wrong_one_is_named() {
    let device = devices()[0].clone();
    let (a, b) = (decoder(&small(), 1, &device), decoder(&small(), 2, &device));
    let mut p = parameters(&b);
    assert_eq!(parameters(&replaced(a.clone(), &p).expect("same shapes")), p);
    let name = "model.layers.0.mlp.down_proj.weight";
    let turned = HostTensor { shape: vec![24, 16], data: vec![0.0; 24 * 16] };
    p.insert(name.to_owned(), turned);
    let error = replaced(a.clone(), &p).expect_err("turned").to_string();
    assert_eq!(error, format!("tensor {name}: expected [16, 24], found [24, 16]"));
    p.remove(name);
    let error = replaced(a, &p).expect_err("missing").to_string();
    assert_eq!(error, format!("tensor {name}: expected [16, 24], found nothing"));
}

#[test]
fn training_parameters_keep_their_gradients_when_replaced() {
    let device = devices()[0].clone().autodiff();
    let policy = decoder(&small(), 1, &device);
    let p = parameters(&decoder(&small(), 2, &devices()[0]));
    let policy = replaced(policy, &p).expect("same shapes");
    let s = rlhf_policy::batch::Sequence::new(&[3], &[4, 5]);
    let (grads, loss) = rlhf_policy::sft::gradients(&policy, &[&s], 1, 0);
    assert_eq!(grads.names().count(), p.len());
    let other = decoder(&small(), 2, &device);
    close("loss", loss, rlhf_policy::sft::gradients(&other, &[&s], 1, 0).1, 1e-7);
}

#[test]
fn gpt2_scales_what_is_added_to_the_stream() {
    let config = DecoderConfig::parse(
        r#"{"model_type":"gpt2","vocab_size":8,"n_embd":8,"n_head":2,"n_layer":8,"n_positions":8,
            "initializer_range":0.1}"#,
    )
    .expect("valid");
    let mut source = scratch(3, &config);
    let mut deviation = |name: &str| {
        let all = source(name, &[100, 100]).expect("given");
        (all.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 1e4).sqrt()
    };
    // Ten thousand draws: the deviation of the deviation is 0.7 %.
    assert!((deviation("model.layers.0.mlp.up_proj.weight") - 0.1).abs() < 0.003);
    assert!((deviation("model.layers.0.mlp.down_proj.weight") - 0.1 / 4.0).abs() < 0.0008);
    assert!((deviation("model.layers.0.self_attn.o_proj.weight") - 0.1 / 4.0).abs() < 0.0008);
}
