//! Exact preference games: self-play without a neural network.
//!
//! A matrix is the preference oracle and a table of logits the policy. [`solve()`] finds the equilibrium of
//! a game with a pull to a reference policy; [`play()`] iterates a method and measures how far each policy
//! is from it, by duality gaps that are exact. RSPO's iterates minimise the very scalar twin that defines
//! its loss for a language model.
//!
//! ```
//! use rlhf_core::number::{Positive, Weight};
//! use rlhf_selfplay::game::{Algorithm, Game, Length, Policy, RegularizedGame, Regularizer, play, solve};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The first action is preferred to the second with 0.7, whomever they play: π(1) = σ(0.2/τ).
//! let game = Game::new(&[vec![0.5, 0.7], vec![0.3, 0.5]])?;
//! let pull = Regularizer::reverse_kl(Weight::new(0.1)?);
//! let game = RegularizedGame::new(game, Policy::uniform(2), pull)?;
//! let equilibrium = solve(&game)?;
//! assert!((equilibrium.policy.probs()[0] - 1.0 / (1.0 + (-2f64).exp())).abs() < 1e-12);
//!
//! let gmmd = Algorithm::Gmmd { eta: Positive::new(2.0)? };
//! let length = Length { n_steps: 100, record_every: 100 };
//! let records = play(&game, &Policy::uniform(2), &gmmd, length)?;
//! assert!(records[1].policy.kl(&equilibrium.policy) < 1e-12);
//! # Ok(())
//! # }
//! ```

mod error;
mod linear;
mod matrix;
pub mod mirror;
mod play;
mod policy;
mod regularized;
mod regularizer;
mod response;
mod root;
mod solve;
pub mod table;

pub use error::GameError;
pub use matrix::Game;
pub use play::{Algorithm, Length, NashMdStep, Record, play};
pub use policy::Policy;
pub use regularized::RegularizedGame;
pub use regularizer::Regularizer;
pub use solve::{Equilibrium, GAP_TOLERANCE, solve};
pub use table::{Choice, Draws, Responses, Rspo, Update};
