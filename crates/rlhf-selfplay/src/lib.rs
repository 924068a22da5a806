//! Regularised self-play for language models, from exact games to preference optimisation.

pub mod game;
