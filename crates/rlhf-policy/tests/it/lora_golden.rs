//! Adapters of PEFT, where their folders stand beside the workspace.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rlhf_core::contract::PolicyModel;
use rlhf_policy::batch::Sequence;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::hf::load_decoder;
use rlhf_policy::lora::Adapted;
use rlhf_policy::sft;
use rlhf_policy::weights::parameters;
use serde_json::Value;

use crate::expected::{Expected, golden};
use crate::support::{close, devices};

/// The bar of logits; PEFT's own merged and unmerged logits differ by 5e-6.
const TOLERANCE: f64 = 1e-4;

const PLAIN: [&str; 3] = ["llama_lora", "llama_rslora_all_linear", "llama_lora_embed_head"];

/// Compares logits at real positions with those of this name.
fn check(expected: &Expected, what: &str, model: &Decoder) {
    let (ids, mask) =
        (expected.whole_numbers("input_ids_right"), expected.whole_numbers("attention_mask_right"));
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [4, 16]), &model.device());
    let found: Vec<f64> = model.logits(tokens).into_data().convert::<f64>().try_into_vec().expect("f64");
    let theirs = expected.floats(what);
    assert_eq!(found.len(), theirs.len(), "{what}");
    let v = found.len() / mask.len();
    for (i, (f, e)) in found.iter().zip(&theirs).enumerate().filter(|(i, _)| mask[i / v] == 1) {
        close(&format!("{what} {i}"), *f, *e, TOLERANCE);
    }
}

fn load(dir: &Path, device: &Device) -> Adapted<Decoder> {
    Decoder::load_with_adapter(dir, None, device).expect("reads")
}

#[test]
fn logits_beside_and_folded_in_equal_pefts_and_off_the_bases() {
    for dir in PLAIN.iter().chain(&["llama_dora"]).filter_map(|name| golden(name)) {
        let expected = Expected::open(&dir);
        let Adapted { model, config, lora } = load(&dir, &devices()[0]);
        check(&expected, "logits_adapter_right", &model);
        let merged = model.merged(&config).expect("folds").model;
        check(&expected, "logits_merged_right", &merged);
        let name = "model.layers.0.self_attn.q_proj.weight";
        let weight = parameters(&merged)[name].data.clone();
        for (found, w) in weight.iter().zip(expected.floats(&format!("merged.{name}"))) {
            close(name, f64::from(*found), w, 1e-6);
        }
        if !lora.use_dora {
            let base = load_decoder(&dir.join("../llama"), &config, &devices()[0]);
            let reference = model.without_adapters();
            assert_eq!(parameters(&reference), parameters(&base.expect("loads")), "{}", dir.display());
        }
    }
}

#[test]
fn loss_and_every_gradient_equal_pefts() {
    for dir in PLAIN.iter().filter_map(|name| golden(name)) {
        let expected = Expected::open(&dir);
        let policy = load(&dir, &Device::flex().autodiff()).model;
        let sequences: Vec<Sequence> = expected.rows().iter().map(|row| Sequence::new(&[], row)).collect();
        let window: Vec<&Sequence> = sequences.iter().collect();
        let (grads, loss) = sft::gradients(&policy, &window, 4, 0);
        close("loss", loss, expected.json["nll"].as_f64().expect("a number"), 2e-6);
        let file = expected.file();
        let names: Vec<&str> = file.names().into_iter().filter(|n| n.starts_with("grad.")).collect();
        assert_eq!(names.len(), grads.names().count(), "{}", dir.display());
        for name in names {
            let ours = name.trim_start_matches("grad.").replace("lora_embedding_", "lora_");
            let ours =
                ours.trim_end_matches(".weight").replace("lora_A", "lora.a").replace("lora_B", "lora.b");
            let found = grads.host(&ours).unwrap_or_else(|| panic!("no gradient of {ours}"));
            let (theirs, shape) =
                (expected.floats(name), file.tensor(name).expect("present").shape().to_vec());
            let most = theirs.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            // Ours lie [in, r] and [r, out], PEFT's the other way round.
            for (i, e) in theirs.iter().enumerate() {
                let (row, col) = (i / shape[1], i % shape[1]);
                let f = f64::from(found[col * shape[0] + row]);
                close(&format!("{ours} of {}", dir.display()), f / most, e / most, 1e-5);
            }
        }
    }
}

#[test]
fn a_folder_of_peft_is_written_as_it_was_read() {
    for dir in PLAIN.iter().filter_map(|name| golden(name)) {
        let Adapted { model, config, lora } = load(&dir, &devices()[0]);
        let out = tempfile::TempDir::new().expect("a folder");
        model.save_adapter(out.path(), &config, &lora).expect("written");
        let read = |dir: &Path| fs::read(dir.join("adapter_model.safetensors")).expect("readable");
        let (ours, theirs) = (read(out.path()), read(&dir));
        let theirs = rlhf_policy::hf::deserialize(&theirs).expect("f32");
        let ours = rlhf_policy::hf::deserialize(&ours).expect("f32");
        for (name, tensor) in &theirs {
            // The copy of the frozen weight is the base's own and is not written again.
            if !name.ends_with("base_layer.weight") {
                assert_eq!(ours.get(name), Some(tensor), "{name}");
            }
        }
        let settings = |dir: &Path| -> Value {
            let text = fs::read_to_string(dir.join("adapter_config.json")).expect("readable");
            serde_json::from_str(&text).expect("JSON")
        };
        let (ours, theirs) = (settings(out.path()), settings(&dir));
        for (key, value) in theirs.as_object().expect("an object") {
            let same =
                ours[key] == *value || value.as_f64().is_some() && ours[key].as_f64() == value.as_f64();
            assert!(same, "{key}: expected {value}, found {}", ours[key]);
        }
    }
}
