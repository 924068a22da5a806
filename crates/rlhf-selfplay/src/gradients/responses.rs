//! Methods on single answers.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::nash_md::{NashMdLoss, nash_md};
use rlhf_core::loss::rspo::{References, RspoConfig, rspo_response, rspo_response_scalar};
use rlhf_core::loss::sppo::{SppoConfig, sppo_response, sppo_response_scalar};
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::{Completions, Cut, TokenMetrics, Tokens, host, mean_of, vector};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::Grads;

use super::record::ResponseStep;
use crate::judged::Response;
use crate::method::{Anchor, Method};

/// The mean loss over the window, its gradient, and what was seen. The window has been checked.
#[track_caller]
pub(super) fn gradients(
    policy: &Decoder,
    window: &[&Response],
    method: &Method,
    cut: &Cut,
) -> (Grads, ResponseStep) {
    let (mut total, mut seen) = (Grads::default(), Seen::default());
    for rows in window.chunks(cut.micro_batch.max(1)) {
        let sequences: Vec<&Sequence> = rows.iter().map(|r| &r.sequence).collect();
        let completions = Completions::new(policy, &sequences, 1.0, cut.pad);
        let loss = loss(method, rows, &completions.tokens, &mut seen);
        seen.add(rows, &completions, &loss);
        if cut.metrics == TokenMetrics::On {
            seen.entropy.extend(completions.stats(policy).entropy);
        }
        let share = loss.sum().div_scalar(window.len() as f64);
        total = total.plus(Grads::of(policy, &share.backward()));
    }
    (total, seen.record())
}

fn loss(method: &Method, rows: &[&Response], tokens: &Tokens, seen: &mut Seen) -> Tensor<1> {
    let device = tokens.logp.device();
    let win_rate = vector(rows.iter().map(|r| r.win_rate), &device);
    let previous = || sums(rows, Anchor::Previous, &device);
    match method {
        Method::Rspo { loss } => {
            let known = rows.iter().all(|r| r.original.is_some());
            // Where no term reads the original it need not be there.
            let original = if known { sums(rows, Anchor::Original, &device) } else { previous() };
            seen.parts(loss, rows, &host(tokens.sums()));
            rspo_response(loss, tokens.sums(), References { previous: previous(), original }, win_rate)
        }
        Method::Sppo { loss } => {
            let alone = RspoConfig { beta: loss.beta, terms: Vec::new() };
            seen.parts(&alone, rows, &host(tokens.sums()));
            sppo_response(*loss, tokens.sums(), previous(), win_rate)
        }
        Method::NashMd { loss, .. } => {
            let original: Vec<&[f64]> = rows.iter().map(|r| known(r, Anchor::Original)).collect();
            let original = tokens.table(&original);
            let NashMdLoss { loss, score, kl } =
                nash_md(*loss, tokens.logp.clone(), original, &tokens.mask, win_rate);
            seen.score.extend(host(score));
            seen.kl.extend(host(kl));
            loss
        }
        _ => unreachable!("{} takes no single answers, which has been checked", method.name()),
    }
}

fn known(response: &Response, anchor: Anchor) -> &[f64] {
    response.logps(anchor).expect("referred, which has been checked")
}

/// Log-probabilities of whole answers under a frozen model.
fn sums(rows: &[&Response], anchor: Anchor, device: &Device) -> Tensor<1> {
    vector(rows.iter().map(|r| known(r, anchor).iter().sum()), device)
}

/// Numbers of a window, gathered over its micro-batches.
#[derive(Default)]
struct Seen {
    losses: Vec<f64>,
    logps: Vec<f64>,
    win_rates: Vec<f64>,
    rewards: Vec<f64>,
    squares: Vec<f64>,
    regularizers: Vec<f64>,
    kl: Vec<f64>,
    score: Vec<f64>,
    entropy: Vec<f64>,
    num_tokens: usize,
}

impl Seen {
    fn add(&mut self, rows: &[&Response], completions: &Completions, loss: &Tensor<1>) {
        self.losses.extend(host(loss.clone()));
        self.logps.extend(host(completions.tokens.sums()));
        self.win_rates.extend(rows.iter().map(|r| r.win_rate));
        self.num_tokens += completions.n_read;
    }

    /// The parts of RSPO's loss by its definition.
    fn parts(&mut self, loss: &RspoConfig, rows: &[&Response], logps: &[f64]) {
        for (response, logp) in rows.iter().zip(logps) {
            let previous: f64 = known(response, Anchor::Previous).iter().sum();
            let original = response.original.as_ref().map_or(previous, |tokens| tokens.iter().sum());
            let square = sppo_response_scalar(SppoConfig::new(loss.beta), *logp, previous, response.win_rate);
            let whole =
                rspo_response_scalar(loss, *logp, References { previous, original }, response.win_rate);
            self.rewards.push(loss.beta.get() * (logp - previous));
            self.squares.push(square);
            self.regularizers.push(whole - square);
        }
    }

    fn record(&self) -> ResponseStep {
        let mean = |x: &[f64]| mean_of(x).expect("at least one answer");
        ResponseStep {
            loss: mean(&self.losses),
            logp: mean(&self.logps),
            win_rate: mean(&self.win_rates),
            reward: mean_of(&self.rewards),
            square: mean_of(&self.squares),
            regularizer: mean_of(&self.regularizers),
            kl: mean_of(&self.kl),
            score: mean_of(&self.score),
            entropy: mean_of(&self.entropy),
            num_tokens: self.num_tokens,
        }
    }
}
