//! CoMat (Jiang et al., NeurIPS 2024): fine-tuning a text-to-image diffusion model so that its images contain what the
//! prompt says, from prompts alone.
//!
//! One prompt's way through the modules: [`prompts`] → [`text`] → [`trajectory`] (no graph) → latents → image →
//! [`loss`] → cotangent at the latents → [`replay`] of the [`tracked`] steps → [`optim`] → [`checkpoint`]. The loop, and one
//! iteration of it, are in [`train`].

pub mod adapter;
pub mod attention;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod denoiser;
pub mod discriminator;
pub mod ema;
pub mod events;
pub mod files;
pub mod finite;
pub mod generate;
pub mod image;
pub mod interrupt;
pub mod judge;
pub mod latents;
pub mod loss;
pub mod merge;
pub mod mixed;
pub mod model_folder;
pub mod optim;
pub mod pairs;
pub mod pipeline;
pub mod plan;
pub mod precision;
pub mod prepare;
pub mod prompts;
pub mod random;
pub mod ranks;
pub mod replay;
pub mod report;
pub mod resident;
pub mod run;
pub mod segment;
pub mod session;
pub mod stages;
pub mod tensorboard;
#[cfg(test)]
mod testing;
pub mod text;
pub mod tiles;
pub mod trace;
pub mod tracked;
pub mod train;
pub mod trajectory;
pub mod word_maps;
