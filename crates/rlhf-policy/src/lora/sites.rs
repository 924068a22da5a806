//! Where adapters can stand: every linear map and embedding of a model, one after the other.

use burn::module::Module;

use crate::classifier::{Classifier, Score};
use crate::decoder::{Decoder, Trunk};
use crate::error::Error;
use crate::lora::config::Task;
use crate::projection::{Embedding, Projection};

/// A part of a model that can be adapted or trained as a whole.
pub(crate) enum Slot<'a> {
    /// A linear map.
    Linear(&'a mut Projection),
    /// An embedding, looked up.
    Table(&'a mut Embedding),
    /// The same embedding as a tied head.
    TiedHead(&'a mut Embedding),
    /// A classifier's head.
    Score(&'a mut Score),
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Linear,
    /// The map from hidden states to logits, with a weight of its own.
    Head,
    Table,
    TiedHead,
    Score,
}

/// Sees each slot with its inner name.
pub(crate) type Visit<'a> = dyn FnMut(&str, Slot<'_>) -> Result<(), Error> + 'a;

/// A model whose slots can be gone through.
pub(crate) trait Adaptable: Module {
    /// What it is for.
    const TASK: Task;

    /// Shows every slot to `visit`; an embedding comes before the head tied to it.
    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), Error>;

    /// See [`Decoder::untie`].
    fn untie(&mut self) -> bool;

    /// Whether the embedding is the head too.
    fn is_tied(&self) -> bool;
}

impl Slot<'_> {
    pub(crate) fn role(&self, name: &str) -> Role {
        match self {
            Self::Linear(_) if name == "lm_head" => Role::Head,
            Self::Linear(_) => Role::Linear,
            Self::Table(_) => Role::Table,
            Self::TiedHead(_) => Role::TiedHead,
            Self::Score(_) => Role::Score,
        }
    }
}

impl Adaptable for Decoder {
    const TASK: Task = Task::Causal;

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), Error> {
        trunk(&mut self.model, visit)?;
        match &mut self.lm_head {
            Some(head) => visit("lm_head", Slot::Linear(head)),
            None => visit("lm_head", Slot::TiedHead(&mut self.model.embed_tokens)),
        }
    }

    fn untie(&mut self) -> bool {
        Self::untie(self)
    }

    fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }
}

impl Adaptable for Classifier {
    const TASK: Task = Task::Classifier;

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), Error> {
        trunk(&mut self.model, visit)?;
        visit("score", Slot::Score(&mut self.score))
    }

    fn untie(&mut self) -> bool {
        false
    }

    fn is_tied(&self) -> bool {
        false
    }
}

fn trunk(it: &mut Trunk, visit: &mut Visit<'_>) -> Result<(), Error> {
    visit("model.embed_tokens", Slot::Table(&mut it.embed_tokens))?;
    if let Some(table) = &mut it.embed_positions {
        visit("model.embed_positions", Slot::Table(table))?;
    }
    for (i, layer) in it.layers.iter_mut().enumerate() {
        let (attention, mlp) = (&mut layer.self_attn, &mut layer.mlp);
        let maps = [
            ("self_attn.q_proj", attention.q_proj.as_mut()),
            ("self_attn.k_proj", attention.k_proj.as_mut()),
            ("self_attn.v_proj", attention.v_proj.as_mut()),
            ("self_attn.qkv_proj", attention.qkv_proj.as_mut()),
            ("self_attn.o_proj", Some(&mut attention.o_proj)),
            ("mlp.gate_proj", mlp.gate_proj.as_mut()),
            ("mlp.up_proj", Some(&mut mlp.up_proj)),
            ("mlp.down_proj", Some(&mut mlp.down_proj)),
        ];
        for (part, map) in maps {
            if let Some(map) = map {
                visit(&format!("model.layers.{i}.{part}"), Slot::Linear(map))?;
            }
        }
    }
    Ok(())
}
