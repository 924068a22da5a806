//! A game with a pull to a reference policy, and how far a policy is from its equilibrium.

use super::error::GameError;
use super::matrix::Game;
use super::policy::Policy;
use super::regularizer::Regularizer;
use super::response::{Pull, respond};

/// `J(π, π′) = P(π ≻ π′) − Σ τ R(π, μ) + Σ τ R(π′, μ)`: both players are held to the reference policy μ.
/// With any τ above 0 it has one equilibrium.
#[derive(Debug, Clone, PartialEq)]
pub struct RegularizedGame {
    game: Game,
    reference: Policy,
    tau: Regularizer,
}

impl RegularizedGame {
    /// The game with this pull.
    ///
    /// An action that μ bars is barred from every policy by the reverse KL and by χ². The forward KL
    /// alone would leave it without any pull, so it wants mass of μ on every action.
    ///
    /// # Errors
    /// A reference over another number of actions; a zero in it where the forward KL alone acts.
    pub fn new(game: Game, reference: Policy, tau: Regularizer) -> Result<Self, GameError> {
        let (n, found) = (game.n_actions(), reference.n_actions());
        if n != found {
            return Err(GameError::new("mu", format!("{n} numbers, as many as actions"), found.to_string()));
        }
        if tau.forward_kl.get() > 0.0
            && !tau.bars_what_reference_bars()
            && let Some(i) = reference.probs().iter().position(|p| *p <= 0.0)
        {
            let expected = "a number above 0, as the forward KL needs mass on every action";
            return Err(GameError::new(format!("mu[{i}]"), expected, "0"));
        }
        Ok(Self { game, reference, tau })
    }

    /// The game without its pull.
    pub fn game(&self) -> &Game {
        &self.game
    }

    /// μ.
    pub fn reference(&self) -> &Policy {
        &self.reference
    }

    /// τ of each divergence.
    pub fn tau(&self) -> &Regularizer {
        &self.tau
    }

    /// Refuses a policy to start from that cannot be played: one over another number of actions, one
    /// that plays what μ bars, one that bars what the forward KL wants played.
    ///
    /// # Errors
    /// As said; the entry is named `start[i]`.
    pub fn check_start(&self, start: &Policy) -> Result<(), GameError> {
        let n = self.game.n_actions();
        if start.n_actions() != n {
            let expected = format!("{n} numbers, as many as actions");
            return Err(GameError::new("start", expected, start.n_actions().to_string()));
        }
        for (i, (p, m)) in start.probs().iter().zip(self.reference.probs()).enumerate() {
            let place = format!("start[{i}]");
            if *m <= 0.0 && *p > 0.0 && self.tau.bars_what_reference_bars() {
                return Err(GameError::new(place, "0, as mu has there", p.to_string()));
            }
            if *m > 0.0 && *p <= 0.0 && self.tau.forward_kl.get() > 0.0 {
                let expected = "a number above 0, as the forward KL needs mass where mu has it";
                return Err(GameError::new(place, expected, "0"));
            }
        }
        Ok(())
    }

    /// The best policy against `opponent`: exact, by a closed form or by roots of one number.
    ///
    /// # Panics
    /// On a policy over another number of actions.
    #[track_caller]
    pub fn best_response(&self, opponent: &Policy) -> Policy {
        respond(&self.game.expected_margins(opponent.probs()), &self.pull())
    }

    /// The duality gap `2 [max_q (P(q ≻ π) − Σ τ R(q, μ)) − ½ + Σ τ R(π, μ)]`. It is never below 0 and
    /// 0 at the equilibrium alone; ∞ where R is.
    ///
    /// # Panics
    /// On a policy over another number of actions.
    #[track_caller]
    pub fn regularized_gap(&self, policy: &Policy) -> f64 {
        let margins = self.game.expected_margins(policy.probs());
        let best = respond(&margins, &self.pull());
        let won: f64 = best.probs().iter().zip(&margins).map(|(q, m)| q * m).sum();
        let gap = won - self.tau.value(&best, &self.reference) + self.tau.value(policy, &self.reference);
        // Rounding may leave it a little below 0; NaN stays.
        if gap < 0.0 { 0.0 } else { 2.0 * gap }
    }

    /// The duality gap of the game without its pull.
    ///
    /// # Panics
    /// On a policy over another number of actions.
    #[track_caller]
    pub fn gap(&self, policy: &Policy) -> f64 {
        self.game.gap(policy)
    }

    fn pull(&self) -> Pull<'_> {
        Pull {
            entropy: self.tau.reverse_kl.get(),
            base: self.reference.logp(),
            forward: self.tau.forward_kl.get(),
            chi2: self.tau.chi2.get(),
            reference: self.reference.probs(),
        }
    }
}
