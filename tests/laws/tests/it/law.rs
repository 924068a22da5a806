//! What an entry of the table is, and the numbers it is tried on.

use std::cell::RefCell;
use std::iter::Sum;
use std::ops::{Add, Div, Mul, Neg, Sub};

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use rand::RngExt;
use rlhf_core::real::{Dual, Real};
use rlhf_core::rng::stream;

/// Examples of a batch.
pub(super) const N: usize = 6;

/// Columns that the padding law appends.
pub(super) const MORE: usize = 3;

/// One loss, as a tensor function and as its twin, of a leaf that is learned and of companions that
/// must get no gradient.
pub(super) struct Law {
    /// Name of the function; what follows a `/` tells variants apart.
    pub(super) name: &'static str,
    pub(super) form: Form,
    /// `[N, O]`.
    pub(super) tensor: fn(&Tensors) -> Tensor<2>,
    pub(super) dual: fn(&Batch<Dual>) -> Vec<Vec<Dual>>,
    pub(super) probe: fn(&Batch<Probe>) -> Vec<Vec<Probe>>,
}

impl Law {
    /// The function's own name.
    pub(super) fn function(&self) -> &'static str {
        self.name.split('/').next().unwrap_or(self.name)
    }
}

/// One line of the table: `law!("name", form, |t| tensor code -> [N, O], row |r| vec![twin; O])`, or
/// `batch |b| rows` for a loss whose examples see each other.
macro_rules! law {
    ($name:literal, $form:expr, |$t:ident| $tensor:expr, row |$r:ident| $twin:expr) => {
        Law {
            name: $name,
            form: $form,
            tensor: |$t: &Tensors| $tensor,
            dual: |b: &Batch<Dual>| b.rows().iter().map(|$r: &Row<'_, Dual>| $twin).collect(),
            probe: |b: &Batch<Probe>| b.rows().iter().map(|$r: &Row<'_, Probe>| $twin).collect(),
        }
    };
    ($name:literal, $form:expr, |$t:ident| $tensor:expr, batch |$b:ident| $twin:expr) => {
        Law {
            name: $name,
            form: $form,
            tensor: |$t: &Tensors| $tensor,
            dual: |$b: &Batch<Dual>| $twin,
            probe: |$b: &Batch<Probe>| $twin,
        }
    };
}
pub(super) use law;

/// What the numbers of a column are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// From −size to size.
    Any,
    /// A log-probability: from −size to just below 0.
    LogProb,
    /// From 0.05 to 0.95 whatever the size.
    Prob,
    /// 1 to 9.
    Count,
    /// 0 or 1.
    Binary,
}

/// What goes into a loss and which laws hold for it.
#[derive(Debug, Clone)]
pub(super) struct Form {
    /// Columns of the leaf.
    pub(super) width: usize,
    pub(super) leaf: Kind,
    /// Columns of each detached companion, and whether it must count.
    pub(super) others: Vec<(usize, Kind, bool)>,
    /// The mask counts: it covers the leaf and every companion that is as wide.
    pub(super) masked: bool,
    /// Each row has a token.
    pub(super) tokens: bool,
    /// Examples see each other (sorted, compared with a mean): alone they have another loss.
    pub(super) coupled: bool,
    /// Columns of chosen and rejected, in the leaf and in the companion of the same width, where an
    /// identical pair has no gradient.
    pub(super) pair: Option<[usize; 2]>,
    /// The mathematics itself overflows far out.
    pub(super) overflows: bool,
    /// How large the numbers are in the laws of values and gradients.
    pub(super) size: f64,
}

impl Form {
    /// A leaf of `width` columns.
    pub(super) fn rows(width: usize) -> Self {
        Self {
            width,
            leaf: Kind::Any,
            others: Vec::new(),
            masked: false,
            tokens: false,
            coupled: false,
            pair: None,
            overflows: false,
            size: 3.0,
        }
    }

    /// Rows of logits, each with a token.
    pub(super) fn logits() -> Self {
        Self { tokens: true, ..Self::rows(7) }
    }

    /// Chosen and rejected log-probability, with those of the reference; the gradient of an
    /// identical pair is zero.
    pub(super) fn pair() -> Self {
        Self { pair: Some([0, 1]), ..Self::rows(2) }.with(2, Kind::Any)
    }

    /// As [`pair`](Self::pair), where an identical pair may have a gradient.
    pub(super) fn two() -> Self {
        Self { pair: None, ..Self::pair() }
    }

    /// Log-probabilities of the tokens of a completion, with a mask.
    pub(super) fn tokens() -> Self {
        Self { masked: true, ..Self::rows(5) }
    }

    /// One more companion, which counts.
    pub(super) fn with(mut self, width: usize, kind: Kind) -> Self {
        self.others.push((width, kind, true));
        self
    }

    /// One more companion, which may count for nothing at some points.
    pub(super) fn with_idle(mut self, width: usize, kind: Kind) -> Self {
        self.others.push((width, kind, false));
        self
    }

    /// The leaf's kind of numbers.
    pub(super) fn leaf(self, leaf: Kind) -> Self {
        Self { leaf, ..self }
    }

    /// Examples see each other.
    pub(super) fn coupled(self) -> Self {
        Self { coupled: true, ..self }
    }

    /// The mathematics overflows far out.
    pub(super) fn overflows(self) -> Self {
        Self { overflows: true, ..self }
    }

    /// Numbers of another size than 3.
    pub(super) fn size(self, size: f64) -> Self {
        Self { size, ..self }
    }

    /// Whether companion `k` lies under the mask.
    pub(super) fn under_mask(&self, k: usize) -> bool {
        self.masked && self.others[k].0 == self.width
    }
}

/// A batch on the host.
#[derive(Debug, Clone)]
pub(super) struct Batch<R> {
    pub(super) leaf: Vec<Vec<R>>,
    pub(super) others: Vec<Vec<Vec<f64>>>,
    pub(super) mask: Vec<Vec<bool>>,
    pub(super) tokens: Vec<usize>,
}

/// One example of a batch.
#[derive(Debug, Clone)]
pub(super) struct Row<'a, R> {
    /// The leaf.
    pub(super) x: &'a [R],
    /// The companions.
    pub(super) o: Vec<&'a [f64]>,
    pub(super) mask: &'a [bool],
    pub(super) token: usize,
}

