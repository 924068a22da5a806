//! Tests of the crate through its public face.

mod game;
mod game_input;
mod game_play;
mod game_rspo;
mod game_tensor;
mod games;
mod step;
