//! The parts that hold parameters: linear maps and embeddings, each with room for an adapter, and
//! norms.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::architecture::{Architecture, Bias, NormKind};
use crate::decoder::Source;
use crate::error::Error;
use crate::lora::Lora;
use crate::weights::transpose;

/// A linear map `x W + b`, plus its adapter where it has one.
#[derive(Module, Debug)]
pub struct Projection {
    /// W, `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// b, `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// What is trained in place of W.
    pub lora: Option<Lora>,
    /// What stood here before, where the whole map is trained beside the adapters.
    pub base: Option<Base>,
}

/// The frozen parameters of a map that is trained as a whole (PEFT's `modules_to_save`).
#[derive(Module, Debug)]
pub struct Base {
    /// In the layout of the map it belongs to.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Projection {
    /// Asks `source` for `NAME.weight`, `[out, in]` as checkpoints have it, and `NAME.bias`.
    pub(crate) fn build(
        name: &str,
        shape: [usize; 2],
        bias: Bias,
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let [out, inp] = shape;
        let weight = transpose(&source(&format!("{name}.weight"), &shape)?, out, inp);
        let bias = match bias {
            Bias::With => {
                let data = TensorData::new(source(&format!("{name}.bias"), &[out])?, [out]);
                Some(Param::from_data(data, device))
            }
            Bias::Without => None,
        };
        let weight = Param::from_data(TensorData::new(weight, [inp, out]), device);
        Ok(Self { weight, bias, lora: None, base: None })
    }

    /// The map that a table `[out, in]` is as an output projection, with its own copy of the numbers.
    pub(crate) fn turned(table: &Param<Tensor<2>>, lora: Option<Lora>) -> Self {
        let table = table.val();
        let ([out, inp], device) = (table.dims(), table.device());
        let data: Vec<f32> = table.into_data().convert::<f32>().try_into_vec().expect("converted to f32");
        let data = TensorData::new(transpose(&data, out, inp), [inp, out]);
        Self { weight: Param::from_data(data, &device), bias: None, lora, base: None }
    }

    /// `[…, in] -> […, out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let adapted = self.lora.as_ref().map(|lora| lora.forward(x.clone()));
        let bias = self.bias.as_ref().map(Param::val);
        let y = rlhf_kernels::linear(x, self.weight.val(), bias);
        match adapted {
            Some(change) => y + change,
            None => y,
        }
    }
}

/// A row of numbers a token.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[V, hidden]`.
    pub weight: Param<Tensor<2>>,
    /// What is trained in its place.
    pub lora: Option<Lora>,
    /// The adapter of a tied head alone: A is `[hidden, r]`, B `[r, V]`.
    pub head: Option<Lora>,
    /// What stood here before, where the whole table is trained beside the adapters.
    pub base: Option<Base>,
    /// Whether a tied head follows `lora`.
    #[module(skip)]
    pub tied: TiedAdapter,
}

/// What a tied head makes of the adapter of its embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TiedAdapter {
    /// Nothing: it projects with the frozen table. So does PEFT unless told otherwise.
    Separate,
    /// It projects with the adapted table (PEFT's `ensure_weight_tying`).
    Shared,
}

impl Embedding {
    /// Asks `source` for `NAME.weight`.
    pub(crate) fn build(
        name: &str,
        shape: [usize; 2],
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let weight = source(&format!("{name}.weight"), &shape)?;
        let weight = Param::from_data(TensorData::new(weight, shape), device);
        Ok(Self { weight, lora: None, head: None, base: None, tied: TiedAdapter::Separate })
    }

    /// `[B, T] -> [B, T, hidden]`; the row of `padding` gets no gradient.
    pub fn forward_with_padding(&self, tokens: Tensor<2, Int>, padding: Option<u32>) -> Tensor<3> {
        let change = self.lora.as_ref().map(|lora| lora.embed(tokens.clone(), padding));
        let rows = rlhf_kernels::embedding_with_padding(self.weight.val(), tokens, padding);
        match change {
            Some(change) => rows + change,
            None => rows,
        }
    }

    /// Every row, the adapter's change included: `[V, hidden]`.
    pub fn rows(&self) -> Tensor<2> {
        match &self.lora {
            Some(lora) => self.weight.val() + lora.delta(),
            None => self.weight.val(),
        }
    }

    /// Whether the output projection is the table alone.
    pub fn projects_plainly(&self) -> bool {
        self.head.is_none() && (self.lora.is_none() || self.tied == TiedAdapter::Separate)
    }

    /// As an output projection: `[…, hidden] -> […, V]`.
    pub fn project<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let change = match (&self.head, &self.lora, self.tied) {
            (Some(head), ..) => Some(head.forward(hidden.clone())),
            (None, Some(lora), TiedAdapter::Shared) => Some(lora.project(hidden.clone())),
            _ => None,
        };
        let y = hidden.matmul(self.weight.val().transpose().unsqueeze());
        match change {
            Some(change) => y + change,
            None => y,
        }
    }
}

/// A norm over the last axis.
#[derive(Module, Debug)]
pub struct Norm {
    /// w, `[width]`.
    pub weight: Param<Tensor<1>>,
    /// b, `[width]`, of a layer norm.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    kind: NormKind,
    #[module(skip)]
    epsilon: f64,
}

impl Norm {
    /// Asks `source` for `NAME.weight`, and `NAME.bias` of a layer norm.
    pub(crate) fn build(
        name: &str,
        width: usize,
        like: &Architecture,
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut vector = |part: &str| {
            let data = source(&format!("{name}.{part}"), &[width])?;
            Ok::<_, Error>(Param::from_data(TensorData::new(data, [width]), device))
        };
        let weight = vector("weight")?;
        let bias = if like.norm == NormKind::Layer { Some(vector("bias")?) } else { None };
        Ok(Self { weight, bias, kind: like.norm, epsilon: like.norm_eps })
    }

    /// `[…, width]`, same shape out.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match (self.kind, &self.bias) {
            (NormKind::Layer, Some(bias)) => {
                rlhf_kernels::layer_norm(x, self.weight.val(), bias.val(), self.epsilon)
            }
            (NormKind::RmsOffset, _) => {
                rlhf_kernels::rms_norm(x, self.weight.val().add_scalar(1.0), self.epsilon)
            }
            _ => rlhf_kernels::rms_norm(x, self.weight.val(), self.epsilon),
        }
    }

    /// What a row is multiplied with: w, or 1 + w.
    pub fn gain(&self) -> Tensor<1> {
        let weight = self.weight.val();
        if self.kind == NormKind::RmsOffset { weight.add_scalar(1.0) } else { weight }
    }
}
