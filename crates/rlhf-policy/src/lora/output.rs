//! What leaves a model with adapters: a folder of PEFT, or a plain model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use serde_json::{Value, json};

use crate::config::DecoderConfig;
use crate::error::Error;
use crate::hf;
use crate::lora::Lora;
use crate::lora::attach::{Site, host};
use crate::lora::config::{ADAPTER_CONFIG, LoraConfig, Targets};
use crate::lora::file::{ADAPTER_FILE, Part, module_name};
use crate::lora::model::Merged;
use crate::lora::plan::{Choice, Matching, Plan};
use crate::lora::sites::{Adaptable, Slot};
use crate::projection::{Embedding, TiedAdapter};
use crate::weights::{HostTensor, transpose};

/// `module` with its adapters folded in; `magnitudes` are DoRA's, by inner name.
pub(crate) fn folded<M: Adaptable>(
    module: &M,
    config: &DecoderConfig,
    magnitudes: &BTreeMap<String, Vec<f32>>,
) -> Result<Merged<M>, Error> {
    let mut model = module.clone();
    let config = if model.untie() { config.with("tie_word_embeddings", false)? } else { config.clone() };
    model.each(&mut |name, slot| {
        let m = magnitudes.get(name).map(Vec::as_slice);
        match slot {
            Slot::Linear(p) => {
                fold(&mut p.weight, p.lora.take(), m);
                p.base = None;
            }
            Slot::Table(e) => {
                fold(&mut e.weight, e.lora.take(), m);
                e.base = None;
            }
            Slot::TiedHead(e) => e.tied = TiedAdapter::Separate,
            Slot::Score(_) => {}
        }
        Ok(())
    })?;
    Ok(Merged { model: model.set_require_grad(true), config })
}

/// `W + s A B`, or with magnitudes m `m ⊙ (W + s A B) / ‖W + s A B‖`, the norm of each output's numbers
/// (Liu et al., *DoRA: Weight-Decomposed Low-Rank Adaptation*, arXiv:2402.09353, Eq. 5).
fn fold(weight: &mut Param<Tensor<2>>, lora: Option<Lora>, magnitude: Option<&[f32]>) {
    let Some(lora) = lora else { return };
    let device = weight.val().device();
    let sum = weight.val().without_autodiff() + lora.delta().without_autodiff();
    let new = match magnitude {
        None => sum,
        Some(m) => {
            let m = Tensor::<2>::from_data(TensorData::new(m.to_vec(), [1, m.len()]), &sum.device());
            let norm = sum.clone().square().sum_dim(0).sqrt();
            sum * (m / norm)
        }
    };
    *weight = Param::from_tensor(if device.is_autodiff() { Tensor::from_inner(new) } else { new });
}

/// Writes the two files of PEFT.
pub(crate) fn save<M: Adaptable>(
    module: &M,
    dir: &Path,
    config: &DecoderConfig,
    lora: &LoraConfig,
) -> Result<(), Error> {
    let family = config.family();
    let mut plan = Plan::new(lora, family, module)?;
    let mut out = BTreeMap::new();
    let mut ends = Vec::new();
    // A module's clone shares its tensors.
    module.clone().each(&mut |name, slot| {
        let role = slot.role(name);
        let site = Site { name, role, family };
        let choice = plan.choose(name, role)?;
        if let Choice::Adapter { .. } = choice
            && let Some(end) = module_name(family, name).rsplit('.').next()
            && !ends.iter().any(|e| e == end)
        {
            ends.push(end.to_owned());
        }
        site.write(&slot, choice, &mut out)
    })?;
    plan.finish(Matching::Any)?;
    let mut map = lora.to_map();
    map.insert("task_type".to_owned(), json!(lora.task_type.unwrap_or(M::TASK).name()));
    // Conv1D has its weights the other way round, and PEFT says so in the file.
    map.insert("fan_in_fan_out".to_owned(), json!(family.is_turned("model.layers.0.self_attn.qkv_proj")));
    if lora.target_modules == Targets::AllLinear {
        map.insert("target_modules".to_owned(), json!(ends));
    }
    fs::create_dir_all(dir).map_err(|e| Error::file(dir, format!("making the folder: {e}")))?;
    hf::write(&dir.join(ADAPTER_CONFIG), &hf::pretty(&Value::Object(map)))?;
    hf::write(&dir.join(ADAPTER_FILE), &hf::serialize(&out)?)
}

impl Site<'_> {
    /// Adds what the slot has that is not the base's.
    fn write(
        &self,
        slot: &Slot<'_>,
        choice: Choice,
        out: &mut BTreeMap<String, HostTensor>,
    ) -> Result<(), Error> {
        let (weight, bias, lora) = match slot {
            Slot::Linear(p) => (&p.weight, p.bias.as_ref(), p.lora.as_ref()),
            Slot::Table(e) => (&e.weight, None, e.lora.as_ref()),
            Slot::TiedHead(e) => (&e.weight, None, e.head.as_ref()),
            Slot::Score(s) => (&s.weight, None, None),
        };
        match (choice, lora) {
            (Choice::Adapter { rank, .. }, Some(lora)) if lora.rank() == rank => {
                out.insert(self.key(Part::A), turned(&lora.a));
                out.insert(self.key(Part::B), turned(&lora.b));
            }
            (Choice::Whole, None) => {
                out.insert(self.key(Part::Weight), self.on_disk(weight));
                if let Some(bias) = bias {
                    let shape = bias.val().dims().to_vec();
                    out.insert(self.key(Part::Bias), HostTensor { shape, data: host(bias.val()) });
                }
            }
            (Choice::Share, None) => {
                let Slot::TiedHead(Embedding { lora: Some(lora), .. }) = slot else {
                    return Err(self.other_adapters(choice, None));
                };
                for (part, of) in [(Part::A, &lora.b), (Part::B, &lora.a)] {
                    let shape = of.val().dims().to_vec();
                    out.insert(self.key(part), HostTensor { shape, data: host(of.val()) });
                }
            }
            (Choice::Leave, None) => {}
            (choice, lora) => return Err(self.other_adapters(choice, lora)),
        }
        Ok(())
    }

    fn other_adapters(&self, choice: Choice, lora: Option<&Lora>) -> Error {
        let expected = match choice {
            Choice::Adapter { rank, .. } => format!("an adapter of rank {rank}, as the settings have it"),
            _ => "no adapter, as the settings have it".to_owned(),
        };
        let found = lora.map_or_else(|| "none".to_owned(), |lora| format!("one of rank {}", lora.rank()));
        Error::Tensor { name: module_name(self.family, self.name), expected, found }
    }
}

/// A or B as the file has it.
fn turned(param: &Param<Tensor<2>>) -> HostTensor {
    let [rows, cols] = param.val().dims();
    HostTensor { shape: vec![cols, rows], data: transpose(&host(param.val()), rows, cols) }
}
