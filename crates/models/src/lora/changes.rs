//! The changes of one network by a file.

use super::{Lora, change::Change};
use crate::{
    error::{Error, Result},
    tensors::Tensors,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tch::{Kind, Tensor};

/// Changes by the path of the layer, and the strength.
pub struct Changes {
    layers: BTreeMap<String, Change>,
    strength: f64,
    origin: PathBuf,
}

impl Changes {
    pub(super) fn new(layers: BTreeMap<String, Change>, origin: PathBuf) -> Self {
        Self { layers, strength: 1.0, origin }
    }

    /// The same changes with the strength multiplied by `factor`. The strength scales what a change adds to the weight;
    /// for DoRA that includes the effect of its norms.
    pub fn scaled(self, factor: f64) -> Self {
        Self { strength: self.strength * factor, ..self }
    }

    pub fn layers(&self) -> impl Iterator<Item = (&String, &Change)> {
        self.layers.iter()
    }

    pub fn get(&self, layer: &str) -> Option<&Change> {
        self.layers.get(layer)
    }

    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    pub fn strength(&self) -> f64 {
        self.strength
    }

    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The pairs as a trainable adapter.
    ///
    /// # Errors
    /// If a layer has anything but a pair.
    pub fn into_lora(self) -> Result<Lora> {
        let mut pairs = BTreeMap::new();
        for (layer, change) in self.layers {
            let Some(pair) = change.plain() else {
                let message = format!(
                    "{layer} has a {}, which is not trained on; `comat lora merge` puts it into a model that can be",
                    change.kind()
                );
                return Err(Error::file(&self.origin, message));
            };
            pairs.insert(layer, super::LowRank { alpha: pair.alpha * self.strength, ..pair.shallow_clone() });
        }
        Ok(Lora { pairs, origin: self.origin })
    }

    /// Why the changes do not fit the tensors of a network, for each layer. A bias that the network does not have is
    /// ignored.
    pub(crate) fn misfits(&self, tensors: &Tensors) -> Vec<String> {
        let misfit = |(layer, change): (&String, &Change)| match tensors.get(&format!("{layer}.weight")) {
            None => Some(format!("there is no layer {layer}")),
            Some(weight) => change.misfit(&weight.size()).map(|why| format!("{layer}: {why}")),
        };
        self.layers.iter().filter_map(misfit).collect()
    }
}

impl From<&Lora> for Changes {
    /// Tensors are shared.
    fn from(lora: &Lora) -> Self {
        let change = |(layer, pair): (&String, &super::LowRank)| (layer.clone(), Change::of(pair.shallow_clone()));
        Self::new(lora.pairs().map(change).collect(), lora.origin().to_owned())
    }
}

/// A network's tensor plus the changes of all files, each computed from the original; in float32, or in float64 if the
/// tensor is. `None`: nothing changes it.
pub fn sum(key: &str, tensor: &Tensor, all: &[Changes]) -> Option<Tensor> {
    let (layer, what) = key.rsplit_once('.')?;
    let wide = |kind: Kind| if kind == Kind::Double { Kind::Double } else { Kind::Float };
    let deep = |c: &Change| c.plain().is_some_and(|pair| pair.up.kind() == Kind::Double);
    let kind = if all.iter().filter_map(|c| c.get(layer)).any(deep) { Kind::Double } else { wide(tensor.kind()) };
    let original = tensor.to_kind(kind);
    let added = |changes: &Changes| {
        let change = changes.get(layer)?;
        let added = match what {
            "weight" => change.added(&original)?,
            "bias" => change.bias.as_ref()?.to_kind(kind).view_as(&original),
            _ => return None,
        };
        Some(added * changes.strength)
    };
    let mut added = all.iter().filter_map(added).peekable();
    added.peek()?;
    Some(added.fold(original.shallow_clone(), |sum, added| sum + added))
}
