//! Adapters put beside a model's maps, from a seed or from a file.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use rand::RngExt;
use rlhf_core::rng::stream;

use crate::error::Error;
use crate::family::Family;
use crate::lora::Lora;
use crate::lora::config::InitWeights;
use crate::lora::file::{AdapterFile, Part, key, module_name};
use crate::lora::plan::{Choice, Matching, Plan};
use crate::lora::sites::{Adaptable, Role, Slot};
use crate::projection::{Base, Embedding, Projection, TiedAdapter};
use crate::weights::{HostTensor, normal, transpose};

/// `base`, frozen, with what `plan` says in every slot.
pub(crate) fn attach<M: Adaptable>(
    base: &M,
    family: Family,
    mut plan: Plan<'_>,
    fill: &mut Fill,
) -> Result<M, Error> {
    let mut module = base.clone().no_grad();
    module.each(&mut |name, slot| {
        let role = slot.role(name);
        let site = Site { name, role, family };
        let choice = plan.choose(name, role)?;
        match slot {
            Slot::Linear(p) => adapt_map(p, &site, choice, fill),
            Slot::Table(e) => adapt_table(e, &site, choice, fill),
            Slot::TiedHead(e) => adapt_head(e, &site, choice, fill),
            Slot::Score(s) if choice == Choice::Whole => {
                s.weight = fill.whole(&site, &s.weight)?;
                Ok(())
            }
            Slot::Score(_) => Ok(()),
        }
    })?;
    plan.finish(fill.matching())?;
    Ok(module)
}

fn adapt_map(p: &mut Projection, site: &Site<'_>, choice: Choice, fill: &mut Fill) -> Result<(), Error> {
    site.expect_bare(p.lora.is_some() || p.base.is_some())?;
    match choice {
        Choice::Adapter { rank, scale } => {
            p.lora = Some(fill.adapter(site, &p.weight, rank, scale)?);
            fill.check_frozen(site, &p.weight)
        }
        Choice::Whole => {
            p.base = Some(Base { weight: p.weight.clone(), bias: p.bias.clone() });
            p.weight = fill.whole(site, &p.weight)?;
            p.bias = p.bias.as_ref().map(|bias| fill.whole_bias(site, bias)).transpose()?;
            Ok(())
        }
        Choice::Leave | Choice::Share => Ok(()),
    }
}

fn adapt_table(e: &mut Embedding, site: &Site<'_>, choice: Choice, fill: &mut Fill) -> Result<(), Error> {
    site.expect_bare(e.lora.is_some() || e.base.is_some() || e.head.is_some())?;
    match choice {
        Choice::Adapter { rank, scale } => {
            e.lora = Some(fill.adapter(site, &e.weight, rank, scale)?);
            fill.check_frozen(site, &e.weight)
        }
        Choice::Whole => {
            e.base = Some(Base { weight: e.weight.clone(), bias: None });
            e.weight = fill.whole(site, &e.weight)?;
            Ok(())
        }
        Choice::Leave | Choice::Share => Ok(()),
    }
}

fn adapt_head(e: &mut Embedding, site: &Site<'_>, choice: Choice, fill: &mut Fill) -> Result<(), Error> {
    match choice {
        Choice::Adapter { rank, scale } => {
            e.head = Some(fill.adapter(site, &e.weight, rank, scale)?);
            fill.check_frozen(site, &e.weight)
        }
        Choice::Share => {
            e.tied = TiedAdapter::Shared;
            fill.check_shared(site, e)?;
            fill.check_frozen(site, &e.weight)
        }
        Choice::Leave => fill.check_whole_head(site, e),
        Choice::Whole => Ok(()),
    }
}

/// A slot's name and kind.
pub(crate) struct Site<'a> {
    pub(crate) name: &'a str,
    pub(crate) role: Role,
    pub(crate) family: Family,
}

impl Site<'_> {
    pub(crate) fn key(&self, part: Part) -> String {
        key(self.family, self.name, self.role, part)
    }

    /// `[in, out]` of what an adapter stands beside.
    fn sizes(&self, weight: &Param<Tensor<2>>) -> [usize; 2] {
        let [rows, cols] = weight.val().dims();
        if self.role == Role::TiedHead { [cols, rows] } else { [rows, cols] }
    }

    /// Whether a weight lies in the file as it lies in memory.
    fn lies_alike(&self) -> bool {
        matches!(self.role, Role::Table | Role::TiedHead) || self.family.is_turned(self.name)
    }

    fn expect_bare(&self, has_adapter: bool) -> Result<(), Error> {
        if !has_adapter {
            return Ok(());
        }
        let name = module_name(self.family, self.name);
        Err(Error::Tensor { name, expected: "a model without adapters".into(), found: "an adapter".into() })
    }

    /// A weight as the file has it.
    pub(crate) fn on_disk(&self, weight: &Param<Tensor<2>>) -> HostTensor {
        let tensor = weight.val();
        let [rows, cols] = tensor.dims();
        let data = host(tensor);
        if self.lies_alike() {
            HostTensor { shape: vec![rows, cols], data }
        } else {
            HostTensor { shape: vec![cols, rows], data: transpose(&data, rows, cols) }
        }
    }
}

pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32")
}

/// Where the numbers of adapters come from.
pub(crate) enum Fill {
    Seed { seed: u64, init: InitWeights },
    File { file: AdapterFile, dora: bool, magnitudes: BTreeMap<String, Vec<f32>> },
}

impl Fill {
    fn matching(&self) -> Matching {
        match self {
            Self::Seed { .. } => Matching::Each,
            Self::File { .. } => Matching::Any,
        }
    }

