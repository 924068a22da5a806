//! Losses without a reference model, losses on pairs that the policy itself drew, and distillation.

use burn::tensor::{Device, Tensor, TensorData};
use rlhf_core::loss::alphapo::{AlphapoConfig, alpha_reward, alpha_reward_scalar, alphapo, alphapo_scalar};
use rlhf_core::loss::cpo::{CpoConfig, CpoLossType, cpo, cpo_per_token, cpo_per_token_scalar, cpo_scalar};
use rlhf_core::loss::generalized_jsd::{GeneralizedJsdConfig, generalized_jsd, generalized_jsd_scalar};
use rlhf_core::loss::online_dpo::{OnlineDpoConfig, OnlineLossType, online_dpo, online_dpo_scalar};
use rlhf_core::loss::orpo::{OrpoConfig, log_odds_scalar, orpo, orpo_scalar};
use rlhf_core::loss::rpo::{RpoConfig, rpo, rpo_scalar};
use rlhf_core::loss::simpo::{SimpoConfig, simpo, simpo_scalar};
use rlhf_core::loss::triple::{TripleConfig, TripleLossType, triple, triple_scalar};
use rlhf_core::loss::xpo::{Preferred, XpoConfig, xpo, xpo_scalar};
use rlhf_core::number::{Beta, Finite, Prob, Weight};
use rlhf_core::real::{Dual, Real, gradient};

use super::law::{Batch, Form, Kind, Law, Probe, Row, Tensors, law, one};
use super::{close, host};

const BETA: f64 = 0.7;
const ALPHA: f64 = 0.4;

fn beta() -> Beta {
    Beta::new(BETA).expect("positive")
}

fn weight(x: f64) -> Weight {
    Weight::new(x).expect("a weight")
}

fn prob(x: f64) -> Prob {
    Prob::new(x).expect("a probability")
}

fn simpo_config() -> SimpoConfig {
    SimpoConfig { label_smoothing: prob(0.1), ..SimpoConfig::new(beta(), weight(0.4)) }
}

fn alphapo_config(alpha: f64) -> AlphapoConfig {
    let alpha = Finite::new(alpha).expect("finite");
    AlphapoConfig { label_smoothing: prob(0.1), ..AlphapoConfig::new(alpha, beta(), weight(0.4)) }
}

fn cpo_config(loss_type: CpoLossType) -> CpoConfig {
    CpoConfig { label_smoothing: prob(0.1), loss_type, ..CpoConfig::new(beta()) }
}

fn orpo_config() -> OrpoConfig {
    OrpoConfig { beta: beta() }
}

fn triple_config(loss_type: TripleLossType) -> TripleConfig {
    TripleConfig { label_smoothing: prob(0.1), loss_type, ..TripleConfig::new(beta(), weight(ALPHA)) }
}

fn tpo_l() -> TripleLossType {
    TripleLossType::TpoL(weight(0.4))
}

fn online_config(loss_type: OnlineLossType) -> OnlineDpoConfig {
    OnlineDpoConfig { beta: beta(), loss_type }
}

fn xpo_config(loss_type: OnlineLossType) -> XpoConfig {
    XpoConfig { beta: beta(), alpha: weight(ALPHA), loss_type }
}

fn rpo_config() -> RpoConfig {
    RpoConfig { beta: beta(), eta: weight(0.6) }
}

fn jsd_config(beta: f64) -> GeneralizedJsdConfig {
    GeneralizedJsdConfig { beta: prob(beta) }
}

/// Chosen and rejected log-probability, no reference.
fn alone() -> Form {
    Form { pair: Some([0, 1]), ..Form::rows(2).leaf(Kind::LogProb) }
}

/// The same with the lengths of both.
fn with_lengths() -> Form {
    alone().with(2, Kind::Count)
}

/// The same where a completion may have no token, which counts as one.
fn without_tokens() -> Form {
    alone().with_idle(2, Kind::Binary)
}

/// Chosen, rejected and a third log-probability.
fn three() -> Form {
    Form::rows(3).leaf(Kind::LogProb)
}

fn pair<R: Real>(r: &Row<'_, R>) -> [R; 2] {
    [r.x[0], r.x[1]]
}

fn pair_of<R: Real>(r: &Row<'_, R>, k: usize) -> [f64; 2] {
    [r.o[k][0], r.o[k][1]]
}

/// Several numbers an example as `[N, O]`.
fn many(x: Vec<Tensor<1>>) -> Tensor<2> {
    Tensor::cat(x.into_iter().map(one).collect(), 1)
}

