//! What a file has for one network of a model.

use super::{AdapterFile, Lora, LowRank, Name, Network, base, layers_per_block};
use crate::{
    error::{Error, Result},
    weights::Weights,
};
use std::{collections::BTreeMap, path::Path};
use tch::{Kind, Tensor};

impl AdapterFile {
    /// As [`AdapterFile::read`], for a model with that UNet.
    pub fn read_beside(path: &Path, unet: &Weights) -> Result<Self> {
        Self::read_for(path, layers_per_block(unet))
    }

    /// The adapter of one network, whose weights are given: in float32, by the paths that the layers have in them. It may
    /// have no layers.
    ///
    /// # Errors
    /// A file that is not understood, or was made for another base model.
    pub fn adapter_of(&self, network: Network, weights: &Weights) -> Result<Lora> {
        let fail = |message: String| Err(Error::file(&self.path, message));
        let shape = |layer: &str| Some(weights.get(&format!("{layer}.weight"))?.size());
        let model = weights.all_layers().find_map(|l| base::text_width(network, l, &shape(l)?));
        if let (Some(theirs), Some(ours)) = (self.text_width(), model)
            && theirs != ours
        {
            return fail(format!(
                "it adapts a UNet for text of width {}, this model's is for {}; was the LoRA made for another base model?",
                base::describe_width(theirs),
                base::describe_width(ours)
            ));
        }
        let ready = |t: &Tensor| {
            let kind = if t.kind() == Kind::Double { Kind::Double } else { Kind::Float };
            t.to_device(weights.device()).to_kind(kind)
        };
        let mut pairs = BTreeMap::new();
        for (name, pair) in self.pairs()?.into_iter().filter(|(name, _)| name.network == network) {
            let Some(layer) = spellings(&name).find(|layer| shape(layer).is_some()) else {
                return fail(format!(
                    "{} belongs to no layer of this model's {}; was the LoRA made for another base model?",
                    name.dotted(),
                    if network == Network::UNet { "UNet".into() } else { network.to_string() }
                ));
            };
            pairs.insert(layer, LowRank { down: ready(&pair.down), up: ready(&pair.up), alpha: pair.alpha });
        }
        Ok(Lora { pairs, origin: self.path.clone() })
    }
}

/// What a layer may be called in a checkpoint: transformers 5 leaves `text_model.` out.
pub fn spellings(name: &Name) -> impl Iterator<Item = String> + '_ {
    let bare = name.layer.strip_prefix("text_model.").filter(|_| name.network != Network::UNet);
    [Some(name.layer.as_str()), bare].into_iter().flatten().map(str::to_owned)
}
