#![allow(clippy::expect_used, reason = "of shapes that the network itself has made")]

use super::config::VisionConfig;
use crate::{
    layers::{Activation, Conv2d, LayerNorm, Linear},
    weights::Scope,
};
use tch::{Device, Kind, Tensor};

/// A vision transformer that attends within windows, and to the whole image in a few layers (Li et al. 2022, ViTDet),
/// followed by a neck that reduces the channels.
pub struct VisionEncoder {
    patch_embed: Conv2d,
    pos_embed: Tensor,
    layers: Vec<Layer>,
    neck: Neck,
}

impl VisionEncoder {
    pub fn new(at: Scope, config: &VisionConfig) -> Self {
        let (width, patch, side) = (config.hidden_size, config.patch_size, config.patches());
        Self {
            patch_embed: Conv2d::new(&at / "patch_embed" / "projection", 3, width, patch, patch, 0),
            pos_embed: at.tensor("pos_embed", &[1, side, side, width]),
            layers: (0..config.layers).map(|i| Layer::new(&at / "layers" / i, config, i as i64)).collect(),
            neck: Neck::new(&at / "neck", config),
        }
    }

    /// pixels `[B, 3, S, S]` → `[B, D, s, s]`, a vector for each patch
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let mut x = self.patch_embed.forward(pixels).permute([0, 2, 3, 1]) + &self.pos_embed;
        for layer in &self.layers {
            x = layer.forward(&x);
        }
        self.neck.forward(&x.permute([0, 3, 1, 2]))
    }

    pub fn options(&self) -> (Kind, Device) {
        (self.pos_embed.kind(), self.pos_embed.device())
    }
}

/// Self-attention and a feed-forward network, each after its norm.
struct Layer {
    layer_norm1: LayerNorm,
    attn: Attention,
    /// Side of a window in patches; `None`: attention to the whole image.
    window: Option<i64>,
    layer_norm2: LayerNorm,
    lin1: Linear,
    activation: Activation,
    lin2: Linear,
}

impl Layer {
    fn new(at: Scope, config: &VisionConfig, index: i64) -> Self {
        let (width, inner) = (config.hidden_size, config.mlp_dim);
        let window = (!config.global_layers.contains(&index)).then_some(config.window_size);
        Self {
            layer_norm1: LayerNorm::new(&at / "layer_norm1", width, config.norm_eps),
            attn: Attention::new(&at / "attn", config, window.unwrap_or(config.patches())),
            window,
            layer_norm2: LayerNorm::new(&at / "layer_norm2", width, config.norm_eps),
            lin1: Linear::new(&at / "mlp" / "lin1", width, inner),
            activation: config.activation,
            lin2: Linear::new(&at / "mlp" / "lin2", inner, width),
        }
    }

    /// `[B, h, w, D]` → `[B, h, w, D]`
    fn forward(&self, x: &Tensor) -> Tensor {
        let hidden = self.layer_norm1.forward(x);
        let hidden = match self.window {
            None => self.attn.forward(&hidden),
            Some(side) => {
                let (_, height, width, _) = hidden.size4().expect("[B, h, w, D]");
                join(&self.attn.forward(&cut(&hidden, side)), height, width)
            }
        };
        let x = x + hidden;
        let hidden = self.activation.forward(&self.lin1.forward(&self.layer_norm2.forward(&x)));
        x + self.lin2.forward(&hidden)
    }
}

/// Cuts into windows: `[B, h, w, D]` → `[B windows, side, side, D]`, with zeros where a window extends beyond the
/// image.
fn cut(x: &Tensor, side: i64) -> Tensor {
    let (batch, height, width, channels) = x.size4().expect("[B, h, w, D]");
    let (rows, columns) = windows(height, width, side);
    let padded = x.constant_pad_nd([0, 0, 0, columns * side - width, 0, rows * side - height]);
    let cut = padded.view([batch, rows, side, columns, side, channels]).transpose(2, 3);
    cut.reshape([batch * rows * columns, side, side, channels])
}

/// The reverse of [`cut`].
fn join(cut: &Tensor, height: i64, width: i64) -> Tensor {
    let (count, side, _, channels) = cut.size4().expect("[B windows, side, side, D]");
    let (rows, columns) = windows(height, width, side);
    let batch = count / (rows * columns);
    let x = cut.view([batch, rows, columns, side, side, channels]).transpose(2, 3);
    x.reshape([batch, rows * side, columns * side, channels]).narrow(1, 0, height).narrow(2, 0, width)
}

