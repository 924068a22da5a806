//! Where each backend finds its implementation.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Flex};

use super::{Fused, activation, attention, embedding, gated_linear, head, layer_norm, rms_norm, rope};
use crate::activation::Activation;
use crate::attention::Attention;
use crate::head::{HeadLogp, Side};

/// One implementation by the functions it calls.
macro_rules! implement {
    ($($generic:ident)?, $backend:ty, $plain:ident, $activate:ident, $gated:ident) => {
        impl$(<$generic: CheckpointStrategy>)? Fused for $backend {
            fn rms_norm(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                epsilon: f32,
            ) -> FloatTensor<Self> {
                rms_norm::$plain$(::<$generic>)?(x, weight, epsilon)
            }

            fn layer_norm(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                epsilon: f32,
            ) -> FloatTensor<Self> {
                layer_norm::$plain$(::<$generic>)?(x, weight, bias, epsilon)
            }

            fn activate(x: FloatTensor<Self>, how: Activation) -> FloatTensor<Self> {
                activation::$activate$(::<$generic>)?(x, how)
            }

            fn gated(
                gate: FloatTensor<Self>,
                up: FloatTensor<Self>,
                how: Activation,
            ) -> FloatTensor<Self> {
                activation::$gated$(::<$generic>)?(gate, up, how)
            }

            fn gated_linear(
                gate: FloatTensor<Self>,
                up: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                how: Activation,
            ) -> FloatTensor<Self> {
                gated_linear::$plain$(::<$generic>)?(gate, up, weight, how)
            }

            fn rope(
                x: FloatTensor<Self>,
                cos: FloatTensor<Self>,
                sin: FloatTensor<Self>,
                heads: usize,
            ) -> FloatTensor<Self> {
                rope::$plain$(::<$generic>)?(x, cos, sin, heads)
            }

            fn attention(
                q: FloatTensor<Self>,
                k: FloatTensor<Self>,
                v: FloatTensor<Self>,
                how: Attention,
            ) -> FloatTensor<Self> {
                attention::$plain$(::<$generic>)?(q, k, v, how)
            }

            fn embedding(
                weight: FloatTensor<Self>,
                tokens: IntTensor<Self>,
                padding: Option<u32>,
            ) -> FloatTensor<Self> {
                embedding::$plain$(::<$generic>)?(weight, tokens, padding)
            }

            fn head_logp(
                hidden: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                targets: IntTensor<Self>,
                how: HeadLogp,
                side: Side,
            ) -> FloatTensor<Self> {
                head::$plain$(::<$generic>)?(hidden, weight, targets, how, side)
            }
        }
    };
}

implement!(, Flex, plain, activate, gated);
implement!(C, Autodiff<Flex, C>, tracked, activate_tracked, gated_tracked);
