use super::config::VisionConfig;
use crate::weights::Scope;
use std::f64::consts::PI;
use tch::{Kind, Tensor};

/// Embeds boxes, and the positions of an image's patches, by random Fourier features (Tancik et al. 2020).
pub struct PromptEncoder {
    frequencies: Tensor,
    upper_left: Tensor,
    lower_right: Tensor,
    no_mask_embed: Tensor,
    image_size: i64,
    patches: i64,
}

impl PromptEncoder {
    pub fn new(root: &Scope, config: &VisionConfig) -> Self {
        let (at, width) = (root / "prompt_encoder", config.output_channels);
        let row = |name: &str| (&at / name).tensor("weight", &[1, width]);
        Self {
            frequencies: frequencies(root, &at, width / 2),
            // 0 and 1 are points outside of and on the object, which are not used here.
            upper_left: row("point_embed.2"),
            lower_right: row("point_embed.3"),
            no_mask_embed: row("no_mask_embed"),
            image_size: config.image_size,
            patches: config.patches(),
        }
    }

    /// boxes `[N, 4]` in pixels of the resized image → `[N, 2, D]`, a vector for each of two corners
    pub fn boxes(&self, boxes: &Tensor) -> Tensor {
        let centers = boxes.view([-1, 2, 2]) + 0.5; // centres of the pixels
        let corners = Tensor::stack(&[&self.upper_left, &self.lower_right], 1);
        self.places(&(centers / self.image_size as f64)) + corners
    }

    /// Embeddings of the positions of the image's patches, `[1, patches, D]`.
    pub fn image_places(&self) -> Tensor {
        let options = (Kind::Double, self.frequencies.device());
        let centers = (Tensor::arange(self.patches, options) + 0.5) / self.patches as f64;
        let (y, x) = (centers.unsqueeze(1), centers.unsqueeze(0));
        let size = [self.patches, self.patches];
        let grid = Tensor::stack(&[x.expand(size, false), y.expand(size, false)], -1);
        self.places(&grid.view([1, -1, 2]))
    }

    /// Embedding added to the image if no mask is given as prompt: `[1, D, 1, 1]`.
    pub fn no_mask(&self) -> Tensor {
        self.no_mask_embed.view([1, -1, 1, 1])
    }

    /// Embeds positions: `[…, 2]`, x and y in 0..1 → `[…, D]`.
    ///
    /// The angles are many times 2π, and half precision would lose their fraction. So they are computed in float32 or
    /// float64.
    fn places(&self, places: &Tensor) -> Tensor {
        let kind = if self.frequencies.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let angles = (places * 2.0 - 1.0).to_kind(kind).matmul(&self.frequencies.to_kind(kind)) * (2.0 * PI);
        Tensor::cat(&[angles.sin(), angles.cos()], -1).to_kind(self.frequencies.kind())
    }
}

/// Reads the frequency matrix. It has two names, and files have one or both.
fn frequencies(root: &Scope, prompt_encoder: &Scope, width: i64) -> Tensor {
    let (name, shape) = ("positional_embedding", [2, width]);
    let other = (prompt_encoder / "shared_embedding").optional(name, &shape);
    let shared = root / "shared_image_embedding";
    match other {
        Some(other) if !shared.has(name) => other,
        _ => shared.tensor(name, &shape),
    }
}
