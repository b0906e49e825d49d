//! Paper: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (2021). Weights and
//! names: transformers `SwinBackbone`.

#![allow(clippy::expect_used, reason = "of shapes that the network itself has made")]

use super::config::BackboneConfig;
use crate::{
    layers::{Activation, Conv2d, LayerNorm, Linear, attention},
    weights::Scope,
};
use tch::{Device, Kind, Tensor};

/// Epsilon of the norms outside the layers; upstream has no setting for it.
const NORM_EPS: f64 = 1e-5;
/// Added to the attention scores between parts of a window that are not neighbours in the image.
const MASKED: f64 = -100.0;

/// The backbone: feature maps of an image, each half as large as the one before.
pub struct Backbone {
    patches: Conv2d,
    patch_size: i64,
    norm: LayerNorm,
    stages: Vec<Stage>,
    options: (Kind, Device),
}

impl Backbone {
    pub fn new(at: Scope, config: &BackboneConfig) -> Self {
        let (embeddings, patch, width) = (&at / "embeddings", config.patch_size, config.embed_dim);
        let norm = (&embeddings / "norm").tensor("weight", &[width]);
        Self {
            options: (norm.kind(), norm.device()),
            patches: Conv2d::new(&embeddings / "patch_embeddings" / "projection", 3, width, patch, patch, 0),
            patch_size: patch,
            norm: LayerNorm::new(&embeddings / "norm", width, NORM_EPS),
            stages: (0..config.depths.len()).map(|stage| Stage::new(&at, config, stage)).collect(),
        }
    }

    pub fn options(&self) -> (Kind, Device) {
        self.options
    }

    /// pixels `[B, 3, H, W]` → `[B, C, h, w]` for every stage in use
    pub fn forward(&self, pixels: &Tensor) -> Vec<Tensor> {
        let pixels = pad_to_multiple(&pixels.permute([0, 2, 3, 1]), self.patch_size).permute([0, 3, 1, 2]);
        let mut x = self.norm.forward(&self.patches.forward(&pixels).permute([0, 2, 3, 1]));
        let mut maps = vec![];
        for stage in &self.stages {
            x = stage.forward(&x);
            if let Some(norm) = &stage.out_norm {
                maps.push(norm.forward(&x).permute([0, 3, 1, 2]));
            }
            if let Some(downsample) = &stage.downsample {
                x = downsample.forward(&x);
            }
        }
        maps
    }
}

/// Layers of one resolution. Within the network images are `[B, h, w, C]`.
struct Stage {
    blocks: Vec<Block>,
    window: i64,
    downsample: Option<PatchMerging>,
    out_norm: Option<LayerNorm>,
}

impl Stage {
    fn new(root: &Scope, config: &BackboneConfig, stage: usize) -> Self {
        let (at, width) = (root / "encoder" / "layers" / stage, config.width(stage));
        let is_last = stage + 1 == config.depths.len();
        let out = config.out_indices.contains(&(stage + 1));
        let norm = || LayerNorm::new(root / "hidden_states_norms" / format!("stage{}", stage + 1), width, NORM_EPS);
        Self {
            blocks: (0..config.depths[stage])
                .map(|i| {
                    Block::new(&at / "blocks" / i, config, stage, if i % 2 == 0 { 0 } else { config.window_size / 2 })
                })
                .collect(),
            window: config.window_size,
            downsample: (!is_last).then(|| PatchMerging::new(&at / "downsample", width)),
            out_norm: out.then(norm),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let (_, height, width, _) = x.size4().expect("[B, h, w, C]");
        let up = |n: i64| (n + self.window - 1) / self.window * self.window;
        let mut x = x.shallow_clone();
        let mut apart = None;
        for block in &self.blocks {
            let scores = (block.shift > 0).then(|| {
                &*apart.get_or_insert_with(|| {
                    shifted_scores((up(height), up(width)), self.window, block.shift, (x.kind(), x.device()))
                })
            });
            x = block.forward(&x, scores);
        }
        x
    }
}

/// Attention scores that separate the parts of a window brought together by a shift by `shift`: `[windows, 1, n, n]`.
fn shifted_scores((height, width): (i64, i64), window: i64, shift: i64, options: (Kind, Device)) -> Tensor {
    let region = |length: i64| {
        let i = Tensor::arange(length, (Kind::Int64, options.1));
        i.ge(length - window).to_kind(Kind::Int64) + i.ge(length - shift).to_kind(Kind::Int64)
    };
    let regions = region(height).unsqueeze(1) * 3 + region(width).unsqueeze(0);
    let windows = windows_of(&regions.view([1, height, width, 1]), window).squeeze_dim(-1);
    let differ = windows.unsqueeze(1).ne_tensor(&windows.unsqueeze(2)).unsqueeze(1);
    differ.to_kind(options.0) * MASKED
}

/// Attention within windows and a feed-forward network, each after a norm.
struct Block {
    layernorm_before: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    /// A bias for each offset between two positions of a window `[(2 window - 1)², heads]`
    position_bias_table: Tensor,
    /// Index into this table for each pair of positions `[n n]`
    offsets: Tensor,
    projection: Linear,
    heads: i64,
    window: i64,
    shift: i64,
    layernorm_after: LayerNorm,
    intermediate: Linear,
    activation: Activation,
    output: Linear,
}

impl Block {
    fn new(at: Scope, config: &BackboneConfig, stage: usize, shift: i64) -> Self {
        let (width, heads, window) = (config.width(stage), config.num_heads[stage], config.window_size);
        let inner = config.mlp_width(width);
        let attention = &at / "attention" / "self";
        let table = attention.tensor("relative_position_bias_table", &[(2 * window - 1).pow(2), heads]);
        let offsets = offsets(window).to_device(table.device());
        Self {
            layernorm_before: LayerNorm::new(&at / "layernorm_before", width, config.norm_eps),
            query: Linear::new(&attention / "query", width, width),
            key: Linear::new(&attention / "key", width, width),
            value: Linear::new(&attention / "value", width, width),
            position_bias_table: table,
            offsets,
            projection: Linear::new(&at / "attention" / "output" / "dense", width, width),
            heads,
            window,
            shift,
            layernorm_after: LayerNorm::new(&at / "layernorm_after", width, config.norm_eps),
            intermediate: Linear::new(&at / "intermediate" / "dense", width, inner),
            activation: config.activation,
            output: Linear::new(&at / "output" / "dense", inner, width),
        }
    }

