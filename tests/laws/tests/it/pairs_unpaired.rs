//! Losses that see each completion for itself: absolute rewards, labels without pairs, sorted
//! samples, soft labels.

use burn::tensor::{Bool, Device, Tensor};
use rlhf_core::loss::aot::{AotConfig, aot, aot_scalar, aot_unpaired, aot_unpaired_scalar};
use rlhf_core::loss::apo::{ApoConfig, apo_down, apo_down_scalar, apo_zero, apo_zero_scalar};
use rlhf_core::loss::bco::{
    BcoConfig, BcoPairConfig, DensityRatioConfig, bco, bco_pair, bco_pair_scalar, bco_scalar, density_ratio,
    density_ratio_scalar,
};
use rlhf_core::loss::kto::{KtoConfig, Label, apo_zero_unpaired, apo_zero_unpaired_scalar, kto, kto_scalar};
use rlhf_core::loss::nca::{NcaConfig, nca, nca_scalar};
use rlhf_core::loss::raft::{
    ChosenCrossEntropyConfig, chosen_cross_entropy, chosen_cross_entropy_scalar, raft, raft_scalar,
};
use rlhf_core::loss::rpo_nll::{RpoNllConfig, rpo_nll, rpo_nll_scalar};
use rlhf_core::loss::soft_label::{LabelDivergence, SoftLabelConfig, soft_label, soft_label_scalar};
use rlhf_core::loss::sppo_hard::{SppoHardConfig, sppo_hard, sppo_hard_scalar};
use rlhf_core::number::{Beta, Positive, Prob, Weight};
use rlhf_core::real::{Dual, Real};

use super::law::{Batch, Form, Kind, Law, Probe, Row, Tensors, law, one};

/// δ and z of the table.
const SHIFT: f64 = 0.4;

fn beta() -> Beta {
    Beta::new(0.3).expect("positive")
}

fn weight(x: f64) -> Weight {
    Weight::new(x).expect("a weight")
}

fn smoothed() -> AotConfig {
    AotConfig { label_smoothing: Prob::new(0.1).expect("a probability"), ..AotConfig::new(beta()) }
}

fn weighted() -> KtoConfig {
    KtoConfig { desirable_weight: weight(1.33), undesirable_weight: weight(0.7), ..KtoConfig::new(beta()) }
}

fn bounds() -> DensityRatioConfig {
    let max_density_ratio = Positive::new(4.0).expect("positive");
    DensityRatioConfig { min_density_ratio: weight(0.25), max_density_ratio }
}

fn soft(divergence: LabelDivergence) -> SoftLabelConfig {
    SoftLabelConfig { beta: beta(), divergence }
}

fn nll() -> RpoNllConfig {
    RpoNllConfig { beta: beta(), alpha: weight(0.6) }
}

/// Chosen and rejected log-probability of a row.
fn two<R: Real>(r: &Row<'_, R>) -> [R; 2] {
    [r.x[0], r.x[1]]
}

/// Those of the reference.
fn two_ref<R>(r: &Row<'_, R>) -> [f64; 2] {
    [r.o[0][0], r.o[0][1]]
}

/// A companion of zeros and ones.
fn desirable(t: &Tensors, k: usize) -> Tensor<1, Bool> {
    t.col(k, 0).greater_elem(0.5)
}

fn label<R>(r: &Row<'_, R>, k: usize) -> Label {
    if r.o[k][0] > 0.5 { Label::Desirable } else { Label::Undesirable }
}

/// A twin over a whole batch of pairs: policy, then reference.
fn sorted<R: Real>(b: &Batch<R>, twin: impl Fn([&[R]; 2], [&[f64]; 2]) -> Vec<R>) -> Vec<Vec<R>> {
    let column = |k: usize| -> Vec<R> { b.leaf.iter().map(|row| row[k]).collect() };
    let reference = |k: usize| -> Vec<f64> { b.others[0].iter().map(|row| row[k]).collect() };
    let rows = twin([&column(0), &column(1)], [&reference(0), &reference(1)]);
    rows.into_iter().map(|x| vec![x]).collect()
}

pub(super) fn laws() -> Vec<Law> {
    [absolute(), transport(), single(), labels()].into_iter().flatten().collect()
}

