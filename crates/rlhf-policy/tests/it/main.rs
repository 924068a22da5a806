//! The crate's tests across modules: golden models, cached generation, gradients, folders, learning.

mod adamw;
mod cached;
mod chat;
mod engine;
mod expected;
mod folder;
mod golden;
mod learning;
mod lora;
mod lora_golden;
mod mixture;
mod models;
mod robust;
mod scores;
mod scratch;
mod streams;
mod superhf;
mod support;
mod surrogates;
mod tokenizer_golden;
mod trainers;
mod windows;
