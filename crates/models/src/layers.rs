//! The layers that every network is made of. Each takes its tensors from a [`Scope`] under PyTorch's own names.

use crate::{low_rank::Branch, weights::Scope};
use tch::{Kind, Tensor};
use torch_ext::Shared;

pub struct Linear {
    weight: Shared,
    bias: Option<Shared>,
    adapter: Option<Branch>,
}

impl Linear {
    /// The bias is optional: it is used if the checkpoint has one.
    pub fn new(at: Scope, inputs: i64, outputs: i64) -> Self {
        let bias = at.optional("bias", &[outputs]).map(Shared::from);
        Self { weight: at.tensor("weight", &[outputs, inputs]).into(), bias, adapter: at.adapter().map(Branch::from) }
    }

    /// A 1×1 convolution `[out, in, 1, 1]` as a linear layer.
    pub fn from_pointwise_conv(at: Scope, inputs: i64, outputs: i64) -> Self {
        let weight = at.tensor("weight", &[outputs, inputs, 1, 1]).view([outputs, inputs]);
        Self::tied(weight, at.optional("bias", &[outputs]))
    }

    /// A layer that shares its weight with another, as output heads share the embedding.
    pub fn tied(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight: weight.into(), bias: bias.map(Shared::from), adapter: None }
    }

    /// `[…, in]` → `[…, out]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match &self.adapter {
            None => self.alone(x),
            Some(adapter) if is_half(x.kind()) => self.forward_rounded_once(x, adapter),
            Some(adapter) => self.alone(x) + adapter.forward(x),
        }
    }

    fn alone(&self, x: &Tensor) -> Tensor {
        linear(x, &self.weight, self.bias.as_deref())
    }

    /// `W x` plus the adapter's output, summed in float32 and rounded once. If `W x` were rounded first, an adapter's
    /// output below half of its last place would be lost, as in the first steps of a training.
    fn forward_rounded_once(&self, x: &Tensor, adapter: &Branch) -> Tensor {
        let added = adapter.forward(x);
        let y = added.flatten(0, -2).addmm(&x.flatten(0, -2), &self.weight.tr()).view_as(&added);
        match &self.bias {
            Some(bias) => y + &**bias,
            None => y,
        }
    }
}

/// Whether numbers of that kind have 16 bits.
pub fn is_half(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16)
}

/// `[…, in]` → `[…, out]`; shapes that do not fit panic, as operators of `tch` do.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    torch_ext::linear(x, weight, bias).unwrap_or_else(|_| x.linear(weight, bias))
}

pub struct Conv2d {
    weight: Shared,
    bias: Option<Shared>,
    stride: i64,
    padding: i64,
}

impl Conv2d {
    pub fn new(at: Scope, inputs: i64, outputs: i64, kernel: i64, stride: i64, padding: i64) -> Self {
        let weight = at.tensor("weight", &[outputs, inputs, kernel, kernel]).into();
        Self { weight, bias: at.optional("bias", &[outputs]).map(Shared::from), stride, padding }
    }

    /// The usual 3×3 convolution that keeps the size.
    pub fn same(at: Scope, inputs: i64, outputs: i64) -> Self {
        Self::new(at, inputs, outputs, 3, 1, 1)
    }

    /// `[B, in, h, w]` → `[B, out, h', w']`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (stride, padding) = (self.stride, self.padding);
        torch_ext::conv2d(x, &self.weight, self.bias.as_deref(), stride, padding)
            .unwrap_or_else(|_| x.conv2d(&self.weight, self.bias.as_deref(), [stride; 2], [padding; 2], [1, 1], 1))
    }
}

pub struct GroupNorm {
    weight: Shared,
    bias: Shared,
    groups: i64,
    eps: f64,
}

impl GroupNorm {
    pub fn new(at: Scope, channels: i64, groups: i64, eps: f64) -> Self {
        let [weight, bias] = ["weight", "bias"].map(|name| at.tensor(name, &[channels]).into());
        Self { weight, bias, groups, eps }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.group_norm(self.groups, Some(&*self.weight), Some(&*self.bias), self.eps, true)
    }

    /// The norm, then SiLU.
    pub fn forward_silu(&self, x: &Tensor) -> Tensor {
        torch_ext::group_norm_silu(x, self.groups, &self.weight, &self.bias, self.eps)
            .unwrap_or_else(|_| self.forward(x).silu())
    }
}

pub struct LayerNorm {
    weight: Shared,
    bias: Shared,
    eps: f64,
}

impl LayerNorm {
    pub fn new(at: Scope, width: i64, eps: f64) -> Self {
        let [weight, bias] = ["weight", "bias"].map(|name| at.tensor(name, &[width]).into());
        Self { weight, bias, eps }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&*self.weight), Some(&*self.bias), self.eps, true)
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Activation {
    Gelu,
    /// `x sigmoid(1.702 x)`, OpenAI's activation for CLIP.
    QuickGelu,
    Silu,
}

impl Activation {
    /// The activation with this name in a configuration.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "quick_gelu" => Some(Self::QuickGelu),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }

    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
            Self::QuickGelu => x * (x * 1.702).sigmoid(),
            Self::Silu => x.silu(),
        }
    }
}

/// Multi-head attention without forming the map: `softmax(q k^T / sqrt(d)) v`.
///
/// q `[B, N, heads·d]`, k and v `[B, M, heads·d]` → `[B, N, heads·d]`. `mask` is added to the scores.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: i64, mask: Option<&Tensor>, causal: bool) -> Tensor {
    let split = |x: &Tensor| {
        let (batch, tokens, width) = x.size3().expect("attention takes [B, N, width]");
        x.view([batch, tokens, heads, width / heads]).transpose(1, 2)
    };
    let out = Tensor::scaled_dot_product_attention(&split(q), &split(k), &split(v), mask, 0.0, causal, None, false);
    let (batch, _, tokens, head_width) = out.size4().expect("[B, heads, N, d]");
    out.transpose(1, 2).reshape([batch, tokens, heads * head_width])
}

/// Sines and cosines of `positions` `[N]` → `[N, width]`, float32: the embedding of diffusion timesteps.
///
/// Source: diffusers `get_timestep_embedding`.
pub fn sinusoidal(positions: &Tensor, width: i64, cos_first: bool, freq_shift: f64) -> Tensor {
    let half = width / 2;
    let options = (Kind::Float, positions.device());
    let frequencies = (Tensor::arange(half, options) * -(10000f64.ln()) / (half as f64 - freq_shift)).exp();
    let angles = positions.to_kind(Kind::Float).unsqueeze(1) * frequencies.unsqueeze(0);
    let (sin, cos) = (angles.sin(), angles.cos());
    let halves = if cos_first { [cos, sin] } else { [sin, cos] };
    Tensor::cat(&halves, 1).constant_pad_nd([0, width % 2])
}
