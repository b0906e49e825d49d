//! The residual block of UNet and VAE, and nearest-neighbour upsampling.

use crate::{
    layers::{Conv2d, GroupNorm, Linear},
    weights::Scope,
};
use tch::Tensor;

/// Two convolutions with normalisation, a timestep added in between (UNet only), and a shortcut. diffusers
/// `ResnetBlock2D`.
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// `norm`: groups and epsilon of the group norms. `time_width`: width of the timestep's embedding.
    pub fn new(at: Scope, inputs: i64, outputs: i64, time_width: Option<i64>, norm: (i64, f64)) -> Self {
        let (groups, eps) = norm;
        Self {
            norm1: GroupNorm::new(&at / "norm1", inputs, groups, eps),
            conv1: Conv2d::same(&at / "conv1", inputs, outputs),
            time_emb_proj: time_width.map(|width| Linear::new(&at / "time_emb_proj", width, outputs)),
            norm2: GroupNorm::new(&at / "norm2", outputs, groups, eps),
            conv2: Conv2d::same(&at / "conv2", outputs, outputs),
            conv_shortcut: (inputs != outputs).then(|| Conv2d::new(&at / "conv_shortcut", inputs, outputs, 1, 1, 0)),
        }
    }

    /// x `[B, in, h, w]`, time `[B, E]` (SiLU already applied) → `[B, out, h, w]`
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Tensor {
        let hidden = self.conv1.forward(&self.norm1.forward_silu(x));
        let hidden = match (&self.time_emb_proj, time) {
            (Some(proj), Some(time)) => hidden + proj.forward(time).unsqueeze(-1).unsqueeze(-1),
            _ => hidden,
        };
        let hidden = self.conv2.forward(&self.norm2.forward_silu(&hidden));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + hidden,
            None => x + hidden,
        }
    }
}

/// Nearest-neighbour upsampling to a given size.
pub fn upsample(x: &Tensor, height: i64, width: i64) -> Tensor {
    x.upsample_nearest2d([height, width], None, None)
}