/// β times the log-probability per token, detached: what the losses here report as a reward.
fn mean_reward<R: Real>(r: &Row<'_, R>, i: usize) -> R {
    (r.x[i] / r.o[0][i] * BETA).detached()
}

fn orpo_all(t: &Tensors) -> Tensor<2> {
    let out = orpo(orpo_config(), t.pair(), t.pair_of(0));
    many(vec![out.loss, out.log_odds, out.ratio, out.chosen_reward, out.rejected_reward])
}

fn orpo_all_scalar<R: Real>(r: &Row<'_, R>) -> Vec<R> {
    let loss = orpo_scalar(orpo_config(), pair(r), pair_of(r, 0));
    let odds = log_odds_scalar(pair(r), pair_of(r, 0)).detached();
    vec![loss, odds, odds.log_sigmoid(), mean_reward(r, 0), mean_reward(r, 1)]
}

fn triple_all(t: &Tensors, loss_type: TripleLossType) -> Tensor<2> {
    let out = triple(triple_config(loss_type), t.pair(), t.pair_of(0), t.x(2));
    many(vec![out.loss, out.contrast, out.nll])
}

fn triple_all_scalar<R: Real>(r: &Row<'_, R>, loss_type: TripleLossType) -> Vec<R> {
    let loss = triple_scalar(triple_config(loss_type), pair(r), pair_of(r, 0), r.x[2]);
    vec![loss, loss + r.x[2] * ALPHA, -r.x[2]]
}

fn xpo_all(t: &Tensors, loss_type: OnlineLossType) -> Tensor<2> {
    let preferred = t.col(1, 0).equal_elem(1.0);
    let out = xpo(xpo_config(loss_type), t.pair(), t.pair_of(0), preferred);
    many(vec![out.loss, out.contrast, out.bonus, out.chosen_reward, out.rejected_reward])
}

fn xpo_all_scalar<R: Real>(r: &Row<'_, R>, loss_type: OnlineLossType) -> Vec<R> {
    let own = r.o[1][0] > 0.5;
    let preferred = if own { Preferred::PolicySample } else { Preferred::ReferenceSample };
    let loss = xpo_scalar(xpo_config(loss_type), pair(r), pair_of(r, 0), preferred);
    let bonus = r.x[1].detached() * ALPHA;
    let reward = |i: usize| (r.x[i].detached() - r.o[0][i]) * BETA;
    let (chosen, rejected) = if own { (reward(0), reward(1)) } else { (reward(1), reward(0)) };
    vec![loss, loss.detached() - bonus, bonus, chosen, rejected]
}

fn rpo_all(t: &Tensors) -> Tensor<2> {
    let out = rpo(rpo_config(), t.pair(), t.pair_of(0), t.x(2));
    many(vec![out.loss, out.contrast, out.nll, out.chosen_reward, out.rejected_reward])
}

fn rpo_all_scalar<R: Real>(r: &Row<'_, R>) -> Vec<R> {
    let loss = rpo_scalar(rpo_config(), pair(r), pair_of(r, 0), r.x[2]);
    let nll = -r.x[2].detached();
    let reward = |i: usize| (r.x[i].detached() - r.o[0][i]) * BETA;
    vec![loss, loss.detached() - nll * 0.6 * BETA, nll, reward(0), reward(1)]
}

pub(super) fn laws() -> Vec<Law> {
    [means(), contrasts(), drawn(), distillation()].into_iter().flatten().collect()
}

