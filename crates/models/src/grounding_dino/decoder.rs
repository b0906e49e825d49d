use super::{
    config::Config,
    deformable::{DeformableAttention, Maps},
    encoder::Text,
    parts::{Attention, Mlp, rectify, sine, wide},
};
use crate::{
    layers::{LayerNorm, Linear},
    weights::Scope,
};
use tch::Tensor;

/// Values are clamped to this distance from 0 and 1 before the inverse sigmoid.
const EDGE: f64 = 1e-5;
/// Temperature of the sine embedding of boxes.
const TEMPERATURE: f64 = 10000.0;

/// Turns queries into boxes, which every layer refines.
pub struct Decoder {
    layers: Vec<Layer>,
    norm: LayerNorm,
    reference_points_head: Mlp,
    /// One box head for each layer, or one for all.
    box_heads: Vec<Mlp>,
    width: i64,
}

impl Decoder {
    /// `root`: scope of the whole network; the box heads have one name there and one in the decoder.
    pub fn new(root: &Scope, config: &Config) -> Self {
        let (at, width) = (root / "model" / "decoder", config.d_model);
        Self {
            layers: (0..config.decoder.layers).map(|i| Layer::new(&at / "layers" / i, config)).collect(),
            norm: LayerNorm::new(&at / "layer_norm", width, config.norm_eps),
            reference_points_head: Mlp::new(&at / "reference_points_head", &[2 * width, width, width]),
            box_heads: box_heads(root, config),
            width,
        }
    }

    /// queries `[B, Q, D]`, reference `[B, Q, 4]` (centre, width, height; 0 to 1), valid `[B, levels, 2]`
    /// → features `[B, Q, D]`, boxes `[B, Q, 4]`
    pub fn forward(
        &self,
        queries: &Tensor,
        reference: &Tensor,
        maps: &Maps,
        valid: &Tensor,
        text: &Text,
    ) -> (Tensor, Tensor) {
        let kind = queries.kind();
        let valid = Tensor::cat(&[valid, valid], -1).unsqueeze(1); // [B, 1, levels, 4]
        let (mut x, mut reference) = (queries.shallow_clone(), reference.shallow_clone());
        for (i, layer) in self.layers.iter().enumerate() {
            let in_maps = reference.unsqueeze(2) * &valid;
            let positions = self.reference_points_head.forward(&self.embed(&in_maps.select(2, 0)).to_kind(kind));
            x = layer.forward(&x, &positions, &in_maps, maps, text);
            // The last refinement uses the normed features, below.
            if i + 1 < self.layers.len() {
                reference = self.refine(i, &x, &reference);
            }
        }
        let x = self.norm.forward(&x);
        let boxes = self.refine(self.layers.len() - 1, &x, &reference);
        (x, boxes)
    }

    fn refine(&self, layer: usize, x: &Tensor, reference: &Tensor) -> Tensor {
        let head = &self.box_heads[layer.min(self.box_heads.len() - 1)];
        (head.forward(x).to_kind(wide(x.kind())) + reference.logit(EDGE)).sigmoid()
    }

    /// Boxes `[B, Q, 4]` → `[B, Q, 2 D]`; y comes before x, as in the positions of the image.
    fn embed(&self, boxes: &Tensor) -> Tensor {
        let part = |i: i64| sine(&boxes.select(-1, i), self.width / 2, TEMPERATURE);
        Tensor::cat(&[part(1), part(0), part(2), part(3)], -1)
    }
}

/// The box heads have two names each in a checkpoint; files hold one or both. If all layers share a head, files hold
/// that of one layer or of all.
fn box_heads(root: &Scope, config: &Config) -> Vec<Mlp> {
    let (own, second) = (root / "bbox_embed", root / "model" / "decoder" / "bbox_embed");
    let head = |at: Scope| Mlp::new(at, &[config.d_model, config.d_model, config.d_model, 4]);
    let of_layer = |i: usize| {
        let held = [&own / i, &second / i].into_iter().filter(|at| (at / "layers" / 0).has("weight"));
        let both: Vec<_> = held.map(head).collect(); // so that none is left over; one is enough
        both.into_iter().next()
    };
    let heads: Vec<_> = (0..config.decoder.layers).map(of_layer).collect();
    if config.box_head_is_shared {
        vec![heads.into_iter().flatten().next().unwrap_or_else(|| head(&own / 0))]
    } else {
        heads.into_iter().enumerate().map(|(i, found)| found.unwrap_or_else(|| head(&own / i))).collect()
    }
}

/// Self-attention of the queries, then cross-attention to the caption and to the image.
struct Layer {
    self_attn: Attention,
    self_attn_norm: LayerNorm,
    encoder_attn_text: Attention,
    encoder_attn_text_norm: LayerNorm,
    encoder_attn: DeformableAttention,
    encoder_attn_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_norm: LayerNorm,
}

impl Layer {
    fn new(at: Scope, config: &Config) -> Self {
        let (width, part, levels) = (config.d_model, &config.decoder, config.num_feature_levels);
        let norm = |name: &str| LayerNorm::new(&at / name, width, config.norm_eps);
        Self {
            self_attn: Attention::new(&at / "self_attn", width, part.heads),
            self_attn_norm: norm("self_attn_layer_norm"),
            encoder_attn_text: Attention::new(&at / "encoder_attn_text", width, part.heads),
            encoder_attn_text_norm: norm("encoder_attn_text_layer_norm"),
            encoder_attn: DeformableAttention::new(&at / "encoder_attn", width, part.heads, levels, part.points),
            encoder_attn_norm: norm("encoder_attn_layer_norm"),
            fc1: Linear::new(&at / "fc1", width, part.ffn_dim),
            fc2: Linear::new(&at / "fc2", part.ffn_dim, width),
            final_norm: norm("final_layer_norm"),
        }
    }

    fn forward(&self, x: &Tensor, positions: &Tensor, reference: &Tensor, maps: &Maps, text: &Text) -> Tensor {
        let placed = x + positions;
        let x = self.self_attn_norm.forward(&(x + self.self_attn.forward(&placed, &placed, x, None)));
        let words = &text.features;
        let read = self.encoder_attn_text.forward(&(&x + positions), words, words, Some(&text.tokens));
        let x = self.encoder_attn_text_norm.forward(&(x + read));
        let seen = self.encoder_attn.forward(&(&x + positions), maps, reference);
        let x = self.encoder_attn_norm.forward(&(x + seen));
        self.final_norm.forward(&(&x + self.fc2.forward(&rectify(self.fc1.forward(&x)))))
    }
}
