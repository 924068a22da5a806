//! The minibatch loss by hand, on distributions given as probabilities.

use super::*;

fn config(beta: f64, reduction: KlReduction, positions: KlPositions) -> SuperhfConfig {
    let beta = Weight::new(beta).expect("a weight");
    SuperhfConfig { beta, reduction, positions, inverse_loss: Weight::ZERO }
}

fn logits(p: &[&[f64]]) -> Vec<Vec<f64>> {
    p.iter().map(|row| row.iter().map(|p| p.ln()).collect()).collect()
}

fn close(found: f64, expected: f64) {
    // Expected numbers are printed to eight digits.
    assert!((found - expected).abs() < 5.1e-9, "expected {expected}, found {found}");
}

const PRIOR: [f64; 3] = [0.5, 0.3, 0.2];
const POLICY: [f64; 3] = [0.6, 0.3, 0.1];

#[test]
fn the_prior_comes_first_in_the_kl() {
    close(forward_kl_scalar(&POLICY.map(f64::ln), &PRIOR.map(f64::ln)), 0.04746866);
    close(forward_kl_scalar(&PRIOR.map(f64::ln), &POLICY.map(f64::ln)), 0.04007822);
}

/// One token, label 0, as a function of the policy's logits there.
fn one_token(z: &[f64], beta: f64) -> SuperhfLoss {
    let uniform = vec![0.0; 3];
    let (policy, prior) = ([z.to_vec(), uniform.clone()], [PRIOR.map(f64::ln).to_vec(), uniform]);
    let example = SuperhfExample { policy: &policy, prior: &prior, targets: &[None, Some(0)] };
    superhf_scalar(config(beta, KlReduction::Mean, KlPositions::Aligned), &[example])
}

#[test]
fn one_token_and_its_gradient() {
    let z = POLICY.map(f64::ln);
    let found = one_token(&z, 0.35);
    close(found.cross_entropy, 0.51082562);
    close(found.loss, 0.52743965);
    // (p_θ − e_y) + β (p_θ − p₀).
    for (i, expected) in [-0.365, 0.300, 0.065].into_iter().enumerate() {
        let moved = |h: f64| {
            let mut z = z;
            z[i] += h;
            one_token(&z, 0.35).loss
        };
        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((slope - expected).abs() < 1e-9, "{i}: {slope}");
    }
}

/// Example A has two positions with token KLs .22314355 and .02041100 and label probabilities .8
/// and .4, example B one with .36806421 and .5.
fn two_examples(reduction: KlReduction) -> SuperhfLoss {
    let half: &[f64] = &[0.5, 0.5];
    let a = [logits(&[&[0.8, 0.2], &[0.4, 0.6], half]), logits(&[half, half, half])];
    let b = [logits(&[half, half]), logits(&[&[0.9, 0.1], half])];
    let batch = [
        SuperhfExample { policy: &a[0], prior: &a[1], targets: &[None, Some(0), Some(0)] },
        SuperhfExample { policy: &b[0], prior: &b[1], targets: &[None, Some(1)] },
    ];
    superhf_scalar(config(0.35, reduction, KlPositions::Aligned), &batch)
}

#[test]
fn cross_entropy_is_a_token_mean_and_the_kl_a_sum_or_mean_of_examples() {
    let sum = two_examples(KlReduction::Sum);
    close(sum.cross_entropy, 0.61086049);
    close(sum.kl_sum, 0.48984148);
    close(sum.loss, 0.78230501);
    // β on the mean KL .24492074.
    close(two_examples(KlReduction::Mean).loss, 0.61086049 + 0.35 * 0.24492074);
}

fn aligned_or_not(positions: KlPositions, prompt: f64) -> SuperhfLoss {
    let policy = logits(&[&[prompt, 1.0 - prompt], &[0.2, 0.8], &[0.7, 0.3], &[0.5, 0.5]]);
    let prior = logits(&[&[0.5, 0.5], &[0.5, 0.5], &[0.6, 0.4], &[0.9, 0.1]]);
    let example = SuperhfExample { policy: &policy, prior: &prior, targets: &[None, None, Some(1), Some(0)] };
    superhf_scalar(config(0.35, KlReduction::Sum, positions), &[example])
}

