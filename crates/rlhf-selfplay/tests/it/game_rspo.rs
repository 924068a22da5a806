//! RSPO's loss on a softmax table: gradients, fixed points, samples.

use rlhf_core::host::stable::log_softmax;
use rlhf_core::loss::nash_md::{NashMdConfig, geometric_mixture_scalar, nash_md_scalar};
use rlhf_core::loss::rspo::{RspoConfig, RspoRegularizer, RspoTerm};
use rlhf_core::loss::sppo::{SppoConfig, sppo_response_scalar};
use rlhf_core::number::{Beta, Prob, Weight};
use rlhf_core::real::{Dual, Real, gradient};
use rlhf_selfplay::game::table::{Row, Table};
use rlhf_selfplay::game::{
    Algorithm, Choice, Draws, Length, Policy, Record, RegularizedGame, Regularizer, Responses, Rspo, Update,
    play, solve,
};

use super::games::*;

fn minimising(config: RspoConfig) -> Rspo {
    Rspo { config, responses: Responses::Expected, update: Update::Minimum }
}

/// Plays the loss from the skewed reference policy of the three-cycle.
fn records(rspo: &Rspo, n_steps: u64) -> (RegularizedGame, Vec<Record>) {
    let tau = Regularizer::of_rspo(&rspo.config).expect("divergences");
    let game = regularized(c3(), &SKEWED, tau);
    let length = Length { n_steps, record_every: 1 };
    let all = play(&game, &policy(&SKEWED), &Algorithm::Rspo(rspo.clone()), length).expect("a play");
    (game, all)
}

#[test]
fn the_gradient_at_the_iterate_is_that_of_the_game() {
    let (before, original) = (policy(&SOMEWHERE), policy(&SKEWED));
    let printed =
        [[-0.2417212, -0.0480944, 0.2898156], [-0.05, 0.052, -0.002], [-0.2166667, 0.0066667, 0.21]];
    for (pull, printed) in PULLS.into_iter().zip(printed) {
        let rspo = minimising(pull.loss(3.0, 0.4));
        let game = c3();
        let table = rspo.table(&game, &before, &original, 0);
        let found = table.gradient(before.logp());
        near(&found, &printed, last_digit(7));
        // By the twin along each logit, without the shortcut through log π.
        let (_, along) = gradient(before.logp(), |logits| table.loss(logits));
        near(&found, &along, 1e-15);
        // −2η ∇[P(π_θ ≻ π_t) − τ R(π_θ, μ)] with the effective temperature.
        let tau = Regularizer::of_rspo(&rspo.config).expect("a divergence");
        let rates = c3().win_rates(&before);
        let objective = |logits: &[Dual]| -> Dual {
            let logp = log_softmax(logits);
            let won: Dual = logp.iter().zip(&rates).map(|(l, p)| l.exp() * *p).sum();
            let of = |y: usize| {
                let (p, l, m) = (logp[y].exp(), logp[y], SKEWED[y]);
                let reverse = p * (l - m.ln()) * tau.reverse_kl.get();
                let forward = (-l + m.ln()) * (m * tau.forward_kl.get());
                reverse + forward + (p - m).square() * (tau.chi2.get() / m)
            };
            (won - (0..3).map(of).sum::<Dual>()) * -6.0
        };
        near(&found, &gradient(before.logp(), objective).1, 1e-14);
    }
}

