//! `e2e_*.json`: runs of TRL's trainers, step by step, from the data's text to the last parameters.
//!
//! A trainer's checker says how the text becomes rows and how rows become a gradient; the loop here
//! gives every one the same optimiser, schedule and comparison. The rows that are trained on are
//! those of our own tokenizer: a micro-batch of the file only says which rows of the data the
//! peer's sampler drew, and its tensors are compared with ours. Sampled completions are the file's.
//!
//! Left out: `epoch`, the trainer's progress bar.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Device;
use rlhf_policy::completion::{Cut, TokenMetrics};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::{AdamW, Grads};
use rlhf_policy::tokenizer::Tokenizer;
use rlhf_policy::weights::{HostTensor, parameters};
use safetensors::SafeTensors;
use serde::Serialize;
use serde_json::Value;

use super::case::Case;
use super::compare::Computed;
use crate::pipeline::models::load_decoder;

mod group;
mod kto;
mod pairs;
mod reward;
mod settings;
mod sft;
mod text;

use settings::Settings;

/// What a whole run is held to: log-probabilities of completions, norms and sums of parameters after
/// several steps of AdamW, which turns the rounding of a gradient near 0 into steps of the size of the
/// learning rate.
const RUN: f64 = 1e-4;

/// Losses, means over tokens and single parameters come closer.
const CLOSE: f64 = 2e-5;

/// What is a sum over a completion's tokens, or a norm, among what is logged.
const SUMS: [&str; 4] = ["grad_norm", "kl", "logps/chosen", "logps/rejected"];

/// Learning rates: the same formula, whose parts may round in another order.
const EXACT: f64 = 1e-15;

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    let run = Run::read(case, device)?;
    let settings = Settings::read(case)?;
    match case.name() {
        "sft" | "sft_text" | "sft_grad_accum" => sft::check(&run, settings),
        "dpo" | "dpo_multi" => pairs::dpo(&run, settings),
        "orpo" => pairs::orpo(&run, settings),
        "kto" => kto::check(&run, settings),
        "reward" => reward::check(&run, settings),
        "rloo" => group::rloo(&run, settings),
        "grpo_grpo" | "grpo_dapo" => group::grpo(&run, settings),
        _ => Err(case.unknown()),
    }
}

/// What every trainer needs of a file.
struct Run<'a> {
    case: Case<'a>,
    dir: PathBuf,
    config: DecoderConfig,
    tokenizer: Tokenizer,
    data: &'a [Value],
    device: Device,
}

impl<'a> Run<'a> {
    fn read(case: &Case<'a>, device: &Device) -> Result<Self, String> {
        let model = case.raw("model")?.as_str().ok_or("inputs.model: expected a folder")?;
        let dir = case.folder().join(model);
        let data = case.raw("data")?.as_array().ok_or("inputs.data: expected a list")?;
        Ok(Self {
            config: DecoderConfig::load(&dir).map_err(text_of)?,
            tokenizer: Tokenizer::load(&dir).map_err(text_of)?,
            case: *case,
            dir,
            data,
            device: device.clone(),
        })
    }

    /// The policy as the run begins.
    fn policy(&self) -> Result<Decoder, String> {
        load_decoder(&self.dir, &self.config, &self.device.clone().autodiff()).map_err(text_of)
    }

    /// The policy as the run begins, on the plain device.
    fn reference(&self) -> Result<Decoder, String> {
        load_decoder(&self.dir, &self.config, &self.device).map_err(text_of)
    }

    fn cut(&self, settings: &Settings) -> Cut {
        Cut { micro_batch: settings.micro_batch, pad: self.tokenizer.pad(), metrics: TokenMetrics::On }
    }
}

fn text_of(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// One optimiser step as the file has it.
struct Window<'a> {
    /// From 0.
    step: usize,
    /// What each micro-batch's forward pass was given.
    inputs: Vec<&'a Value>,
}

/// One optimiser step as we have it.
struct Shown {
    grads: Grads,
    loss: f64,
    /// By TRL's names; others than the file's are not compared.
    metrics: BTreeMap<String, f64>,
    micro: Vec<Micro>,
}

/// A micro-batch as we have it.
struct Micro {
    /// Its share of the step's loss.
    loss: f64,
    /// By what the loss was divided, where the trainer was told so.
    n_items: f64,
    /// Our tensors by the file's names, padded as the file's.
    inputs: BTreeMap<&'static str, Vec<f64>>,
}

impl Micro {
    /// A micro-batch of a trainer that is told of no number of items.
    fn new(loss: f64, inputs: BTreeMap<&'static str, Vec<f64>>) -> Self {
        Self { loss, n_items: f64::NAN, inputs }
    }
}

/// A record's fields by the names that it is logged under.
fn fields(record: &impl Serialize) -> BTreeMap<String, f64> {
    let value = serde_json::to_value(record).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
}

