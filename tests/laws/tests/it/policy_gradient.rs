//! Losses on the tokens of sampled completions.

use burn::tensor::Tensor;
use rlhf_core::loss::cispo::{CispoConfig, cispo, cispo_scalar};
use rlhf_core::loss::dapo::dapo_config;
use rlhf_core::loss::grpo::{GrpoConfig, GrpoLoss, GrpoTokens, grpo, grpo_scalar};
use rlhf_core::loss::kl_penalty::{KlConfig, KlEstimator, KlGradient, kl_penalty, kl_penalty_scalar};
use rlhf_core::loss::ppo_clip::{PpoClipConfig, ppo_clip, ppo_clip_scalar};
use rlhf_core::number::{Bound, Weight};
use rlhf_core::real::{Dual, Real};

use super::law::{Batch, Form, Kind, Law, Probe, Row, Tensors, law};

fn weight(x: f64) -> Weight {
    Weight::new(x).expect("a weight")
}

fn bound(x: f64) -> Bound {
    Bound::new(x).expect("positive")
}

fn dual_clip() -> PpoClipConfig {
    PpoClipConfig { delta: bound(3.0), ..PpoClipConfig::new(weight(0.2)) }
}

/// As clamped as in NeMo-RL and verl.
fn clamped(gradient: KlGradient) -> KlConfig {
    let (input_clamp, output_clamp) = (bound(20.0), bound(10.0));
    KlConfig { input_clamp, output_clamp, ..KlConfig::new(KlEstimator::K3, gradient) }
}

fn k1() -> KlConfig {
    KlConfig::new(KlEstimator::K1, KlGradient::WithScore)
}

fn k2() -> KlConfig {
    KlConfig::new(KlEstimator::K2, KlGradient::Pathwise)
}

fn straight_through() -> KlConfig {
    KlConfig::new(KlEstimator::K3, KlGradient::StraightThrough)
}

/// The clamps of numbers that the table draws: both hold some and let others pass.
fn tight() -> KlConfig {
    KlConfig { input_clamp: bound(1.2), output_clamp: bound(0.5), ..KlConfig::unbiased() }
}

fn upper() -> CispoConfig {
    CispoConfig::UpperBound { max: bound(1.5) }
}

fn two_sided() -> CispoConfig {
    CispoConfig::TwoSided { epsilon_low: weight(0.2), epsilon_high: weight(0.3) }
}

fn paper() -> GrpoConfig {
    GrpoConfig { clip: dual_clip(), ..GrpoConfig::paper(weight(0.2), weight(0.04)) }
}

fn unbiased() -> GrpoConfig {
    GrpoConfig::new(weight(0.2), weight(0.3))
}

fn dapo() -> GrpoConfig {
    dapo_config(weight(0.2), weight(0.28))
}

/// Old policy and advantage are companions 0 and 1.
fn without_reference(config: GrpoConfig, t: &Tensors) -> GrpoLoss {
    let (logp, old_logp) = (t.leaf.clone(), t.o(0));
    grpo(config, GrpoTokens { logp, old_logp, reference_logp: None, advantage: t.o(1) }, &t.mask)
}

/// Old policy, reference and advantage are companions 0, 1 and 2.
fn run(config: GrpoConfig, t: &Tensors) -> GrpoLoss {
    let (logp, old_logp) = (t.leaf.clone(), t.o(0));
    let tokens = GrpoTokens { logp, old_logp, reference_logp: Some(t.o(1)), advantage: t.o(2) };
    grpo(config, tokens, &t.mask)
}

/// Reference and old policy are companions 0 and 1.
fn kl(config: KlConfig, t: &Tensors) -> Tensor<2> {
    kl_penalty(config, t.leaf.clone(), t.o(0), t.o(1), &t.mask)
}

fn kl_twin<R: Real>(config: KlConfig, r: &Row<'_, R>) -> Vec<R> {
    each(r, |i| kl_penalty_scalar(config, r.x[i], r.o[0][i], r.o[1][i]))
}

fn twin<R: Real>(config: GrpoConfig, r: &Row<'_, R>) -> Vec<R> {
    each(r, |i| grpo_scalar(config, r.x[i], r.o[0][i], r.o[1][i], r.o[2][i]))
}

/// The twin of each token that the mask lets through, 0 for the others.
pub(super) fn each<R: Real>(row: &Row<'_, R>, twin: impl Fn(usize) -> R) -> Vec<R> {
    (0..row.x.len()).map(|t| if row.mask[t] { twin(t) } else { R::from(0.0) }).collect()
}

pub(super) fn laws() -> Vec<Law> {
    [surrogates(), divergences()].into_iter().flatten().collect()
}