/// Pairs whose two rewards count, not only their gap.
fn absolute() -> Vec<Law> {
    vec![
        law!(
            "nca",
            Form::two(),
            |t| one(nca(NcaConfig { beta: beta() }, t.pair(), t.pair_of(0)).loss),
            row | r | vec![nca_scalar(NcaConfig { beta: beta() }, two(r), two_ref(r))]
        ),
        law!(
            "bco_pair",
            Form::two(),
            |t| one(bco_pair(BcoPairConfig { beta: beta() }, t.pair(), t.pair_of(0), SHIFT).loss),
            row | r | vec![bco_pair_scalar(BcoPairConfig { beta: beta() }, two(r), two_ref(r), SHIFT)]
        ),
        law!(
            "sppo_hard",
            Form::two(),
            |t| one(sppo_hard(SppoHardConfig { beta: beta() }, t.pair(), t.pair_of(0)).loss),
            row | r | vec![sppo_hard_scalar(SppoHardConfig { beta: beta() }, two(r), two_ref(r))]
        ),
        // Equal completions are pulled up and down by the same force.
        law!(
            "apo_zero",
            Form::pair(),
            |t| one(apo_zero(ApoConfig { beta: beta() }, t.pair(), t.pair_of(0)).loss),
            row | r | vec![apo_zero_scalar(ApoConfig { beta: beta() }, two(r), two_ref(r))]
        ),
        law!(
            "apo_down",
            Form::two(),
            |t| one(apo_down(ApoConfig { beta: beta() }, t.pair(), t.pair_of(0)).loss),
            row | r | vec![apo_down_scalar(ApoConfig { beta: beta() }, two(r), two_ref(r))]
        ),
        law!(
            "rpo_nll",
            Form::two().with(1, Kind::Count),
            |t| one(rpo_nll(nll(), t.pair(), t.pair_of(0), t.col(1, 0)).loss),
            row | r | vec![rpo_nll_scalar(nll(), two(r), two_ref(r), r.o[1][0])]
        ),
        // A completion without tokens counts as one token long.
        law!(
            "rpo_nll/no_tokens",
            Form::two().with_idle(1, Kind::Binary),
            |t| one(rpo_nll(nll(), t.pair(), t.pair_of(0), t.col(1, 0)).loss),
            row | r | vec![rpo_nll_scalar(nll(), two(r), two_ref(r), 1.0)]
        ),
        law!(
            "rpo_nll/no_weight",
            Form::pair(),
            |t| {
                let config = RpoNllConfig { alpha: Weight::ZERO, ..nll() };
                one(rpo_nll(config, t.pair(), t.pair_of(0), t.x(0).full_like(f32::NAN)).loss)
            },
            row | r | {
                let config = RpoNllConfig { alpha: Weight::ZERO, ..nll() };
                vec![rpo_nll_scalar(config, two(r), two_ref(r), f64::NAN)]
            }
        ),
    ]
}

/// Sorted samples.
fn transport() -> Vec<Law> {
    vec![
        law!(
            "aot",
            Form::pair().coupled(),
            |t| one(aot(AotConfig::new(beta()), t.pair(), t.pair_of(0)).loss),
            batch | b | sorted(b, |p, r| aot_scalar(AotConfig::new(beta()), p, r))
        ),
        law!(
            "aot/smoothed",
            Form::pair().coupled(),
            |t| one(aot(smoothed(), t.pair(), t.pair_of(0)).loss),
            batch | b | sorted(b, |p, r| aot_scalar(smoothed(), p, r))
        ),
        law!(
            "aot_unpaired",
            Form::pair().coupled(),
            |t| one(aot_unpaired(AotConfig::new(beta()), t.pair(), t.pair_of(0)).loss),
            batch | b | sorted(b, |p, r| aot_unpaired_scalar(AotConfig::new(beta()), p, r))
        ),
        law!(
            "aot_unpaired/smoothed",
            Form::pair().coupled(),
            |t| one(aot_unpaired(smoothed(), t.pair(), t.pair_of(0)).loss),
            batch | b | sorted(b, |p, r| aot_unpaired_scalar(smoothed(), p, r))
        ),
    ]
}

/// Single completions.
fn single() -> Vec<Law> {
    // A log-probability, that of the reference, a label.
    let form = || Form::rows(1).with(1, Kind::Any).with(1, Kind::Binary);
    vec![
        law!(
            "kto",
            form(),
            |t| one(kto(weighted(), t.x(0), t.col(0, 0), &desirable(t, 1), SHIFT).loss),
            row | r | vec![kto_scalar(weighted(), r.x[0], r.o[0][0], label(r, 1), SHIFT)]
        ),
        law!(
            "apo_zero_unpaired",
            form(),
            |t| one(apo_zero_unpaired(weighted(), t.x(0), t.col(0, 0), &desirable(t, 1)).loss),
            row | r | vec![apo_zero_unpaired_scalar(weighted(), r.x[0], r.o[0][0], label(r, 1))]
        ),
        law!(
            "bco",
            form(),
            |t| one(bco(BcoConfig { beta: beta() }, t.x(0), t.col(0, 0), &desirable(t, 1), SHIFT).loss),
            row | r | { vec![bco_scalar(BcoConfig { beta: beta() }, r.x[0], r.o[0][0], label(r, 1), SHIFT)] }
        ),
        // The probability is the leaf, so that a gradient into it would be seen; the zero keeps a
        // graph to look through.
        law!(
            "density_ratio",
            Form::rows(1).leaf(Kind::Prob).with(1, Kind::Binary),
            |t| one(density_ratio(bounds(), t.x(0), &desirable(t, 0))) + t.leaf.clone().mul_scalar(0.0),
            row | r | {
                let prob = r.x[0].detached().value();
                vec![density_ratio_scalar(bounds(), prob, label(r, 0)).into()]
            }
        ),
        law!(
            "raft",
            Form::rows(1).leaf(Kind::LogProb),
            |t| one(raft(t.x(0))),
            row | r | vec![raft_scalar(r.x[0])]
        ),
        law!(
            "chosen_cross_entropy",
            Form::rows(1).with(1, Kind::Any),
            |t| {
                let config = ChosenCrossEntropyConfig { beta: beta() };
                one(chosen_cross_entropy(config, t.x(0), t.col(0, 0)).loss)
            },
            row | r | {
                let config = ChosenCrossEntropyConfig { beta: beta() };
                vec![chosen_cross_entropy_scalar(config, r.x[0], r.o[0][0])]
            }
        ),
    ]
}

