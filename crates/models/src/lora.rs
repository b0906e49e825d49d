//! Low-rank adapters (LoRA, Hu et al. 2021), `W x + scale · up (down x)`, and their files.

mod base;
mod change;
mod changes;
pub mod check;
pub mod convert;
mod entry;
mod file;
mod foreign;
mod format;
pub mod info;
mod ldm;
mod names;
mod of_network;
mod parts;
mod paths;
mod patterns;
mod peft;
mod write;

use crate::{
    error::{Error, Result},
    weights::Weights,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

pub use crate::low_rank::LowRank;
pub use base::Base;
pub use change::{Change, Delta, Magnitude, Matrix};
pub use changes::{Changes, sum};
pub use entry::Entry;
pub use file::AdapterFile;
pub(crate) use foreign::{architecture, no_model};
pub use names::{Format, Name, Network};
pub use parts::{Factor, Part};
pub use write::{write_diffusers, write_kohya, write_peft};

/// An adapter of one network, by layer path. Iteration order is the paths' own, so it is the same everywhere.
pub struct Lora {
    pairs: BTreeMap<String, LowRank>,
    origin: PathBuf,
}

impl Lora {
    /// A fresh adapter on every layer of `weights` that `targets` name: down ~ N(0, 1/rank²), up = 0, so it changes
    /// nothing yet. `randn` draws standard normal values of a shape, for the layer of that index.
    pub fn fresh(
        weights: &Weights,
        targets: &[String],
        rank: i64,
        alpha: f64,
        mut randn: impl FnMut(usize, &[i64]) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut pairs = BTreeMap::new();
        for (index, (path, shape)) in weights.layers(targets).enumerate() {
            let &[outputs, inputs] = shape.as_slice() else {
                return Err(Error::Input(format!(
                    "lora target {path} is not a linear layer (its weight is {shape:?})"
                )));
            };
            let down = randn(index, &[rank, inputs])?.to_device(weights.device()) / rank as f64;
            let up = Tensor::zeros([outputs, rank], (Kind::Float, weights.device()));
            pairs.insert(path.to_owned(), LowRank { down, up, alpha });
        }
        match targets.iter().find(|t| weights.layers(std::slice::from_ref(t)).next().is_none()) {
            Some(target) => Err(Error::file(
                weights.origin(),
                format!(
                    "no layer ends in the lora target `{target}`; lora.targets are ends of layers' names, such as to_q or to_out.0"
                ),
            )),
            None => Ok(Self { pairs, origin: "the fresh adapter".into() }),
        }
    }

    /// Reads any of the formats in use (`docs/formats.md` has a table of them), to train on.
    ///
    /// # Errors
    /// If the file is not understood, adapts text encoders, is not a plain LoRA, or was made for another base model.
    pub fn read(path: &Path, unet: &Weights) -> Result<Self> {
        Self::alone(&AdapterFile::read_beside(path, unet)?, unet)
    }

    /// As [`Lora::read`], from tensors in memory; `origin` is the file to name in errors.
    pub fn from_tensors(
        tensors: crate::tensors::Tensors,
        metadata: &std::collections::HashMap<String, String>,
        origin: &Path,
        unet: &Weights,
    ) -> Result<Self> {
        let file = AdapterFile::parse(tensors, metadata.clone(), origin, layers_per_block(unet))?;
        Self::alone(&file, unet)
    }

    /// The adapter of a file that adapts the UNet and nothing else.
    fn alone(file: &AdapterFile, unet: &Weights) -> Result<Self> {
        if let Some(name) = file.entries.keys().find(|name| name.network != Network::UNet) {
            return Err(Error::file(
                &file.path,
                format!(
                    "{} is an adapter of a text encoder; only the UNet's are trained (`comat lora convert --unet-only` \
                     leaves the others out)",
                    name.dotted()
                ),
            ));
        }
        file.changes_of(Network::UNet, unet)?.into_lora()
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&String, &LowRank)> {
        self.pairs.iter()
    }

    /// The matrix pair of a layer, by its path.
    pub fn get(&self, layer: &str) -> Option<&LowRank> {
        self.pairs.get(layer)
    }

    /// Every matrix with its PEFT key: `unet.LAYER.lora_A.weight` (down), `unet.LAYER.lora_B.weight` (up).
    pub fn parameters(&self) -> Vec<(String, &Tensor)> {
        self.pairs
            .iter()
            .flat_map(|(path, pair)| {
                [(format!("unet.{path}.lora_A.weight"), &pair.down), (format!("unet.{path}.lora_B.weight"), &pair.up)]
            })
            .collect()
    }

    /// The matrices of [`Lora::parameters`], without their keys.
    pub fn matrices(&self) -> Vec<&Tensor> {
        self.pairs.values().flat_map(|pair| [&pair.down, &pair.up]).collect()
    }

    /// A trainable copy on a device, in a precision.
    pub fn trainable(&self, kind: Kind, device: Device) -> Trainable {
        self.trainable_with(vec![], kind, device)
    }

    /// As [`Lora::trainable`], with further weights by key that are trained together with the adapter.
    pub fn trainable_with(&self, extra: Vec<(String, Tensor)>, kind: Kind, device: Device) -> Trainable {
        let mut parameters = self.parameters();
        parameters.extend(extra.iter().map(|(key, t)| (key.clone(), t)));
        let values: Vec<Tensor> = parameters
            .iter()
            .map(|(_, t)| t.detach().to_device(device).to_kind(kind).contiguous().view([-1]))
            .collect();
        let flat = Tensor::cat(&values, 0);
        let shapes: Vec<Vec<i64>> = parameters.iter().map(|(_, t)| t.size()).collect();
        let mut leaves = views(&flat, &shapes).into_iter().map(|view| view.set_requires_grad(true));
        let mut pairs = BTreeMap::new();
        for (path, pair) in &self.pairs {
            if let (Some(down), Some(up)) = (leaves.next(), leaves.next()) {
                pairs.insert(path.clone(), LowRank { down, up, alpha: pair.alpha });
            }
        }
        let keys = extra.iter().map(|(key, _)| key.clone());
        let extra = keys.zip(leaves).collect();
        Trainable { lora: Self { pairs, origin: self.origin.clone() }, extra, flat, shapes }
    }

    /// The same adapter with its strength multiplied by `factor`.
    pub fn scaled(&self, factor: f64) -> Self {
        let scaled = |pair: &LowRank| LowRank { alpha: pair.alpha * factor, ..pair.shallow_clone() };
        let pairs = self.pairs.iter().map(|(path, pair)| (path.clone(), scaled(pair))).collect();
        Self { pairs, origin: self.origin.clone() }
    }

    /// One adapter with the same effect as all of them together: their matrices side by side, so that the ranks add up.
    /// `None`: there are none, or they adapt different layers.
    pub fn joined(all: &[Self]) -> Option<Self> {
        let (first, others) = all.split_first()?;
        if others.is_empty() {
            return Some(first.scaled(1.0));
        }
        if others.iter().any(|other| !other.pairs.keys().eq(first.pairs.keys())) {
            return None;
        }
        let join = |path: &String| {
            let pairs: Vec<&LowRank> = all.iter().filter_map(|lora| lora.pairs.get(path)).collect();
            let rank: i64 = pairs.iter().map(|pair| pair.rank()).sum();
            let downs: Vec<&Tensor> = pairs.iter().map(|pair| &pair.down).collect();
            let ups: Vec<Tensor> = pairs.iter().map(|pair| pair.folded_up()).collect();
            LowRank { down: Tensor::cat(&downs, 0), up: Tensor::cat(&ups, 1), alpha: rank as f64 }
        };
        let pairs = first.pairs.keys().map(|path| (path.clone(), join(path))).collect();
        Some(Self { pairs, origin: first.origin.clone() })
    }

    /// The same function with another alpha: `up` is scaled to compensate.
    pub fn with_alpha(&self, alpha: f64) -> Self {
        let with =
            |pair: &LowRank| LowRank { down: pair.down.shallow_clone(), up: &pair.up * (pair.alpha / alpha), alpha };
        let pairs = self.pairs.iter().map(|(path, pair)| (path.clone(), with(pair))).collect();
        Self { pairs, origin: self.origin.clone() }
    }

    /// The same adapter with matrices of a larger rank: new columns of `up` are 0, new rows of `down` are random as in
    /// a fresh adapter, so that they can learn. Pairs of that rank or a larger one stay. `randn` draws standard normal
    /// values of a shape, for the pair of that index.
    pub fn widened(&self, rank: i64, mut randn: impl FnMut(usize, &[i64]) -> Result<Tensor>) -> Result<Self> {
        let mut pairs = BTreeMap::new();
        for (index, (path, pair)) in self.pairs.iter().enumerate() {
            let more = rank - pair.rank();
            let wider = if more > 0 {
                let (down, up) = (&pair.down, &pair.up * (rank as f64 / pair.rank() as f64));
                let fresh = randn(index, &[more, down.size()[1]])?.to_device(down.device()).to_kind(down.kind());
                let zeros = Tensor::zeros([up.size()[0], more], (up.kind(), up.device()));
                LowRank {
                    down: Tensor::cat(&[down, &(fresh / rank as f64)], 0),
                    up: Tensor::cat(&[up, zeros], 1),
                    alpha: pair.alpha,
                }
            } else {
                pair.shallow_clone()
            };
            pairs.insert(path.clone(), wider);
        }
        Ok(Self { pairs, origin: self.origin.clone() })
    }

    pub fn parameter_count(&self) -> i64 {
        self.pairs.values().map(|p| (p.down.numel() + p.up.numel()) as i64).sum()
    }

    pub fn origin(&self) -> &Path {
        &self.origin
    }
}

/// An adapter whose matrices are leaves of the autograd graph, and views of one flat buffer, so that an optimiser or a
/// reduction over processes handles one tensor.
pub struct Trainable {
    pub lora: Lora,
    /// Trained weights other than the adapter's, by key; also leaves, at the end of the buffer.
    pub extra: Vec<(String, Tensor)>,
    pub flat: Tensor,
    shapes: Vec<Vec<i64>>,
}

impl Trainable {
    /// Every trained tensor with its key: those of [`Lora::parameters`], then the others.
    pub fn parameters(&self) -> Vec<(String, &Tensor)> {
        let mut all = self.lora.parameters();
        all.extend(self.extra.iter().map(|(key, t)| (key.clone(), t)));
        all
    }

    /// The adapter with its values from another buffer of the same length.
    pub fn lora_of(&self, flat: &Tensor) -> Lora {
        let mut matrices = self.views_of(flat).into_iter();
        let mut pairs = BTreeMap::new();
        for (path, pair) in &self.lora.pairs {
            if let (Some(down), Some(up)) = (matrices.next(), matrices.next()) {
                pairs.insert(path.clone(), LowRank { down, up, alpha: pair.alpha });
            }
        }
        Lora { pairs, origin: self.lora.origin.clone() }
    }

    /// Cuts another buffer of the same length into the same views, in the order of [`Trainable::parameters`].
    pub fn views_of(&self, flat: &Tensor) -> Vec<Tensor> {
        views(flat, &self.shapes)
    }
}

/// Whether a key is of an adapter of Stable Diffusion.
pub(crate) fn is_adapter(key: &str) -> bool {
    names::parse(key, 2).is_ok()
}

/// Pairs of residual block and attention in a level of the UNet's down path.
fn layers_per_block(weights: &Weights) -> usize {
    pairs_in_a_level(|layer| weights.get(&format!("{layer}.weight")).is_some())
}

fn pairs_in_a_level(has: impl Fn(&str) -> bool) -> usize {
    (0..).take_while(|i| has(&format!("down_blocks.0.resnets.{i}.conv1"))).count()
}

fn views(flat: &Tensor, shapes: &[Vec<i64>]) -> Vec<Tensor> {
    let mut start = 0;
    let view = |shape: &Vec<i64>| {
        let length = shape.iter().product();
        start += length;
        flat.detach().narrow(0, start - length, length).view(shape.as_slice())
    };
    shapes.iter().map(view).collect()
}
