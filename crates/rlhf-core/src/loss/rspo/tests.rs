use super::*;
use crate::host::stable::log_softmax;
use crate::loss::sppo::sppo_scalar;
use crate::real::{Dual, gradient};

use RspoRegularizer::{
    Chi2, Entropy, ForwardImportance, ReverseKl, ReverseKlNoEntropy as NoEntropy, SmoothedChi2,
};

const POLICY: [[f64; 2]; 2] = [[-10.0, -20.0], [-32.0, -15.5]];
const PREVIOUS: [[f64; 2]; 2] = [[-10.5, -19.0], [-30.0, -16.0]];
const ORIGINAL: [[f64; 2]; 2] = [[-12.0, -18.5], [-31.0, -15.0]];
const WIN_RATES: [[f64; 2]; 2] = [[0.8, 0.25], [0.65, 0.4]];

fn r(bound: f64) -> Bound {
    Bound::new(bound).expect("positive")
}

fn config(beta: f64, terms: &[(RspoRegularizer, f64)]) -> RspoConfig {
    let term = |&(regularizer, weight): &(RspoRegularizer, f64)| RspoTerm {
        regularizer,
        weight: Weight::new(weight).expect("a weight"),
    };
    RspoConfig { beta: Beta::new(beta).expect("positive"), terms: terms.iter().map(term).collect() }
}

/// Mean over the two pairs and its gradient: w₁, l₁, w₂, l₂.
fn batch(config: &RspoConfig) -> (f64, Vec<f64>) {
    let mean = |x: &[Dual]| {
        let pair = |i: usize| {
            let references = References { previous: PREVIOUS[i], original: ORIGINAL[i] };
            rspo_scalar(config, [x[2 * i], x[2 * i + 1]], references, WIN_RATES[i])
        };
        (pair(0) + pair(1)) * 0.5
    };
    gradient(POLICY.as_flattened(), mean)
}

/// Log-ratios to μ are (2, −1½) and (−1, −½).
#[test]
fn two_pairs_under_each_regulariser_by_hand() {
    let cases = [
        // 5¾, the mean of 4¼ and 7¼.
        (config(0.1, &[]), 5.75, [-1.25, 0.75, -1.75, 0.75]),
        // ½ of the mean of 4 + 2¼ and 1 + ¼.
        (config(0.1, &[(ReverseKl, 0.5)]), 7.625, [-0.25, 0.0, -2.25, 0.5]),
        // 0.1/2 of e⁻² + e^1.5 + e + e^0.5, and each of them from its slope.
        (
            config(0.1, &[(ForwardImportance(r(10.0)), 0.1)]),
            6.1992013726,
            [-1.25676676, 0.52591555, -1.88591409, 0.66756394],
        ),
        // The second is held at e: its slope is that of SPPO alone.
        (
            config(0.1, &[(ForwardImportance(r(1.0)), 0.1)]),
            6.1110310105,
            [-1.25676676, 0.75, -1.88591409, 0.66756394],
        ),
        // 0.1/2 of e² + e^−1.5 + e⁻¹ + e^−0.5.
        (
            config(0.1, &[(Chi2(r(10.0)), 0.1)]),
            6.1793298180,
            [-0.8805472, 0.76115651, -1.73160603, 0.78032653],
        ),
        (
            config(0.1, &[(ForwardImportance(r(10.0)), 0.1), (ReverseKl, 0.5)]),
            8.0742013726,
            [-0.25676676, -0.22408445, -2.38591409, 0.41756394],
        ),
        (config(0.001, &[(ReverseKl, 0.5)]), 46228.25, [-148.75, 123.75, -76.5, 50.0]),
    ];
    for (config, expected, slopes) in cases {
        let (loss, found) = batch(&config);
        assert!((loss - expected).abs() < 1e-9 * expected.max(1.0), "{config:?}: {loss}");
        for (found, slope) in found.iter().zip(slopes) {
            assert!((found - slope).abs() < 6e-9, "{config:?}: {found} {slope}");
        }
    }
}

#[test]
fn without_a_regulariser_it_is_sppo_to_the_last_bit() {
    for i in 0..2 {
        // So far out that χ² overflows, were it asked.
        let references = References { previous: PREVIOUS[i], original: [-2000.0; 2] };
        let sppo = sppo_scalar(
            SppoConfig::new(Beta::new(0.1).expect("positive")),
            POLICY[i],
            PREVIOUS[i],
            WIN_RATES[i],
        );
        for terms in [&[][..], &[(Chi2(Bound::NONE), 0.0), (ReverseKl, 0.0)]] {
            let rspo = rspo_scalar(&config(0.1, terms), POLICY[i], references, WIN_RATES[i]);
            assert_eq!(rspo.to_bits(), sppo.to_bits());
        }
    }
}

const C3: [[f64; 3]; 3] = [[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]];

/// Gradient in the logits of the authors' loss (both of a pair drawn from π_t) over a table, at `at`.
fn table<const N: usize>(
    config: &RspoConfig,
    game: &[[f64; N]; N],
    at: [f64; N],
    models: References<[f64; N]>,
) -> Vec<f64> {
    let References { previous, original } = models;
    let expectation = |logits: &[Dual]| -> Dual {
        let logp = log_softmax(logits);
        let of = |y: usize| {
            let win_rate = (0..N).map(|o| game[y][o] * previous[o]).sum::<f64>();
            let references = References { previous: previous[y].ln(), original: original[y].ln() };
            rspo_response_scalar(config, logp[y], references, win_rate) * (2.0 * previous[y])
        };
        (0..N).map(of).sum()
    };
    gradient(&at.map(f64::ln), expectation).1
}