#[test]
fn effective_temperatures() {
    let expected = [2.0 * 0.4 / 3.0, 0.4 / 3.0, 0.4 / 6.0];
    for (pull, tau) in PULLS.into_iter().zip(expected) {
        let found = Regularizer::of_rspo(&pull.loss(3.0, 0.4)).expect("a divergence");
        let of = [found.reverse_kl, found.forward_kl, found.chi2].map(Weight::get);
        let sum: f64 = of.iter().sum();
        assert!(
            (sum - tau).abs() < 1e-16 && of.iter().any(|t| (t - tau).abs() < 1e-16),
            "{pull:?} {found:?}"
        );
    }
    // Equal terms add up; what is no divergence from μ is refused.
    let mut config = Pull::Rev.loss(2.0, 0.1);
    config.terms.push(config.terms[0]);
    let found = Regularizer::of_rspo(&config).expect("a divergence");
    assert!((found.reverse_kl.get() - 0.2).abs() < 1e-16);
    config.terms.push(RspoTerm { regularizer: RspoRegularizer::Entropy, weight: weight(0.1) });
    let error = Regularizer::of_rspo(&config).expect_err("entropy").to_string();
    assert_eq!(error, "terms[2]: expected reverse_kl, forward_importance or chi2, found Entropy");
}

/// Nash-MD-PG with a reference of weight 0.3 in the opponent and τ = 0.1: 2η times its gradient is that
/// of RSPO's loss with win rates against the mixture and λ = ητ/2.
#[test]
fn nash_md_is_the_loss_with_another_opponent() {
    let (before, original) = (policy(&SOMEWHERE), policy(&SKEWED));
    let coef = Prob::new(0.3).expect("a share");
    let mixed = geometric_mixture_scalar(coef, before.logp(), original.logp());
    let rates = c3().win_rates(&Policy::from_logits(&mixed));
    let rows = rates.iter().enumerate();
    let rows =
        rows.map(|(action, p)| Row { action, weight: 2.0 * SOMEWHERE[action], win_rate: *p }).collect();
    let config = Pull::Rev.loss(3.0, 0.15);
    let table = Table { config: &config, previous: &before, original: &original, rows };
    let found = table.gradient(before.logp());
    near(&found, &[-0.1480208, 0.1270165, 0.0210043], last_digit(7));
    let nash = NashMdConfig::new(Beta::new(0.1).expect("a beta"));
    let (_, other) = gradient(before.logp(), |logits| {
        let logp = log_softmax(logits);
        let of = |y: usize| nash_md_scalar(nash, &[logp[y]], &[original.logp()[y]], &[true], rates[y]);
        (0..3).map(|y| of(y) * (6.0 * SOMEWHERE[y])).sum()
    });
    near(&found, &other, 1e-15);
}

#[test]
fn iterated_minima_end_at_the_equilibrium_of_the_effective_temperature() {
    let cases = [
        (Pull::Rev, [0.62702092, 0.13763075, 0.23534833]),
        (Pull::Fwd, [0.43325434, 0.18790988, 0.37883578]),
        (Pull::Chi, [0.6, 0.075, 0.325]),
    ];
    for (pull, expected) in cases {
        for (step, lambda) in [(1.0, 0.1), (2.0, 0.2)] {
            let (game, all) = records(&minimising(pull.loss(step, lambda)), 600);
            let end = solve(&game).expect("an equilibrium").policy;
            near(all[600].policy.probs(), &expected, last_digit(8));
            near(all[600].policy.probs(), end.probs(), 1e-12);
            assert!(all[600].regularized_gap < 1e-14, "{pull:?} {step}");
        }
    }
    // A mixture: λ of both, each with its own temperature.
    let mut config = Pull::Rev.loss(1.0, 0.1);
    config.terms.extend(Pull::Fwd.loss(1.0, 0.1).terms);
    let (game, all) = records(&minimising(config), 300);
    near(all[300].policy.probs(), solve(&game).expect("an equilibrium").policy.probs(), 1e-12);
}

