//! Parts that encoder and decoder share.

use crate::{
    layers::{Linear, attention},
    weights::Scope,
};
use std::f64::consts::TAU;
use tch::{Kind, Tensor};

/// Precision of coordinates and of sigmoids: half precision would move boxes by whole pixels.
pub fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// Zero where `visible`, minus infinity elsewhere: to be added to the scores of an attention.
pub fn scores(visible: &Tensor, kind: Kind) -> Tensor {
    visible.zeros_like().to_kind(kind).masked_fill(&visible.logical_not(), f64::NEG_INFINITY)
}

/// Attention between sequences of the model's width.
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out_proj: Linear,
    heads: i64,
}

impl Attention {
    pub fn new(at: Scope, width: i64, heads: i64) -> Self {
        Self {
            query: Linear::new(&at / "query", width, width),
            key: Linear::new(&at / "key", width, width),
            value: Linear::new(&at / "value", width, width),
            out_proj: Linear::new(&at / "out_proj", width, width),
            heads,
        }
    }

    pub fn forward(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, scores: Option<&Tensor>) -> Tensor {
        let (q, k, v) = (self.query.forward(queries), self.key.forward(keys), self.value.forward(values));
        self.out_proj.forward(&attention(&q, &k, &v, self.heads, scores, false))
    }
}

/// ReLU in place.
pub fn rectify(mut x: Tensor) -> Tensor {
    x.relu_()
}

/// Linear layers with ReLU between them.
pub struct Mlp(Vec<Linear>);

impl Mlp {
    /// `widths`: of the input, of the hidden layers, of the output.
    pub fn new(at: Scope, widths: &[i64]) -> Self {
        let layer = |(i, pair): (usize, &[i64])| Linear::new(&at / "layers" / i, pair[0], pair[1]);
        Self(widths.windows(2).enumerate().map(layer).collect())
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let mut x = x.shallow_clone();
        for (i, layer) in self.0.iter().enumerate() {
            x = layer.forward(&if i == 0 { x } else { rectify(x) });
        }
        x
    }
}

/// Alternating sines and cosines of positions in 0..1: `[…]` → `[…, width]`, in the precision of the positions.
pub fn sine(positions: &Tensor, width: i64, temperature: f64) -> Tensor {
    // float32 for positions of any precision, as upstream computes the frequencies
    let pairs = Tensor::arange(width, (Kind::Float, positions.device())).divide_scalar_mode(2, "floor");
    let periods = Tensor::pow_scalar(temperature, &(pairs * 2 / width));
    let angles = (positions * TAU).unsqueeze(-1) / periods;
    let every_second = |from: i64| angles.slice(-1, from, None, 2);
    Tensor::stack(&[every_second(0).sin(), every_second(1).cos()], -1).flatten(-2, -1)
}
