//! The crate's tests across modules: golden models, cached generation, gradients, folders, learning.

mod adamw;
mod cached;
mod folder;
mod golden;
mod learning;
mod scores;
mod scratch;
mod streams;
mod superhf;
mod support;
mod trainers;
mod windows;
