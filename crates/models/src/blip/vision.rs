use super::config::VisionConfig;
use crate::{
    error::{Error, Result},
    layers::{Activation, Conv2d, LayerNorm, Linear, attention},
    weights::Scope,
};
use tch::{Device, Kind, Tensor};
use torch_ext::Shared;

/// A vision transformer (Dosovitskiy et al. 2021) with a norm at its end.
pub struct VisionModel {
    class_embedding: Shared,
    patch_embedding: Conv2d,
    position_embedding: Shared,
    layers: Vec<Layer>,
    post_layernorm: LayerNorm,
    image_size: i64,
}

impl VisionModel {
    pub fn new(at: Scope, config: &VisionConfig) -> Self {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let (embeddings, positions) = (&at / "embeddings", config.patches().pow(2) + 1);
        Self {
            class_embedding: embeddings.tensor("class_embedding", &[1, 1, width]).into(),
            patch_embedding: Conv2d::new(&embeddings / "patch_embedding", 3, width, patch, patch, 0),
            position_embedding: embeddings.tensor("position_embedding", &[1, positions, width]).into(),
            layers: (0..config.layers).map(|i| Layer::new(&at / "encoder" / "layers" / i, config)).collect(),
            post_layernorm: LayerNorm::new(&at / "post_layernorm", width, config.norm_eps),
            image_size: config.image_size,
        }
    }

    /// pixels `[B, 3, S, S]`, normalised, in any precision → `[B, 1 + patches, D]`. Error messages begin with `who`.
    pub fn embed(&self, who: &str, pixels: &Tensor) -> Result<Tensor> {
        let (size, side) = (pixels.size(), self.image_size);
        if size.len() != 4 || size[0] < 1 || size[1..] != [3, side, side] {
            return Err(Error::Input(format!("{who}: image {size:?} is not [B, 3, {side}, {side}]")));
        }
        let (kind, device) = self.options();
        Ok(self.forward(&pixels.to_device(device).to_kind(kind)))
    }

    /// pixels `[B, 3, S, S]` → `[B, 1 + patches, D]`, the class token first
    fn forward(&self, pixels: &Tensor) -> Tensor {
        let patches = self.patch_embedding.forward(pixels).flatten(2, 3).transpose(1, 2);
        let class = self.class_embedding.expand([pixels.size()[0], 1, -1], false);
        let mut x = Tensor::cat(&[class, patches], 1) + &*self.position_embedding;
        for layer in &self.layers {
            x = layer.forward(&x);
        }
        self.post_layernorm.forward(&x)
    }

    pub fn options(&self) -> (Kind, Device) {
        (self.class_embedding.kind(), self.class_embedding.device())
    }
}

/// Self-attention and a feed-forward network, each after a norm.
struct Layer {
    layer_norm1: LayerNorm,
    qkv: Linear,
    projection: Linear,
    heads: i64,
    layer_norm2: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
}

impl Layer {
    fn new(at: Scope, config: &VisionConfig) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            layer_norm1: LayerNorm::new(&at / "layer_norm1", width, config.norm_eps),
            qkv: Linear::new(&at / "self_attn" / "qkv", width, 3 * width),
            projection: Linear::new(&at / "self_attn" / "projection", width, width),
            heads: config.heads,
            layer_norm2: LayerNorm::new(&at / "layer_norm2", width, config.norm_eps),
            fc1: Linear::new(&at / "mlp" / "fc1", width, inner),
            activation: config.activation,
            fc2: Linear::new(&at / "mlp" / "fc2", inner, width),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let qkv = self.qkv.forward(&self.layer_norm1.forward(x)).chunk(3, -1);
        let x = x + self.projection.forward(&attention(&qkv[0], &qkv[1], &qkv[2], self.heads, None, false));
        let hidden = self.activation.forward(&self.fc1.forward(&self.layer_norm2.forward(&x)));
        &x + self.fc2.forward(&hidden)
    }
}
