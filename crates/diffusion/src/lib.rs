//! Text-to-image diffusion models of Stable Diffusion's kind: opened from common folders and files, sampled, and
//! differentiated piecewise.
//!
//! Prompt → [`conditions`] → [`trajectory`] by the [`denoiser`] → latents → images: all of it is in [`generate`].
//! Gradients are computed in small pieces: through the decoder by [`stages`] and [`tiles`], in half precision by
//! [`precision`].

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