fn means() -> Vec<Law> {
    vec![
        law!(
            "simpo",
            with_lengths(),
            |t| one(simpo(simpo_config(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![simpo_scalar(simpo_config(), pair(r), pair_of(r, 0))]
        ),
        law!(
            "simpo/no_tokens",
            without_tokens(),
            |t| one(simpo(simpo_config(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![simpo_scalar(simpo_config(), pair(r), [1.0; 2])]
        ),
        law!(
            "alpha_reward",
            Form::rows(1).leaf(Kind::LogProb),
            |t| one(alpha_reward(Finite::new(0.25).expect("finite"), t.x(0))),
            row | r | vec![alpha_reward_scalar(Finite::new(0.25).expect("finite"), r.x[0])]
        ),
        law!(
            "alphapo",
            with_lengths(),
            |t| one(alphapo(alphapo_config(0.25), t.pair(), t.pair_of(0)).loss),
            row | r | vec![alphapo_scalar(alphapo_config(0.25), pair(r), pair_of(r, 0))]
        ),
        law!(
            "alphapo/negative",
            with_lengths(),
            |t| one(alphapo(alphapo_config(-0.5), t.pair(), t.pair_of(0)).loss),
            row | r | vec![alphapo_scalar(alphapo_config(-0.5), pair(r), pair_of(r, 0))]
        ),
        law!(
            "alphapo/zero",
            with_lengths(),
            |t| one(alphapo(alphapo_config(0.0), t.pair(), t.pair_of(0)).loss),
            row | r | vec![alphapo_scalar(alphapo_config(0.0), pair(r), pair_of(r, 0))]
        ),
        law!(
            "alphapo/no_tokens",
            without_tokens(),
            |t| one(alphapo(alphapo_config(0.25), t.pair(), t.pair_of(0)).loss),
            row | r | vec![alphapo_scalar(alphapo_config(0.25), pair(r), [1.0; 2])]
        ),
        law!("orpo", with_lengths(), |t| orpo_all(t), row | r | orpo_all_scalar(r)),
        law!(
            "orpo/no_tokens",
            without_tokens(),
            |t| one(orpo(orpo_config(), t.pair(), t.pair_of(0)).loss),
            row | r | vec![orpo_scalar(orpo_config(), pair(r), pair_of(r, 0))]
        ),
    ]
}

fn contrasts() -> Vec<Law> {
    use CpoLossType::{Hinge, Ipo, Sigmoid};
    vec![
        law!(
            "cpo/sigmoid",
            alone(),
            |t| one(cpo(cpo_config(Sigmoid), t.pair()).loss),
            row | r | vec![cpo_scalar(cpo_config(Sigmoid), pair(r))]
        ),
        law!(
            "cpo/hinge",
            alone(),
            |t| one(cpo(cpo_config(Hinge), t.pair()).loss),
            row | r | vec![cpo_scalar(cpo_config(Hinge), pair(r))]
        ),
        law!(
            "cpo/ipo",
            alone(),
            |t| one(cpo(cpo_config(Ipo), t.pair()).loss),
            row | r | vec![cpo_scalar(cpo_config(Ipo), pair(r))]
        ),
        law!(
            "cpo_per_token",
            with_lengths(),
            |t| one(cpo_per_token(cpo_config(Ipo), t.pair(), t.pair_of(0)).loss),
            row | r | vec![cpo_per_token_scalar(cpo_config(Ipo), pair(r), pair_of(r, 0))]
        ),
        law!(
            "cpo_per_token/no_tokens",
            without_tokens(),
            |t| one(cpo_per_token(cpo_config(Ipo), t.pair(), t.pair_of(0)).loss),
            row | r | vec![cpo_scalar(cpo_config(Ipo), pair(r))]
        ),
        law!(
            "triple/sigmoid",
            three().with_idle(2, Kind::Count),
            |t| triple_all(t, TripleLossType::Sigmoid),
            row | r | triple_all_scalar(r, TripleLossType::Sigmoid)
        ),
        law!(
            "triple/hinge",
            three().with_idle(2, Kind::Count),
            |t| triple_all(t, TripleLossType::Hinge),
            row | r | triple_all_scalar(r, TripleLossType::Hinge)
        ),
        law!(
            "triple/ipo",
            three().with(2, Kind::Count),
            |t| triple_all(t, TripleLossType::Ipo),
            row | r | triple_all_scalar(r, TripleLossType::Ipo)
        ),
        law!(
            "triple/tpo_l",
            three().with(2, Kind::Count),
            |t| triple_all(t, tpo_l()),
            row | r | triple_all_scalar(r, tpo_l())
        ),
        law!(
            "triple/no_tokens",
            three().with_idle(2, Kind::Binary),
            |t| triple_all(t, tpo_l()),
            row | r | triple_all_scalar(r, tpo_l())
        ),
    ]
}

fn drawn() -> Vec<Law> {
    use OnlineLossType::{Ipo, Sigmoid};
    let samples = || Form::two().with(1, Kind::Binary);
    vec![
        law!(
            "online_dpo/sigmoid",
            Form::pair(),
            |t| one(online_dpo(online_config(Sigmoid), t.pair(), t.pair_of(0)).loss),
            row | r | vec![online_dpo_scalar(online_config(Sigmoid), pair(r), pair_of(r, 0))]
        ),
        law!(
            "online_dpo/ipo",
            Form::pair(),
            |t| one(online_dpo(online_config(Ipo), t.pair(), t.pair_of(0)).loss),
            row | r | vec![online_dpo_scalar(online_config(Ipo), pair(r), pair_of(r, 0))]
        ),
        law!("xpo/sigmoid", samples(), |t| xpo_all(t, Sigmoid), row | r | xpo_all_scalar(r, Sigmoid)),
        law!("xpo/ipo", samples(), |t| xpo_all(t, Ipo), row | r | xpo_all_scalar(r, Ipo)),
        law!("rpo", three().with(2, Kind::Any), |t| rpo_all(t), row | r | rpo_all_scalar(r)),
    ]
}

fn distillation() -> Vec<Law> {
    let rows = || Form::rows(7).with(7, Kind::Any);
    vec![
        law!(
            "generalized_jsd",
            rows(),
            |t| one(generalized_jsd(jsd_config(0.3), t.leaf.clone(), t.o(0))),
            row | r | vec![generalized_jsd_scalar(jsd_config(0.3), r.x, r.o[0])]
        ),
        law!(
            "generalized_jsd/forward",
            rows(),
            |t| one(generalized_jsd(jsd_config(0.0), t.leaf.clone(), t.o(0))),
            row | r | vec![generalized_jsd_scalar(jsd_config(0.0), r.x, r.o[0])]
        ),
        law!(
            "generalized_jsd/reverse",
            rows(),
            |t| one(generalized_jsd(jsd_config(1.0), t.leaf.clone(), t.o(0))),
            row | r | vec![generalized_jsd_scalar(jsd_config(1.0), r.x, r.o[0])]
        ),
    ]
}

fn leaf(values: &[f32]) -> Tensor<1> {
    let on = Device::flex().autodiff();
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &on).require_grad()
}

#[test]
fn certain_and_impossible_completions_have_odds_in_f32() {
    // Beside log ½ as well, where the two forms of log(1 − eˣ) meet.
    let chosen = [-1e-7, -1e-20, 0.0, -1.0, 0.0, -90.0, -5e3, -0.7, -0.693, -1e-7];
    let rejected = [-1e-3, -2.0, -1.0, 0.0, 0.0, -1e-7, -1e-20, -0.69, -0.6932, -30.0];
    let (x, y) = (leaf(&chosen), leaf(&rejected));
    let lengths = [leaf(&[1.0; 10]), leaf(&[1.0; 10])];
    let out = orpo(orpo_config(), [x.clone(), y.clone()], lengths);
    let grads = out.loss.clone().sum().backward();
    let slopes = [host(x.grad(&grads).expect("reached")), host(y.grad(&grads).expect("reached"))];
    let loss = host(out.loss);
    for i in 0..10 {
        let pair = [f64::from(chosen[i]), f64::from(rejected[i])];
        let (value, slope) = gradient(&pair, |p| orpo_scalar(orpo_config(), [p[0], p[1]], [1.0; 2]));
        close(&format!("{pair:?}"), loss[i], value, 1e-5);
        close(&format!("{pair:?} chosen"), slopes[0][i], slope[0], 1e-5);
        close(&format!("{pair:?} rejected"), slopes[1][i], slope[1], 1e-5);
    }
}

#[test]
fn a_gold_response_without_weight_is_not_read() {
    let config = TripleConfig { alpha: Weight::ZERO, ..triple_config(TripleLossType::Sigmoid) };
    let (x, y) = (leaf(&[-3.0]), leaf(&[-5.0]));
    let out = triple(config, [x.clone(), y], [leaf(&[2.0]), leaf(&[2.0])], leaf(&[f32::NAN]));
    let grads = out.loss.clone().sum().backward();
    let expected = triple_scalar(config, [-3.0, -5.0], [2.0; 2], f64::NAN);
    close("loss", host(out.loss)[0], expected, 1e-6);
    close("chosen", host(out.chosen_reward)[0], -3.0 * BETA, 1e-6);
    close("rejected", host(out.rejected_reward)[0], -5.0 * BETA, 1e-6);
    assert!(host(x.grad(&grads).expect("reached"))[0].is_finite());
}

#[test]
fn a_baseline_without_weight_is_not_read() {
    let config = RpoConfig { eta: Weight::ZERO, ..rpo_config() };
    for baseline in [f32::NAN, f32::NEG_INFINITY] {
        let (x, y) = (leaf(&[-3.0]), leaf(&[-5.0]));
        let out = rpo(config, [x.clone(), y], [leaf(&[-4.0]), leaf(&[-4.0])], leaf(&[baseline]));
        let grads = out.loss.clone().sum().backward();
        let at = |x: &[Dual]| rpo_scalar(config, [x[0], x[1]], [-4.0; 2], f64::from(baseline).into());
        let (expected, slope) = gradient(&[-3.0, -5.0], at);
        close("loss", host(out.loss)[0], expected, 1e-6);
        close("slope", host(x.grad(&grads).expect("reached"))[0], slope[0], 1e-6);
    }
}