#[test]
fn a_minimum_has_no_gradient_and_no_better_neighbour() {
    for k in 0..60u64 {
        let n = 2 + (k as usize) % 5;
        let game = random_game(n, ENTRIES[(k % 4) as usize], k);
        let (before, original) = (random_policy(n, 6.0, k), random_policy(n, 2.0, k + 500));
        let pull = PULLS[(k % 3) as usize];
        let rspo = minimising(pull.loss([0.5, 4.0, 30.0][(k / 3 % 3) as usize], 0.1 * (k % 7) as f64));
        let table = rspo.table(&game, &before, &original, 0);
        let next = rspo.step(&game, &before, &original, 0).expect("a minimum");
        let slope = table.gradient(next.logp());
        assert!(slope.iter().all(|s| s.abs() < 1e-7), "{k} {pull:?}: {slope:?} at {next:?}");
        let least = table.loss(next.logp());
        for i in 0..n {
            for h in [-0.01, 0.01] {
                let mut logits = next.logp().to_vec();
                logits[i] += h;
                assert!(table.loss(&logits) >= least - 1e-12, "{k} {pull:?}: {next:?}");
            }
        }
    }
}

#[test]
fn long_steps_cycle_and_short_ones_arrive() {
    // η as the paper's: the closed form of the reverse KL goes round the pure actions.
    let game = regularized(c3(), &SKEWED, Pull::Rev.at(1e-3));
    let length = Length { n_steps: 60, record_every: 1 };
    let mirror = Algorithm::Gmmd { eta: eta(1000.0) };
    let all = play(&game, &policy(&SKEWED), &mirror, length).expect("a play");
    for record in &all[20..] {
        let most = record.policy.probs().iter().copied().fold(0.0, f64::max);
        assert!(most > 1.0 - 1e-4 && record.gap > 0.6 - 1e-4 && record.gap < 0.8 + 1e-4, "{record:?}");
    }
    // Minima on the table cannot overshoot a sum of 1 and also rest between two; they go round as well.
    let (_, all) = records(&minimising(Pull::Rev.loss(1000.0, 0.5)), 40);
    assert!(all[20..].iter().all(|record| record.gap > 0.35));
    assert!(all[30..].iter().any(|record| record.gap > 0.8 - 1e-6));
    let (_, all) = records(&minimising(Pull::Rev.loss(10.0, 0.5)), 400);
    assert!(all[300..].iter().all(|record| record.regularized_gap > 1e-2), "η = 10 goes to and fro");
    // (1 + η²ω²) < (1 + 2λ)² holds of these.
    for step in [2.0, 1.0] {
        let (_, all) = records(&minimising(Pull::Rev.loss(step, 0.1 * step)), 400);
        assert!(all[400].regularized_gap < 1e-12, "η = {step} arrives");
    }
}

#[test]
fn gradient_steps_end_where_minima_do() {
    for pull in PULLS {
        let config = pull.loss(1.0, 0.1);
        let update = Update::Gradient { learning_rate: eta(0.2), n_steps: 5 };
        let rspo = Rspo { config, responses: Responses::Expected, update };
        let (game, all) = records(&rspo, 3000);
        let end = solve(&game).expect("an equilibrium").policy;
        near(all[3000].policy.probs(), end.probs(), 1e-10);
    }
}

/// λ = 0 leaves SPPO to the last bit, also where terms stand there with no weight.
#[test]
fn without_weight_it_is_sppo_bit_for_bit() {
    let update = Update::Gradient { learning_rate: eta(0.3), n_steps: 7 };
    let mut config = Pull::Rev.loss(2.0, 0.0);
    config.terms.extend(Pull::Chi.loss(2.0, 0.0).terms);
    let rspo = Rspo { config, responses: Responses::Expected, update };
    let sppo = SppoConfig::new(Beta::new(0.5).expect("a beta"));
    let (mut ours, mut theirs) = (policy(&SOMEWHERE), policy(&SOMEWHERE));
    for step in 0..20 {
        ours = rspo.step(&c3(), &ours, &policy(&SKEWED), step).expect("a step");
        let (rates, before) = (c3().win_rates(&theirs), theirs.clone());
        let mut logits = theirs.logp().to_vec();
        for _ in 0..7 {
            let logp = log_softmax(&logits);
            let slope = |y: usize| {
                let of = |x: &[Dual]| sppo_response_scalar(sppo, x[0], before.logp()[y], rates[y]);
                2.0 * before.probs()[y] * gradient(&[logp[y]], of).1[0]
            };
            let slopes: Vec<f64> = (0..3).map(slope).collect();
            let sum: f64 = slopes.iter().sum();
            for (y, logit) in logits.iter_mut().enumerate() {
                *logit -= 0.3 * (slopes[y] - logp[y].exp() * sum);
            }
        }
        theirs = Policy::from_logits(&logits);
        assert_eq!(ours, theirs, "step {step}");
    }
}

