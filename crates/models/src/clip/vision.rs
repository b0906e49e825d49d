use super::{config::VisionConfig, encoder::Encoder};
use crate::{
    layers::{Conv2d, LayerNorm},
    weights::Scope,
};
use tch::{Device, Kind, Tensor};

/// A vision transformer (Dosovitskiy et al. 2021) with a norm before it and one behind it.
pub struct VisionModel {
    class_embedding: Tensor,
    patch_embedding: Conv2d,
    position_embedding: Tensor,
    pre_layrnorm: LayerNorm, // the checkpoints spell it so
    encoder: Encoder,
    post_layernorm: LayerNorm,
}

impl VisionModel {
    pub fn new(at: Scope, config: &VisionConfig) -> Self {
        let (width, patch, eps) = (config.hidden_size, config.patch_size, config.norm_eps);
        let (embeddings, positions) = (&at / "embeddings", config.patches().pow(2) + 1);
        Self {
            class_embedding: embeddings.tensor("class_embedding", &[width]),
            patch_embedding: Conv2d::new(&embeddings / "patch_embedding", 3, width, patch, patch, 0),
            position_embedding: (&embeddings / "position_embedding").tensor("weight", &[positions, width]),
            pre_layrnorm: LayerNorm::new(&at / "pre_layrnorm", width, eps),
            encoder: Encoder::new(&at / "encoder", &config.encoder()),
            post_layernorm: LayerNorm::new(&at / "post_layernorm", width, eps),
        }
    }

    /// pixels `[B, 3, S, S]` → the class token `[B, D]`
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let patches = self.patch_embedding.forward(pixels).flatten(2, 3).transpose(1, 2);
        let class = self.class_embedding.expand([pixels.size()[0], 1, -1], false);
        let x = Tensor::cat(&[class, patches], 1) + &self.position_embedding;
        let (x, _) = self.encoder.forward(self.pre_layrnorm.forward(&x), 1);
        self.post_layernorm.forward(&x.select(1, 0))
    }

    pub fn options(&self) -> (Kind, Device) {
        (self.class_embedding.kind(), self.class_embedding.device())
    }
}
