//! Stores maps on disk: a training run shows the samples beside those of its first round, also after it was resumed.

use super::Heatmaps;
use anyhow::Result;
use images::Image;
use models::{Error, tensors};
use std::{collections::HashMap, path::Path};
use tch::{Device, Kind};

/// Maps of some samples, each with its prompt, to be written to one file.
#[derive(Default)]
pub struct Store {
    tensors: tensors::Tensors,
    prompts: HashMap<String, String>,
}

impl Store {
    pub fn add(&mut self, number: usize, prompt: &str, looks: &Heatmaps) {
        self.tensors.insert(format!("{number:03}"), looks.maps.to_device(Device::Cpu).to_kind(Kind::Float));
        self.prompts.insert(format!("{number:03}"), prompt.into());
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(tensors::write(path, &self.tensors, self.prompts.clone())?)
    }
}

/// The maps of sample `number`, if the file has them for that prompt.
pub fn read(path: &Path, number: usize, prompt: &str, image: Image) -> Result<Option<Heatmaps>> {
    if !path.exists() {
        return Ok(None);
    }
    let (mut tensors, prompts) = tensors::read(path)?;
    let key = format!("{number:03}");
    if prompts.get(&key).is_none_or(|known| known != prompt) {
        return Ok(None);
    }
    match tensors.remove(&key) {
        Some(maps) if maps.dim() == 3 => Ok(Some(Heatmaps { image, maps })),
        _ => Err(Error::file(path, format!("the maps {key} are missing or no [words, h, w]")).into()),
    }
}