/// Soft labels.
fn labels() -> Vec<Law> {
    let form = || Form::pair().with(1, Kind::Any);
    vec![
        law!(
            "soft_label/kl",
            form(),
            |t| one(soft_label(soft(LabelDivergence::Kl), t.pair(), t.pair_of(0), t.col(1, 0)).loss),
            row | r | { vec![soft_label_scalar(soft(LabelDivergence::Kl), two(r), two_ref(r), r.o[1][0])] }
        ),
        law!(
            "soft_label/tv",
            form(),
            |t| one(soft_label(soft(LabelDivergence::Tv), t.pair(), t.pair_of(0), t.col(1, 0)).loss),
            row | r | { vec![soft_label_scalar(soft(LabelDivergence::Tv), two(r), two_ref(r), r.o[1][0])] }
        ),
        law!(
            "soft_label/hellinger",
            form(),
            |t| one(soft_label(soft(LabelDivergence::Hellinger), t.pair(), t.pair_of(0), t.col(1, 0)).loss),
            row | r | {
                vec![soft_label_scalar(soft(LabelDivergence::Hellinger), two(r), two_ref(r), r.o[1][0])]
            }
        ),
        law!(
            "soft_label/rev_kl",
            form(),
            |t| one(soft_label(soft(LabelDivergence::RevKl), t.pair(), t.pair_of(0), t.col(1, 0)).loss),
            row | r | {
                vec![soft_label_scalar(soft(LabelDivergence::RevKl), two(r), two_ref(r), r.o[1][0])]
            }
        ),
    ]
}

#[test]
fn the_reward_is_beta_times_the_log_ratio_without_gradient() {
    let device = Device::flex().autodiff();
    let vector = |x: [f32; 3]| Tensor::<1>::from_data(x, &device);
    let leaf = vector([2.0, -1.0, 4.0]).require_grad();
    let reference = vector([1.0, 1.0, 1.0]);
    let single = BcoConfig { beta: beta() };
    let chosen = ChosenCrossEntropyConfig { beta: beta() };
    // One kind of label only, both ways.
    for mask in [leaf.clone().greater_elem(9.0), leaf.clone().lower_elem(9.0)] {
        for out in [
            kto(weighted(), leaf.clone(), reference.clone(), &mask, SHIFT),
            bco(single, leaf.clone(), reference.clone(), &mask, SHIFT),
            chosen_cross_entropy(chosen, leaf.clone(), reference.clone()),
        ] {
            let watched = out.reward + leaf.clone().mul_scalar(0.0);
            let grads = watched.clone().sum().backward();
            let into: Vec<f32> = leaf.grad(&grads).expect("a leaf").into_data().try_into_vec().expect("f32");
            assert!(into.iter().all(|g| g.abs() <= 0.0));
            let found: Vec<f32> = watched.into_data().try_into_vec().expect("f32");
            for (found, expected) in found.into_iter().zip([0.3, -0.6, 0.9]) {
                assert!((found - expected).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn sorted_losses_leave_the_rewards_in_the_order_of_the_batch() {
    let device = Device::flex();
    let vector = |x: [f32; 3]| Tensor::<1>::from_data(x, &device);
    let policy = [vector([2.0, -1.0, 4.0]), vector([0.0, 5.0, -3.0])];
    let reference = [vector([0.0; 3]), vector([1.0; 3])];
    for out in
        [aot(smoothed(), policy.clone(), reference.clone()), aot_unpaired(smoothed(), policy, reference)]
    {
        let all = Tensor::cat(vec![out.chosen_reward, out.rejected_reward], 0);
        let found: Vec<f32> = all.into_data().try_into_vec().expect("f32");
        for (found, expected) in found.into_iter().zip([0.6, -0.3, 1.2, -0.3, 1.2, -1.2]) {
            assert!((found - expected).abs() < 1e-6);
        }
    }
}
