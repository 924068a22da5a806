//! `sppo_official.json`: the losses of the SPPO repository, mean over pairs, with both probabilities
//! of a pair; `kto_pair` gives a loss to each completion.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::dpo::{DpoConfig, dpo, dpo_scalar};
use rlhf_core::loss::hinge::{HingeConfig, hinge, hinge_scalar};
use rlhf_core::loss::ipo::{IpoConfig, ipo, ipo_scalar};
use rlhf_core::loss::kto_pair::{KtoPairConfig, KtoPairKl, kto_pair, kto_pair_scalar};
use rlhf_core::loss::sppo::{SppoConfig, sppo, sppo_scalar, sppo_single, sppo_single_scalar};
use rlhf_core::number::Beta;
use rlhf_core::real::{Dual, Real, gradient as twin_gradient};

use super::case::Case;
use super::compare::Computed;
use super::rows::{gradient, host, vector};

/// Which loss.
#[derive(Clone, Copy)]
enum Kind {
    Sppo(SppoConfig),
    Single(SppoConfig),
    Sigmoid(DpoConfig),
    Ipo(IpoConfig),
    Hinge(HingeConfig),
    KtoPair(KtoPairConfig),
}

/// Chosen and rejected, by pair.
struct Batch {
    policy: [Vec<f64>; 2],
    reference: [Vec<f64>; 2],
    win_rates: [Vec<f64>; 2],
    probs: Vec<f64>,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["loss_type", "beta"])?;
    let beta = Beta::new(case.number("beta")?).map_err(|e| e.to_string())?;
    let kind = match (case.name(), case.text("loss_type")?) {
        ("sppo_repo/sppo", "sppo") => Kind::Sppo(SppoConfig::new(beta)),
        ("sppo_repo/sppo_single", "sppo_single") => Kind::Single(SppoConfig::new(beta)),
        ("sppo_repo/sigmoid", "sigmoid") => Kind::Sigmoid(DpoConfig::new(beta)),
        ("sppo_repo/ipo", "ipo") => Kind::Ipo(IpoConfig::new(beta)),
        ("sppo_repo/hinge", "hinge") => Kind::Hinge(HingeConfig::new(beta)),
        ("sppo_repo/kto_pair", "kto_pair") => Kind::KtoPair(KtoPairConfig { beta, kl: KtoPairKl::Live }),
        _ => return Err(case.unknown()),
    };
    let input = |name: &str| case.input(name).map(|array| array.values);
    let batch = Batch {
        policy: [input("chosen_logps")?, input("rejected_logps")?],
        reference: [input("ref_chosen_logps")?, input("ref_rejected_logps")?],
        win_rates: [input("chosen_probs_win")?, input("chosen_probs_lose")?],
        probs: input("chosen_probs")?,
    };
    match case.dtype() {
        "f64" => Ok(twin(kind, &batch)),
        "f32" => Ok(tensor(kind, &batch, device)),
        _ => Err(case.unknown()),
    }
}

fn mean<R: Real>(losses: &[R]) -> R {
    losses.iter().copied().sum::<R>() / losses.len() as f64
}

fn twin(kind: Kind, batch: &Batch) -> Computed {
    let flat = batch.policy.concat();
    let (loss, grad) = twin_gradient(&flat, |x: &[Dual]| mean(&losses(kind, batch, x)));
    answers(vec![loss], losses(kind, batch, &flat), &grad)
}

/// The losses at log-probabilities `x`: those chosen, then those rejected.
fn losses<R: Real>(kind: Kind, batch: &Batch, x: &[R]) -> Vec<R> {
    let n = batch.probs.len();
    let policy: Vec<[R; 2]> = (0..n).map(|i| [x[i], x[n + i]]).collect();
    let pick = |of: &[Vec<f64>; 2], i: usize| [of[0][i], of[1][i]];
    let each = |loss: &dyn Fn(usize, [f64; 2]) -> R| -> Vec<R> {
        (0..n).map(|i| loss(i, pick(&batch.reference, i))).collect()
    };
    match kind {
        Kind::Sppo(c) => each(&|i, before| sppo_scalar(c, policy[i], before, pick(&batch.win_rates, i))),
        Kind::Single(c) => each(&|i, before| sppo_single_scalar(c, policy[i], before, batch.probs[i])),
        Kind::Sigmoid(c) => each(&|i, reference| dpo_scalar(c, policy[i], reference)),
        Kind::Ipo(c) => each(&|i, reference| ipo_scalar(c, policy[i], reference)),
        Kind::Hinge(c) => each(&|i, reference| hinge_scalar(c, policy[i], reference)),
        Kind::KtoPair(c) => {
            let reference: Vec<[f64; 2]> = (0..n).map(|i| pick(&batch.reference, i)).collect();
            let pairs = kto_pair_scalar(c, &policy, &reference);
            let side = |k: usize| pairs.iter().map(move |pair| pair[k]);
            side(0).chain(side(1)).collect()
        }
    }
}

fn tensor(kind: Kind, batch: &Batch, device: &Device) -> Computed {
    let n = batch.probs.len();
    let leaf = vector(&batch.policy.concat(), &device.clone().autodiff()).require_grad();
    let on = leaf.device();
    let policy = [leaf.clone().narrow(0, 0, n), leaf.clone().narrow(0, n, n)];
    let two = |of: &[Vec<f64>; 2]| [vector(&of[0], &on), vector(&of[1], &on)];
    let reference = two(&batch.reference);
    let losses = match kind {
        Kind::Sppo(c) => sppo(c, policy, reference, two(&batch.win_rates)).loss,
        Kind::Single(c) => sppo_single(c, policy, reference, vector(&batch.probs, &on)).loss,
        Kind::Sigmoid(c) => dpo(c, policy, reference).loss,
        Kind::Ipo(c) => ipo(c, policy, reference).loss,
        Kind::Hinge(c) => hinge(c, policy, reference).loss,
        Kind::KtoPair(c) => {
            let out = kto_pair(c, policy, reference);
            Tensor::cat(vec![out.chosen, out.rejected], 0)
        }
    };
    let loss = losses.clone().mean();
    let grads = loss.backward();
    answers(host(loss), host(losses), &gradient(&leaf, &grads))
}

fn answers(loss: Vec<f64>, losses: Vec<f64>, grad: &[f64]) -> Computed {
    let (chosen, rejected) = grad.split_at(grad.len() / 2);
    let mut computed = Computed::default();
    computed.many("loss", loss);
    computed.many("losses", losses);
    computed.many("grads.chosen_logps", chosen.to_vec());
    computed.many("grads.rejected_logps", rejected.to_vec());
    computed
}