/// Trains `module` through every window of the file with `gradients`.
fn train<M: Module>(
    run: &Run<'_>,
    settings: &Settings,
    mut module: M,
    gradients: &mut dyn FnMut(&M, &Window<'_>) -> Result<Shown, String>,
) -> Result<Computed, String> {
    let micro = run.case.part("micro_batches").as_array().ok_or("micro_batches: expected a list")?;
    let mut computed = Computed::default();
    let mut optim = AdamW::new(settings.optim);
    let (mut norms, mut n_read) = (Vec::new(), 0.0);
    for (step, of_step) in micro.chunks(settings.accumulation).enumerate() {
        let window = Window { step, inputs: of_step.iter().map(|m| &m["inputs"]).collect() };
        let mut shown = gradients(&module, &window)?;
        if step == 0 {
            first_gradient(run, &module, &shown.grads, &mut computed)?;
        }
        let lr = settings.rate(step);
        let (next, norm) = optim.step(lr, module, shown.grads);
        module = next;
        norms.push(norm);
        // TRL counts the tokens since the run began.
        if let Some(n) = shown.metrics.get_mut("num_tokens") {
            n_read += *n;
            *n = n_read;
        }
        shown.metrics.extend([("loss".to_owned(), shown.loss), ("grad_norm".to_owned(), norm)]);
        logged(&mut computed, settings, step, lr, &shown.metrics);
        for (i, micro) in shown.micro.into_iter().enumerate() {
            passed(&mut computed, step * settings.accumulation + i, micro);
        }
    }
    computed.within("grad_norms_before_clip", norms, RUN);
    last_parameters(&mut computed, &module);
    Ok(computed)
}

fn logged(
    computed: &mut Computed,
    settings: &Settings,
    step: usize,
    lr: f64,
    metrics: &BTreeMap<String, f64>,
) {
    for (name, value) in metrics {
        let absolute = if SUMS.contains(&name.as_str()) { RUN } else { CLOSE };
        computed.within(&format!("logs.{step}.{name}"), vec![*value], absolute);
    }
    computed.within(&format!("logs.{step}.learning_rate"), vec![lr], EXACT);
    computed.leave_out(&format!("logs.{step}.epoch"));
    computed.within(&format!("steps.{step}.lr"), vec![lr], EXACT);
    computed.within(
        &format!("steps.{step}.weight_decay_groups"),
        vec![settings.optim.weight_decay, 0.0],
        0.0,
    );
    let clipped = metrics["grad_norm"].min(settings.optim.max_grad_norm);
    computed.within(&format!("steps.{step}.grad_norm_after_clip"), vec![clipped], CLOSE);
}

fn passed(computed: &mut Computed, index: usize, micro: Micro) {
    let at = format!("micro_batches.{index}");
    computed.within(&format!("{at}.loss"), vec![micro.loss], CLOSE);
    computed.within(&format!("{at}.num_items_in_batch"), vec![micro.n_items], 0.0);
    for (name, values) in micro.inputs {
        // Most are tokens and masks: anything below ½ would do for them.
        computed.within(&format!("{at}.inputs.{name}"), values, RUN);
    }
}

fn last_parameters<M: Module>(computed: &mut Computed, module: &M) {
    for (name, tensor) in parameters(module) {
        let values: Vec<f64> = tensor.data.iter().map(|x| f64::from(*x)).collect();
        let at = format!("final_parameters.{name}");
        let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
        computed.within(&format!("{at}.l2"), vec![norm], CLOSE);
        computed.within(&format!("{at}.sum"), vec![values.iter().sum()], RUN);
        computed.within(&format!("{at}.first"), values[..values.len().min(4)].to_vec(), CLOSE);
    }
}

/// The first step's gradient against `models/grads`, where the file's run has one there.
fn first_gradient<M: Module>(
    run: &Run<'_>,
    module: &M,
    grads: &Grads,
    computed: &mut Computed,
) -> Result<(), String> {
    let stem = match run.case.name() {
        "sft" => "llama_sft",
        "dpo_multi" => "llama_dpo_multi",
        "reward" => "llama_reward",
        _ => return Ok(()),
    };
    let path = run.case.folder().join(format!("models/grads/{stem}.safetensors"));
    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    let shapes = parameters(module);
    for name in shapes.keys().filter(|name| file.tensor(name).is_err()) {
        computed.wrong(format!("{stem}: expected a gradient of {name}, found none"));
    }
    for (name, expected) in file.tensors() {
        let Some(found) = shapes.get(&name).and_then(|shape| on_disk(&name, shape, grads)) else {
            computed.wrong(format!("{stem}: {name}: expected a gradient, found none"));
            continue;
        };
        let expected = expected.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
        let worst = expected.zip(found).map(|(e, f)| (e - f64::from(f)).abs()).fold(0.0, f64::max);
        if worst > CLOSE {
            computed.wrong(format!("{stem}: {name}: difference {worst:e} above {CLOSE:e}"));
        }
    }
    Ok(())
}

/// A parameter's gradient as the checkpoint lays it out: linear maps lie transposed in Burn.
fn on_disk(name: &str, parameter: &HostTensor, grads: &Grads) -> Option<Vec<f32>> {
    let found = grads.host(name)?;
    match parameter.shape[..] {
        [rows, columns] if !name.ends_with("embed_tokens.weight") => {
            Some((0..rows * columns).map(|i| found[i % columns * rows + i / columns]).collect())
        }
        _ => Some(found),
    }
}
