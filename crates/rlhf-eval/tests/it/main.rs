//! Tests of what the crate offers, from outside.

mod bleu;
mod length_controlled;
mod report;
mod stats;
mod text;
mod win_rate;
