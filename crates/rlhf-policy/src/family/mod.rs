//! The families of decoders: what each one's `config.json` means and what it calls its parameters.
//!
//! Inside, every parameter has Llama's name (`model.layers.0.self_attn.q_proj.weight`); a family's
//! own name is used on disk only.

use serde_json::{Map, Value};

use crate::architecture::Architecture;
use crate::config::Fields;
use crate::error::Error;

mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

/// A family of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3 and all that copy it.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: biases in attention.
    Qwen2,
    /// Qwen 3: normed queries and keys.
    Qwen3,
    /// GPT-2: learned positions, layer norms.
    Gpt2,
    /// GPT-NeoX and Pythia: partial rotation, parallel residual.
    GptNeox,
    /// Gemma 2: soft caps, alternating windows, norms before and after.
    Gemma2,
    /// Gemma 3, text only: normed queries and keys, two rotary bases.
    Gemma3,
}

/// What is known of a family apart from its config.
struct Description {
    /// `model_type` of `config.json`.
    model_type: &'static str,
    /// Class of the language model in `transformers`.
    causal: &'static str,
    /// Class of the model with a classification head.
    classifier: &'static str,
    /// From inner names to names on disk: `(ours, theirs)`, each replaced where it stands between dots.
    names: &'static [(&'static str, &'static str)],
    /// What stands before the trunk's parameters on disk; files of a bare trunk lack it.
    prefix: &'static str,
    /// Inner names of maps that lie `[in, out]` on disk (GPT-2's `Conv1D`).
    turned: &'static [&'static str],
    read: fn(&Fields<'_>) -> Result<Architecture, Error>,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 8] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gpt2,
        Self::GptNeox,
        Self::Gemma2,
        Self::Gemma3,
    ];

    fn description(self) -> &'static Description {
        match self {
            Self::Llama => &llama::DESCRIPTION,
            Self::Mistral => &mistral::DESCRIPTION,
            Self::Qwen2 => &qwen2::DESCRIPTION,
            Self::Qwen3 => &qwen3::DESCRIPTION,
            Self::Gpt2 => &gpt2::DESCRIPTION,
            Self::GptNeox => &gpt_neox::DESCRIPTION,
            Self::Gemma2 => &gemma2::DESCRIPTION,
            Self::Gemma3 => &gemma3::DESCRIPTION,
        }
    }

    /// The family that a `model_type` names.
    ///
    /// # Errors
    /// None does.
    pub fn of(model_type: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|f| f.model_type() == model_type);
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|f| f.model_type()).collect();
            Error::config("model_type", format!("one of {}", known.join(", ")), model_type)
        })
    }

    /// Its `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        self.description().model_type
    }

    /// Class of the language model in `transformers`.
    pub fn causal_class(self) -> &'static str {
        self.description().causal
    }

    /// Class of the model with a classification head in `transformers`.
    pub fn classifier_class(self) -> &'static str {
        self.description().classifier
    }

    /// What `config.json` says, in common words.
    ///
    /// # Errors
    /// A key that is missing, mistyped or of a value unknown here.
    pub fn read(self, config: &Map<String, Value>) -> Result<Architecture, Error> {
        (self.description().read)(&Fields(config))
    }

    /// The name on disk of a parameter or module with the inner name `name`.
    pub fn disk_name(self, name: &str) -> String {
        let names = self.description().names;
        renamed(name, |rest, _| names.iter().find_map(|(ours, theirs)| Some((*theirs, after(rest, ours)?))))
    }

    /// The inner name of a parameter or module that is called `name` on disk: the inverse of
    /// [`Family::disk_name`].
    pub fn inner_name(self, name: &str) -> String {
        let names = self.description().names;
        renamed(name, |rest, before| {
            let mut fitting = names.iter().filter(|(ours, _)| belongs(ours, before));
            fitting.find_map(|(ours, theirs)| Some((*ours, after(rest, theirs)?)))
        })
    }

    /// What stands before the trunk's parameters on disk, with its dot.
    pub(crate) fn prefix(self) -> &'static str {
        self.description().prefix
    }

    /// Whether the weight of the map with the inner name `name` lies `[in, out]` on disk.
    pub fn is_turned(self, name: &str) -> bool {
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        self.description().turned.iter().any(|end| stem.ends_with(end))
    }
}

/// `name` from left to right: what `known` finds at the start of the rest is put in its place, any other part
/// between dots stays. `known` is told the rest and the new parts before it, and gives a new part and what is
/// left behind it.
fn renamed<'a>(name: &'a str, known: impl Fn(&'a str, &[&'a str]) -> Option<(&'a str, &'a str)>) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let found = known(rest, &parts);
        let (part, tail) = found.unwrap_or_else(|| rest.split_once('.').unwrap_or((rest, "")));
        parts.push(part);
        rest = tail;
    }
    parts.join(".")
}

/// What stands behind `part` and its dot, where `text` begins with it.
fn after<'a>(text: &'a str, part: &str) -> Option<&'a str> {
    let tail = text.strip_prefix(part)?;
    if tail.is_empty() { Some(tail) } else { tail.strip_prefix('.') }
}

/// Whether the inner name `ours` may stand behind these parts: the trunk's own at the start only, and of the
/// two maps that GPT-2 calls `c_proj` the one under `attn` is attention's, the one under `mlp` not.
fn belongs(ours: &str, before: &[&str]) -> bool {
    let place = before.last().copied().unwrap_or_default();
    match ours {
        "o_proj" => place == "self_attn",
        "down_proj" => place == "mlp",
        _ => before.is_empty() || !ours.starts_with("model"),
    }
}

#[cfg(test)]
mod tests;
