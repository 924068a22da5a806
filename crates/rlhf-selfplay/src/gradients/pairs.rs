//! Methods on pairs: chosen and rejected answers are entries 0 and 1.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::dno::dno;
use rlhf_core::loss::dpo::dpo;
use rlhf_core::loss::inpo::inpo;
use rlhf_core::loss::ipo::ipo;
use rlhf_core::loss::rspo::{References, RspoLoss, rspo};
use rlhf_core::loss::spin::spin;
use rlhf_core::loss::sppo::sppo;
use rlhf_core::pair::PairLoss;
use rlhf_policy::completion::{Cut, Reference, host, mean_of, vector};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::Grads;
use rlhf_policy::preference::{self, Pair, PairBatch};

use super::record::PairStep;
use crate::judged::Response;
use crate::method::{Anchor, Method};

/// The mean loss over the window, its gradient, and what was seen. The window has been checked.
#[track_caller]
pub(super) fn gradients(
    policy: &Decoder,
    window: &[[&Response; 2]],
    method: &Method,
    cut: &Cut,
) -> (Grads, PairStep) {
    let pair = |[chosen, rejected]: &[&Response; 2]| Pair {
        chosen: chosen.sequence.clone(),
        rejected: rejected.sequence.clone(),
    };
    let pairs: Vec<Pair> = window.iter().map(pair).collect();
    let pairs: Vec<&Pair> = pairs.iter().collect();
    let mut parts = Parts::default();
    // The frozen models' numbers come with the answers, for there are two of them.
    let (grads, record) = preference::gradients(policy, &Reference::Free, &pairs, cut, &mut |batch| {
        let beside = Beside { rows: &window[batch.range.clone()], device: batch.policy[0].device() };
        loss(method, batch, &beside, &mut parts)
    });
    let Parts { square, regularizer } = &parts;
    (grads, PairStep { record, square: mean_of(square), regularizer: mean_of(regularizer) })
}

fn loss(method: &Method, batch: &PairBatch, beside: &Beside<'_>, parts: &mut Parts) -> PairLoss {
    let policy = batch.policy.clone();
    let sums = |anchor| beside.sums(anchor);
    match method {
        Method::Rspo { loss } => parts.of_rspo(rspo(loss, policy, beside.references(), beside.win_rates())),
        Method::Sppo { loss } => {
            parts.of_sppo(sppo(*loss, policy, sums(Anchor::Previous), beside.win_rates()))
        }
        Method::Dpo { loss, reference } => dpo(*loss, policy, sums(*reference)),
        Method::Ipo { loss } => ipo(*loss, policy, sums(Anchor::Original)),
        Method::Inpo { loss } => inpo(*loss, policy, beside.references()),
        Method::Spin { loss } => spin(*loss, policy, sums(Anchor::Previous)),
        Method::Dno { loss } => dno(*loss, policy, sums(Anchor::Previous), beside.win_rates()),
        Method::NashMd { .. } => unreachable!("nash_md takes no pairs, which has been checked"),
    }
}

/// What is known of a micro-batch's answers beside their log-probabilities under the policy.
struct Beside<'a> {
    rows: &'a [[&'a Response; 2]],
    device: Device,
}

impl Beside<'_> {
    fn each(&self, of: impl Fn(&Response) -> f64) -> [Tensor<1>; 2] {
        [0, 1].map(|side| vector(self.rows.iter().map(|pair| of(pair[side])), &self.device))
    }

    fn win_rates(&self) -> [Tensor<1>; 2] {
        self.each(|response| response.win_rate)
    }

    /// Log-probabilities of whole answers under a frozen model.
    fn sums(&self, anchor: Anchor) -> [Tensor<1>; 2] {
        self.each(|response| response.logps(anchor).expect("referred, checked").iter().sum())
    }

    fn references(&self) -> References<[Tensor<1>; 2]> {
        let known = self.rows.iter().flatten().all(|response| response.original.is_some());
        // Where no term reads the original it need not be there.
        let original = if known { Anchor::Original } else { Anchor::Previous };
        References { previous: self.sums(Anchor::Previous), original: self.sums(original) }
    }
}

/// The parts of RSPO's loss, one number a pair.
#[derive(Default)]
struct Parts {
    square: Vec<f64>,
    regularizer: Vec<f64>,
}

impl Parts {
    fn of_rspo(&mut self, out: RspoLoss) -> PairLoss {
        self.square.extend(host(out.square));
        self.regularizer.extend(host(out.regularizer));
        let RspoLoss { loss, chosen_reward, rejected_reward, .. } = out;
        PairLoss { loss, chosen_reward, rejected_reward }
    }

    fn of_sppo(&mut self, out: PairLoss) -> PairLoss {
        let square = host(out.loss.clone());
        self.regularizer.resize(self.regularizer.len() + square.len(), 0.0);
        self.square.extend(square);
        out
    }
}
