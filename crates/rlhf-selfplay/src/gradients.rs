//! The gradient of one optimiser step of each method.
//!
//! A window is what one step sees; it is cut into micro-batches for the memory at hand, and any cut gives
//! the same gradient but for rounding. The loss is the mean over the window's examples: over pairs, whose
//! loss is the sum of both answers', or over single answers.
//!
//! ```
//! use rlhf_policy::completion::{Cut, TokenMetrics};
//! use rlhf_policy::decoder::Decoder;
//! use rlhf_policy::optim::Grads;
//! use rlhf_selfplay::error::StepError;
//! use rlhf_selfplay::gradients::{Record, gradients};
//! use rlhf_selfplay::judged::{Example, refer};
//! use rlhf_selfplay::method::{Anchor, Method};
//!
//! /// `previous` and `original` live on the plain device, `policy` on that of gradients.
//! fn one_step(
//!     [policy, previous, original]: [&Decoder; 3],
//!     examples: &mut [Example],
//!     method: &Method,
//! ) -> Result<(Grads, Record), StepError> {
//!     let cut = Cut { micro_batch: 8, pad: 0, metrics: TokenMetrics::Off };
//!     refer(examples, Anchor::Previous, previous, &cut)?;
//!     refer(examples, Anchor::Original, original, &cut)?;
//!     gradients(policy, &examples.iter().collect::<Vec<_>>(), method, &cut)
//! }
//! ```

use rlhf_policy::completion::Cut;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::Grads;

use crate::error::StepError;
use crate::judged::{Example, Response, Shown};
use crate::method::{Method, Rows};

pub use forward::{ForwardReduction, ForwardSamples, ForwardStep, forward_samples};
pub use record::{PairStep, Record, ResponseStep};

mod forward;
mod pairs;
mod record;
mod responses;

/// The gradient of the mean loss of the window's examples, and what was seen before the step.
///
/// # Errors
/// Examples that the method has no loss for, pairs and single answers together, one that a model of
/// [`Method::anchors`] has not been asked about.
///
/// # Panics
/// On an empty window, a micro-batch that scores no token.
#[track_caller]
pub fn gradients(
    policy: &Decoder,
    window: &[&Example],
    method: &Method,
    cut: &Cut,
) -> Result<(Grads, Record), StepError> {
    assert!(!window.is_empty(), "gradients: window: expected at least one example, found none");
    let (pairs, singles) = sorted(window);
    let both = !pairs.is_empty() && !singles.is_empty();
    if both {
        let found = format!("{} pairs and {} single answers", pairs.len(), singles.len());
        let expected = "either pairs or single answers";
        return Err(StepError::Rows { method: method.name(), expected, found });
    }
    method.check(if pairs.is_empty() { Rows::All } else { Rows::BestWorst })?;
    check_referred(window, method)?;
    Ok(if pairs.is_empty() {
        let (grads, step) = responses::gradients(policy, &singles, method, cut);
        (grads, Record::Responses(step))
    } else {
        let (grads, step) = pairs::gradients(policy, &pairs, method, cut);
        (grads, Record::Pairs(step))
    })
}

/// The answers of the pairs, and those that stand alone.
fn sorted<'a>(window: &[&'a Example]) -> (Vec<[&'a Response; 2]>, Vec<&'a Response>) {
    let (mut pairs, mut singles) = (Vec::new(), Vec::new());
    for example in window {
        match &example.shown {
            Shown::Pair { chosen, rejected, .. } => pairs.push([chosen, rejected]),
            Shown::Single(response) => singles.push(response),
        }
    }
    (pairs, singles)
}

fn check_referred(window: &[&Example], method: &Method) -> Result<(), StepError> {
    for anchor in method.anchors() {
        let lacks = |e: &&&Example| e.responses().iter().any(|r| r.logps(anchor).is_none());
        if let Some(example) = window.iter().find(lacks) {
            let (method, prompt) = (method.name(), example.prompt);
            return Err(StepError::NotReferred { method, prompt, anchor });
        }
    }
    Ok(())
}
