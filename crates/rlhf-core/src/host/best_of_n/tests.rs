//! Numbers computed once by independent enumeration, and the theory they stand for.

use super::*;

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance, "entry {i}: expected {e}, found {f}");
    }
}

const FOUR: [f64; 4] = [0.25; 4];
const RANKS: [f64; 4] = [0.0, 1.0, 2.0, 3.0];

#[test]
fn four_equal_answers() {
    // (k/4)⁴ − ((k − 1)/4)⁴, exact in binary.
    let q = best_of_n(&FOUR, &RANKS, 4);
    close(&q, &[1.0 / 256.0, 15.0 / 256.0, 65.0 / 256.0, 175.0 / 256.0], 1e-16);
    assert!((expectation(&q, &RANKS) - 2.6171875).abs() < 1e-15);
    close(&best_of_n(&FOUR, &RANKS, 1), &FOUR, 1e-16);
    close(&best_of_n(&FOUR, &RANKS, 4_000), &[0.0, 0.0, 0.0, 1.0], 1e-15);
}

#[test]
fn the_law_sums_to_one_and_reward_rises_with_n() {
    let (p, r) = ([0.4, 0.3, 0.2, 0.1], [0.0, 1.0, 0.5, 2.0]);
    let mut before = f64::NEG_INFINITY;
    for n in 1..40 {
        let q = best_of_n(&p, &r, n);
        assert!((q.iter().sum::<f64>() - 1.0).abs() < 1e-14);
        assert!(expectation(&q, &r) >= before);
        before = expectation(&q, &r);
    }
}

#[test]
fn divergence_stays_under_its_bound() {
    let digits = [(2, 0.17398, 0.19315), (4, 0.59031, 0.63629), (16, 1.33007, 1.83509)];
    for (n, kl, bound) in digits {
        let found = divergence(&best_of_n(&FOUR, &RANKS, n), &FOUR);
        let exact = f64::from(n).ln() - f64::from(n - 1) / f64::from(n);
        assert!((found - kl).abs() < 5e-6 && (exact - bound).abs() < 5e-6, "N {n}: {found} {exact}");
        assert!(found <= exact);
    }
}

#[test]
fn an_answer_without_mass_costs_no_divergence_unless_it_is_needed() {
    assert!((divergence(&[1.0, 0.0], &[0.5, 0.5]) - 2f64.ln()).abs() < 1e-16);
    assert!(divergence(&[0.5, 0.5], &[1.0, 0.0]).is_infinite());
}

#[test]
fn uneven_answers_out_of_order() {
    // Order 0, 2, 1, 3 with F = .4, .6, .9, 1: .4⁴, .9⁴ − .6⁴, .6⁴ − .4⁴, 1 − .9⁴.
    let q = best_of_n(&[0.4, 0.3, 0.2, 0.1], &[0.0, 1.0, 0.5, 2.0], 4);
    close(&q, &[0.0256, 0.5265, 0.1040, 0.3439], 5e-15);
}

#[test]
fn weights_count_by_their_shares() {
    let (p, r) = ([0.4, 0.3, 0.2, 0.1], [0.0, 1.0, 0.5, 2.0]);
    let thrice = p.map(|p| 3.0 * p);
    close(&best_of_n(&thrice, &r, 4), &best_of_n(&p, &r, 4), 1e-15);
    let (end, expected) = (fixed_point(&thrice, &r, 4, 0.35), fixed_point(&p, &r, 4, 0.35));
    close(&end.policy, &expected.policy, 1e-14);
    assert!(end.residual < 1e-14, "{}", end.residual);
}

#[test]
fn ties_share_in_proportion() {
    // Class {1, 2} of mass ½ above answer 0: 1 − ½² = ¾, split 2 : 3.
    close(&best_of_n(&[0.5, 0.2, 0.3], &[0.0, 1.0, 1.0], 2), &[0.25, 0.3, 0.45], 1e-15);
    // All equal: the filter does nothing.
    close(&best_of_n(&[0.5, 0.2, 0.3], &[7.0; 3], 9), &[0.5, 0.2, 0.3], 1e-15);
}

