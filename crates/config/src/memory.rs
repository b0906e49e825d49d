//! `[memory]`: what is not kept in the device's memory.

use anyhow::{Context, Result};
use diffusion::tiles::Tiling;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Let every network but the tuned UNet go whenever it has nothing to do: text encoders, autoencoder, captioner, the attention
    /// losses' segmenter, a discriminator's own weights. They are opened again from their files: a little time for the memory that
    /// they take.
    pub offload: bool,
    /// Decode in square tiles of this side in latent pixels, which overlap by a quarter; absent: the picture as a whole. Tiles are for
    /// pictures that are too large otherwise: they change the picture a little.
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