impl<R: Copy> Batch<R> {
    pub(super) fn rows(&self) -> Vec<Row<'_, R>> {
        let row = |i: usize| Row {
            x: &self.leaf[i],
            o: self.others.iter().map(|o| o[i].as_slice()).collect(),
            mask: &self.mask[i],
            token: self.tokens[i],
        };
        (0..self.leaf.len()).map(row).collect()
    }
}

impl Batch<f64> {
    pub(super) fn draw(form: &Form, seed: u64, size: f64) -> Self {
        let mut rng = stream(seed, "laws", 0, 0);
        let mut one = |kind: Kind| {
            let u: f64 = rng.random();
            let x = match kind {
                Kind::Any => (2.0 * u - 1.0) * size,
                Kind::LogProb => -0.01 - u * size,
                Kind::Prob => 0.05 + 0.9 * u,
                Kind::Count => 1.0 + (9.0 * u).floor(),
                Kind::Binary => (2.0 * u).floor(),
            };
            // Exact in `f32`, so that both sides see the same number.
            f64::from(x as f32)
        };
        let mut matrix = |width: usize, kind: Kind| -> Vec<Vec<f64>> {
            (0..N).map(|_| (0..width).map(|_| one(kind)).collect()).collect()
        };
        let leaf = matrix(form.width, form.leaf);
        let others = form.others.iter().map(|(width, kind, _)| matrix(*width, *kind)).collect();
        let mut rng = stream(seed, "laws.mask", 0, 0);
        let mask = (0..N)
            .map(|_| {
                let first = rng.random_range(0..form.width);
                (0..form.width).map(|j| !form.masked || j == first || rng.random::<f64>() < 0.6).collect()
            })
            .collect();
        let tokens = (0..N).map(|i| (5 * i + seed as usize) % form.width).collect();
        Self { leaf, others, mask, tokens }
    }

    pub(super) fn reals<R: Real>(&self) -> Batch<R> {
        Batch {
            leaf: self.leaf.iter().map(|row| row.iter().copied().map(R::from).collect()).collect(),
            others: self.others.clone(),
            mask: self.mask.clone(),
            tokens: self.tokens.clone(),
        }
    }

    /// Rows in another order, or fewer of them.
    pub(super) fn picked(&self, order: &[usize]) -> Self {
        fn pick<T: Clone>(of: &[T], order: &[usize]) -> Vec<T> {
            order.iter().map(|i| of[*i].clone()).collect()
        }
        Self {
            leaf: pick(&self.leaf, order),
            others: self.others.iter().map(|o| pick(o, order)).collect(),
            mask: pick(&self.mask, order),
            tokens: pick(&self.tokens, order),
        }
    }

    /// `more` columns of NaN behind the mask.
    pub(super) fn padded(&self, form: &Form, more: usize) -> Self {
        let mut padded = self.clone();
        let longer = |rows: &mut Vec<Vec<f64>>| {
            rows.iter_mut().for_each(|row| row.extend(std::iter::repeat_n(f64::NAN, more)));
        };
        longer(&mut padded.leaf);
        for k in (0..form.others.len()).filter(|k| form.under_mask(*k)) {
            longer(&mut padded.others[k]);
        }
        padded.mask.iter_mut().for_each(|row| row.extend(std::iter::repeat_n(false, more)));
        padded
    }

    /// NaN wherever the mask is false.
    pub(super) fn poisoned(&self, form: &Form) -> Self {
        let mut poisoned = self.clone();
        let poison = |rows: &mut Vec<Vec<f64>>| {
            for (row, mask) in rows.iter_mut().zip(&self.mask) {
                row.iter_mut().zip(mask).filter(|(_, on)| !**on).for_each(|(x, _)| *x = f64::NAN);
            }
        };
        poison(&mut poisoned.leaf);
        for k in (0..form.others.len()).filter(|k| form.under_mask(*k)) {
            poison(&mut poisoned.others[k]);
        }
        poisoned
    }

