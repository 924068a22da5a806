//! What a window showed before its step, by TRL's names.

use rlhf_policy::preference::PairRecord;
use serde::Serialize;

/// Of either kind of examples; written flat.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Record {
    /// Of pairs.
    Pairs(PairStep),
    /// Of single answers.
    Responses(ResponseStep),
}

impl Record {
    /// Mean of the loss over the examples.
    pub fn loss(&self) -> f64 {
        match self {
            Self::Pairs(step) => step.record.loss,
            Self::Responses(step) => step.loss,
        }
    }

    /// Tokens read, prompts included.
    pub fn num_tokens(&self) -> usize {
        match self {
            Self::Pairs(step) => step.record.num_tokens,
            Self::Responses(step) => step.num_tokens,
        }
    }
}

/// Of a window of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairStep {
    /// What every loss of pairs shows.
    #[serde(flatten)]
    pub record: PairRecord,
    /// RSPO and SPPO: mean of the squares' part of the loss.
    #[serde(rename = "loss/square", skip_serializing_if = "Option::is_none")]
    pub square: Option<f64>,
    /// RSPO and SPPO: mean of the regularisers' part, Σ λ r over both answers.
    #[serde(rename = "loss/regularizer", skip_serializing_if = "Option::is_none")]
    pub regularizer: Option<f64>,
}

/// Of a window of single answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ResponseStep {
    /// Mean of the loss over the answers.
    pub loss: f64,
    /// Mean log π of an answer, nats.
    #[serde(rename = "logps/mean")]
    pub logp: f64,
    /// Mean win rate of an answer.
    #[serde(rename = "rewards/probabilities")]
    pub win_rate: f64,
    /// RSPO and SPPO: mean of β times the log-ratio to the previous iterate.
    #[serde(rename = "rewards/mean", skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// RSPO and SPPO: mean of the squares' part of the loss.
    #[serde(rename = "loss/square", skip_serializing_if = "Option::is_none")]
    pub square: Option<f64>,
    /// RSPO and SPPO: mean of the regularisers' part.
    #[serde(rename = "loss/regularizer", skip_serializing_if = "Option::is_none")]
    pub regularizer: Option<f64>,
    /// Nash-MD: mean log-ratio to the original, a sample of KL(π ‖ μ), nats.
    #[serde(rename = "objective/kl", skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Nash-MD: mean of (P − ½) log π.
    #[serde(rename = "objective/score", skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Mean entropy at a scored token, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// Tokens read, prompts included.
    pub num_tokens: usize,
}
