use super::{
    config::Config,
    deformable::{DeformableAttention, Maps},
    parts::{Attention, rectify, scores, sine, wide},
};
use crate::{
    layers::{LayerNorm, Linear, attention},
    weights::Scope,
};
use tch::{Kind, Tensor};

/// The caption as input of encoder and decoder.
pub struct Text {
    /// `[B, L, D]`
    pub features: Tensor,
    /// Attention scores that hide the padding `[B, 1, 1, L]`.
    pub tokens: Tensor,
    /// Attention scores that limit every token to its own phrase `[B, 1, L, L]`.
    pub phrases: Tensor,
    /// Sine embedding of the position within the phrase `[B, L, D]`
    pub positions: Tensor,
}

impl Text {
    /// features `[B, L, D]`; attention masks tokens `[B, L]` and phrases `[B, L, L]`; positions `[B, L]`
    pub fn new(features: Tensor, tokens: &Tensor, phrases: &Tensor, positions: &Tensor) -> Self {
        let (kind, width) = (features.kind(), features.size()[2]);
        Self {
            tokens: scores(&tokens.unsqueeze(1).unsqueeze(1), kind),
            phrases: scores(&phrases.unsqueeze(1), kind),
            positions: sine(&positions.to_kind(wide(kind)), width, 10000.0).to_kind(kind),
            features,
        }
    }
}

/// In each layer: cross-attention between image and caption, then self-attention of each.
pub struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    pub fn new(at: Scope, config: &Config) -> Self {
        Self { layers: (0..config.encoder.layers).map(|i| Layer::new(&at / "layers" / i, config)).collect() }
    }

    /// `positions` `[B, S, D]` of the feature maps, `reference` `[B, S, levels, 2]`
    pub fn forward(&self, mut maps: Maps, positions: &Tensor, reference: &Tensor, mut text: Text) -> (Maps, Text) {
        let visible = maps.padding.as_ref().map(|padding| {
            scores(&padding.logical_not().unsqueeze(1).unsqueeze(1), maps.features.kind()) // [B, 1, 1, S]
        });
        for layer in &self.layers {
            let (image, caption) = layer.fusion.forward(&maps.features, &text.features, visible.as_ref(), &text.tokens);
            text.features = layer.enhancer.forward(&caption, &text.phrases, &text.positions);
            maps.features = layer.deformable.forward(&maps.with(image), positions, reference);
        }
        (maps, text)
    }
}

struct Layer {
    fusion: Fusion,
    enhancer: TextEnhancer,
    deformable: DeformableLayer,
}

impl Layer {
    fn new(at: Scope, config: &Config) -> Self {
        Self {
            fusion: Fusion::new(&at / "fusion_layer", config),
            enhancer: TextEnhancer::new(&at / "text_enhancer_layer", config),
            deformable: DeformableLayer::new(&at / "deformable_layer", config),
        }
    }
}

/// Cross-attention in both directions, image to caption and caption to image. Both use the same projections: the
/// queries of one direction are the keys of the other.
struct Fusion {
    norm_vision: LayerNorm,
    norm_text: LayerNorm,
    vision_proj: Linear,
    text_proj: Linear,
    values_vision_proj: Linear,
    values_text_proj: Linear,
    out_vision_proj: Linear,
    out_text_proj: Linear,
    heads: i64,
    vision_param: Tensor,
    text_param: Tensor,
}

impl Fusion {
    fn new(at: Scope, config: &Config) -> Self {
        let (width, inner, attention) = (config.d_model, config.encoder.ffn_dim / 2, &at / "attn");
        let inward = |name: &str| Linear::new(&attention / name, width, inner);
        let outward = |name: &str| Linear::new(&attention / name, inner, width);
        Self {
            norm_vision: LayerNorm::new(&at / "layer_norm_vision", width, config.norm_eps),
            norm_text: LayerNorm::new(&at / "layer_norm_text", width, config.norm_eps),
            vision_proj: inward("vision_proj"),
            text_proj: inward("text_proj"),
            values_vision_proj: inward("values_vision_proj"),
            values_text_proj: inward("values_text_proj"),
            out_vision_proj: outward("out_vision_proj"),
            out_text_proj: outward("out_text_proj"),
            heads: config.encoder.heads / 2,
            vision_param: at.tensor("vision_param", &[width]),
            text_param: at.tensor("text_param", &[width]),
        }
    }

