//! The configuration of the vision transformer of CLIP and BLIP.

use crate::{
    config::Json,
    error::Result,
    layers::Activation,
    transformers::{activation, heads, positive},
};

/// The settings of a transformers `CLIPVisionConfig` or `BlipVisionConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Side of the (square) image in pixels.
    pub image_size: i64,
    pub patch_size: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub layers: usize,
    pub heads: i64,
    pub activation: Activation,
    pub norm_eps: f64,
}

impl VisionConfig {
    /// Reads all settings; the arguments are the defaults that differ between networks.
    pub(crate) fn sizes(json: &Json, image_size: i64, patch_size: i64, hidden_act: &str) -> Result<Self> {
        let hidden_size = positive(json, "hidden_size", Some(768))?;
        let config = Self {
            image_size: positive(json, "image_size", Some(image_size))?,
            patch_size: positive(json, "patch_size", Some(patch_size))?,
            hidden_size,
            intermediate_size: positive(json, "intermediate_size", Some(3072))?,
            layers: positive(json, "num_hidden_layers", Some(12))? as usize,
            heads: heads(json, hidden_size, 12)?,
            activation: activation(json, hidden_act)?,
            norm_eps: json.get_or("layer_norm_eps", 1e-5)?,
        };
        if config.patch_size > config.image_size {
            return Err(json.error("patch_size", &format!("is larger than image_size {}", config.image_size)));
        }
        Ok(config)
    }

    /// Patches along one side.
    pub fn patches(&self) -> i64 {
        self.image_size / self.patch_size
    }
}