#[test]
fn a_strong_pull_ends_at_the_reference() {
    for pull in PULLS {
        for (lambda, off) in [(1e3, 2e-3), (1e5, 2e-5)] {
            // On frozen samples χ² is linear in π, and its minimum a single action: it pulls to μ by
            // its gradient at π_t alone.
            let update = match pull {
                Pull::Chi => Update::Gradient { learning_rate: eta(0.1 / lambda), n_steps: 1 },
                _ => Update::Minimum,
            };
            let config = pull.loss(0.5, lambda);
            let tau = Regularizer::of_rspo(&config).expect("a divergence");
            let game = regularized(c3(), &SKEWED, tau);
            let n_steps = if update == Update::Minimum { 60 } else { 1000 };
            let rspo = Rspo { config, responses: Responses::Expected, update };
            let length = Length { n_steps, record_every: n_steps };
            let all = play(&game, &policy(&SOMEWHERE), &Algorithm::Rspo(rspo), length).expect("a play");
            near(all[1].policy.probs(), &SKEWED, off);
        }
    }
}

#[test]
fn the_expected_gradient_of_each_regulariser_vanishes_at_the_reference() {
    // All that is left at π_t = μ is the game's: that of λ = 0.
    let original = policy(&SKEWED);
    let plain =
        minimising(Pull::Rev.loss(2.0, 0.0)).table(&c3(), &original, &original, 0).gradient(original.logp());
    for pull in PULLS {
        let rspo = minimising(pull.loss(2.0, 0.7));
        let game = c3();
        let table = rspo.table(&game, &original, &original, 0);
        near(&table.gradient(original.logp()), &plain, 1e-15);
        // By single responses it does for the reverse KL alone.
        let by_one = |row: &Row, config: &RspoConfig| {
            let rows = vec![*row];
            Table { config, previous: &original, original: &original, rows }.gradient(original.logp())
        };
        let none = Pull::Rev.loss(2.0, 0.0);
        let off = distance(&by_one(&table.rows[0], &rspo.config), &by_one(&table.rows[0], &none));
        assert_eq!(off > 0.1, pull != Pull::Rev, "{pull:?}: {off}");
    }
}