    /// On the autodiff device, everything a leaf.
    pub(super) fn tensors(&self) -> Tensors {
        let device = Device::flex().autodiff();
        let n = self.leaf.len();
        let matrix = |rows: &[Vec<f64>]| {
            let width = rows.first().map_or(0, Vec::len);
            let values: Vec<f32> = rows.iter().flatten().map(|x| *x as f32).collect();
            Tensor::<2>::from_data(TensorData::new(values, [rows.len(), width]), &device).require_grad()
        };
        let mask: Vec<i64> = self.mask.iter().flatten().map(|on| i64::from(*on)).collect();
        let width = self.mask.first().map_or(0, Vec::len);
        let mask = Tensor::<2, Int>::from_data(TensorData::new(mask, [n, width]), &device).equal_elem(1);
        let tokens: Vec<i64> = self.tokens.iter().map(|y| *y as i64).collect();
        Tensors {
            leaf: matrix(&self.leaf),
            others: self.others.iter().map(|o| matrix(o)).collect(),
            mask,
            tokens: Tensor::from_data(TensorData::new(tokens, [n]), &device),
        }
    }
}

/// A batch on the device.
#[derive(Debug, Clone)]
pub(super) struct Tensors {
    /// `[N, width]`.
    pub(super) leaf: Tensor<2>,
    /// `[N, w]` each.
    pub(super) others: Vec<Tensor<2>>,
    /// `[N, width]`.
    pub(super) mask: Tensor<2, Bool>,
    /// `[N]`.
    pub(super) tokens: Tensor<1, Int>,
}

impl Tensors {
    /// A column of the leaf, `[N]`.
    pub(super) fn x(&self, i: usize) -> Tensor<1> {
        column(&self.leaf, i)
    }

    /// Columns 0 and 1 of the leaf.
    pub(super) fn pair(&self) -> [Tensor<1>; 2] {
        [self.x(0), self.x(1)]
    }

    /// A companion, `[N, w]`.
    pub(super) fn o(&self, k: usize) -> Tensor<2> {
        self.others[k].clone()
    }

    /// A column of a companion, `[N]`.
    pub(super) fn col(&self, k: usize, i: usize) -> Tensor<1> {
        column(&self.others[k], i)
    }

    /// Columns 0 and 1 of a companion.
    pub(super) fn pair_of(&self, k: usize) -> [Tensor<1>; 2] {
        [self.col(k, 0), self.col(k, 1)]
    }
}

fn column(x: &Tensor<2>, i: usize) -> Tensor<1> {
    let n = x.dims()[0];
    x.clone().narrow(1, i, 1).reshape([n])
}

/// One number an example as `[N, 1]`.
pub(super) fn one(x: Tensor<1>) -> Tensor<2> {
    x.unsqueeze_dim(1)
}

/// A number whose stopped parts can be held while the rest moves: for central differences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Probe(pub(super) f64);

#[derive(Default)]
struct Tape {
    held: Vec<f64>,
    at: Option<usize>,
}

thread_local! {
    static TAPE: RefCell<Tape> = RefCell::new(Tape::default());
}

impl Probe {
    /// Evaluates and remembers every stopped part.
    pub(super) fn record<T>(f: impl FnOnce() -> T) -> T {
        TAPE.with(|tape| *tape.borrow_mut() = Tape::default());
        f()
    }

    /// Evaluates with the stopped parts that were remembered.
    pub(super) fn replay<T>(f: impl FnOnce() -> T) -> T {
        TAPE.with(|tape| tape.borrow_mut().at = Some(0));
        f()
    }
}

impl Real for Probe {
    fn chain(self, value: f64, _: f64) -> Self {
        Self(value)
    }

    fn detached(self) -> Self {
        TAPE.with(|tape| {
            let mut tape = tape.borrow_mut();
            if let Some(at) = tape.at {
                tape.at = Some(at + 1);
                Self(tape.held[at])
            } else {
                tape.held.push(self.0);
                self
            }
        })
    }
}

impl From<f64> for Probe {
    fn from(x: f64) -> Self {
        Self(x)
    }
}

impl From<Probe> for f64 {
    fn from(x: Probe) -> Self {
        x.0
    }
}

impl Neg for Probe {
    type Output = Self;

    fn neg(self) -> Self {
        Self(-self.0)
    }
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident),*) => {
        $(impl $trait for Probe {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                Self($trait::$method(self.0, other.0))
            }
        }

        impl $trait<f64> for Probe {
            type Output = Self;

            fn $method(self, other: f64) -> Self {
                Self($trait::$method(self.0, other))
            }
        })*
    };
}

arithmetic!(Add add, Sub sub, Mul mul, Div div);

impl Sum for Probe {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        Self(terms.map(|x| x.0).sum())
    }
}
