//! Trajectories of mirror descent, Nash-MD and INPO in exact games, and the theorems about them.
//! Numbers are right to their last printed digit.

use rlhf_core::loss::inpo::InpoConfig;
use rlhf_core::number::Beta;
use rlhf_core::real::gradient;
use rlhf_selfplay::game::mirror::{gmmd, inpo, inpo_loss};
use rlhf_selfplay::game::{
    Algorithm, Game, Length, NashMdStep, Policy, Record, RegularizedGame, Regularizer, play, solve,
};

use super::games::*;

fn records(game: &RegularizedGame, start: &[f64], algorithm: &Algorithm, n_steps: u64) -> Vec<Record> {
    play(game, &policy(start), algorithm, Length { n_steps, record_every: 1 }).expect("a play")
}

/// KL(π* ‖ π_t) of every step.
fn distances(game: &RegularizedGame, start: &[f64], algorithm: &Algorithm, n_steps: u64) -> Vec<f64> {
    let end = solve(game).expect("an equilibrium").policy;
    records(game, start, algorithm, n_steps).iter().map(|record| end.kl(&record.policy)).collect()
}

fn of_gmmd(step: f64) -> Algorithm {
    Algorithm::Gmmd { eta: eta(step) }
}

/// To as many significant digits as were printed.
#[track_caller]
fn significant(found: f64, expected: f64, digits: i32) {
    let unit = 10f64.powi(expected.abs().log10().floor() as i32 + 1 - digits);
    assert!((found - expected).abs() <= 0.5001 * unit, "expected {expected}, found {found}");
}

/// ω of the eigenvalues ±iω and 0 of (P − ½)(diag π − ππᵀ), squared; of three actions: their squares sum to
/// the trace of the square.
fn omega_squared(game: &Game, policy: &Policy) -> f64 {
    let p = policy.probs();
    let m = |i: usize, j: usize| -> f64 {
        let entry = |k: usize| (game.preference(i, k) - 0.5) * p[k] * (f64::from(u8::from(k == j)) - p[j]);
        (0..3).map(entry).sum()
    };
    -0.5 * (0..9).map(|i| m(i / 3, i % 3) * m(i % 3, i / 3)).sum::<f64>()
}

/// `(1 + η²ω²)/(1 + ητ)²`: what a step of mirror descent multiplies KL by, near the equilibrium.
fn local_factor(game: &RegularizedGame, step: f64) -> f64 {
    let end = solve(game).expect("an equilibrium").policy;
    let tau = game.tau().reverse_kl.get();
    (1.0 + step * step * omega_squared(game.game(), &end)) / (1.0 + step * tau).powi(2)
}

/// The mean factor of KL between two of its levels.
fn factor_between(kl: &[f64], high: f64, low: f64) -> f64 {
    let first = |level: f64| kl.iter().position(|k| *k < level).expect("a level that is reached");
    let (from, to) = (first(high), first(low));
    (kl[to] / kl[from]).powf(1.0 / (to - from) as f64)
}

#[test]
fn mmd_converges_at_least_as_fast_as_its_theorem() {
    let rows = [
        (0.05, 0.99010, 0.98174, 1262),
        (0.1, 0.96154, 0.93035, 321),
        (0.2, 0.86207, 0.76375, 85),
        (0.5, 0.5, 0.29841, 19),
    ];
    for (tau, bound, factor, n_steps) in rows {
        // L = max |P − ½| = ½, so the longest step of the theorem is τ/L².
        let step: f64 = tau / 0.25;
        assert!(((1.0 + step * tau).recip() - bound).abs() < last_digit(5));
        let game = regularized(prps(), &UNIFORM, Pull::Rev.at(tau));
        let kl = distances(&game, &[0.8, 0.1, 0.1], &of_gmmd(step), n_steps + 5);
        for (t, kl_t) in kl.iter().enumerate() {
            let most = (1.0 + step * tau).powi(-(t as i32)) * kl[0];
            assert!(*kl_t <= most, "τ {tau}, step {t}: {kl_t} above {most}");
        }
        assert_eq!(kl.iter().position(|k| *k < 1e-10), Some(n_steps as usize), "τ {tau}");
        // The table's factors are means over steps that it does not name; they are not far from the limit.
        let limit = local_factor(&game, step);
        assert!((limit - factor).abs() < 1e-4, "τ {tau}: {limit}");
    }
}

