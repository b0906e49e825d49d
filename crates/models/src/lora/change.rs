//! The new weights of an adapted layer: the sum with a LoRA, LoHa, LoKr or full difference, and the norms of DoRA if
//! there are any.
//!
//! LoHa: Hyeon-Woo et al. 2021 (FedPara). LoKr: Yeh et al. 2023 (LyCORIS). DoRA: Liu et al. 2024.

use super::LowRank;
use tch::{Kind, Tensor};

/// The change of one layer by an adapter file.
pub struct Change {
    pub delta: Option<Delta>,
    pub magnitude: Option<Magnitude>,
    /// Added to the bias, `[out]`.
    pub bias: Option<Tensor>,
}

/// The update of a weight `[out, in]` or `[out, in, k, k]`.
pub enum Delta {
    /// LoRA, LoCon
    LowRank(LowRank),
    /// LoHa: two matrices `[out, in·k·k]`, multiplied value by value, and the scale.
    Hadamard(Matrix, Matrix, f64),
    /// LoKr: the Kronecker product of `[a, b]` and `[out / a, in / b · k·k]`, and the scale.
    Kronecker(Matrix, Matrix, f64),
    /// The full update, in the weight's shape.
    Whole(Tensor),
}

/// A matrix as stored in a file.
pub enum Matrix {
    Whole(Tensor),
    /// `[rows, r]` and `[r, columns]`
    Product(Tensor, Tensor),
    /// Core `[r, r, k, k]`, `[r, rows]`, `[r, columns / k·k]`
    Tucker(Tensor, Tensor, Tensor),
}

/// DoRA's norm of the weight for each output, or for each input: values, and the axis.
pub struct Magnitude {
    pub norms: Tensor,
    /// Always along the outputs, as in peft; otherwise the shape tells.
    pub of_outputs: bool,
}

impl Matrix {
    /// Rows, and columns including the kernel's. `None`: the parts do not fit together.
    pub fn shape(&self) -> Option<[i64; 2]> {
        let columns = |shape: &[i64]| shape[1..].iter().product::<i64>();
        match self {
            Self::Whole(t) if t.dim() >= 2 => Some([t.size()[0], columns(&t.size())]),
            Self::Product(a, b) if a.dim() >= 2 && b.dim() >= 2 => {
                (columns(&a.size()) == b.size()[0]).then(|| [a.size()[0], columns(&b.size())])
            }
            Self::Tucker(core, a, b) if core.dim() >= 2 && a.dim() == 2 && b.dim() == 2 => {
                let (core, a, b) = (core.size(), a.size(), b.size());
                (core[0] == a[0] && core[1] == b[0]).then(|| [a[1], b[1] * core[2..].iter().product::<i64>()])
            }
            _ => None,
        }
    }

    /// The matrix `[rows, columns]` in the precision of `kind`.
    fn value(&self, kind: Kind) -> Tensor {
        let flat = |t: &Tensor| t.to_kind(kind).flatten(1, -1);
        match self {
            Self::Whole(t) => flat(t),
            Self::Product(a, b) => flat(a).matmul(&flat(b)),
            Self::Tucker(core, a, b) => {
                let wide = [core, a, b].map(|t| t.to_kind(kind));
                let (r, s) = (core.size()[0], core.size()[1]);
                let core = wide[0].reshape([r, s, -1]);
                Tensor::einsum("ijk,ip,jq->pqk", &[&core, &wide[1], &wide[2]], None::<i64>).flatten(1, -1)
            }
        }
    }

    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Whole(t) => vec![t],
            Self::Product(a, b) => vec![a, b],
            Self::Tucker(core, a, b) => vec![core, a, b],
        }
    }

    fn mapped(&self, of: impl Fn(&Tensor) -> Tensor) -> Self {
        match self {
            Self::Whole(t) => Self::Whole(of(t)),
            Self::Product(a, b) => Self::Product(of(a), of(b)),
            Self::Tucker(core, a, b) => Self::Tucker(of(core), of(a), of(b)),
        }
    }
}

