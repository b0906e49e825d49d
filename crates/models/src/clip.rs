//! CLIP: similarity of images and texts. Stable Diffusion uses its text encoder to read prompts.
//!
//! Paper: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). Weights and
//! names: transformers `CLIPModel`; for the encoder alone `CLIPTextModel` and `CLIPTextModelWithProjection`.

mod config;
mod encoder;
mod preprocess;
mod score;
mod text;
mod vision;

use crate::{
    error::{Error, Result},
    layers::Linear,
    weights::{Scope, Weights},
};
use std::path::Path;
use tch::{Device, Kind, Tensor};
use vision::VisionModel;

pub use config::{Config, TextConfig, VisionConfig};
pub use preprocess::CentreCrop;
pub use score::ClipScore;
pub use text::{Encoded, TextEncoder};

/// The image and the text tower, each with its projection into the shared space.
pub struct Clip {
    config: Config,
    text_model: TextEncoder,
    vision_model: VisionModel,
    text_projection: Linear,
    visual_projection: Linear,
}

impl Clip {
    /// Reads `config.json` and `model.safetensors` from the folder.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let config = Config::read(&folder.join("config.json"))?;
        Self::new(&config, &Weights::open(folder, "model", kind, device)?)
    }

    /// `logit_scale`, the temperature of training, is not part of a cosine.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        weights.build(&["position_ids", "logit_scale"], |root| Self::at(root, config))
    }

    fn at(root: Scope, config: &Config) -> Self {
        let (text, vision, width) = (&config.text, &config.vision, config.projection_dim);
        Self {
            text_model: TextEncoder::at(&root / "text_model", text.clone(), None),
            vision_model: VisionModel::new(&root / "vision_model", vision),
            text_projection: Linear::new(&root / "text_projection", text.hidden_size, width),
            visual_projection: Linear::new(&root / "visual_projection", vision.hidden_size, width),
            config: config.clone(),
        }
    }

    /// Height and width of the input images.
    pub fn image_size(&self) -> (i64, i64) {
        (self.config.vision.image_size, self.config.vision.image_size)
    }

    /// pixels `[B, 3, S, S]`, normalised, in any precision → `[B, P]` of length 1, float32 or better
    pub fn image_embeds(&self, pixels: &Tensor) -> Result<Tensor> {
        let (size, (height, width)) = (pixels.size(), self.image_size());
        if size.len() != 4 || size[0] < 1 || size[1..] != [3, height, width] || !pixels.is_floating_point() {
            let kind = pixels.kind();
            return Err(Error::Input(format!("CLIP: image {size:?} of {kind:?} is not [B, 3, {height}, {width}]")));
        }
        let (kind, device) = self.vision_model.options();
        let pooled = self.vision_model.forward(&pixels.to_device(device).to_kind(kind));
        Ok(unit(&self.visual_projection.forward(&pooled)))
    }

    /// ids `[B, L]` int64, each row with its start and end token → `[B, P]` of length 1, float32 or better
    pub fn text_embeds(&self, ids: &Tensor) -> Result<Tensor> {
        let pooled = self.text_model.forward(ids)?.pooled;
        Ok(unit(&self.text_projection.forward(&pooled)))
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// Normalises each row to length 1; in float32 at least, as half precision would cost a cosine its third digit.
fn unit(rows: &Tensor) -> Tensor {
    let kind = if rows.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let rows = rows.to_kind(kind);
    &rows / rows.square().sum_dim_intlist(-1, true, kind).sqrt()
}