#[test]
fn the_theorem_holds_from_anywhere_and_for_mixtures() {
    for (k, game) in [(0, prps()), (1, c3()), (2, rps(0.8)), (3, g4())] {
        let n = game.n_actions();
        let mu = random_policy(n, 1.0, k);
        let least = mu.probs().iter().copied().fold(1.0, f64::min);
        // L = max |P − ½|; the modulus of convexity relative to entropy: 1 of the reverse KL, and so
        // of what has it; min μ of the forward KL.
        let largest = (0..n * n).map(|i| (game.preference(i / n, i % n) - 0.5).abs()).fold(0.0, f64::max);
        let cases = [
            (mixture(0.2, 0.0, 0.0), 0.2),
            (mixture(0.2, 0.3, 0.0), 0.2),
            (mixture(0.2, 0.1, 0.1), 0.2),
            (mixture(0.0, 0.4, 0.0), 0.4 * least),
        ];
        for (tau, modulus) in cases {
            let game = RegularizedGame::new(game.clone(), mu.clone(), tau).expect("a game");
            let step = modulus / (largest * largest);
            for start in 0..4 {
                let start = random_policy(n, 6.0, 100 * k + start);
                for (t, kl) in distances(&game, start.probs(), &of_gmmd(step), 300).iter().enumerate() {
                    let end = solve(&game).expect("an equilibrium").policy;
                    let most = (1.0 + step * modulus).powi(-(t as i32)) * end.kl(&start);
                    assert!(*kl <= most + 1e-14, "{tau:?}, step {t}: {kl} above {most}");
                    if most < 1e-14 {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn local_factors_to_five_digits() {
    let cases = [
        (rps(0.7), 0.1, 0.5, 0.910053),
        (rps(0.7), 0.1, 2.0, 0.731481),
        (rps(1.0), 0.1, 0.5, 0.925926),
        (c3(), 0.1, 0.5, 0.915238),
        (prps(), 0.1, 0.4, 0.930335),
    ];
    for (game, tau, step, expected) in cases {
        let game = regularized(game, &UNIFORM, Pull::Rev.at(tau));
        assert!((local_factor(&game, step) - expected).abs() < last_digit(6));
        // Below 1e-13 rounding is seen.
        let kl = distances(&game, &SKEWED, &of_gmmd(step), 500);
        let measured = factor_between(&kl, 1e-6, 1e-12);
        assert!((measured - expected).abs() < 2e-5, "expected {expected}, measured {measured}");
    }
    // ω = (a − ½)/√3 of rock, paper, scissors.
    assert!((omega_squared(&rps(0.7), &Policy::uniform(3)) - 0.04 / 3.0).abs() < 1e-16);
    // Factors above 1, with a step that is too long and without a pull: started beside the
    // equilibrium, the policy leaves it.
    let factor = |game: Game, tau: f64, step: f64| {
        let game = regularized(game, &UNIFORM, Pull::Rev.at(tau));
        let end = solve(&game).expect("an equilibrium").policy;
        let beside: Vec<f64> = end.probs().iter().zip([1e-5, -2e-5, 1e-5]).map(|(p, d)| p + d).collect();
        let kl = distances(&game, &beside, &of_gmmd(step), 300);
        ((kl[300] / kl[30]).powf(1.0 / 270.0), local_factor(&game, step))
    };
    for (game, tau, step, expected, digits) in
        [(rps(1.0), 0.05, 2.0, 1.1019, 4), (rps(0.7), 0.0, 0.5, 1.003333, 6), (c3(), 0.0, 0.5, 1.009000, 6)]
    {
        let limit = factor(game.clone(), tau, step).1;
        assert!((limit - expected).abs() < last_digit(digits), "{limit}");
        if tau <= 0.0 {
            let measured = factor(game, tau, step).0;
            assert!((measured - expected).abs() < 1e-4, "expected {expected}, measured {measured}");
        }
    }
}

#[test]
fn too_long_a_step_never_arrives() {
    let game = regularized(prps(), &UNIFORM, Pull::Rev.at(0.05));
    let kl = distances(&game, &[0.8, 0.1, 0.1], &of_gmmd(4.0), 3000);
    let last = &kl[2000..];
    assert!(last.iter().all(|k| *k > 0.1), "a cycle around the equilibrium");
}

#[test]
fn without_a_pull_play_spirals_out() {
    let game = regularized(c3(), &UNIFORM, Regularizer::NONE);
    let end = solve(&game).expect("an equilibrium").policy;
    let all = records(&game, &SKEWED, &Algorithm::Mwu { eta: eta(0.5) }, 1000);
    // Gap, KL(NE ‖ π_t), gap of the mean policy.
    let expected = [
        (0, 0.18, 0.3466, 0.18),
        (10, 0.3656, 0.3644, 0.2989),
        (50, 0.3533, 0.4252, 0.1479),
        (100, 0.4121, 0.5331, 0.0431),
        (200, 0.4148, 0.7343, 0.0297),
        (500, 0.5907, 1.3022, 0.0161),
        (1000, 0.3195, 2.1065, 0.0077),
    ];
    for (t, gap, kl, average) in expected {
        let record = &all[t];
        near(&[record.gap, end.kl(&record.policy), record.average_gap], &[gap, kl, average], last_digit(4));
    }
    let kl: Vec<f64> = all.iter().map(|record| end.kl(&record.policy)).collect();
    assert!(kl.windows(2).all(|pair| pair[1] > pair[0]), "KL to the equilibrium rises with every step");

    let game = regularized(rps(1.0), &UNIFORM, Regularizer::NONE);
    let all = records(&game, &SKEWED, &Algorithm::Mwu { eta: eta(0.5) }, 500);
    for (t, gap) in [(0, 0.3), (5, 0.529), (10, 0.508), (100, 0.763), (500, 0.955)] {
        assert!((all[t].gap - gap).abs() < last_digit(3), "{t}: {}", all[t].gap);
    }
    significant(all[500].average_gap, 0.0193, 3);
}

#[test]
fn with_a_pull_the_gap_goes_to_zero() {
    let gaps = [
        (Pull::Rev, [0.144, 0.1113, 0.03737, 3.50e-3, 4.20e-5, 5.95e-9], [3, 4, 4, 3, 3, 3]),
        (Pull::Fwd, [0.1283, 0.0946, 0.0305, 2.19e-3, 2.04e-5, 2.35e-9], [4, 3, 3, 3, 3, 3]),
        (Pull::Chi, [0.156, 0.0349, 5.25e-3, 2.51e-5, 3.55e-9, 1e-15], [3, 3, 3, 3, 3, 0]),
    ];
    for (pull, expected, digits) in gaps {
        let game = regularized(c3(), &UNIFORM, pull.at(0.1));
        let all = records(&game, &SKEWED, &of_gmmd(0.5), 200);
        for ((t, gap), digits) in [0, 10, 20, 50, 100, 200].into_iter().zip(expected).zip(digits) {
            let found = all[t].regularized_gap;
            if digits == 0 {
                assert!(found < gap, "{pull:?} {t}: {found}");
            } else {
                significant(found, gap, digits);
            }
        }
    }
    let iterates = [
        (Pull::Rev, 1, [0.613687, 0.274922, 0.111391]),
        (Pull::Rev, 2, [0.623084, 0.252772, 0.124144]),
        (Pull::Rev, 5, [0.627641, 0.201847, 0.170512]),
        (Pull::Fwd, 1, [0.612475, 0.272673, 0.114853]),
        (Pull::Chi, 1, [0.600267, 0.284035, 0.115698]),
    ];
    for (pull, t, expected) in iterates {
        let game = regularized(c3(), &UNIFORM, pull.at(0.1));
        near(records(&game, &SKEWED, &of_gmmd(0.5), t)[t as usize].policy.probs(), &expected, last_digit(6));
    }
    let game = regularized(rps(1.0), &UNIFORM, Pull::Rev.at(0.1));
    let all = records(&game, &SKEWED, &of_gmmd(0.5), 500);
    significant(all[100].gap, 0.0110, 3);
    significant(all[200].gap, 2.5e-4, 2);
    assert!(all[500].gap < 1e-8);
}

#[test]
fn steps_to_the_equilibrium() {
    // Until KL(π* ‖ π_t) < 1e-10 at η = 0.1, 0.5, 2, 8.
    let table = [
        (Pull::Rev, 0.1, [Some(1123), Some(248), Some(95), None]),
        (Pull::Fwd, 0.1, [Some(1078), Some(238), Some(90), None]),
        (Pull::Chi, 0.1, [Some(558), Some(121), Some(41), Some(31)]),
        (Pull::Rev, 0.5, [Some(223), Some(50), Some(18), Some(11)]),
    ];
    for (pull, tau, expected) in table {
        let game = regularized(c3(), &UNIFORM, pull.at(tau));
        for (step, expected) in [0.1, 0.5, 2.0, 8.0].into_iter().zip(expected) {
            let kl = distances(&game, &SKEWED, &of_gmmd(step), 1200);
            assert_eq!(kl.iter().position(|k| *k < 1e-10), expected, "{pull:?} {tau} {step}");
        }
    }
    let game = regularized(c3(), &UNIFORM, Pull::Rev.at(0.02));
    let kl = distances(&game, &SKEWED, &of_gmmd(2.0), 3000);
    assert!(kl[2000..].iter().all(|k| *k > 1e-2), "τ = 0.02 at η = 2 does not arrive");
}

#[test]
fn nash_md_with_the_steps_of_its_theorem() {
    let game = regularized(c3(), &UNIFORM, Pull::Rev.at(0.1));
    let kl = distances(&game, &SKEWED, &Algorithm::NashMd { eta: NashMdStep::Decreasing }, 1000);
    for (t, expected) in [(10, 8.15e-5), (100, 2.73e-6), (1000, 2.92e-8)] {
        significant(kl[t], expected, 3);
    }
    for (t, pair) in kl.windows(2).enumerate() {
        // 8/(τ²(T + 1)), and a step's recursion KL′ ≤ (1 − ητ) KL + 2η².
        assert!(kl[t] <= 800.0 / (t as f64 + 1.0));
        let step = 2.0 / (0.1 * (t as f64 + 2.0));
        assert!(pair[1] <= (1.0 - 0.1 * step) * pair[0] + 2.0 * step * step + 1e-15, "step {t}");
    }
}

#[test]
fn nash_md_with_steps_alike_rests_beside_the_equilibrium() {
    let game = regularized(c3(), &SKEWED, Pull::Rev.at(0.2));
    let end = solve(&game).expect("an equilibrium").policy;
    let rest = |step: f64| {
        let algorithm = Algorithm::NashMd { eta: NashMdStep::Constant(eta(step)) };
        let length = Length { n_steps: 20_000, record_every: 20_000 };
        play(&game, &policy(&SKEWED), &algorithm, length).expect("a play").remove(1).policy
    };
    let far = rest(0.5);
    near(far.probs(), &[0.6369754, 0.1282605, 0.2347641], last_digit(7));
    significant(end.kl(&far), 4.1e-4, 2);
    significant(end.kl(&rest(0.02)), 6.5e-7, 2);
    // Where it rests: π ∝ μ exp(P(y ≻ π^m)/τ) of the mixture that is played against.
    let mixed = Policy::from_logits(
        &far.logp().iter().zip(game.reference().logp()).map(|(p, m)| 0.9 * p + 0.1 * m).collect::<Vec<_>>(),
    );
    let rates = game.game().win_rates(&mixed);
    let logits: Vec<f64> = game.reference().logp().iter().zip(rates).map(|(m, p)| m + p / 0.2).collect();
    near(far.probs(), Policy::from_logits(&logits).probs(), 1e-12);
}

#[test]
fn a_moving_magnet_spirals_to_the_equilibrium_without_a_pull() {
    let mut mu = Policy::uniform(3);
    let mut gaps = Vec::new();
    for _ in 0..3000 {
        let game = RegularizedGame::new(c3(), mu, Pull::Rev.at(0.5)).expect("a game");
        mu = solve(&game).expect("an equilibrium").policy;
        gaps.push(game.gap(&mu));
    }
    near(&gaps[..7], &[0.0431, 0.0396, 0.0482, 0.0493, 0.0441, 0.0343, 0.0219], last_digit(4));
    near(mu.probs(), &[0.3, 0.3, 0.4], 1e-4);
}

#[test]
fn inpo_is_mirror_descent_and_the_least_of_its_loss() {
    let game = regularized(c3(), &SKEWED, Pull::Rev.at(0.2));
    let (before, step) = (policy(&SOMEWHERE), 0.7f64);
    let of_loss = step.recip() + 0.2;
    let next = inpo(&game, &before, eta(of_loss));
    near(next.probs(), &[0.517663, 0.200143, 0.282194], last_digit(6));
    near(next.probs(), gmmd(&game, &before, eta(step)).probs(), 1e-15);
    let config = InpoConfig { eta: Beta::new(of_loss).expect("a beta"), tau: weight(0.2) };
    let (least, slope) = gradient(next.logp(), |logp| inpo_loss(&game, &before, config, logp));
    assert!(slope.iter().all(|s| s.abs() < 1e-15), "{slope:?}");
    assert!(least < inpo_loss(&game, &before, config, before.logp()));
    // And so along a whole play.
    let by_inpo = records(&game, &SKEWED, &Algorithm::Inpo { eta: eta(of_loss) }, 50);
    let by_mmd = records(&game, &SKEWED, &of_gmmd(step), 50);
    near(by_inpo[50].policy.probs(), by_mmd[50].policy.probs(), 1e-14);
}

#[test]
fn a_method_refuses_what_it_is_not_for() {
    let check = |algorithm: &Algorithm, tau: Regularizer| {
        let game = regularized(c3(), &SKEWED, tau);
        algorithm.check(&game).expect_err("refused").to_string()
    };
    let step = eta(6.0);
    let constant = Algorithm::NashMd { eta: NashMdStep::Constant(step) };
    let cases = [
        (
            Algorithm::Mwu { eta: step },
            Pull::Rev.at(0.1),
            "tau: expected no pull with mwu, found reverse_kl 0.1",
        ),
        (
            constant.clone(),
            Pull::Chi.at(0.1),
            "tau: expected reverse_kl above 0 and no other with nash-md, found chi2 0.1",
        ),
        (
            Algorithm::Inpo { eta: step },
            mixture(0.1, 0.2, 0.0),
            "tau: expected reverse_kl and no other with inpo, found reverse_kl 0.1, forward_kl 0.2",
        ),
        (constant, Pull::Rev.at(0.25), "eta: expected at most 1/tau = 4, found 6"),
        (Algorithm::Inpo { eta: eta(0.1) }, Pull::Rev.at(0.5), "eta: expected at least tau = 0.5, found 0.1"),
    ];
    for (algorithm, tau, expected) in cases {
        assert_eq!(check(&algorithm, tau), expected);
    }
}
