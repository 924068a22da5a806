//! A model's parameters by checkpoint name: scratch initialisation, reading back, writing out.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha12Rng;
use rlhf_core::rng::stream;

use crate::decoder::transpose;
use crate::error::Error;

/// One parameter on the host, laid out as Hugging Face stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions, `[out, in]` for a linear map.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// A source of scratch parameters: norms are one, biases zero, all else normal with standard
/// deviation `std` from a stream of its own for each name, so that a tensor's values depend on
/// the seed and its name alone.
pub fn scratch(seed: u64, std: f64) -> impl FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> {
    move |name, shape| {
        let n = shape.iter().product();
        Ok(if name.ends_with("norm.weight") {
            vec![1.0; n]
        } else if name.ends_with(".bias") {
            vec![0.0; n]
        } else {
            let mut rng = stream(seed, &format!("init/{name}"), 0, 0);
            (0..n).map(|_| (std * normal(&mut rng)) as f32).collect()
        })
    }
}

/// A standard normal number by the Box–Muller transform (one of the pair is thrown away).
fn normal(rng: &mut ChaCha12Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random::<f64>();
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

/// The checkpoint name of a module path: Burn's `gamma` is the checkpoint's `weight`.
pub(crate) fn checkpoint_name(path: &[String]) -> String {
    let mut name = path.join(".");
    if let Some(stem) = name.strip_suffix("gamma") {
        name = format!("{stem}weight");
    }
    name
}

/// Linear weights lie transposed in Burn; embeddings and vectors do not.
fn is_transposed(name: &str, rank: usize) -> bool {
    rank == 2 && !name.ends_with("embed_tokens.weight")
}

/// All parameters of `module` on the host, in checkpoint layout and name order.
pub fn parameters<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    let mut read = Read::default();
    module.visit(&mut read);
    read.out
}

#[derive(Default)]
struct Read {
    path: Vec<String>,
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
        let name = checkpoint_name(&self.path);
        let tensor = param.val();
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
    let mut write = Write { path: Vec::new(), from, error: None };
    let module = module.map(&mut write);
    write.error.map_or(Ok(module), Err)
}

struct Write<'a> {
    path: Vec<String>,
    from: &'a BTreeMap<String, HostTensor>,
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
        let name = checkpoint_name(&self.path);
        let dims = param.val().dims();
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
