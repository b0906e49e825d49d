//! `[memory]`: what is not kept in the device's memory.

use anyhow::{Context, Result, bail};
use diffusion::tiles::Tiling;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether the graphs of the autoencoder's decoder are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Kept where they fit into the free memory, by a measurement before the first step.
    #[default]
    Auto,
    /// Kept.
    Always,
    /// Not kept.
    Never,
}

impl Keep {
    /// Where it is still to be chosen, memory is not what is short.
    pub fn keeps(self) -> bool {
        self != Self::Never
    }
}

/// Settings that save memory and cost time.
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
    /// Keep the decoder's graph from the pass that makes the images until gradients go back through it. Without it the decoder runs two
    /// more times. It is never kept with `offload` or `vae_tile`, nor where `captioner.micro_batch` cuts a batch into pieces.
    pub keep_decoder: Keep,
}

impl Memory {
    /// # Errors
    /// Tiles of no size.
    pub fn tiling(&self) -> Result<Option<Tiling>> {
        if let Some(side) = self.vae_tile.filter(|side| *side < 1) {
            bail!("memory.vae_tile is {side}, it must be 1 or more; without the key the image is decoded as a whole");
        }
        self.vae_tile.map(|side| Tiling::new(side, side / 4).context("memory.vae_tile")).transpose()
    }
}
