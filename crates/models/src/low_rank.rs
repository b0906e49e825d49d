//! A pair of matrices whose product is added to a weight.

use crate::layers::linear;
use tch::{Kind, Tensor};
use torch_ext::Shared;

/// One adapted layer: down `[r, in]`, up `[out, r]`; for a convolution `[r, in, k, k]` and `[out, r, 1, 1]`. In a file
/// the number of dimensions of length 1 may differ.
pub struct LowRank {
    pub down: Tensor,
    pub up: Tensor,
    pub alpha: f64,
}

impl LowRank {
    pub fn rank(&self) -> i64 {
        self.down.size()[0]
    }

    /// alpha / rank
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank() as f64
    }

    /// Several adapters of a linear layer, each with its strength, as one for a layer in that precision. The scales are
    /// folded into `up`, so that nothing needs a cast at every call.
    pub(crate) fn frozen<'a>(pairs: impl Iterator<Item = (&'a Self, f64)>, kind: Kind) -> Self {
        let (mut downs, mut ups) = (vec![], vec![]);
        for (pair, strength) in pairs {
            downs.push(pair.down.detach().to_kind(kind));
            ups.push((pair.up.detach() * (pair.scale() * strength)).to_kind(kind));
        }
        let down = Tensor::cat(&downs, 0);
        Self { alpha: down.size()[0] as f64, down, up: Tensor::cat(&ups, 1) }
    }

    /// `scale · up down`, in the shape of the layer's weight.
    pub fn product(&self, shape: &[i64]) -> Tensor {
        (self.up.flatten(1, -1).matmul(&self.down.flatten(1, -1)) * self.scale()).view(shape)
    }

    /// Whether this pair can be added to a weight of that shape.
    pub fn fits(&self, weight: &[i64]) -> bool {
        let (down, up) = (self.down.size(), self.up.size());
        let same = |ours: &[i64], theirs: &[i64]| trimmed(ours) == trimmed(theirs);
        let flat = down.len() == 2 && weight.len() > 2 && down[1] == weight[1..].iter().product::<i64>();
        weight.len() >= 2
            && (same(&down[1..], &weight[1..]) || flat)
            && same(&up, &[weight[0], down[0]])
            && down[0] > 0
            && down[1..].iter().all(|&n| n > 0)
    }

    /// The pair with as many dimensions as a weight that it fits.
    pub(super) fn shaped(&self, weight: &[i64]) -> Self {
        let ones = vec![1; weight.len() - 2];
        let down = self.down.reshape([&[self.rank()], &weight[1..]].concat());
        Self { down, up: self.up.reshape([&[weight[0], self.rank()], &ones[..]].concat()), alpha: self.alpha }
    }

    /// `up` multiplied by the scale, in its own precision.
    pub(super) fn folded_up(&self) -> Tensor {
        if self.scale() == 1.0 {
            return self.up.shallow_clone();
        }
        let wide = if self.up.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        (self.up.to_kind(wide) * self.scale()).to_kind(self.up.kind())
    }

    /// `‖scale · up down‖²` as the trace of two r × r matrices: the product itself would be as large as the layer.
    pub(super) fn squared_norm(&self) -> f64 {
        let wide = |t: &Tensor| t.flatten(1, -1).to_kind(Kind::Double);
        let (down, up) = (wide(&self.down), wide(&self.up));
        let trace = (down.matmul(&down.tr()) * up.tr().matmul(&up)).sum(Kind::Double).double_value(&[]);
        trace * self.scale() * self.scale()
    }

    /// The values, detached from any graph.
    pub(super) fn detached(&self, kind: Option<Kind>) -> Self {
        let of = |t: &Tensor| kind.map_or(t.detach().shallow_clone(), |kind| t.detach().to_kind(kind));
        Self { down: of(&self.down), up: of(&self.up), alpha: self.alpha }
    }

    pub fn shallow_clone(&self) -> Self {
        Self { down: self.down.shallow_clone(), up: self.up.shallow_clone(), alpha: self.alpha }
    }
}

/// A pair in a network, beside a linear layer.
pub struct Branch {
    down: Shared,
    up: Shared,
    scale: f64,
}

impl From<LowRank> for Branch {
    fn from(pair: LowRank) -> Self {
        Self { scale: pair.scale(), down: pair.down.into(), up: pair.up.into() }
    }
}

impl Branch {
    /// `scale · up (down x)`, computed in `x`'s precision.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let hidden = linear(x, &self.down.to_kind(x.kind()), None);
        let up = if self.scale == 1.0 { self.up.shallow_clone() } else { &*self.up * self.scale };
        linear(&hidden, &up.to_kind(x.kind()), None)
    }
}

/// The shape without trailing dimensions of length 1.
fn trimmed(shape: &[i64]) -> &[i64] {
    let length = shape.iter().rposition(|&n| n != 1).map_or(0, |last| last + 1);
    &shape[..length]
}
