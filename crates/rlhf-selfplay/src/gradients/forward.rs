//! Forward KL by samples of the original, the one regulariser that reads no answer of the policy.
//!
//! ```text
//! λ Σ −log π(token) / n          y ~ μ, over the tokens of all responses
//! token_mean:    n is their tokens          sequence_sum:  n is the responses
//! ```
//!
//! Source: the `sppo_forward` loss of the code of Tang et al., arXiv:2503.00030, which divides by rows times
//! the padded length and masks no prompt; here prompts and padding do not count. The expected gradient of
//! `sequence_sum` is λ ∇KL(μ ‖ π): beside RSPO at β it acts with the temperature λβ/2 on pairs and λβ on
//! single answers. That of `token_mean` depends on the lengths.

use rlhf_core::loss::rspo::rspo_forward_samples;
use rlhf_core::number::Weight;
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::{Completions, Cut, host};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::Grads;
use serde::{Deserialize, Serialize};

/// Numbers of [`forward_samples`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardSamples {
    /// λ.
    pub weight: Weight,
    /// What the sum over tokens is divided by.
    pub reduction: ForwardReduction,
}

/// What a sum over the tokens of a window's responses is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardReduction {
    /// Their tokens.
    TokenMean,
    /// The responses.
    SequenceSum,
}

/// What the responses showed before the step, nats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ForwardStep {
    /// The term, λ included: what is added to the loss of the step.
    #[serde(rename = "loss/forward")]
    pub loss: f64,
    /// Mean of −log π over tokens.
    #[serde(rename = "forward/token_mean")]
    pub token_mean: f64,
    /// Mean of −log π over responses.
    #[serde(rename = "forward/sequence_sum")]
    pub sequence_sum: f64,
}

/// The gradient of the term on `responses`, drawn from the original; [`Grads::plus`] adds it to that of a
/// step.
///
/// # Panics
/// On no response, a micro-batch that scores no token.
#[track_caller]
pub fn forward_samples(
    policy: &Decoder,
    responses: &[&Sequence],
    term: ForwardSamples,
    cut: &Cut,
) -> (Grads, ForwardStep) {
    assert!(!responses.is_empty(), "forward_samples: responses: expected at least one, found none");
    let n_tokens = responses.iter().map(|s| s.n_targets()).sum::<usize>() as f64;
    let n_responses = responses.len() as f64;
    let by = match term.reduction {
        ForwardReduction::TokenMean => n_tokens,
        ForwardReduction::SequenceSum => n_responses,
    };
    let share = term.weight.get() / by;
    let (mut total, mut sum) = (Grads::default(), 0.0);
    for rows in responses.chunks(cut.micro_batch.max(1)) {
        let tokens = Completions::new(policy, rows, 1.0, cut.pad).tokens;
        let loss = rspo_forward_samples(tokens.logp, &tokens.mask).sum();
        sum += host(loss.clone())[0];
        total = total.plus(Grads::of(policy, &loss.mul_scalar(share).backward()));
    }
    (total, ForwardStep { loss: sum * share, token_mean: sum / n_tokens, sequence_sum: sum / n_responses })
}
