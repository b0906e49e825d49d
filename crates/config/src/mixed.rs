//! `[mixed]`: images with captions beside the prompts.

use super::in_range;
use anyhow::Result;
use diffusion::settings::paths;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Mixed latents: beside the prompts, the run trains on images with captions, which are noised and denoised.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mixed {
    /// A folder of images with captions, a list of them (`.jsonl`, `.csv`, `.json`), or WebDataset shards.
    #[serde(deserialize_with = "paths::one")]
    pub pairs: PathBuf,
    /// Weight of their caption loss.
    #[schemars(range(min = 0.0))]
    #[serde(default = "Mixed::default_weight")]
    pub weight: f64,
    /// Images in a step. 0: as many as prompts.
    #[serde(default)]
    pub batch_size: usize,
    /// Lowest and highest timestep (of 1000) that an image is noised to; one of the sampler's timesteps between them is drawn.
    #[serde(default = "Mixed::default_timesteps")]
    pub timesteps: [i64; 2],
}

impl Mixed {
    pub(super) fn check(&self) -> Result<()> {
        in_range(&[("mixed.weight", self.weight, f64::MAX), ("mixed.batch_size", self.batch_size as f64, 1e6)])
    }

    fn default_weight() -> f64 {
        1.0
    }

    /// The paper does not say; these are ours.
    fn default_timesteps() -> [i64; 2] {
        [400, 800]
    }
}