#[test]
fn positions_align_with_the_targets_or_lie_one_late() {
    let aligned = aligned_or_not(KlPositions::Aligned, 0.5);
    close(aligned.cross_entropy, 0.28990925);
    close(aligned.kl_sum, 0.12286299);
    close(aligned.loss, 0.33291129);
    let official = aligned_or_not(KlPositions::Official, 0.5);
    close(official.kl_sum, 0.19532331);
    close(official.loss, 0.35827241);
}

#[test]
fn the_prompt_does_not_count() {
    for positions in [KlPositions::Aligned, KlPositions::Official] {
        assert_eq!(aligned_or_not(positions, 0.5), aligned_or_not(positions, 0.99));
    }
}

#[test]
fn without_beta_it_is_the_cross_entropy_and_with_much_it_is_the_prior() {
    let plain = one_token(&POLICY.map(f64::ln), 0.0);
    assert_eq!(plain.loss.to_bits(), plain.cross_entropy.to_bits());
    // p_θ = p₀: no KL, and no slope of it.
    let at_prior = one_token(&PRIOR.map(f64::ln), 1.0);
    assert!(at_prior.kl_sum.abs() < 1e-16);
    let slope = |z: [f64; 3], beta: f64| {
        let moved = |h: f64| one_token(&[z[0] + h, z[1], z[2]], beta).loss;
        (moved(1e-5) - moved(-1e-5)) / 2e-5
    };
    assert!((slope(PRIOR.map(f64::ln), 1.0) - slope(PRIOR.map(f64::ln), 0.0)).abs() < 1e-9);
    // β → ∞: at the mixture (e_y + β p₀) / (1 + β) the gradient vanishes, and that tends to p₀.
    let beta = 1e3;
    let mixture = [(1.0 + beta * 0.5) / (1.0 + beta), beta * 0.3 / (1.0 + beta), beta * 0.2 / (1.0 + beta)];
    assert!(slope(mixture.map(f64::ln), beta).abs() < 1e-6);
    assert!(mixture.iter().zip(PRIOR).all(|(m, p)| (m - p).abs() < 1e-3));
}

#[test]
fn the_kl_grows_without_bound_as_support_is_lost() {
    let lost = |z: f64| forward_kl_scalar(&[0.0, z], &[0.0, 0.0]);
    assert!((lost(-1000.0) - (500.0 - 2f64.ln())).abs() < 1e-9);
    // The other way round it stays below log 2.
    assert!((forward_kl_scalar(&[0.0, 0.0], &[0.0, -1000.0]) - 2f64.ln()).abs() < 1e-12);
}

#[test]
fn the_inverse_loss_is_added_once() {
    let half: &[f64] = &[0.5, 0.5];
    let both = logits(&[half, half]);
    let example = SuperhfExample { policy: &both, prior: &both, targets: &[None, Some(0)] };
    let mut config = config(1.0, KlReduction::Mean, KlPositions::Aligned);
    config.inverse_loss = Weight::new(0.3).expect("a weight");
    let ce = std::f64::consts::LN_2;
    assert!((superhf_scalar(config, &[example]).loss - (ce + 0.3 / ce)).abs() < 1e-15);
}

#[test]
fn a_kl_that_is_not_a_number_is_not_taken_for_zero() {
    let (policy, prior) = ([vec![0.0; 2], vec![0.0; 2]], [vec![f64::NAN, 0.0], vec![0.0; 2]]);
    let example = SuperhfExample { policy: &policy, prior: &prior, targets: &[None, Some(0)] };
    let found = superhf_scalar(config(1.0, KlReduction::Mean, KlPositions::Aligned), &[example]);
    assert!(found.kl_sum.is_nan() && found.loss.is_nan() && found.cross_entropy.is_finite());
}

fn of_rows(policy: usize, prior: usize) {
    let (policy, prior) = (vec![vec![0.0; 2]; policy], vec![vec![0.0; 2]; prior]);
    let example = SuperhfExample { policy: &policy, prior: &prior, targets: &[None, None, Some(1)] };
    let _ = superhf_scalar(config(1.0, KlReduction::Mean, KlPositions::Official), &[example]);
}

#[test]
#[should_panic(expected = "superhf_scalar: example 0: policy has 2 rows, targets 3 positions")]
fn targets_beyond_the_policy() {
    of_rows(2, 3);
}

#[test]
#[should_panic(expected = "superhf_scalar: example 0: prior has 1 rows, targets 3 positions")]
fn a_prior_that_is_too_short() {
    of_rows(3, 1);
}
