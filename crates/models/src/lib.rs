//! The networks of text-to-image models in plain tensor operations, loaded from diffusers and transformers folders.
//! Their weights are frozen; this crate has no training code.

pub mod autoencoder;
mod bert;
pub mod blip;
pub mod clip;
pub mod config;
pub mod error;
pub mod grounding_dino;
pub mod guidance;
mod inert_keys;
pub mod json;
#[allow(clippy::expect_used, reason = "of shapes that the network itself has made")]
pub mod layers;
pub mod ldm;
pub mod lora;
mod low_rank;
mod mistaken;
pub mod network;
pub mod preprocess;
mod resnet;
pub mod sam;
mod scaled;
pub mod schedule;
pub mod sentence;
pub mod tensors;
pub mod text;
pub mod tokenizer;
mod transformers;
pub mod unet;
pub mod vae;
mod vision;
pub mod weights;
mod whole;

pub use error::{Error, Result};
pub use whole::{
    digest, hex, make_folder, place, remove_partial, sync, sync_folder, write_durable, write_text, write_whole,
};
