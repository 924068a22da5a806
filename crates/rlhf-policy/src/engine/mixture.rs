//! Two machines as one: their rows go side by side, and their logits are mixed.

use std::fmt;

use super::schedule::Machine;

/// What computes the rows of π^{1 − α} μ^α. Logits serve as well as log-probabilities: a constant added to
/// a row of either model is gone when the mixture is normalised.
pub(crate) struct Mixed<'a> {
    policy: Box<dyn Machine + 'a>,
    reference: Box<dyn Machine + 'a>,
    /// α: the weight of the reference.
    coef: f64,
    /// The reference's logits of one step.
    other: Vec<f32>,
}

impl<'a> Mixed<'a> {
    /// Both machines are new, so that they give their prompts the same numbers.
    pub(crate) fn new(policy: impl Machine + 'a, reference: impl Machine + 'a, coef: f64) -> Self {
        Self { policy: Box::new(policy), reference: Box::new(reference), coef, other: Vec::new() }
    }
}

impl fmt::Debug for Mixed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mixed").field("coef", &self.coef).finish_non_exhaustive()
    }
}

impl Machine for Mixed<'_> {
    fn prefill(&mut self, prompts: &[&[u32]]) -> Vec<Vec<f32>> {
        let mut logits = self.policy.prefill(prompts);
        for (row, other) in logits.iter_mut().zip(self.reference.prefill(prompts)) {
            mix(self.coef, row, &other);
        }
        logits
    }

    fn start(&mut self, prompts: &[usize]) {
        self.policy.start(prompts);
        self.reference.start(prompts);
    }

    fn release(&mut self, prompt: usize) {
        self.policy.release(prompt);
        self.reference.release(prompt);
    }

    fn decode(&mut self, tokens: &[u32], logits: &mut Vec<f32>) {
        self.policy.decode(tokens, logits);
        self.reference.decode(tokens, &mut self.other);
        mix(self.coef, logits, &self.other);
    }

    fn keep(&mut self, alive: &[bool]) {
        self.policy.keep(alive);
        self.reference.keep(alive);
    }
}

/// In `f64`, so that a weight of 0 or 1 leaves one model's logits as they are, to the bit.
fn mix(coef: f64, policy: &mut [f32], reference: &[f32]) {
    for (p, q) in policy.iter_mut().zip(reference) {
        *p = ((1.0 - coef) * f64::from(*p) + coef * f64::from(*q)) as f32;
    }
}