    fn forward(&self, x: &Tensor, scores: Option<&Tensor>) -> Tensor {
        let x = x + self.attend(&self.layernorm_before.forward(x), scores);
        let hidden = self.activation.forward(&self.intermediate.forward(&self.layernorm_after.forward(&x)));
        x + self.output.forward(&hidden)
    }

    fn attend(&self, x: &Tensor, scores: Option<&Tensor>) -> Tensor {
        let (batch, height, width, channels) = x.size4().expect("[B, h, w, C]");
        let mut padded = pad_to_multiple(x, self.window);
        let (_, rows, columns, _) = padded.size4().expect("[B, h, w, C]");
        if self.shift > 0 {
            padded = padded.roll([-self.shift; 2], [1, 2]);
        }
        let windows = windows_of(&padded, self.window);
        let positions = self.window * self.window;
        let bias = self.position_bias_table.index_select(0, &self.offsets).view([positions, positions, self.heads]);
        let bias = bias.permute([2, 0, 1]).unsqueeze(0);
        let scores = match scores {
            None => bias.contiguous(),
            Some(scores) => (bias + scores).repeat([batch, 1, 1, 1]),
        };
        let (q, k, v) = (self.query.forward(&windows), self.key.forward(&windows), self.value.forward(&windows));
        let out = self.projection.forward(&attention(&q, &k, &v, self.heads, Some(&scores), false));
        let (across, down) = (columns / self.window, rows / self.window);
        let out = out.view([batch, down, across, self.window, self.window, channels]).transpose(2, 3);
        let mut out = out.reshape([batch, rows, columns, channels]);
        if self.shift > 0 {
            out = out.roll([self.shift; 2], [1, 2]);
        }
        out.narrow(1, 0, height).narrow(2, 0, width)
    }
}

/// For every pair of positions in a window the index of their offset, row after row.
fn offsets(window: i64) -> Tensor {
    let (n, side) = (window * window, 2 * window - 1);
    let offset = |i: i64, j: i64| (i / window - j / window + window - 1) * side + i % window - j % window + window - 1;
    let offsets: Vec<i64> = (0..n).flat_map(|i| (0..n).map(move |j| offset(i, j))).collect();
    Tensor::from_slice(&offsets)
}

/// `[B, h, w, C]` → `[B windows, window², C]`
fn windows_of(x: &Tensor, window: i64) -> Tensor {
    let (batch, height, width, channels) = x.size4().expect("[B, h, w, C]");
    let x = x.reshape([batch, height / window, window, width / window, window, channels]);
    x.transpose(2, 3).reshape([-1, window * window, channels])
}

/// Appends zeros after the last row and column of `[B, h, w, C]`.
fn pad_to_multiple(x: &Tensor, of: i64) -> Tensor {
    let (_, height, width, _) = x.size4().expect("[B, h, w, C]");
    let missing = |n: i64| (of - n % of) % of;
    if missing(height) == 0 && missing(width) == 0 {
        return x.shallow_clone();
    }
    x.constant_pad_nd([0, 0, 0, missing(width), 0, missing(height)])
}

/// Merges every 2×2 patch into one with twice the channels.
struct PatchMerging {
    norm: LayerNorm,
    reduction: Linear,
}

impl PatchMerging {
    fn new(at: Scope, width: i64) -> Self {
        Self {
            norm: LayerNorm::new(&at / "norm", 4 * width, NORM_EPS),
            reduction: Linear::new(&at / "reduction", 4 * width, 2 * width),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x = pad_to_multiple(x, 2);
        let part = |row: i64, column: i64| x.slice(1, row, None, 2).slice(2, column, None, 2);
        let parts = Tensor::cat(&[part(0, 0), part(1, 0), part(0, 1), part(1, 1)], -1);
        self.reduction.forward(&self.norm.forward(&parts))
    }
}
