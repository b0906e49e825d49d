//! Reads the changes that a file makes to one network of a model.

use super::{AdapterFile, Name, Network, base, changes::Changes, foreign, layers_per_block};
use crate::{
    error::{Error, Result},
    weights::Weights,
};
use std::{collections::BTreeMap, path::Path};
use tch::{Kind, Tensor};

impl AdapterFile {
    /// Like [`AdapterFile::read`], for a model with this UNet.
    pub fn read_beside(path: &Path, unet: &Weights) -> Result<Self> {
        Self::read_for(path, layers_per_block(unet))
    }

    /// The changes of the network with these weights, in float32, by the layers' paths in the weights. May be empty.
    ///
    /// # Errors
    /// If the file is not understood, has values that are not finite, or was made for another base model.
    pub fn changes_of(&self, network: Network, weights: &Weights) -> Result<Changes> {
        let fail = |message: String| Err(Error::file(&self.path, message));
        let shape = |layer: &str| Some(weights.get(&format!("{layer}.weight"))?.size());
        let model = weights.all_layers().find_map(|l| base::text_width(network, l, shape(l)?.get(1).copied()));
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
        let layer_of = |name: &Name| formats(name).find(|layer| shape(layer).is_some());
        let whole = self.changes()?;
        let ours = || whole.iter().filter(|(name, _)| name.network == network);
        if ours().next().is_some() && ours().all(|(name, _)| layer_of(name).is_none()) {
            let title = if network == Network::UNet { "UNet".into() } else { network.to_string() };
            return fail(format!(
                "{} belongs to no layer of this model's {title}, and neither does any other of it; {}",
                ours().next().map(|(name, _)| name.dotted()).unwrap_or_default(),
                match foreign::other_lora(self.keys(), network) {
                    Some(what) => format!("this looks like {what}: {}", foreign::first_keys(self.keys())),
                    None => format!("was the LoRA made for another base model? ({})", foreign::first_keys(self.keys())),
                }
            ));
        }
        self.check_finite(network)?;
        let mut layers = BTreeMap::new();
        for (name, change) in ours() {
            let Some((layer, weight)) = layer_of(name).and_then(|layer| Some((layer.clone(), shape(&layer)?))) else {
                return fail(format!(
                    "{} belongs to no layer of this model's {}; was the LoRA made for another base model?",
                    name.dotted(),
                    if network == Network::UNet { "UNet".into() } else { network.to_string() }
                ));
            };
            if let Some(why) = change.misfit(&weight) {
                return fail(format!("{layer}: {why}"));
            }
            layers.insert(layer, change.mapped(ready).shaped(&weight));
        }
        Ok(Changes::new(layers, self.path.clone()))
    }
}

/// Possible names of a layer in a checkpoint: transformers 5 drops `text_model.`.
pub fn formats(name: &Name) -> impl Iterator<Item = String> + '_ {
    let bare = name.layer.strip_prefix("text_model.").filter(|_| name.network != Network::UNet);
    [Some(name.layer.as_str()), bare].into_iter().flatten().map(str::to_owned)
}