    /// The residual connections start from the normed inputs, not from the inputs themselves.
    fn forward(&self, vision: &Tensor, text: &Tensor, places: Option<&Tensor>, tokens: &Tensor) -> (Tensor, Tensor) {
        let (vision, text) = (self.norm_vision.forward(vision), self.norm_text.forward(text));
        let (q, k) = (self.vision_proj.forward(&vision), self.text_proj.forward(&text));
        let of_text = attention(&q, &k, &self.values_text_proj.forward(&text), self.heads, Some(tokens), false);
        let of_vision = attention(&k, &q, &self.values_vision_proj.forward(&vision), self.heads, places, false);
        let vision = vision + self.out_vision_proj.forward(&of_text) * &self.vision_param;
        let text = text + self.out_text_proj.forward(&of_vision) * &self.text_param;
        (vision, text)
    }
}

/// Self-attention of the caption, within each phrase only.
struct TextEnhancer {
    attention: Attention,
    norm_before: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    norm_after: LayerNorm,
}

impl TextEnhancer {
    fn new(at: Scope, config: &Config) -> Self {
        let (width, inner) = (config.d_model, config.encoder.ffn_dim / 2);
        Self {
            attention: Attention::new(&at / "self_attn", width, config.encoder.heads / 2),
            norm_before: LayerNorm::new(&at / "layer_norm_before", width, config.norm_eps),
            fc1: Linear::new(&at / "fc1", width, inner),
            fc2: Linear::new(&at / "fc2", inner, width),
            norm_after: LayerNorm::new(&at / "layer_norm_after", width, config.norm_eps),
        }
    }

    fn forward(&self, x: &Tensor, phrases: &Tensor, positions: &Tensor) -> Tensor {
        let placed = x + positions;
        let x = self.norm_before.forward(&(x + self.attention.forward(&placed, &placed, x, Some(phrases))));
        self.norm_after.forward(&(&x + self.fc2.forward(&rectify(self.fc1.forward(&x)))))
    }
}

/// Self-attention of the feature maps.
struct DeformableLayer {
    attention: DeformableAttention,
    attention_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_norm: LayerNorm,
}

impl DeformableLayer {
    fn new(at: Scope, config: &Config) -> Self {
        let (width, part, levels) = (config.d_model, &config.encoder, config.num_feature_levels);
        Self {
            attention: DeformableAttention::new(&at / "self_attn", width, part.heads, levels, part.points),
            attention_norm: LayerNorm::new(&at / "self_attn_layer_norm", width, config.norm_eps),
            fc1: Linear::new(&at / "fc1", width, part.ffn_dim),
            fc2: Linear::new(&at / "fc2", part.ffn_dim, width),
            final_norm: LayerNorm::new(&at / "final_layer_norm", width, config.norm_eps),
        }
    }

    fn forward(&self, maps: &Maps, positions: &Tensor, reference: &Tensor) -> Tensor {
        let x = &maps.features;
        let x = self.attention_norm.forward(&(x + self.attention.forward(&(x + positions), maps, reference)));
        self.final_norm.forward(&(&x + self.fc2.forward(&rectify(self.fc1.forward(&x)))))
    }
}

/// The centre of every cell of the feature maps, in units of each level with its padding: `[B, S, levels, 2]`.
///
/// `valid` `[B, levels, 2]`: the share of each level's width and height that is not padding.
pub fn cell_centres(sizes: &[(i64, i64)], valid: &Tensor) -> Tensor {
    let (batch, options) = (valid.size()[0], (valid.kind(), valid.device()));
    let centres = (0..).zip(sizes).map(|(level, &(height, width))| {
        let along = |length: i64, axis: i64| {
            let i = Tensor::arange(length, options) + 0.5;
            i.unsqueeze(0) / (valid.select(1, level).narrow(1, axis, 1) * length) // [B, length]
        };
        let x = along(width, 0).unsqueeze(1).expand([batch, height, width], false);
        let y = along(height, 1).unsqueeze(2).expand([batch, height, width], false);
        Tensor::stack(&[x, y], -1).reshape([batch, height * width, 2])
    });
    let centres = Tensor::cat(&centres.collect::<Vec<_>>(), 1);
    centres.unsqueeze(2) * valid.unsqueeze(1)
}

/// Share of the width and height of every level that is not padding: `[B, levels, 2]`. Masks `[B, h, w]`, true: image.
pub fn valid_ratios(masks: &[Tensor], kind: Kind) -> Tensor {
    let ratios = masks.iter().map(|mask| {
        let share = |line: Tensor| line.to_kind(kind).mean_dim(1, false, kind);
        Tensor::stack(&[share(mask.select(1, 0)), share(mask.select(2, 0))], -1)
    });
    Tensor::stack(&ratios.collect::<Vec<_>>(), 1)
}
