//! CoMat (Jiang et al., NeurIPS 2024): fine-tuning a text-to-image diffusion model so that its images contain what the
//! prompt says, from prompts alone.
//!
//! Data flow of one prompt: [`diffusion::prompts`] → [`diffusion::conditions`] → [`diffusion::trajectory`] (no graph) →
//! latents → image → [`loss`] → cotangent at the latents → [`replay`] of the [`tracked`] steps → [`optim`] →
//! [`checkpoint`]. The training loop, and one iteration of it, are in [`train`].

pub mod adapter;
pub mod attention;
pub mod batch;
pub mod checkpoint;
pub mod discriminator;
pub mod draws;
pub mod finite;
pub mod loss;
pub mod mixed;
pub mod preference;
pub mod replay;
pub mod reward;
pub mod session;
pub mod share;
pub mod tracked;
pub mod train;
