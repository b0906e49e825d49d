//! Weights with adapters: as trained side branches, or added to the weights.

use super::{Weights, enumerate};
use crate::{
    error::{Error, Result},
    layers::is_half,
    lora::{self, Changes, Lora, LowRank},
    tensors::Tensors,
};
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;

impl Weights {
    /// These weights with the adapter as trainable side branches. Tensors are shared.
    pub fn with_adapter(&self, lora: &Lora) -> Result<Self> {
        self.check(&[Changes::from(lora)])?;
        let adapter = lora.pairs().map(|(path, pair)| (path.clone(), pair.shallow_clone())).collect();
        Ok(Self { tensors: self.share(), adapter, origin: self.origin.clone() })
    }

    /// These weights with the adapter, for inference, not for training: see [`Weights::changed`].
    pub fn with_frozen(&self, lora: &Lora) -> Result<Self> {
        self.changed(&[Changes::from(lora)])
    }

    /// These weights plus the adapter: `W + scale * up down`. Only the adapted tensors are new.
    pub fn merged(&self, lora: &Lora) -> Result<Self> {
        let changes = [Changes::from(lora)];
        self.check(&changes)?;
        Ok(Self { tensors: self.sum(&changes, |_| true), adapter: BTreeMap::new(), origin: self.origin.clone() })
    }

    /// These weights with the changes of the files, for inference. For speed, changes are added to the weights where
    /// that is exact enough. In half precision, plain LoRA is a side branch, because an update below half of a weight's
    /// last digit (6e-5 for bfloat16 and a weight of 0.03) would be rounded away. Convolutions, embeddings, LoHa,
    /// LoKr and DoRA have no branch; they are added in any case.
    ///
    /// # Errors
    /// Layers that these weights do not have, or have with another shape.
    pub fn changed(&self, all: &[Changes]) -> Result<Self> {
        self.check(all)?;
        let has_branch = |layer: &str| {
            let weight = &self.tensors[&format!("{layer}.weight")];
            let plain = |changes: &Changes| changes.get(layer).is_none_or(|change| change.plain().is_some());
            // of embeddings, which are tables and no products, only the weight is looked at
            let is_table = layer.split('.').any(|part| part == "embeddings");
            is_half(weight.kind()) && weight.dim() == 2 && !is_table && all.iter().all(plain)
        };
        let layers: BTreeSet<&String> = all.iter().flat_map(|c| c.layers().map(|(layer, _)| layer)).collect();
        let branch = |layer: &&String| {
            let kind = self.tensors[&format!("{layer}.weight")].kind();
            let pairs = all.iter().filter_map(|c| Some((c.get(layer)?.plain()?, c.strength())));
            ((*layer).clone(), LowRank::frozen(pairs, kind))
        };
        let _guard = tch::no_grad_guard();
        let adapter = layers.iter().filter(|layer| has_branch(layer)).map(branch).collect();
        Ok(Self { tensors: self.sum(all, |layer| !has_branch(layer)), adapter, origin: self.origin.clone() })
    }

    /// All tensors, with the changes of the files in the layers for which `taken` is true. The changes have been
    /// checked.
    fn sum(&self, all: &[Changes], taken: impl Fn(&str) -> bool) -> Tensors {
        let _guard = tch::no_grad_guard();
        let mut tensors = self.share();
        for (layer, change) in all.iter().flat_map(Changes::layers).filter(|(layer, _)| taken(layer)) {
            let mut replace = |key: String, original: &Tensor| {
                if let Some(sum) = lora::sum(&key, original, all) {
                    tensors.insert(key, sum.to_kind(original.kind()));
                }
            };
            let weight = &self.tensors[&format!("{layer}.weight")];
            replace(format!("{layer}.weight"), weight);
            if change.bias.is_some() {
                let key = format!("{layer}.bias");
                let none = || Tensor::zeros([weight.size()[0]], (weight.kind(), weight.device()));
                let bias = self.tensors.get(&key).map_or_else(none, Tensor::shallow_clone);
                replace(key, &bias);
            }
        }
        tensors
    }

    fn check(&self, all: &[Changes]) -> Result<()> {
        for changes in all {
            let problems = changes.misfits(&self.tensors);
            if !problems.is_empty() {
                let text = format!("it does not go with {}: {}", self.origin.display(), enumerate(&problems));
                return Err(Error::file(changes.origin(), text));
            }
        }
        Ok(())
    }
}
