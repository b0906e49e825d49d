#![allow(clippy::expect_used, reason = "of shapes that the network itself has made")]

use super::Config;
use crate::{
    layers::{GroupNorm, LayerNorm, Linear, attention},
    network::{Projected, Tap},
    weights::Scope,
};
use tch::Tensor;

/// The text that a sequence attends to.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Hidden states of the text, `[B, L, D]`.
    pub tokens: &'a Tensor,
    /// Cached keys and values of earlier passes.
    pub projected: Option<&'a Projected>,
}

/// `Transformer2DModel`: latents as a sequence of pixels that attends to itself and to the text.
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<Block>,
    proj_out: Linear,
}

impl SpatialTransformer {
    pub fn new(at: Scope, config: &Config, channels: i64, heads: i64, depth: usize) -> Self {
        // 1×1 convolutions in SD1, linear layers in SD2 and SDXL: the same numbers of every pixel.
        let linear = if config.use_linear_projection { Linear::new } else { Linear::from_pointwise_conv };
        let block = |i| Block::new(&at / "transformer_blocks" / i, channels, heads, config.cross_attention_dim);
        Self {
            norm: GroupNorm::new(&at / "norm", channels, config.norm_groups, 1e-6),
            proj_in: linear(&at / "proj_in", channels, channels),
            blocks: (0..depth).map(block).collect(),
            proj_out: linear(&at / "proj_out", channels, channels),
        }
    }

    /// x `[B, C, h, w]` → `[B, C, h, w]`
    pub fn forward(&self, x: &Tensor, text: Context, tap: Option<Tap>) -> Tensor {
        let (batch, channels, height, width) = x.size4().expect("latents are [B, C, h, w]");
        let sequence = self.norm.forward(x).flatten(2, 3).transpose(1, 2).contiguous();
        let mut hidden = self.proj_in.forward(&sequence);
        for block in &self.blocks {
            hidden = block.forward(&hidden, text, tap.map(|tap| tap.sized(height, width)));
        }
        x + self.proj_out.forward(&hidden).transpose(1, 2).reshape([batch, channels, height, width])
    }
}

struct Block {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: GatedFeedForward,
}

impl Block {
    fn new(at: Scope, width: i64, heads: i64, context_width: i64) -> Self {
        Self {
            norm1: LayerNorm::new(&at / "norm1", width, 1e-5),
            attn1: Attention::new(&at / "attn1", width, width, heads),
            norm2: LayerNorm::new(&at / "norm2", width, 1e-5),
            attn2: Attention::new(&at / "attn2", width, context_width, heads),
            norm3: LayerNorm::new(&at / "norm3", width, 1e-5),
            ff: GatedFeedForward::new(&at / "ff", width),
        }
    }

    fn forward(&self, x: &Tensor, text: Context, tap: Option<Tap>) -> Tensor {
        let normed = self.norm1.forward(x);
        let x = x + self.attn1.forward(&normed, Context { tokens: &normed, projected: None }, None);
        let x = &x + self.attn2.forward(&self.norm2.forward(&x), text, tap);
        &x + self.ff.forward(&self.norm3.forward(&x))
    }
}

struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl Attention {
    fn new(at: Scope, width: i64, context_width: i64, heads: i64) -> Self {
        Self {
            to_q: Linear::new(&at / "to_q", width, width),
            to_k: Linear::new(&at / "to_k", context_width, width),
            to_v: Linear::new(&at / "to_v", context_width, width),
            to_out: Linear::new(&at / "to_out" / 0, width, width),
            heads,
        }
    }

    fn forward(&self, x: &Tensor, context: Context, tap: Option<Tap>) -> Tensor {
        let q = self.to_q.forward(x);
        let project = || [&self.to_k, &self.to_v].map(|layer| layer.forward(context.tokens));
        let [k, v] = match context.projected {
            Some(projected) => projected.next(project),
            None => project(),
        };
        if let Some(tap) = tap {
            tap.record(&q, &k, self.heads);
        }
        self.to_out.forward(&attention(&q, &k, &v, self.heads, None, false))
    }
}

/// GEGLU: one half of the wide layer gates the other.
struct GatedFeedForward {
    proj: Linear,
    out: Linear,
    inner: i64,
}

impl GatedFeedForward {
    fn new(at: Scope, width: i64) -> Self {
        let inner = 4 * width;
        Self {
            proj: Linear::new(&at / "net" / 0 / "proj", width, 2 * inner),
            out: Linear::new(&at / "net" / 2, inner, width),
            inner,
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let wide = self.proj.forward(x);
        let (value, gate) = (wide.narrow(-1, 0, self.inner), wide.narrow(-1, self.inner, self.inner));
        self.out.forward(&(value * gate.gelu("none")))
    }
}