impl Delta {
    /// Outputs, and inputs times the size of the kernel (1 for a vector). `None`: the parts do not fit together.
    fn shape(&self) -> Option<[i64; 2]> {
        match self {
            Self::LowRank(pair) => Some([pair.up.size()[0], pair.down.size()[1..].iter().product()]),
            Self::Hadamard(a, b, _) => a.shape().filter(|shape| Some(*shape) == b.shape()),
            Self::Kronecker(a, b, _) => {
                let (a, b) = (a.shape()?, b.shape()?);
                Some([a[0] * b[0], a[1] * b[1]])
            }
            Self::Whole(t) => Some([*t.size().first()?, t.size()[1..].iter().product()]),
        }
    }

    /// Whether it can be added to a weight of that shape.
    pub fn fits(&self, weight: &[i64]) -> bool {
        match self {
            Self::LowRank(pair) => pair.fits(weight),
            _ => weight.first().is_some_and(|&out| self.shape() == Some([out, weight[1..].iter().product()])),
        }
    }

    /// The update in the shape of a weight, which it must fit, in the precision of `kind`.
    pub fn value(&self, shape: &[i64], kind: Kind) -> Tensor {
        match self {
            Self::LowRank(pair) => pair.detached(Some(kind)).product(shape),
            Self::Hadamard(a, b, scale) => (a.value(kind) * b.value(kind) * *scale).view(shape),
            Self::Kronecker(a, b, scale) => (a.value(kind).kron(&b.value(kind)) * *scale).reshape(shape),
            Self::Whole(t) => t.to_kind(kind).reshape(shape),
        }
    }

    /// Square of the Frobenius norm; `None` if the parts do not fit together.
    pub fn squared_norm(&self) -> Option<f64> {
        let of = |t: Tensor| t.square().sum(Kind::Double).double_value(&[]);
        let shape = self.shape()?;
        Some(match self {
            Self::LowRank(pair) => pair.squared_norm(),
            Self::Kronecker(a, b, scale) => of(a.value(Kind::Double)) * of(b.value(Kind::Double)) * scale * scale,
            _ => of(self.value(&shape, Kind::Double)),
        })
    }

    /// Whether it adds nothing to any weight.
    pub fn is_zero(&self) -> bool {
        let zero = |t: &Tensor| t.count_nonzero(None).int64_value(&[]) == 0;
        match self {
            Self::LowRank(pair) => zero(&pair.up),
            Self::Hadamard(a, b, _) | Self::Kronecker(a, b, _) => a.tensors().into_iter().chain(b.tensors()).any(zero),
            Self::Whole(t) => zero(t),
        }
    }

    fn mapped(&self, of: impl Fn(&Tensor) -> Tensor) -> Self {
        match self {
            Self::LowRank(pair) => Self::LowRank(LowRank { down: of(&pair.down), up: of(&pair.up), alpha: pair.alpha }),
            Self::Hadamard(a, b, scale) => Self::Hadamard(a.mapped(&of), b.mapped(&of), *scale),
            Self::Kronecker(a, b, scale) => Self::Kronecker(a.mapped(&of), b.mapped(&of), *scale),
            Self::Whole(t) => Self::Whole(of(t)),
        }
    }

    /// Describes the update with its shapes.
    fn describe(&self) -> String {
        match self {
            Self::LowRank(pair) => format!("down {:?} and up {:?}", pair.down.size(), pair.up.size()),
            Self::Hadamard(a, b, _) => format!("the LoHa matrices {:?} and {:?}", sizes(a), sizes(b)),
            Self::Kronecker(a, b, _) => format!("the LoKr matrices {:?} and {:?}", sizes(a), sizes(b)),
            Self::Whole(t) => format!("the difference {:?}", t.size()),
        }
    }
}

fn sizes(matrix: &Matrix) -> Vec<Vec<i64>> {
    matrix.tensors().into_iter().map(Tensor::size).collect()
}