#[test]
fn the_inner_minimiser_is_a_mixture() {
    let (q, p0) = ([0.7, 0.2, 0.1], [0.2, 0.3, 0.5]);
    let p = inner_minimiser(&q, &p0, 0.35);
    close(&p, &[0.57037, 0.22593, 0.20370], 5e-6);
    // First-order condition of CE_q(p) + β KL(p₀ ‖ p) on the simplex: (q + β p₀) / p is constant.
    for a in 0..3 {
        assert!(((q[a] + 0.35 * p0[a]) / p[a] - 1.35).abs() < 1e-14);
    }
    // The other direction of the KL has another optimum.
    close(&reverse_minimiser(&q, &p0, 0.35), &[0.56489, 0.24743, 0.18768], 1e-5);
}

/// The minimiser of `CE_q(p) + β KL(p ‖ p₀)`: `q/p − β log(p/p₀)` is one constant λ.
fn reverse_minimiser(q: &[f64], p0: &[f64], beta: f64) -> Vec<f64> {
    let bisect = |f: &dyn Fn(f64) -> f64, mut low: f64, mut high: f64| {
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if f(middle) > 0.0 { low = middle } else { high = middle }
        }
        low
    };
    let at = |lambda: f64| -> Vec<f64> {
        let solve = |(q, p0): (&f64, &f64)| bisect(&|p| q / p - beta * (p / p0).ln() - lambda, 1e-12, 10.0);
        q.iter().zip(p0).map(solve).collect()
    };
    at(bisect(&|lambda| at(lambda).iter().sum::<f64>() - 1.0, -10.0, 10.0))
}

#[test]
fn two_answers_end_where_the_formula_says() {
    // x = [(1 − β) + √((1 − β)² + 4 β p₀)] / 2.
    let digits = [
        (0.0, 1.0),
        (0.05, 0.97562461),
        (0.1, 0.95249378),
        (0.35, 0.85474050),
        (0.5, 0.80901699),
        (1.0, std::f64::consts::FRAC_1_SQRT_2),
        (2.0, 0.61803399),
    ];
    for (beta, digits) in digits {
        let end = fixed_point(&[0.5, 0.5], &[0.0, 1.0], 2, beta);
        let formula = 0.5 * ((1.0 - beta) + ((1.0f64 - beta).powi(2) + 2.0 * beta).sqrt());
        assert!((end.policy[1] - formula).abs() < 1e-15, "β {beta}: {:?}", end.policy);
        assert!((end.policy[1] - digits).abs() < 5e-9 && end.residual < 1e-15);
    }
}

#[test]
fn four_answers_end_at_the_printed_digits() {
    let cases: [(u32, f64, [f64; 4]); 3] = [
        (16, 0.35, [0.064815, 0.064815, 0.064815, 0.805556]),
        (2, 0.35, [0.068267, 0.076993, 0.090281, 0.764460]),
        (2, 1.0, [0.133975, 0.158919, 0.207107, 0.5]),
    ];
    for (n, beta, expected) in cases {
        let end = fixed_point(&FOUR, &RANKS, n, beta);
        close(&end.policy, &expected, 5e-7);
        assert!(end.residual < 1e-15, "{}", end.residual);
    }
    // For large N: the top has (1 + β p₀) / (1 + β), the others β p₀ / (1 + β).
    let end = fixed_point(&FOUR, &RANKS, 10_000, 0.35);
    close(&end.policy, &[0.0875 / 1.35, 0.0875 / 1.35, 0.0875 / 1.35, 1.0875 / 1.35], 1e-15);
}

#[test]
fn the_loop_runs_into_the_fixed_point() {
    let (p0, r) = ([0.4, 0.3, 0.2, 0.1], [0.0, 1.0, 0.5, 2.0]);
    for (n, beta) in [(2, 0.35), (4, 0.1), (16, 1.0)] {
        let mut p = p0.to_vec();
        for _ in 0..4_000 {
            p = inner_minimiser(&best_of_n(&p, &r, n), &p0, beta);
            // The map multiplies an error of the total mass by N / (1 + β).
            let total: f64 = p.iter().sum();
            p.iter_mut().for_each(|p| *p /= total);
        }
        close(&p, &fixed_point(&p0, &r, n, beta).policy, 1e-12);
    }
}

#[test]
fn without_a_prior_it_collapses_and_with_one_every_answer_keeps_its_floor() {
    for n in [2, 3, 16] {
        close(&fixed_point(&FOUR, &RANKS, n, 0.0).policy, &[0.0, 0.0, 0.0, 1.0], 0.0);
    }
    let mut before = (f64::INFINITY, f64::INFINITY);
    for beta in [0.0, 0.05, 0.2, 1.0, 5.0] {
        let p = fixed_point(&FOUR, &RANKS, 4, beta).policy;
        let now = (collision(&p), expectation(&p, &RANKS));
        assert!(now.0 < before.0 && now.1 < before.1, "β {beta}");
        assert!(p.iter().all(|p| *p >= beta * 0.25 / (1.0 + beta) - 1e-16));
        before = now;
    }
}

