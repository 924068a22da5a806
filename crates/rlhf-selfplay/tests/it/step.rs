//! The step of each method on a tiny decoder: against the losses' twins, against itself cut otherwise,
//! against numbers by hand, and by what it learns.

mod learning;
mod numbers;
mod refused;
mod support;
mod twins;
