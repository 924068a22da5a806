//! Decoder language models on Burn: Hugging Face folders, tokenizers, generation, optimiser step,
//! SuperHF.

pub mod batch;
pub mod cache;
pub mod classifier;
pub mod decoder;
pub mod error;
pub mod generate;
pub mod hf;
pub mod optim;
pub mod rope;
pub mod sft;
pub mod superhf;
pub mod tokenizer;
pub mod trim;
pub mod weights;