    fn adapter(
        &mut self,
        site: &Site<'_>,
        weight: &Param<Tensor<2>>,
        rank: usize,
        scale: f64,
    ) -> Result<Lora, Error> {
        let [inp, out] = site.sizes(weight);
        let (a, b) = match self {
            Self::Seed { seed, init } => {
                let name = format!("lora/{}", site.name);
                let draw = |part: &str, n: usize, how: Draw| how.numbers(*seed, &format!("{name}/{part}"), n);
                let [a, b] = draws(*init, site.role, rank, inp);
                (draw("a", rank * inp, a), draw("b", out * rank, b))
            }
            Self::File { file, dora, magnitudes } => {
                if *dora {
                    let m = file.tensor(&site.key(Part::Magnitude), &[out])?;
                    magnitudes.insert(site.name.to_owned(), m);
                }
                let a = file.tensor(&site.key(Part::A), &[rank, inp])?;
                (a, file.tensor(&site.key(Part::B), &[out, rank])?)
            }
        };
        let device = weight.val().device();
        let a = Param::from_data(TensorData::new(transpose(&a, rank, inp), [inp, rank]), &device);
        let b = Param::from_data(TensorData::new(transpose(&b, out, rank), [rank, out]), &device);
        Ok(Lora { a, b, scale })
    }

    /// The weight of a map trained as a whole: the file's, or the base's in memory of its own.
    fn whole(&mut self, site: &Site<'_>, weight: &Param<Tensor<2>>) -> Result<Param<Tensor<2>>, Error> {
        let [rows, cols] = weight.val().dims();
        let data = match self {
            Self::Seed { .. } => host(weight.val()),
            Self::File { file, .. } if site.lies_alike() => {
                file.tensor(&site.key(Part::Weight), &[rows, cols])?
            }
            Self::File { file, .. } => {
                transpose(&file.tensor(&site.key(Part::Weight), &[cols, rows])?, cols, rows)
            }
        };
        Ok(Param::from_data(TensorData::new(data, [rows, cols]), &weight.val().device()))
    }

    fn whole_bias(&mut self, site: &Site<'_>, bias: &Param<Tensor<1>>) -> Result<Param<Tensor<1>>, Error> {
        let [n] = bias.val().dims();
        let data = match self {
            Self::Seed { .. } => host(bias.val()),
            Self::File { file, .. } => file.tensor(&site.key(Part::Bias), &[n])?,
        };
        Ok(Param::from_data(TensorData::new(data, [n]), &bias.val().device()))
    }

    fn check_frozen(&mut self, site: &Site<'_>, weight: &Param<Tensor<2>>) -> Result<(), Error> {
        let Self::File { file, .. } = self else { return Ok(()) };
        let name = site.key(Part::Frozen);
        if file.shape(&name).is_none() {
            return Ok(());
        }
        let base = site.on_disk(weight);
        file.check_frozen(&name, &base.shape, &base.data)
    }

    /// PEFT writes a shared adapter twice: the head's A is the embedding's B, its B the embedding's A.
    fn check_shared(&mut self, site: &Site<'_>, e: &Embedding) -> Result<(), Error> {
        let (Self::File { file, .. }, Some(lora)) = (self, &e.lora) else { return Ok(()) };
        for (part, of) in [(Part::A, &lora.b), (Part::B, &lora.a)] {
            let shape = of.val().dims();
            file.check_frozen(&site.key(part), &shape, &host(of.val()))?;
        }
        Ok(())
    }

    /// A tied head's own copy of a table that was trained as a whole.
    fn check_whole_head(&mut self, site: &Site<'_>, e: &Embedding) -> Result<(), Error> {
        let Self::File { file, .. } = self else { return Ok(()) };
        if e.base.is_none() || file.shape(&site.key(Part::Weight)).is_none() {
            return Ok(());
        }
        let table = site.on_disk(&e.weight);
        file.check_frozen(&site.key(Part::Weight), &table.shape, &table.data)
    }
}

/// A distribution of fresh numbers.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Zero,
    /// In ±bound.
    Uniform(f64),
    /// With this deviation.
    Normal(f64),
}

/// Those of A and B.
fn draws(init: InitWeights, role: Role, rank: usize, inp: usize) -> [Draw; 2] {
    // Kaiming's uniform with slope √5 has the bound 1/√(numbers that are summed).
    let kaiming = |n: usize| Draw::Uniform(1.0 / (n as f64).sqrt());
    match (init, role) {
        (InitWeights::Random, Role::Table) => [Draw::Normal(1.0), Draw::Normal(1.0)],
        (_, Role::Table) => [Draw::Zero, Draw::Normal(1.0)],
        (InitWeights::Standard, _) => [kaiming(inp), Draw::Zero],
        (InitWeights::Gaussian, _) => [Draw::Normal(1.0 / rank as f64), Draw::Zero],
        (InitWeights::Random, _) => [kaiming(inp), kaiming(rank)],
    }
}

impl Draw {
    fn numbers(self, seed: u64, purpose: &str, n: usize) -> Vec<f32> {
        let mut rng = stream(seed, purpose, 0, 0);
        match self {
            Self::Zero => vec![0.0; n],
            Self::Uniform(bound) => {
                (0..n).map(|_| (bound * (2.0 * rng.random::<f64>() - 1.0)) as f32).collect()
            }
            Self::Normal(deviation) => (0..n).map(|_| (deviation * normal(&mut rng)) as f32).collect(),
        }
    }
}
