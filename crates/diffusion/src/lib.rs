//! Text-to-image diffusion models of Stable Diffusion's kind, opened from the folders and files that people have, sampled, and
//! differentiated in pieces.
//!
//! Prompt → [`conditions`] → [`trajectory`] by the [`denoiser`] → latents → images: all of it is in [`generate`]. Gradients go back in small pieces:
//! through the decoder by [`stages`] and [`tiles`], in half precision by [`precision`].

pub mod conditions;
pub mod denoiser;
pub mod family;
pub mod generate;
pub mod judge;
pub mod merge;
pub mod model_folder;
pub mod pipeline;
pub mod precision;
pub mod prompts;
pub mod random;
pub mod resident;
pub mod segment;
pub mod settings;
pub mod stages;
pub mod tiles;
pub mod trajectory;
pub mod word_maps;
