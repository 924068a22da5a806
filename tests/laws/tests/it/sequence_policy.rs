//! Policy-gradient losses that look at the completion as a whole, and their relatives.

use burn::tensor::Tensor;
use rlhf_core::loss::a_star_po::{AStarPoConfig, a_star_po, a_star_po_scalar};
use rlhf_core::loss::cispo::{CispoConfig, cispo};
use rlhf_core::loss::gmpo::{GmpoConfig, gmpo, gmpo_scalar};
use rlhf_core::loss::gspo::{
    gspo, gspo_scalar, gspo_token, gspo_token_scalar, sequence_ratio, sequence_ratio_scalar,
};
use rlhf_core::loss::ppo_clip::{PpoClipConfig, ppo_clip};
use rlhf_core::loss::reinforce_pp::{reinforce_pp, reinforce_pp_scalar};
use rlhf_core::loss::rloo::{
    reinforce, reinforce_scalar, reinforce_tokens, reinforce_tokens_scalar, rloo, rloo_scalar,
};
use rlhf_core::loss::sapo::{SapoConfig, sapo, sapo_scalar, sapo_sequence, sapo_sequence_scalar};
use rlhf_core::loss::vespo::{
    VespoConfig, log_correction, log_correction_scalar, log_weight, log_weight_scalar, vespo, vespo_scalar,
    vespo_weighted, vespo_weighted_scalar,
};
use rlhf_core::mask::sequence_sum;
use rlhf_core::number::{Beta, Bound, Positive, Weight};
use rlhf_core::real::Dual;
use rlhf_core::token::token_ratio_scalar;

use super::law::{Batch, Form, Kind, Law, Probe, Row, Tensors, law, one};
use super::policy_gradient::each;
use super::{close, host};

fn weight(x: f64) -> Weight {
    Weight::new(x).expect("a weight")
}

fn positive(x: f64) -> Positive {
    Positive::new(x).expect("positive")
}

fn clip() -> PpoClipConfig {
    PpoClipConfig { epsilon_high: weight(0.3), ..PpoClipConfig::new(weight(0.2)) }
}

fn dual_clip() -> PpoClipConfig {
    PpoClipConfig { delta: Bound::new(1.5).expect("positive"), ..clip() }
}

fn geometric() -> GmpoConfig {
    GmpoConfig { epsilon_low: weight(0.4), epsilon_high: weight(0.6) }
}

fn gate() -> SapoConfig {
    SapoConfig { temperature_pos: positive(1.0), temperature_neg: positive(1.3) }
}

fn gamma() -> VespoConfig {
    VespoConfig {
        k_pos: weight(2.0),
        lambda_pos: positive(3.0),
        k_neg: weight(3.0),
        lambda_neg: positive(2.0),
    }
}

fn regressed() -> AStarPoConfig {
    AStarPoConfig { beta2: Beta::new(0.3).expect("positive") }
}

/// Log-probabilities and those of the old policy, a number each token.
fn tokens() -> Form {
    Form::tokens().with(5, Kind::Any).size(1.0)
}

/// As [`tokens`], with an advantage of each token.
fn advantages() -> Form {
    tokens().with(5, Kind::Any)
}

/// A detached result beside 0 times the leaf: Burn refuses a backward pass from what has no leaf.
fn tracked(t: &Tensors, detached: Tensor<1>) -> Tensor<2> {
    one(detached + sequence_sum(t.leaf.clone(), &t.mask).mul_scalar(0.0))
}

pub(super) fn laws() -> Vec<Law> {
    [sequence_ratios(), soft(), whole()].into_iter().flatten().collect()
}