#[test]
fn the_order_of_actions_does_not_matter() {
    let order = [2usize, 0, 1];
    let plain = c3();
    let rows: Vec<Vec<f64>> =
        order.iter().map(|a| order.iter().map(|b| plain.preference(*a, *b)).collect()).collect();
    let turned = game(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for pull in PULLS {
        let rspo = minimising(pull.loss(2.0, 0.2));
        let a = rspo.step(&plain, &policy(&SOMEWHERE), &policy(&SKEWED), 0).expect("a minimum");
        let turn = |x: [f64; 3]| policy(&order.map(|y| x[y]));
        let b = rspo.step(&turned, &turn(SOMEWHERE), &turn(SKEWED), 0).expect("a minimum");
        near(b.probs(), &order.map(|y| a.probs()[y]), 1e-13);
    }
}

fn sampled(n: usize, choice: Choice, seed: u64) -> Rspo {
    let responses = Responses::Sampled(Draws::new(n, choice, seed).expect("draws"));
    let update = Update::Gradient { learning_rate: eta(0.05), n_steps: 1 };
    Rspo { config: Pull::Rev.loss(2.0, 0.2), responses, update }
}

#[test]
fn draws_have_the_expected_gradient_and_come_from_their_stream() {
    let (game, before, original) = (c3(), policy(&SOMEWHERE), policy(&SKEWED));
    let exact =
        minimising(Pull::Rev.loss(2.0, 0.2)).table(&game, &before, &original, 0).gradient(before.logp());
    // All of 2000 draws a step, and 40 steps: a standard error of about 2e-3.
    let rspo = sampled(2000, Choice::All, 3);
    let mut mean = [0.0; 3];
    for step in 0..40 {
        let one = rspo.table(&game, &before, &original, step).gradient(before.logp());
        for (mean, g) in mean.iter_mut().zip(one) {
            *mean += g / 40.0;
        }
    }
    assert!(distance(&mean, &exact) < 0.01, "expected {exact:?}, found {mean:?}");
    // The same seed and step, the same draws; another of either, others.
    let rows =
        |seed: u64, step: u64| sampled(8, Choice::All, seed).table(&game, &before, &original, step).rows;
    assert_eq!(rows(3, 5), rows(3, 5));
    assert!(rows(3, 5) != rows(4, 5) && rows(3, 5) != rows(3, 6));
}

#[test]
fn best_and_worst_of_the_draws() {
    let (game, before, original) = (c3(), policy(&SOMEWHERE), policy(&SKEWED));
    for step in 0..50 {
        let all = sampled(5, Choice::All, 1).table(&game, &before, &original, step).rows;
        let two = sampled(5, Choice::BestWorst, 1).table(&game, &before, &original, step).rows;
        let rates: Vec<f64> = all.iter().map(|row| row.win_rate).collect();
        let ends = [rates.iter().copied().fold(0.0, f64::max), rates.iter().copied().fold(1.0, f64::min)];
        near(&[two[0].win_rate, two[1].win_rate], &ends, 0.0);
        near(&[two[0].weight, two[1].weight, all[0].weight], &[1.0, 1.0, 0.4], 1e-16);
        // Against the five, itself included: half a win.
        let by_hand = |y: usize| all.iter().map(|z| game.preference(y, z.action)).sum::<f64>() / 5.0;
        assert!(all.iter().all(|row| (row.win_rate - by_hand(row.action)).abs() < 1e-15));
    }
    // Sampled play gets near the equilibrium, with a noise of its learning rate.
    let rspo = sampled(64, Choice::All, 2);
    let tau = Regularizer::of_rspo(&rspo.config).expect("a divergence");
    let game = regularized(c3(), &SKEWED, tau);
    let end = solve(&game).expect("an equilibrium").policy;
    let length = Length { n_steps: 3000, record_every: 3000 };
    let last = play(&game, &policy(&SOMEWHERE), &Algorithm::Rspo(rspo), length).expect("a play").remove(1);
    assert!(distance(last.policy.probs(), end.probs()) < 0.05, "{last:?} for {end:?}");
}

#[test]
fn what_cannot_be_played_is_refused() {
    assert_eq!(
        Draws::new(1, Choice::All, 0).expect_err("one").to_string(),
        "responses: expected at least 2 a step, found 1"
    );
    let (game, before, original) = (c3(), policy(&SOMEWHERE), policy(&SKEWED));
    let rspo = Rspo { update: Update::Minimum, ..sampled(4, Choice::All, 0) };
    let error = rspo.step(&game, &before, &original, 0).expect_err("no minimum").to_string();
    assert_eq!(error, "update: expected gradient steps with sampled responses, found the minimum");
    // χ² and a learning rate far beyond stability: named at the step.
    let update = Update::Gradient { learning_rate: eta(1e300), n_steps: 3 };
    let rspo = Rspo { config: Pull::Chi.loss(2.0, 1.0), responses: Responses::Expected, update };
    let error = rspo.step(&game, &before, &original, 7).expect_err("not finite").to_string();
    assert!(error.starts_with("step 7: policy: expected finite log-probabilities"), "{error}");
}
