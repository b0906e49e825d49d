//! Paper: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection" (2021).

#![allow(clippy::expect_used, reason = "of shapes that the network itself has made")]

use super::parts::wide;
use crate::{layers::Linear, weights::Scope};
use tch::Tensor;

/// The feature maps of an image as one sequence.
pub struct Maps {
    /// `[B, S, D]`, level after level, row after row
    pub features: Tensor,
    /// True for padding `[B, S]`; `None` if all images of the batch have the same size.
    pub padding: Option<Tensor>,
    /// Height and width of every level.
    pub sizes: Vec<(i64, i64)>,
}

impl Maps {
    /// The same maps with other features.
    pub fn with(&self, features: Tensor) -> Self {
        let padding = self.padding.as_ref().map(Tensor::shallow_clone);
        Self { features, padding, sizes: self.sizes.clone() }
    }
}

/// Attention to a few sampling points around a reference point in every feature map.
pub struct DeformableAttention {
    sampling_offsets: Linear,
    attention_weights: Linear,
    value_proj: Linear,
    output_proj: Linear,
    heads: i64,
    levels: i64,
    points: i64,
}

impl DeformableAttention {
    pub fn new(at: Scope, width: i64, heads: i64, levels: usize, points: i64) -> Self {
        let looks = heads * levels as i64 * points;
        Self {
            sampling_offsets: Linear::new(&at / "sampling_offsets", width, 2 * looks),
            attention_weights: Linear::new(&at / "attention_weights", width, looks),
            value_proj: Linear::new(&at / "value_proj", width, width),
            output_proj: Linear::new(&at / "output_proj", width, width),
            heads,
            levels: levels as i64,
            points,
        }
    }

    /// queries `[B, Q, D]`, their positions added; reference points `[B, Q, levels, 2]` (x, y) or boxes
    /// `[B, Q, levels, 4]` (x, y, width, height), in units of the feature maps with their padding → `[B, Q, D]`
    pub fn forward(&self, queries: &Tensor, maps: &Maps, reference: &Tensor) -> Tensor {
        let kind = wide(queries.kind());
        let (batch, count, width) = queries.size3().expect("queries are [B, Q, D]");
        let (heads, levels, points) = (self.heads, self.levels, self.points);
        let offsets = self.sampling_offsets.forward(queries).to_kind(kind);
        let offsets = offsets.view([batch, count, heads, levels, points, 2]);
        let weights = self.attention_weights.forward(queries).to_kind(kind);
        let weights = weights.view([batch, count, heads, levels * points]).softmax(-1, kind);
        let weights = weights.view([batch, count, heads, levels, points]);

        let reference = reference.to_kind(kind).view([batch, count, 1, levels, 1, -1]);
        let centre = reference.narrow(-1, 0, 2);
        let locations = if reference.size()[5] == 2 {
            // Offsets are in cells of the feature map.
            let sizes: Vec<f64> = maps.sizes.iter().flat_map(|&(h, w)| [w as f64, h as f64]).collect();
            let sizes = Tensor::from_slice(&sizes).to_kind(kind).to_device(queries.device());
            centre + offsets / sizes.view([levels, 1, 2])
        } else {
            // Scaled so that the last point of an untrained network lies on the box's edge.
            centre + offsets / points * reference.narrow(-1, 2, 2) * 0.5
        };
        let grid = locations * 2 - 1;

        let mut value = self.value_proj.forward(&maps.features);
        if let Some(padding) = &maps.padding {
            value = value.masked_fill(&padding.unsqueeze(-1), 0.0);
        }
        let value = value.view([batch, -1, heads, width / heads]).permute([0, 2, 3, 1]).to_kind(kind);
        let mut from = 0;
        let mut sum: Option<Tensor> = None;
        // Level by level: the samples of all levels at once would take much memory.
        for (level, &(height, columns)) in (0..).zip(&maps.sizes) {
            let map = value.narrow(3, from, height * columns).reshape([batch * heads, width / heads, height, columns]);
            from += height * columns;
            // Queries are the innermost dimension: a sum over neighbours in memory is slow.
            let weights = weights.select(3, level).permute([0, 2, 3, 1]).reshape([batch * heads, 1, points, count]);
            let grid = grid.select(3, level).permute([0, 2, 3, 1, 4]).reshape([batch * heads, points, count, 2]);
            const BILINEAR: i64 = 0;
            const ZEROS: i64 = 0;
            let samples = map.grid_sampler(&grid, BILINEAR, ZEROS, false); // [B heads, d, points, Q]
            let part = (samples * weights).sum_dim_intlist(2, false, kind);
            sum = Some(match sum {
                None => part,
                Some(sum) => sum + part,
            });
        }
        let sum = sum.expect("there is a feature map").view([batch, width, count]).transpose(1, 2);
        self.output_proj.forward(&sum.to_kind(queries.kind()))
    }
}
