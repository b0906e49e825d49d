//! `[memory]`: what is not kept in the device's memory.

use anyhow::{Context, Result};
use diffusion::tiles::Tiling;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What needs less memory at the price of time.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Unload every network but the tuned UNet while it is not used: text encoders, autoencoder, captioner, segmenter, a discriminator's
    /// own model. They are read from their files again, which takes a little time in each step.
    pub offload: bool,
    /// Decode in square tiles with this side, in latent pixels (an image's side is 8 times that); they overlap by a quarter. Absent: the
    /// image as a whole. Tiles change the image a little: use them for images that do not fit otherwise.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_tile: Option<i64>,
}

impl Memory {
    /// # Errors
    /// Tiles of no size.
    pub fn tiling(&self) -> Result<Option<Tiling>> {
        self.vae_tile.map(|side| Tiling::new(side, side / 4).context("memory.vae_tile")).transpose()
    }
}
