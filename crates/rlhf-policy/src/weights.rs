//! A model's parameters by inner name: scratch initialisation, reading back, writing out.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha12Rng;
use rlhf_core::rng::stream;

use crate::architecture::NormKind;
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::family::Family;

/// One parameter on the host, laid out as Hugging Face stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions, `[out, in]` for a linear map.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// A source of scratch parameters: norms multiply with one, biases are zero, all else is normal with
/// the config's standard deviation from a stream of its own for each name, so that a tensor's values depend on
/// the seed and its name alone.
pub fn scratch(
    seed: u64,
    config: &DecoderConfig,
) -> impl FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> + use<> {
    let std = config.initializer_range();
    // 1 + w multiplies where norms are offset.
    let one = if config.architecture().norm == NormKind::RmsOffset { 0.0 } else { 1.0 };
    // GPT-2 scales what is added to the stream by 1/√(2 · blocks), for it is added so often.
    let added = if config.family() == Family::Gpt2 {
        std / (2.0 * config.architecture().layers.len() as f64).sqrt()
    } else {
        std
    };
    move |name, shape| {
        let n = shape.iter().product();
        let mut values = Vec::new();
        values.try_reserve_exact(n).map_err(|e| Error::Tensor {
            name: name.to_owned(),
            expected: "room in memory".into(),
            found: format!("{shape:?}: {e}"),
        })?;
        if name.ends_with("norm.weight") {
            values.resize(n, one);
        } else if name.ends_with(".bias") {
            values.resize(n, 0.0);
        } else {
            let mut rng = stream(seed, &format!("init/{name}"), 0, 0);
            let joins = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
            let std = if joins { added } else { std };
            values.extend((0..n).map(|_| (std * normal(&mut rng)) as f32));
        }
        Ok(values)
    }
}

/// A standard normal number by the Box–Muller transform (one of the pair is thrown away).
pub(crate) fn normal(rng: &mut ChaCha12Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random::<f64>();
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

/// The inner name of a module path.
pub(crate) fn inner_name(path: &[String]) -> String {
    path.join(".")
}

/// Linear weights lie transposed in Burn; embeddings and vectors do not.
fn is_transposed(name: &str, rank: usize) -> bool {
    let table = ["embed_tokens.weight", "embed_positions.weight"];
    rank == 2 && !table.iter().any(|end| name.ends_with(end))
}

/// Row-major `[rows, cols]` to `[cols, rows]`.
pub(crate) fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    // In tiles that fit a cache, so that both sides are read and written line by line.
    const TILE: usize = 32;
    let mut out = vec![0.0; x.len()];
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..cols).step_by(TILE) {
            for r in r0..rows.min(r0 + TILE) {
                for c in c0..cols.min(c0 + TILE) {
                    out[c * rows + r] = x[r * cols + c];
                }
            }
        }
    }
    out
}

/// All parameters of `module` on the host, in checkpoint layout and name order.
pub fn parameters<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    read(module, Which::All)
}

/// The parameters of `module` that a gradient is kept for, as [`parameters`] has them: of a model with
/// adapters the adapters and what is trained beside them, of any other all. `module` lives on an autodiff
/// device; on a plain one nothing has a gradient.
pub fn trainable_parameters<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    read(module, Which::Trainable)
}

fn read<M: Module>(module: &M, which: Which) -> BTreeMap<String, HostTensor> {
    let mut read = Read { path: Vec::new(), which, out: BTreeMap::new() };
    module.visit(&mut read);
    read.out
}

/// Which parameters are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Trainable,
}

struct Read {
    path: Vec<String>,
    which: Which,
    out: BTreeMap<String, HostTensor>,
}

impl ModuleVisitor for Read {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = inner_name(&self.path);
        let tensor = param.val();
        if self.which == Which::Trainable && !tensor.is_require_grad() {
            return;
        }
        let dims = tensor.dims();
        let data: Vec<f32> = tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32");
        let tensor = if is_transposed(&name, D) {
            HostTensor { shape: vec![dims[1], dims[0]], data: transpose(&data, dims[0], dims[1]) }
        } else {
            HostTensor { shape: dims.to_vec(), data }
        };
        self.out.insert(name, tensor);
    }
}

/// `module` with every parameter replaced by the one of its name; ids, devices and gradient
/// settings stay.
///
/// # Errors
/// A parameter that is missing from `from` or has another shape there.
pub fn replaced<M: Module>(module: M, from: &BTreeMap<String, HostTensor>) -> Result<M, Error> {
    write(module, from, Which::All)
}

/// As [`replaced`], of the parameters that [`trainable_parameters`] names; the others stay where they are.
///
/// # Errors
/// A parameter that is missing from `from` or has another shape there.
pub fn replaced_trainable<M: Module>(module: M, from: &BTreeMap<String, HostTensor>) -> Result<M, Error> {
    write(module, from, Which::Trainable)
}

fn write<M: Module>(module: M, from: &BTreeMap<String, HostTensor>, which: Which) -> Result<M, Error> {
    let mut write = Write { path: Vec::new(), from, which, error: None };
    let module = module.map(&mut write);
    write.error.map_or(Ok(module), Err)
}

struct Write<'a> {
    path: Vec<String>,
    from: &'a BTreeMap<String, HostTensor>,
    which: Which,
    error: Option<Error>,
}

impl ModuleMapper for Write<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = inner_name(&self.path);
        let dims = param.val().dims();
        if self.which == Which::Trainable && !param.val().is_require_grad() {
            return param;
        }
        let turned = is_transposed(&name, D);
        let expected = if turned { vec![dims[1], dims[0]] } else { dims.to_vec() };
        match self.from.get(&name) {
            Some(t) if t.shape == expected => param.map(|old| {
                let data = if turned { transpose(&t.data, dims[1], dims[0]) } else { t.data.clone() };
                let new = Tensor::from_data(TensorData::new(data, dims), &old.device());
                if old.is_require_grad() { new.require_grad() } else { new }
            }),
            found => {
                let found = found.map_or_else(|| "nothing".to_owned(), |t| format!("{:?}", t.shape));
                self.error.get_or_insert(Error::Tensor { name, expected: format!("{expected:?}"), found });
                param
            }
        }
    }
}
