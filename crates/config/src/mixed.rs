//! `[mixed]`: pictures with captions beside the prompts.

use super::in_range;
use anyhow::Result;
use diffusion::settings::paths;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Mixed latents: pictures with captions, noised and denoised, for the caption loss.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mixed {
    /// A folder of pictures with captions, a list of them (`.jsonl`, `.csv`, `.json`), or WebDataset shards.
    #[serde(deserialize_with = "paths::one")]
    pub pairs: PathBuf,
    /// Of their caption loss, beside that of the prompts.
    #[serde(default = "Mixed::default_weight")]
    pub weight: f64,
    /// Pictures in a step's trajectory; 0: as many as prompts.
    #[serde(default)]
    pub batch_size: usize,
    /// T1 and T2: a picture enters at one of the sampler's timesteps from the one to the other (of 1000), all alike likely.
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
