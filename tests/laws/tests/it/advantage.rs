//! The loss of the values that advantages are measured from.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::ppo_value::{PpoValueConfig, ppo_value, ppo_value_scalar};
use rlhf_core::number::Bound;
use rlhf_core::real::Dual;

use super::law::{Batch, Form, Kind, Law, Probe, Row, Tensors, law};
use super::policy_gradient::each;

fn range() -> PpoValueConfig {
    PpoValueConfig { cliprange_value: Bound::new(0.5).expect("positive") }
}

const FREE: PpoValueConfig = PpoValueConfig { cliprange_value: Bound::NONE };

pub(super) fn laws() -> Vec<Law> {
    // Predictions, old values and returns.
    let form = || Form::tokens().with(5, Kind::Any).with(5, Kind::Any).size(1.0);
    vec![
        law!(
            "ppo_value",
            form(),
            |t| ppo_value(range(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | each(r, |i| ppo_value_scalar(range(), r.x[i], r.o[0][i], r.o[1][i]))
        ),
        law!(
            "ppo_value/free",
            Form::tokens().with_idle(5, Kind::Any).with(5, Kind::Any),
            |t| ppo_value(FREE, t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | each(r, |i| ppo_value_scalar(FREE, r.x[i], r.o[0][i], r.o[1][i]))
        ),
    ]
}

#[test]
fn a_clipped_value_is_marked_and_gets_no_gradient() {
    let device = Device::flex().autodiff();
    let row = |x: [f32; 4]| Tensor::<2>::from_data([x], &device);
    // Old value 0, ε = ½: inside; beyond and nearer to 3; beyond on the other side; masked.
    let value = row([0.25, 2.0, -1.0, f32::NAN]).require_grad();
    let mask = row([1.0, 1.0, 1.0, 0.0]).greater_elem(0.5);
    let old = row([0.0, 0.0, 0.0, f32::NAN]);
    let found = ppo_value(range(), value.clone(), old.clone(), row([3.0; 4]), &mask);
    let numbers = |x: Tensor<2>| x.into_data().try_into_vec::<f32>().expect("f32");
    assert_eq!(numbers(found.clipped), [0.0, 1.0, 0.0, 0.0]);
    let grads = found.loss.sum().backward();
    assert_eq!(numbers(value.grad(&grads).expect("a gradient")), [-2.75, 0.0, -4.0, 0.0]);
    let free = ppo_value(FREE, value, old, row([3.0; 4]), &mask);
    assert_eq!(numbers(free.clipped), [0.0; 4]);
}
