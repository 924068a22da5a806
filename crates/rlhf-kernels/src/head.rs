//! Log-probabilities straight from hidden states.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};

use crate::check;
#[cfg(feature = "flex")]
use crate::flex::{self, Fused};
use crate::softcap::softcap;
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// From the head's products to logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadLogp {
    /// Logits are divided by it.
    pub temperature: f64,
    /// `y ← cap · tanh(y / cap)` before that (Gemma 2); absent for none.
    pub softcap: Option<f64>,
}

/// How the vocabulary lies in the weight.
#[cfg(feature = "flex")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// `[d, V]`.
    Columns,
    /// `[V, d]`.
    Rows,
}

impl Default for HeadLogp {
    /// Temperature 1 and no cap.
    fn default() -> Self {
        Self { temperature: 1.0, softcap: None }
    }
}

/// `log softmax(cap(hidden · weight) / temperature)` at one token a row, in nats.
///
/// The fused form goes through the rows in blocks. Up to 2²³ logits without a cap are kept for the way back, as
/// their shares; of more, or capped ones, one number a row is kept and the logits are taken again. The plain
/// form holds all logits at once.
///
/// # Shapes
/// `hidden: [M, d]`, `weight: [d, V]`, `targets: [M]` in `0..V`; the result is `[M]`.
///
/// # Panics
/// On other shapes, an empty axis of `weight`, or a temperature or cap that is not positive. A target
/// outside of `0..V` panics on the CPU.
#[track_caller]
pub fn head_logp(hidden: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>, how: &HeadLogp) -> Tensor<1> {
    how.check("head_logp", &hidden, weight.dims(), &targets);
    #[cfg(feature = "flex")]
    if flex::serves(&hidden) {
        return Tensor::from_dispatch(<Dispatch as Fused>::head_logp(
            hidden.into_dispatch(),
            weight.into_dispatch(),
            targets.into_dispatch(),
            *how,
            Side::Columns,
        ));
    }
    plain(hidden.matmul(weight), targets, how)
}

/// [`head_logp`] with the weight of a tied embedding, `[V, d]`; its transpose is never written out.
///
/// # Panics
/// As [`head_logp`].
#[track_caller]
pub fn head_logp_tied(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    how: &HeadLogp,
) -> Tensor<1> {
    let [v, d] = weight.dims();
    how.check("head_logp_tied", &hidden, [d, v], &targets);
    #[cfg(feature = "flex")]
    if flex::serves(&hidden) {
        return Tensor::from_dispatch(<Dispatch as Fused>::head_logp(
            hidden.into_dispatch(),
            weight.into_dispatch(),
            targets.into_dispatch(),
            *how,
            Side::Rows,
        ));
    }
    plain(hidden.matmul(weight.transpose()), targets, how)
}

impl HeadLogp {
    #[track_caller]
    fn check(&self, function: &str, hidden: &Tensor<2>, [d, v]: [usize; 2], targets: &Tensor<1, Int>) {
        let [m, _] = hidden.dims();
        check::same(function, "hidden", hidden.dims(), [m, d]);
        check::same(function, "targets", targets.dims(), [m]);
        assert!(
            d > 0 && v > 0,
            "{function}: weight: expected axes that are not empty, found d {d} and V {v}"
        );
        let positive = |name: &str, x: f64| {
            assert!(x > 0.0, "{function}: {name}: expected a positive number, found {x}");
        };
        positive("temperature", self.temperature);
        self.softcap.inspect(|cap| positive("softcap", *cap));
    }
}

fn plain(products: Tensor<2>, targets: Tensor<1, Int>, how: &HeadLogp) -> Tensor<1> {
    let [m, _] = products.dims();
    let logits = softcap(products, how.softcap).div_scalar(how.temperature);
    log_softmax(logits, 1).gather(1, targets.reshape([m, 1])).reshape([m])
}
