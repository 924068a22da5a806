//! Decoder language models on Burn: Hugging Face folders, tokenizers, generation, optimiser step,
//! SuperHF.

pub mod architecture;
pub mod attention;
pub mod batch;
pub mod block;
pub mod cache;
pub mod chat;
pub mod classifier;
pub mod completion;
pub mod config;
pub mod decoder;
pub mod engine;
pub mod error;
pub mod family;
pub mod generate;
pub mod group;
pub mod hf;
pub mod kto;
pub mod lora;
pub mod optim;
pub mod preference;
pub mod prepare;
pub mod projection;
pub mod reward_model;
pub mod rope;
pub mod sft;
pub mod superhf;
pub mod surrogate;
pub mod tokenizer;
pub mod trim;
pub mod weights;
