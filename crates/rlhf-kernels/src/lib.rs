//! Fused operations of decoder language models, each with its own backward pass, and the plain
//! compositions they equal.
//!
//! Every function is over `burn::tensor::Tensor`, works under autodiff, and chooses by where its
//! tensors live: on Burn's flex device, in `f32` and with this crate's feature `flex`, one pass over
//! memory with vectorised arithmetic; anywhere else the same function composed of Burn's operations.
//! Results of the two differ by rounding alone. Work is cut into pieces of fixed size, so that a
//! result does not depend on the number of threads.
//!
//! A NaN or an infinity in an input is never hidden.

pub use activation::{Activation, activate, gated};
pub use adamw::{AdamWState, AdamWStep, adamw, sum_of_squares};
pub use attention::{Attention, attention};
pub use embedding::{embedding, embedding_with_padding};
pub use gated_linear::gated_linear;
pub use head::{HeadLogp, head_logp, head_logp_tied};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use softcap::softcap;

/// Whether tensors on `device` lie in the memory of the CPU and are served by the fused operations.
pub fn on_host(device: &burn::tensor::Device) -> bool {
    #[cfg(feature = "flex")]
    {
        matches!(device.clone().inner().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
    }
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

mod activation;
mod adamw;
mod attention;
mod check;
mod embedding;
#[cfg(feature = "flex")]
mod flex;
mod gated_linear;
mod head;
mod layer_norm;
mod linear;
mod rms_norm;
mod rope;
mod simd;
pub mod slice;
mod softcap;
