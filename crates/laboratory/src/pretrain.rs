//! Training of the miniature models from scratch: the autoencoder, the text encoder with the UNet, the captioner. Each
//! step's data depends only on (seed, step), so a stopped training continues exactly.

pub mod captioner;
pub mod course;
pub mod data;
pub mod diffusion;
pub mod painter;
pub mod parameters;
pub mod sharpness;
pub mod stack;
pub mod vae;

pub use course::{Course, Files, Watch};
pub use stack::Stack;