fn sequence_ratios() -> Vec<Law> {
    vec![
        law!(
            "sequence_ratio",
            tokens(),
            |t| one(sequence_ratio("sequence_ratio", t.leaf.clone(), t.o(0), &t.mask)),
            row | r | vec![sequence_ratio_scalar(r.x, r.o[0], r.mask)]
        ),
        law!(
            "gspo",
            advantages(),
            |t| gspo(clip(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | gspo_scalar(clip(), r.x, r.o[0], r.o[1], r.mask)
        ),
        law!(
            "gspo/dual_clip",
            advantages(),
            |t| gspo(dual_clip(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | gspo_scalar(dual_clip(), r.x, r.o[0], r.o[1], r.mask)
        ),
        law!(
            "gspo_token",
            advantages(),
            |t| gspo_token(clip(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | gspo_token_scalar(clip(), r.x, r.o[0], r.o[1], r.mask)
        ),
        law!(
            "gmpo",
            tokens().with(1, Kind::Any),
            |t| one(gmpo(geometric(), t.leaf.clone(), t.o(0), t.col(1, 0), &t.mask).loss),
            row | r | vec![gmpo_scalar(geometric(), r.x, r.o[0], r.o[1][0], r.mask)]
        ),
    ]
}

fn soft() -> Vec<Law> {
    vec![
        law!(
            "sapo",
            advantages(),
            |t| sapo(gate(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | each(r, |i| sapo_scalar(gate(), r.x[i], r.o[0][i], r.o[1][i]))
        ),
        law!(
            "sapo_sequence",
            advantages(),
            |t| sapo_sequence(gate(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | sapo_sequence_scalar(gate(), r.x, r.o[0], r.o[1], r.mask)
        ),
        law!(
            "vespo",
            advantages(),
            |t| vespo(gamma(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | vespo_scalar(gamma(), r.x, r.o[0], r.o[1], r.mask)
        ),
        law!(
            "vespo_weighted",
            Form::tokens().with(1, Kind::Any).with(5, Kind::Any).size(1.0),
            |t| vespo_weighted(gamma(), t.leaf.clone(), t.col(0, 0), t.o(1), &t.mask).loss,
            row | r | each(r, |i| vespo_weighted_scalar(gamma(), r.x[i], r.o[0][0], r.o[1][i]))
        ),
        law!(
            "log_weight",
            tokens(),
            |t| tracked(t, log_weight(t.leaf.clone(), t.o(0), &t.mask)),
            row | r | vec![log_weight_scalar(r.x, r.o[0], r.mask)]
        ),
        law!(
            "log_correction",
            Form::tokens().leaf(Kind::Prob),
            |t| tracked(t, log_correction(t.leaf.clone(), &t.mask)),
            row | r | vec![log_correction_scalar(r.x, r.mask)]
        ),
    ]
}

fn whole() -> Vec<Law> {
    vec![
        law!(
            "rloo",
            Form::rows(1).with(1, Kind::Any).with(1, Kind::Any).size(1.0),
            |t| one(rloo(clip(), t.x(0), t.col(0, 0), t.col(1, 0)).loss),
            row | r | vec![rloo_scalar(clip(), r.x[0], r.o[0][0], r.o[1][0])]
        ),
        law!(
            "reinforce",
            Form::rows(1).with(1, Kind::Any),
            |t| one(reinforce(t.x(0), t.col(0, 0))),
            row | r | vec![reinforce_scalar(r.x[0], r.o[0][0])]
        ),
        law!(
            "reinforce_tokens",
            Form::tokens().with(5, Kind::Any),
            |t| reinforce_tokens(t.leaf.clone(), t.o(0), &t.mask),
            row | r | each(r, |i| reinforce_tokens_scalar(r.x[i], r.o[0][i]))
        ),
        law!(
            "reinforce_pp",
            advantages(),
            |t| reinforce_pp(clip(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | each(r, |i| reinforce_pp_scalar(clip(), r.x[i], r.o[0][i], r.o[1][i]))
        ),
        law!(
            "a_star_po",
            Form::rows(1).with(1, Kind::Any).with(1, Kind::Any).with(1, Kind::Any),
            |t| one(a_star_po(regressed(), t.x(0), t.col(0, 0), t.col(1, 0), t.col(2, 0)).loss),
            row | r | vec![a_star_po_scalar(regressed(), r.x[0], r.o[0][0], r.o[1][0], r.o[2][0])]
        ),
    ]
}

/// Beside the leaf itself, whose slope is 1, a detached part adds nothing.
fn has_no_gradient(name: &str, t: &Tensors, part: Tensor<2>) {
    let grads = (part.sum() + t.leaf.clone().sum()).backward();
    let slopes = host(t.leaf.grad(&grads).expect("a leaf"));
    assert!(slopes.iter().all(|g| (g - 1.0).abs() <= 0.0), "{name}: {slopes:?}");
}

#[test]
fn ratios_are_reported_without_gradients_and_are_1_behind_the_mask() {
    let batch = Batch::draw(&advantages(), 3, 1.0);
    let t = batch.poisoned(&advantages()).tensors();
    let (x, old, a) = (|| t.leaf.clone(), || t.o(0), || t.o(1));
    let own = |i: usize, j: usize| token_ratio_scalar(batch.leaf[i][j], batch.others[0][i][j]);
    let whole =
        |i: usize, _: usize| sequence_ratio_scalar(&batch.leaf[i], &batch.others[0][i], &batch.mask[i]);
    let cispo_config = CispoConfig::UpperBound { max: Bound::NONE };
    type Expected<'a> = &'a dyn Fn(usize, usize) -> f64;
    let table: [(&str, Tensor<2>, Expected<'_>); 7] = [
        ("ppo_clip", ppo_clip(clip(), x(), old(), a(), &t.mask).ratio, &own),
        ("cispo", cispo(cispo_config, x(), old(), a(), &t.mask).ratio, &own),
        ("reinforce_pp", reinforce_pp(clip(), x(), old(), a(), &t.mask).ratio, &own),
        ("sapo", sapo(gate(), x(), old(), a(), &t.mask).ratio, &own),
        ("sapo_sequence", sapo_sequence(gate(), x(), old(), a(), &t.mask).ratio, &whole),
        ("gspo", gspo(clip(), x(), old(), a(), &t.mask).ratio, &whole),
        ("gspo_token", gspo_token(clip(), x(), old(), a(), &t.mask).ratio, &whole),
    ];
    for (name, found, expected) in table {
        has_no_gradient(name, &t, found.clone());
        for (at, found) in host(found).into_iter().enumerate() {
            let (i, j) = (at / 5, at % 5);
            close(name, found, if batch.mask[i][j] { expected(i, j) } else { 1.0 }, 1e-6);
        }
    }
}

#[test]
fn what_else_is_reported_carries_no_gradient() {
    let batch = Batch::draw(&advantages(), 3, 1.0);
    let t = batch.tensors();
    let [x, old, a] = [t.x(0), t.col(0, 0), t.col(1, 0)];
    let geometric = gmpo(geometric(), t.leaf.clone(), t.o(0), a.clone(), &t.mask);
    has_no_gradient("gmpo", &t, one(geometric.ratio));
    let phi = vespo(gamma(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).phi;
    has_no_gradient("vespo", &t, phi.clone());
    let on = batch.mask.concat();
    assert!(host(phi).into_iter().zip(on).all(|(phi, on)| (phi > 0.0) == on));
    let one_ratio = rloo(clip(), x.clone(), old.clone(), a.clone()).ratio;
    has_no_gradient("rloo", &t, one(one_ratio.clone()));
    let reward = a_star_po(regressed(), x, old, a.clone(), a).implicit_reward;
    has_no_gradient("a_star_po", &t, one(reward.clone()));
    for (i, (ratio, reward)) in host(one_ratio).into_iter().zip(host(reward)).enumerate() {
        let d = batch.leaf[i][0] - batch.others[0][i][0];
        close("rloo", ratio, d.exp(), 1e-6);
        close("a_star_po", reward, 0.3 * d, 1e-6);
    }
}