/// Number of windows that cover the image, down and across.
fn windows(height: i64, width: i64, side: i64) -> (i64, i64) {
    let covering = |length: u64| length.div_ceil(side as u64) as i64; // not stable yet for i64
    (covering(height as u64), covering(width as u64))
}

/// Attention with relative positions: the scores have a term for the distance in rows and one for the distance in
/// columns.
struct Attention {
    qkv: Linear,
    proj: Linear,
    /// A vector for each distance, from `1 - side` on.
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    side: i64,
    heads: i64,
}

impl Attention {
    fn new(at: Scope, config: &VisionConfig, side: i64) -> Self {
        let (width, distances) = (config.hidden_size, [2 * side - 1, config.hidden_size / config.heads]);
        Self {
            qkv: Linear::new(&at / "qkv", width, 3 * width),
            proj: Linear::new(&at / "proj", width, width),
            rel_pos_h: at.tensor("rel_pos_h", &distances),
            rel_pos_w: at.tensor("rel_pos_w", &distances),
            side,
            heads: config.heads,
        }
    }

    /// `[B, side, side, D]` → `[B, side, side, D]`
    fn forward(&self, x: &Tensor) -> Tensor {
        let (batch, side, _, width) = x.size4().expect("[B, side, side, D]");
        let (heads, head_width) = (self.heads, width / self.heads);
        let qkv = self.qkv.forward(x).view([batch, side * side, 3, heads, head_width]).permute([2, 0, 3, 1, 4]);
        let (q, k, v) = (qkv.select(0, 0), qkv.select(0, 1), qkv.select(0, 2)); // [B, heads, N, d]
        let (by_row, by_column) = (self.between(&self.rel_pos_h), self.between(&self.rel_pos_w));
        let q = q.reshape([batch, heads, side, side, head_width]);
        let by_row = Tensor::einsum("bnhwc,hkc->bnhwk", &[&q, &by_row], None::<i64>).contiguous().unsqueeze(-1);
        let by_column = Tensor::einsum("bnhwc,wkc->bnhwk", &[&q, &by_column], None::<i64>).contiguous().unsqueeze(-2);
        // The scores of a whole image of 4096 patches would need a gigabyte, so they are computed for a few rows of
        // queries at a time.
        let rows = (SCORES / (batch * heads * side.pow(3))).clamp(1, side);
        let parts: Vec<Tensor> = (0..side)
            .step_by(rows as usize)
            .map(|from| {
                let rows = rows.min(side - from);
                let few = |x: &Tensor| x.narrow(2, from, rows);
                let scores = (few(&by_row) + few(&by_column)).view([batch, heads, rows * side, side * side]);
                let q = few(&q).flatten(2, 3);
                Tensor::scaled_dot_product_attention(&q, &k, &v, Some(&scores), 0.0, false, None, false)
            })
            .collect();
        self.proj.forward(&Tensor::cat(&parts, 2).transpose(1, 2).reshape([batch, side, side, width]))
    }

    /// The vector for each pair of a query's and a key's row (or column): `[side, side, d]`
    fn between(&self, by_distance: &Tensor) -> Tensor {
        let places = Tensor::arange(self.side, (Kind::Int64, by_distance.device()));
        let distances = places.unsqueeze(1) - places.unsqueeze(0) + (self.side - 1);
        by_distance.index_select(0, &distances.flatten(0, 1)).view([self.side, self.side, -1])
    }
}

/// Number of attention scores computed at a time: 128 MiB in float32.
const SCORES: i64 = 1 << 25;

struct Neck {
    conv1: Conv2d,
    layer_norm1: LayerNorm,
    conv2: Conv2d,
    layer_norm2: LayerNorm,
}

impl Neck {
    fn new(at: Scope, config: &VisionConfig) -> Self {
        let (width, channels) = (config.hidden_size, config.output_channels);
        Self {
            conv1: Conv2d::new(&at / "conv1", width, channels, 1, 1, 0),
            layer_norm1: LayerNorm::new(&at / "layer_norm1", channels, NORM_EPS),
            conv2: Conv2d::same(&at / "conv2", channels, channels),
            layer_norm2: LayerNorm::new(&at / "layer_norm2", channels, NORM_EPS),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x = over_channels(&self.layer_norm1, &self.conv1.forward(x));
        over_channels(&self.layer_norm2, &self.conv2.forward(&x))
    }
}

/// Epsilon of the norms over the channels of `[B, C, h, w]`; the configuration's value is for the other norms.
pub const NORM_EPS: f64 = 1e-6;

/// Applies a norm over the channels of `[B, C, h, w]`.
pub fn over_channels(norm: &LayerNorm, x: &Tensor) -> Tensor {
    norm.forward(&x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
}