#[test]
fn one_sample_stays_at_the_prior_and_lost_support_does_not_come_back() {
    for beta in [0.0, 0.3] {
        close(&fixed_point(&[0.1, 0.9], &[1.0, 0.0], 1, beta).policy, &[0.1, 0.9], 1e-16);
    }
    let end = fixed_point(&[0.5, 0.5, 0.0], &[0.0, 1.0, 2.0], 4, 0.0);
    close(&end.policy, &[0.0, 1.0, 0.0], 0.0);
    assert!(end.residual <= 0.0);
    close(&best_of_n(&[0.5, 0.5, 0.0], &[0.0, 1.0, 2.0], 2), &[0.25, 0.75, 0.0], 1e-16);
    assert!(fixed_point(&[f64::NAN, 0.5], &[0.0, 1.0], 2, 0.5).residual.is_nan());
    // Within a class of ties the prior's proportions stay.
    let end = fixed_point(&[0.5, 0.1, 0.4], &[0.0, 1.0, 1.0], 3, 0.5).policy;
    assert!((end[2] / end[1] - 4.0).abs() < 1e-13);
}

#[test]
fn the_rl_optimum_tilts_by_size() {
    let best = rl_optimum(&FOUR, &RANKS, 1.0);
    close(&best.policy, &[0.032059, 0.087144, 0.236883, 0.643914], 5e-7);
    assert!((best.objective - 2.0538953).abs() < 5e-8);
    let value = expectation(&best.policy, &RANKS) - divergence(&best.policy, &FOUR);
    assert!((value - best.objective).abs() < 1e-14);
}

/// 20 answers k with gold sin k, train reward gold + cos 3k, test reward gold + cos(7k + 1).
struct Twenty {
    gold: Vec<f64>,
    train: Vec<f64>,
    test: Vec<f64>,
}

impl Twenty {
    fn new() -> Self {
        let k = || (0..20).map(f64::from);
        let gold: Vec<f64> = k().map(f64::sin).collect();
        let with = |f: fn(f64) -> f64| gold.iter().zip(k()).map(|(g, k)| g + f(k)).collect();
        Self { train: with(|k| (3.0 * k).cos()), test: with(|k| (7.0 * k + 1.0).cos()), gold }
    }

    fn row(&self, p: &[f64]) -> [f64; 4] {
        let [train, test, gold] = [&self.train, &self.test, &self.gold].map(|x| expectation(p, x));
        [train, test, gold, collision(p)]
    }
}

#[test]
fn twenty_answers_over_optimise() {
    let (bandit, p0) = (Twenty::new(), [0.05; 20]);
    let ends: [(u32, f64, [f64; 4]); 6] = [
        (2, 0.0, [1.8695, 0.1496, 0.9093, 1.0]),
        (2, 0.2, [1.5281, 0.1357, 0.7399, 0.6617]),
        (2, 1.0, [0.6317, 0.2496, 0.3064, 0.0873]),
        (2, 5.0, [0.1625, 0.0801, 0.0625, 0.0507]),
        (16, 0.35, [1.3984, 0.1132, 0.6747, 0.5713]),
        (16, 1.0, [0.9610, 0.0794, 0.4568, 0.2875]),
    ];
    for (n, beta, expected) in ends {
        let end = fixed_point(&p0, &bandit.train, n, beta);
        assert!(end.residual < 1e-14, "{}", end.residual);
        close(&bandit.row(&end.policy), &expected, 5.0001e-5);
    }
    let one_shot: [(u32, [f64; 3]); 3] =
        [(2, [0.6024, 0.3717, 0.2964]), (8, [1.3733, 0.7384, 0.6992]), (64, [1.8521, 0.2142, 0.9119])];
    for (n, expected) in one_shot {
        close(&bandit.row(&best_of_n(&p0, &bandit.train, n))[..3], &expected, 5.0001e-5);
    }
    let rl = rl_optimum(&p0, &bandit.train, 0.5);
    close(&bandit.row(&rl.policy)[..3], &[1.3447, 0.5689, 0.6664], 5.0001e-5);
}
