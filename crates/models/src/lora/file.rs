//! An adapter file, understood as far as that goes without a model.

use super::{
    LowRank, Name, Network, Part, Spelling,
    base::{self, Base},
    names,
    peft::Configuration,
};
use crate::{
    error::{Error, Result},
    tensors::{self, Tensors},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};
use tch::{Kind, Tensor};

/// What a file says about a layer.
#[derive(Default)]
pub struct Entry {
    pub down: Option<Tensor>,
    pub up: Option<Tensor>,
    pub alpha: Option<f64>,
}

impl Entry {
    /// Length of the down matrix.
    pub fn rank(&self) -> Option<i64> {
        self.down.as_ref().and_then(|down| down.size().first().copied())
    }

    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.down.iter().chain(&self.up)
    }
}

/// The layers of an adapter file, its metadata, and what in it is not understood.
pub struct AdapterFile {
    pub path: PathBuf,
    pub metadata: HashMap<String, String>,
    pub spellings: BTreeSet<Spelling>,
    pub entries: BTreeMap<Name, Entry>,
    /// Keys that belong to no layer, each with the reason.
    pub foreign: Vec<(String, String)>,
    alphas: Configuration,
}

impl AdapterFile {
    /// LDM block names are taken as those of a UNet with two layers per block, which all published ones have.
    ///
    /// # Errors
    /// A file that is no whole safetensors file or holds no tensors; metadata that cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_for(path, 2)
    }

    /// As [`AdapterFile::read`], for a UNet with so many layers per block.
    pub fn read_for(path: &Path, layers_per_block: usize) -> Result<Self> {
        let (tensors, metadata) = tensors::read(path)?;
        let mut file = Self::parse(tensors, metadata, path, layers_per_block)?;
        if file.spellings.contains(&Spelling::PeftModel) && file.alphas.is_empty() {
            file.alphas = Configuration::beside(path)?;
        }
        Ok(file)
    }

    /// As [`AdapterFile::read_for`], from tensors in memory; `path` is the file to name in errors.
    pub fn parse(
        tensors: Tensors,
        metadata: HashMap<String, String>,
        path: &Path,
        layers_per_block: usize,
    ) -> Result<Self> {
        if tensors.is_empty() {
            return Err(Error::file(path, "holds no tensors"));
        }
        let alphas = Configuration::of(&metadata, path)?;
        let mut file = Self {
            path: path.to_owned(),
            metadata,
            spellings: BTreeSet::new(),
            entries: BTreeMap::new(),
            foreign: vec![],
            alphas,
        };
        for (key, tensor) in tensors {
            match names::parse(&key, layers_per_block) {
                Err(why) => file.foreign.push((key, why)),
                Ok(parsed) => {
                    if parsed.part != Part::Alpha {
                        file.spellings.insert(parsed.spelling);
                    }
                    if let Err(why) = file.add(parsed.name, parsed.part, tensor) {
                        file.foreign.push((key, why.into()));
                    }
                }
            }
        }
        Ok(file)
    }

    fn add(&mut self, name: Name, part: Part, tensor: Tensor) -> std::result::Result<(), &'static str> {
        const TWICE: &str = "is there for the second time, in another spelling";
        if part == Part::Alpha {
            let entry = self.entries.entry(name).or_default();
            if tensor.numel() != 1 {
                return Err("is not a single number");
            }
            let alpha = tensor.reshape([1]).to_kind(Kind::Double).double_value(&[0]);
            return if entry.alpha.replace(alpha).is_some() { Err(TWICE) } else { Ok(()) };
        }
        if !tensor.is_floating_point() {
            return Err("holds whole numbers");
        }
        let entry = self.entries.entry(name).or_default();
        let place = if part == Part::Down { &mut entry.down } else { &mut entry.up };
        if place.is_some() {
            return Err(TWICE);
        }
        *place = Some(tensor);
        Ok(())
    }

    /// The layer's own alpha, or that of the metadata; without either, the scale is 1.
    pub fn alpha(&self, name: &Name) -> Option<f64> {
        let entry = self.entries.get(name)?;
        let rank = entry.rank()? as f64;
        Some(entry.alpha.or_else(|| self.alphas.of_layer(name, rank)).unwrap_or(rank))
    }

    /// Every layer, whole; values in the file's own precision.
    ///
    /// # Errors
    /// The first key that is not understood, or layer that is not whole, by name.
    pub fn pairs(&self) -> Result<BTreeMap<Name, LowRank>> {
        if let Some((key, why)) = self.foreign.first() {
            return Err(Error::file(&self.path, format!("{key} {why}")));
        }
        let whole = |(name, entry): (&Name, &Entry)| match (&entry.down, &entry.up, self.alpha(name)) {
            (Some(down), Some(up), Some(alpha)) if down.dim() >= 2 && up.dim() >= 2 && down.size()[0] > 0 => {
                Ok((name.clone(), LowRank { down: down.shallow_clone(), up: up.shallow_clone(), alpha }))
            }
            _ => Err(Error::file(&self.path, format!("{} lacks its down or up matrix", name.layer))),
        };
        self.entries.iter().map(whole).collect()
    }

    pub fn networks(&self) -> BTreeSet<Network> {
        self.entries.keys().map(|name| name.network).collect()
    }

    /// The width of text that the UNet's layers are for, if they agree.
    pub fn text_width(&self) -> Option<i64> {
        let width =
            |(name, entry): (&Name, &Entry)| base::text_width(name.network, &name.layer, &entry.down.as_ref()?.size());
        let widths: BTreeSet<i64> = self.entries.iter().filter_map(width).collect();
        if widths.len() == 1 { widths.first().copied() } else { None }
    }

    /// By the shapes, where they tell; else by the metadata.
    pub fn base(&self) -> Option<Base> {
        match self.text_width() {
            Some(width) => Base::of_text_width(width),
            None => Base::of_metadata(&self.metadata),
        }
    }

    /// Precisions of the matrices.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![];
        for kind in self.entries.values().flat_map(Entry::tensors).map(Tensor::kind) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }
}