fn surrogates() -> Vec<Law> {
    // Log-probabilities, those of the old policy, and an advantage a token; with a KL the reference
    // stands between the two.
    let any = || Form::tokens().with(5, Kind::Any).with(5, Kind::Any).size(1.0);
    let three = || any().with(5, Kind::Any).overflows();
    vec![
        law!(
            "ppo_clip",
            any().overflows(),
            |t| ppo_clip(dual_clip(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | each(r, |i| ppo_clip_scalar(dual_clip(), r.x[i], r.o[0][i], r.o[1][i]))
        ),
        law!(
            "cispo/upper_bound",
            any(),
            |t| cispo(upper(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | each(r, |i| cispo_scalar(upper(), r.x[i], r.o[0][i], r.o[1][i]))
        ),
        law!(
            "cispo/two_sided",
            any(),
            |t| cispo(two_sided(), t.leaf.clone(), t.o(0), t.o(1), &t.mask).loss,
            row | r | each(r, |i| cispo_scalar(two_sided(), r.x[i], r.o[0][i], r.o[1][i]))
        ),
        law!("grpo/paper", three(), |t| run(paper(), t).loss, row | r | twin(paper(), r)),
        law!(
            "grpo/no_kl",
            any().overflows(),
            |t| without_reference(dapo(), t).loss,
            row | r | each(r, |i| grpo_scalar(dapo(), r.x[i], r.o[0][i], f64::NAN, r.o[1][i]))
        ),
        law!("grpo/unbiased", three(), |t| run(unbiased(), t).loss, row | r | twin(unbiased(), r)),
    ]
}

fn divergences() -> Vec<Law> {
    // Log-probabilities, those of the reference, and those of the old policy, which only the live
    // ratio looks at.
    let idle = || Form::tokens().with(5, Kind::Any).with_idle(5, Kind::Any).size(1.0);
    let live = || Form::tokens().with(5, Kind::Any).with(5, Kind::Any).size(1.0);
    vec![
        law!(
            "kl_penalty/paper",
            idle(),
            |t| kl(KlConfig::paper(), t),
            row | r | kl_twin(KlConfig::paper(), r)
        ),
        law!(
            "kl_penalty/unbiased",
            live().overflows(),
            |t| kl(KlConfig::unbiased(), t),
            row | r | kl_twin(KlConfig::unbiased(), r)
        ),
        law!(
            "kl_penalty/straight_through",
            idle(),
            |t| kl(straight_through(), t),
            row | r | kl_twin(straight_through(), r)
        ),
        law!("kl_penalty/k1", idle(), |t| kl(k1(), t), row | r | kl_twin(k1(), r)),
        law!("kl_penalty/k2", idle(), |t| kl(k2(), t), row | r | kl_twin(k2(), r)),
        law!(
            "kl_penalty/clamped",
            idle(),
            |t| kl(clamped(KlGradient::WithScore), t),
            row | r | kl_twin(clamped(KlGradient::WithScore), r)
        ),
        law!(
            "kl_penalty/clamped_live",
            live(),
            |t| kl(clamped(KlGradient::LiveRatio), t),
            row | r | kl_twin(clamped(KlGradient::LiveRatio), r)
        ),
        law!("kl_penalty/tight", live(), |t| kl(tight(), t), row | r | kl_twin(tight(), r)),
    ]
}

fn numbers(x: Tensor<2>) -> Vec<f64> {
    x.into_data().convert::<f64>().try_into_vec().expect("converted to f64")
}

#[test]
fn grpo_gives_the_ratio_and_the_kl_before_beta_without_gradients() {
    let form = Form::tokens().with(5, Kind::Any).with(5, Kind::Any).with(5, Kind::Any);
    let t = Batch::draw(&form, 0, 1.0).tensors();
    let found = run(paper(), &t);
    let surrogate = ppo_clip(dual_clip(), t.leaf.clone(), t.o(0), t.o(2), &t.mask);
    let kl = kl_penalty(KlConfig::paper(), t.leaf.clone(), t.o(1), t.o(0), &t.mask);
    let given = found.kl.expect("a KL, as β > 0");
    assert_eq!(numbers(found.ratio.clone()), numbers(surrogate.ratio));
    assert_eq!(numbers(given.clone()), numbers(kl));
    // Detached: beside the leaf itself, whose slope is 1, they add nothing.
    let grads = (t.leaf.clone() + given + found.ratio).sum().backward();
    let slopes = numbers(t.leaf.grad(&grads).expect("a gradient"));
    assert!(slopes.iter().all(|x| (x - 1.0).abs() <= 0.0), "{slopes:?}");
    let none = without_reference(dapo(), &t);
    assert!(none.kl.is_none());
}

#[test]
#[should_panic(expected = "grpo: reference_logp: expected shape [6, 5] for β = 0.04, found none")]
fn a_kl_needs_a_reference() {
    let form = Form::tokens().with(5, Kind::Any).with(5, Kind::Any);
    let _ = without_reference(paper(), &Batch::draw(&form, 0, 1.0).tensors());
}
