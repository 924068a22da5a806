//! Generation of a deep model with and without a part of its blocks: what nested rollouts gain.

use burn::tensor::Device;
use rand::RngExt;
use rand::seq::index::sample;
use rlhf_core::rng::stream;
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Decoding, Generation, generate};

use crate::error::Error;
use crate::pipeline::models::scratch_decoder;

/// Blocks of the model.
pub(super) const BLOCKS: usize = 28;
/// Blocks that the nested workload leaves out, 14 % of them.
pub(super) const SKIPPED: usize = 4;

/// Parameters of a block, and all that a decoding step reads.
const BLOCK_PARAMETERS: usize = 4 * 512 * 512 + 3 * 512 * 1408 + 2 * 512;
const PARAMETERS: usize = BLOCKS * BLOCK_PARAMETERS + 4096 * 512 + 512;

/// What the gain would be if reading parameters were all that takes time: `1 / (1 − (k/L) f)`, f the blocks'
/// share of them.
pub(super) fn predicted() -> f64 {
    PARAMETERS as f64 / (PARAMETERS - SKIPPED * BLOCK_PARAMETERS) as f64
}

/// Prompts, their tokens, and new ones.
const PROMPTS: usize = 16;
const PROMPT_TOKENS: usize = 16;
const NEW_TOKENS: usize = 48;

/// A scratch decoder of 28 blocks of width 512.
pub(super) struct Deep {
    config: DecoderConfig,
    policy: Decoder,
    device: Device,
}

impl Deep {
    pub(super) fn new(device: &Device) -> Result<Self, Error> {
        let config = shape()?;
        let policy = scratch_decoder(&config, 0, device)?;
        Ok(Self { config, policy, device: device.clone() })
    }

    /// New tokens of a generation with `k` blocks left out, others in every repetition, the first and the last
    /// block always kept.
    pub(super) fn generate(&self, k: usize, step: u64) -> Result<usize, Error> {
        let n = self.config.architecture().layers.len();
        let mut random = stream(0, "bench/deep", step, 0);
        let skipped: Vec<usize> = sample(&mut random, n - 2, k).into_iter().map(|i| i + 1).collect();
        let kept: Vec<usize> = (0..n).filter(|i| !skipped.contains(i)).collect();
        let last = self.config.vocab_size() as u32;
        let row = |_| (0..PROMPT_TOKENS).map(|_| random.random_range(3..last)).collect();
        let prompts: Vec<Vec<u32>> = (0..PROMPTS).map(row).collect();
        let decoding = Decoding::for_device(&self.device);
        let how = Generation {
            layers: (k > 0).then_some(kept),
            ..Generation::plain(decoding, self.config.max_position_embeddings(), NEW_TOKENS)
        };
        let random = |p: usize, s: usize| stream(step, "bench/sample", p as u64, s as u64);
        let all = generate(&self.policy, &prompts, &how, &random, &self.device)?;
        Ok(all.iter().map(|r| r.tokens.len()).sum())
    }
}

/// 92,041,728 parameters, 2,097,152 of them the embedding, which is the head.
fn shape() -> Result<DecoderConfig, Error> {
    let json = r#"{"model_type":"llama","vocab_size":4096,"hidden_size":512,"intermediate_size":1408,
        "num_hidden_layers":28,"num_attention_heads":8,"num_key_value_heads":8,"rms_norm_eps":1e-5,
        "max_position_embeddings":512,"tie_word_embeddings":true,"pad_token_id":0,"bos_token_id":1,
        "eos_token_id":2}"#;
    Ok(DecoderConfig::parse(json)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_as_deep_as_it_says() {
        let config = shape().expect("valid");
        assert_eq!(PARAMETERS, 92_041_728);
        assert_eq!(config.architecture().n_parameters(), Some(PARAMETERS));
        assert_eq!(config.architecture().layers.len(), BLOCKS);
    }
}