/// ∂R/∂π_y from π_y and μ_y.
type Slope = fn(f64, f64) -> f64;

#[test]
fn at_the_previous_iterate_the_gradient_is_that_of_the_game() {
    // −2η ∇P(π ≻ π_t) + 2λ c ∇R in the logits: with g_y the derivative in π_y, π_y (g_y − Σ π g).
    // η = 3, λ = 0.4; R′ is log(π/μ) + 1, −μ/π and 2π/μ − 2; c is 2, 1 and ½.
    let (previous, original) = ([0.5, 0.2, 0.3], [0.6, 0.3, 0.1]);
    let models = References { previous, original };
    let divergences: [(RspoRegularizer, Slope); 6] = [
        (ReverseKl, |p, q| (p / q).ln() + 1.0),
        (ForwardImportance(r(10.0)), |p, q| -q / p),
        (Chi2(r(10.0)), |p, q| 2.0 * p / q - 2.0),
        (NoEntropy, |_, q| -q.ln()),
        (Entropy, |p, _| p.ln() + 1.0),
        (SmoothedChi2(r(10.0)), |p, q| p / q / (1.0 + p / q).powi(2)),
    ];
    for (regularizer, slope) in divergences {
        let found = table(&config(1.0 / 3.0, &[(regularizer, 0.4)]), &C3, previous, models);
        let c = regularizer.gradient_factor();
        let g = |y: usize| {
            let win_rate = (0..3).map(|o| C3[y][o] * previous[o]).sum::<f64>();
            -6.0 * win_rate + 0.8 * c * slope(previous[y], original[y])
        };
        let mean = (0..3).map(|y| previous[y] * g(y)).sum::<f64>();
        for y in 0..3 {
            let expected = previous[y] * (g(y) - mean);
            assert!((found[y] - expected).abs() < 1e-14, "{regularizer:?}: {found:?}");
        }
    }
    let chi2 = table(&config(1.0 / 3.0, &[(Chi2(r(10.0)), 0.4)]), &C3, previous, models);
    for (found, expected) in chi2.iter().zip([-0.65 / 3.0, 0.02 / 3.0, 0.21]) {
        assert!((found - expected).abs() < 1e-14, "{chi2:?}");
    }
}

#[test]
fn each_response_has_its_minimum_in_closed_form() {
    // Under the reverse KL: log π = (log π_t + T + 2λ log μ) / (1 + 2λ).
    let config = config(0.2, &[(ReverseKl, 0.35)]);
    for (previous, original, win_rate) in [(-3.0, -5.0, 0.9), (-40.0, -12.0, 0.2), (-1.0, -1.0, 0.5)] {
        let best = (previous + (win_rate - 0.5) / 0.2 + 0.7 * original) / 1.7;
        let references = References { previous, original };
        let (_, slope) = gradient(&[best], |x| rspo_response_scalar(&config, x[0], references, win_rate));
        assert!(slope[0].abs() < 1e-14, "{slope:?}");
    }
}

#[test]
fn regularised_equilibria_are_fixed_points_at_the_effective_temperature() {
    // Equilibria known in closed form, and η, λ such that τ = c λ / η is theirs.
    let two = [[0.5, 0.7], [0.3, 0.5]];
    let golden = (1.0 + 5f64.sqrt()) / 4.0;
    let sure = 1.0 / (1.0 + (-2f64).exp());
    for (regularizer, eta, lambda, tau, first) in [
        (ReverseKl, 2.0, 0.1, 0.1, sure),
        (ForwardImportance(r(10.0)), 1.0, 0.1, 0.1, golden),
        (ForwardImportance(r(10.0)), 2.0, 0.4, 0.2, 0.5f64.sqrt()),
        (Chi2(r(10.0)), 1.0, 0.2, 0.1, 0.75),
        (Chi2(r(10.0)), 0.5, 0.2, 0.2, 0.625),
    ] {
        let config = config(1.0 / eta, &[(regularizer, lambda)]);
        assert!((config.terms[0].temperature(config.beta) - tau).abs() < 1e-15);
        let previous = [first, 1.0 - first];
        let slope = table(&config, &two, previous, References { previous, original: [0.5, 0.5] });
        assert!(slope.iter().all(|g| g.abs() < 1e-14), "{regularizer:?}: {slope:?}");
    }
    // Three actions, μ = (0.6, 0.3, 0.1): the equilibrium of χ² at τ = 0.05 is rational.
    let previous = [0.6, 0.075, 0.325];
    let models = References { previous, original: [0.6, 0.3, 0.1] };
    for (eta, lambda) in [(1.0, 0.1), (2.0, 0.2)] {
        let slope = table(&config(1.0 / eta, &[(Chi2(r(10.0)), lambda)]), &C3, previous, models);
        assert!(slope.iter().all(|g| g.abs() < 1e-14), "{slope:?}");
    }
    // One more term beside it moves the point.
    let mixed = table(&config(1.0, &[(Chi2(r(10.0)), 0.1), (ReverseKl, 0.05)]), &C3, previous, models);
    assert!(mixed.iter().any(|g| g.abs() > 1e-3));
}

#[test]
fn a_config_names_its_regularisers() {
    let text = r#"{"beta": 0.001, "terms": [
        {"regularizer": {"forward_importance": 10.0}, "weight": 0.1},
        {"regularizer": "reverse_kl", "weight": 0.5}]}"#;
    let read: RspoConfig = serde_json::from_str(text).expect("a config");
    assert_eq!(read, config(0.001, &[(ForwardImportance(r(10.0)), 0.1), (ReverseKl, 0.5)]));
    assert!(serde_json::from_str::<RspoConfig>(&text.replace("0.5", "-0.5")).is_err());
}
