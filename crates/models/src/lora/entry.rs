//! The tensors of a file for one layer, and the change that they give.

use super::{
    LowRank,
    change::{Change, Delta, Magnitude, Matrix},
    parts::{Factor, Part},
};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

#[derive(Default)]
pub struct Entry {
    pub alpha: Option<f64>,
    /// LyCORIS' factor of the whole update.
    pub scalar: Option<f64>,
    parts: BTreeMap<Part, Piece>,
}

/// A tensor, with its key in the file.
pub struct Piece {
    pub key: String,
    pub tensor: Tensor,
}

/// Message for a part that is there already.
const DUPLICATE: &str = "is there for the second time, in another format";

impl Entry {
    pub(super) fn add(&mut self, part: Part, key: String, tensor: Tensor) -> Result<(), &'static str> {
        if part.is_number() {
            if tensor.numel() != 1 {
                return Err("is not a single number");
            }
            let number = tensor.reshape([1]).to_kind(Kind::Double).double_value(&[0]);
            let place = if part == Part::Alpha { &mut self.alpha } else { &mut self.scalar };
            return if place.replace(number).is_some() { Err(DUPLICATE) } else { Ok(()) };
        }
        if !tensor.is_floating_point() {
            return Err("holds whole numbers");
        }
        if tensor.numel() == 0 {
            return Err("holds no numbers");
        }
        if self.parts.contains_key(&part) {
            return Err(DUPLICATE);
        }
        self.parts.insert(part, Piece { key, tensor });
        Ok(())
    }

    pub fn get(&self, part: Part) -> Option<&Tensor> {
        self.parts.get(&part).map(|piece| &piece.tensor)
    }

    /// All parts but the single numbers.
    pub fn pieces(&self) -> impl Iterator<Item = (Part, &Piece)> {
        self.parts.iter().map(|(part, piece)| (*part, piece))
    }

    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.parts.values().map(|piece| &piece.tensor)
    }

    /// `None` if no matrix is a product, as in a LoKr of two full matrices, or in a difference.
    pub fn rank(&self) -> Option<i64> {
        let of = |part| self.get(part).and_then(|t| t.size().first().copied());
        [Part::Down, Part::EmbeddingDown, Part::Loha(Factor::W1B), Part::Lokr(Factor::W2B), Part::Lokr(Factor::W1B)]
            .into_iter()
            .find_map(of)
    }

    /// Whether its matrices have a scale of alpha / rank; a difference has none.
    pub fn is_scaled(&self) -> bool {
        !self.parts.keys().all(|part| {
            matches!(part, Part::Difference | Part::BiasDifference | Part::NormDifference | Part::NormBiasDifference)
        })
    }

    /// Inputs of the layer's weight, if the matrices tell.
    pub fn inputs(&self) -> Option<i64> {
        let columns = |part| self.get(part).and_then(|t| t.size().get(1).copied());
        let of_matrix = |w, b| columns(w).or_else(|| columns(b));
        let lokr = || {
            let first = of_matrix(Part::Lokr(Factor::W1), Part::Lokr(Factor::W1B))?;
            Some(first * of_matrix(Part::Lokr(Factor::W2), Part::Lokr(Factor::W2B))?)
        };
        columns(Part::Down)
            .or_else(|| columns(Part::Loha(Factor::W1B)))
            .or_else(lokr)
            .or_else(|| columns(Part::Difference))
    }

    /// The change of the layer; `scale` is that of the matrices. Tensors are in the file's own precision.
    ///
    /// # Errors
    /// What is missing or does not fit together, in a few words.
    pub fn change(&self, scale: f64) -> Result<Change, String> {
        let scale = scale * self.scalar.unwrap_or(1.0);
        let mut deltas = vec![];
        deltas.extend(self.low_rank(scale)?.map(Delta::LowRank));
        let pair_of = |of: fn(Factor) -> Part, what: &str| {
            let matrices = (self.matrix(of, FIRST, what)?, self.matrix(of, SECOND, what)?);
            match matrices {
                (Some(first), Some(second)) => Ok(Some((first, second))),
                (None, None) => Ok(None),
                _ => Err(format!("lacks one of its two {what} matrices")),
            }
        };
        deltas.extend(pair_of(Part::Loha, "LoHa")?.map(|(a, b)| Delta::Hadamard(a, b, scale)));
        deltas.extend(pair_of(Part::Lokr, "LoKr")?.map(|(a, b)| Delta::Kronecker(a, b, scale)));
        let whole = self.get(Part::Difference).or(self.get(Part::NormDifference));
        deltas.extend(whole.map(|t| Delta::Whole(multiplied(t, self.scalar.unwrap_or(1.0)))));
        if deltas.len() > 1 {
            return Err("has matrices of two kinds of adapters".into());
        }
        let delta = deltas.pop();
        let is_pefts = self.get(Part::Magnitude).is_some();
        let is_embedding = self.get(Part::EmbeddingDown).is_some();
        let norms = self.get(Part::Magnitude).or(self.get(Part::DoraScale));
        // peft has a norm for each output; of an embedding, whose weight is [words, width], for each of the width
        let magnitude = norms.map(|norms| Magnitude {
            norms: if is_pefts && is_embedding { norms.reshape([1, -1]) } else { norms.shallow_clone() },
            of_outputs: is_pefts && !is_embedding,
        });
        if magnitude.is_some() && delta.is_none() {
            return Err("has the norms of a DoRA but no matrices".into());
        }
        let plain = self.get(Part::BiasDifference).or(self.get(Part::NormBiasDifference));
        let bias = match (plain, self.get(Part::UpBias)) {
            (Some(_), Some(_)) => return Err("has two biases".into()),
            (Some(bias), None) => Some(bias.shallow_clone()),
            (None, bias) => bias.map(|bias| multiplied(bias, scale)),
        };
        match (&delta, &bias) {
            (None, None) if self.alpha.is_some() => Err("has an alpha but no matrices".into()),
            (None, None) => Err("has no matrices".into()),
            _ => Ok(Change { delta, magnitude, bias }),
        }
    }

    /// The core of a LoCon is multiplied into its down matrix: the two convolutions in sequence are one.
    fn low_rank(&self, scale: f64) -> Result<Option<LowRank>, String> {
        let turned = |part| self.get(part).filter(|t| t.dim() == 2).map(|t| t.tr());
        let down = self.get(Part::Down).map(Tensor::shallow_clone).or_else(|| turned(Part::EmbeddingUp));
        let up = self.get(Part::Up).map(Tensor::shallow_clone).or_else(|| turned(Part::EmbeddingDown));
        let (down, up) = match (down, up) {
            (Some(down), Some(up)) => (down, up),
            (None, Some(_)) => return Err("lacks its down matrix".into()),
            (Some(_), None) => return Err("lacks its up matrix".into()),
            (None, None) if self.get(Part::Core).is_some() => return Err("lacks its down and up matrix".into()),
            (None, None) => return Ok(None),
        };
        if down.dim() < 2 || up.dim() < 2 {
            return Err("has a down or up that is no matrix".into());
        }
        let down = match self.get(Part::Core) {
            Some(core) => {
                let (outer, inner) = (core.size(), down.size());
                if outer.len() < 2 || outer[1] != inner[0] || inner[2..].iter().any(|&n| n != 1) {
                    return Err(format!("has a core {outer:?} that does not go with its down {inner:?}"));
                }
                let wide = if down.kind() == Kind::Double { Kind::Double } else { Kind::Float };
                let core = core.to_kind(wide).reshape([outer[0], outer[1], -1]);
                let one = Tensor::einsum("pqk,qi->pik", &[core, down.to_kind(wide).flatten(1, -1)], None::<i64>);
                one.reshape([&[outer[0], inner[1]], &outer[2..]].concat())
            }
            None => down,
        };
        if up.size()[1] != down.size()[0] {
            return Err(format!("has a down {:?} and up {:?} of different ranks", down.size(), up.size()));
        }
        Ok(Some(LowRank { alpha: scale * down.size()[0] as f64, down, up }))
    }

    fn matrix(&self, of: fn(Factor) -> Part, names: [Factor; 4], what: &str) -> Result<Option<Matrix>, String> {
        let [whole, a, b, core] = names.map(|name| self.get(of(name)).map(Tensor::shallow_clone));
        let matrix = match (whole, a, b, core) {
            (None, None, None, None) => return Ok(None),
            (Some(whole), None, None, None) => Matrix::Whole(whole),
            (None, Some(a), Some(b), None) => Matrix::Product(a, b),
            (None, Some(a), Some(b), Some(core)) => Matrix::Tucker(core, a, b),
            _ => return Err(format!("lacks a piece of its {what} matrices, or has one too many")),
        };
        if matrix.shape().is_none() {
            let sizes: Vec<_> = matrix.tensors().into_iter().map(Tensor::size).collect();
            return Err(format!("has pieces of its {what} matrices that do not go together: {sizes:?}"));
        }
        Ok(Some(matrix))
    }
}

const FIRST: [Factor; 4] = [Factor::W1, Factor::W1A, Factor::W1B, Factor::T1];
const SECOND: [Factor; 4] = [Factor::W2, Factor::W2A, Factor::W2B, Factor::T2];

fn multiplied(tensor: &Tensor, factor: f64) -> Tensor {
    if factor == 1.0 { tensor.shallow_clone() } else { tensor.to_kind(Kind::Float) * factor }
}
