//! The crate's tests on tiny decoders: blocks left out, recorded probabilities, corrected updates.

mod behavior;
mod by_hand;
mod step;
mod support;
