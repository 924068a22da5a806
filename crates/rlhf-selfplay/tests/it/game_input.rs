//! What is no game, no policy, no start; and the game as an oracle.

use rlhf_core::contract::{Candidate, Comparison, PreferenceOracle};
use rlhf_selfplay::game::{Game, Policy, RegularizedGame, Regularizer};

use super::games::*;

#[track_caller]
fn refused<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>, expected: &str) {
    match result {
        Ok(value) => panic!("accepted {value:?}"),
        Err(error) => assert_eq!(error.to_string(), expected),
    }
}

#[test]
fn matrices() {
    let of = |rows: &[&[f64]]| Game::new(&rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>());
    refused(of(&[]), "P: expected at least 2 actions, found 0");
    refused(of(&[&[0.5]]), "P: expected at least 2 actions, found 1");
    refused(of(&[&[0.5, 0.5], &[0.5]]), "P[1]: expected 2 numbers, as many as rows, found 1");
    refused(of(&[&[0.5, 1.5], &[-0.5, 0.5]]), "P[0][1]: expected a number from 0 to 1, found 1.5");
    refused(of(&[&[0.5, f64::NAN], &[0.5, 0.5]]), "P[0][1]: expected a number from 0 to 1, found NaN");
    refused(of(&[&[0.5, 0.75], &[0.5, 0.5]]), "P[0][1] + P[1][0]: expected the sum 1, found 1.25");
    refused(of(&[&[0.25, 0.5], &[0.5, 0.5]]), "P[0][0] + P[0][0]: expected the sum 1, found 0.5");
    // Decimals that do not sum to 1 to the last bit do; the game is skew-symmetric all the same.
    let game = of(&[&[0.5, 0.30000000000000004], &[0.7, 0.5]]).expect("a game");
    assert!((game.preference(0, 1) + game.preference(1, 0) - 1.0).abs() <= 0.0);
}

#[test]
fn policies() {
    refused(Policy::new("mu", &[]), "mu: expected at least 1 number, found none");
    refused(Policy::new("mu", &[1.5, -0.5]), "mu[1]: expected a number from 0 to 1, found -0.5");
    refused(Policy::new("mu", &[f64::INFINITY]), "mu[0]: expected a number from 0 to 1, found inf");
    refused(Policy::new("mu", &[0.0, 0.0]), "mu: expected numbers with the sum 1, found the sum 0");
    // Rounded decimals are divided by their sum; exact ones stay.
    let rounded = Policy::new("mu", &[0.3333333, 0.3333333, 0.3333333]).expect("a policy");
    near(rounded.probs(), &UNIFORM, 1e-16);
    assert_eq!(policy(&SKEWED).probs(), &SKEWED);
}

#[test]
fn references_and_starts() {
    let with = |mu: &[f64], tau: Regularizer| RegularizedGame::new(c3(), policy(mu), tau);
    refused(with(&[0.5, 0.5], Regularizer::NONE), "mu: expected 3 numbers, as many as actions, found 2");
    let needs = "mu[2]: expected a number above 0, as the forward KL needs mass on every action, found 0";
    refused(with(&[0.5, 0.5, 0.0], Pull::Fwd.at(0.1)), needs);
    let game = regularized(c3(), &[0.5, 0.5, 0.0], mixture(0.1, 0.1, 0.0));
    refused(game.check_start(&policy(&[0.5, 0.5])), "start: expected 3 numbers, as many as actions, found 2");
    refused(game.check_start(&policy(&SKEWED)), "start[2]: expected 0, as mu has there, found 0.1");
    let needs = "start[1]: expected a number above 0, as the forward KL needs mass where mu has it, found 0";
    refused(game.check_start(&policy(&[1.0, 0.0, 0.0])), needs);
    assert!(game.check_start(&policy(&[0.9, 0.1, 0.0])).is_ok());
}

#[test]
fn an_oracle_of_indices() {
    let ids = [[0u32], [2], [7]];
    let candidate =
        |i: usize| Candidate { prompt: "", completion: "", prompt_ids: &[], completion_ids: &ids[i] };
    let pair = |a: usize, b: usize| Comparison { a: candidate(a), b: candidate(b) };
    let mut game = c3();
    let found = game.prefer(&[pair(0, 1), pair(1, 0)]).expect("preferences");
    near(&[found[0].get(), found[1].get()], &[0.2, 0.8], 1e-15);
    let expected = "pair 1, b: expected one token below 3, an action, found [7]";
    refused(game.prefer(&[pair(0, 0), pair(0, 2)]), expected);
}