impl Magnitude {
    /// Shape that broadcasts over a weight of that shape, along the outputs `[out, 1, …]` or the inputs `[1, in, 1,
    /// …]`, and whether along the outputs. `None`: it fits neither.
    fn along(&self, weight: &[i64]) -> Option<(Vec<i64>, bool)> {
        let shape = self.norms.size();
        let numbers: i64 = shape.iter().product();
        let (&out, inputs) = (weight.first()?, weight.get(1).copied());
        let mut along = vec![1; weight.len()];
        // a norm for each output is [out, 1, …], [out] or peft's [1, out, 1, 1]; one for each input is [1, in, …]
        let is_row = shape.len() > 1 && shape[0] == 1;
        if numbers == out && (self.of_outputs || !is_row || Some(out) != inputs) {
            along[0] = out;
            return Some((along, true));
        }
        if Some(numbers) == inputs && !self.of_outputs && is_row {
            along[1] = numbers;
            return Some((along, false));
        }
        None
    }

    /// The weight rescaled to these norms.
    fn apply(&self, weight: &Tensor) -> Tensor {
        let Some((along, of_outputs)) = self.along(&weight.size()) else { return weight.shallow_clone() };
        let axes: Vec<i64> = (0..weight.dim() as i64).filter(|&axis| axis != i64::from(!of_outputs)).collect();
        let norm = weight.square().sum_dim_intlist(axes, true, weight.kind()).sqrt() + f64::from(f32::EPSILON);
        weight * (self.norms.to_kind(weight.kind()).reshape(along) / norm)
    }
}

impl Change {
    pub fn of(pair: LowRank) -> Self {
        Self { delta: Some(Delta::LowRank(pair)), magnitude: None, bias: None }
    }

    /// The matrix pair, if the change is nothing else.
    pub fn plain(&self) -> Option<&LowRank> {
        match self {
            Self { delta: Some(Delta::LowRank(pair)), magnitude: None, bias: None } => Some(pair),
            _ => None,
        }
    }

    /// Name of this adapter kind.
    pub fn kind(&self) -> &'static str {
        match (&self.delta, &self.magnitude) {
            (Some(Delta::LowRank(_)), None) if self.bias.is_some() => "LoRA with biases",
            (Some(Delta::LowRank(_)), None) => "LoRA",
            (Some(Delta::LowRank(_)), Some(_)) => "DoRA",
            (Some(Delta::Hadamard(..)), None) => "LoHa",
            (Some(Delta::Hadamard(..)), Some(_)) => "LoHa with DoRA's norms",
            (Some(Delta::Kronecker(..)), None) => "LoKr",
            (Some(Delta::Kronecker(..)), Some(_)) => "LoKr with DoRA's norms",
            (Some(Delta::Whole(_)) | None, _) => "full difference",
        }
    }

    /// Why the change does not fit a weight of that shape.
    pub fn misfit(&self, weight: &[i64]) -> Option<String> {
        if let Some(delta) = self.delta.as_ref().filter(|delta| !delta.fits(weight)) {
            return Some(format!("{} do not fit the layer's weight {weight:?}", delta.describe()));
        }
        if let Some(magnitude) = self.magnitude.as_ref().filter(|m| m.along(weight).is_none()) {
            return Some(format!("the norms {:?} do not fit the layer's weight {weight:?}", magnitude.norms.size()));
        }
        let bias = self.bias.as_ref().filter(|bias| Some(bias.numel() as i64) != weight.first().copied());
        bias.map(|bias| format!("the bias {:?} does not fit the layer's weight {weight:?}", bias.size()))
    }

    /// The update of a weight that it fits, in its shape; in its precision, but at least float32.
    pub fn added(&self, weight: &Tensor) -> Option<Tensor> {
        let delta = self.delta.as_ref()?.value(&weight.size(), weight.kind());
        Some(match &self.magnitude {
            Some(magnitude) => magnitude.apply(&(weight + delta)) - weight,
            None => delta,
        })
    }

    /// The pair reshaped to as many dimensions as the weight that it fits, so that it can be a side branch.
    pub(super) fn shaped(mut self, weight: &[i64]) -> Self {
        if let Some(Delta::LowRank(pair)) = &mut self.delta {
            *pair = pair.shaped(weight);
        }
        self
    }

    /// Applies a function to every tensor.
    pub(super) fn mapped(&self, of: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            delta: self.delta.as_ref().map(|delta| delta.mapped(&of)),
            magnitude: (self.magnitude.as_ref()).map(|m| Magnitude { norms: of(&m.norms), of_outputs: m.of_outputs }),
            bias: self.bias.as_ref().map(&of),
        }
    }
}
