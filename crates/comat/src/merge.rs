//! `comat lora merge`: a model folder with LoRAs added to its UNet, for programs that take no LoRA.

use crate::{
    interrupt::Interrupt,
    model_folder::{NewFolder, UNET},
    pipeline,
};
use anyhow::{Context, Result};
use models::{
    lora::Lora,
    tensors,
    unet::{self, UNet},
    weights::{Weights, files_of},
};
use serde_json::{Value, json};
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

pub struct Request {
    pub model: PathBuf,
    /// Each with how much of it to add.
    pub loras: Vec<(PathBuf, f64)>,
    /// A folder that does not exist yet.
    pub out: PathBuf,
    /// Precision of the UNet's weights; `None` leaves it.
    pub kind: Option<Kind>,
}

/// Weight files of the folder that were left out, as they hold the model without the LoRAs.
pub struct Merged {
    pub left_out: Vec<PathBuf>,
}

/// Adds the LoRAs to the UNet's weights, in float32, and copies everything else.
///
/// # Errors
/// A folder that exists; a model or LoRA that is not understood or do not fit together; too little room on the disk; sums
/// that are too large for the precision.
pub fn run(request: &Request, interrupt: &Interrupt) -> Result<Merged> {
    let model = &request.model;
    pipeline::class(model)?;
    let folder = NewFolder::plan(model, &request.out, &[UNET], request.kind)?;
    let unet = model.join(UNET.folder);
    let config = unet::Config::read(&unet.join("config.json"))?;
    let kind = kind_of(&files_of(&unet, UNET.stem, None)?)?;
    let weights = Weights::open(&unet, UNET.stem, kind, Device::Cpu)?; // in the file's own precision nothing is copied
    UNet::new(&config, &weights).context("the UNet's weights do not fit its config.json")?;
    let mut loras = vec![];
    for (path, scale) in &request.loras {
        let lora = Lora::read(path, &weights)?.scaled(*scale);
        weights.with_adapter(&lora)?; // checks the shapes
        loras.push(lora);
    }
    folder.write(&|_, key, weight| sum(key, weight, &loras), mark(&request.loras), interrupt)?;
    Ok(Merged { left_out: folder.left_out })
}

/// Of the first tensor with numbers in it.
fn kind_of(sources: &[PathBuf]) -> Result<Kind> {
    for source in sources {
        let (tensors, _) = tensors::read(source)?;
        if let Some(tensor) = tensors.values().find(|t| t.is_floating_point()) {
            return Ok(tensor.kind());
        }
    }
    Ok(Kind::Float)
}

/// The weight with every adapter of its layer added, in float32; `None` where there is none.
pub(crate) fn sum(key: &str, weight: &Tensor, loras: &[Lora]) -> Option<Tensor> {
    let layer = key.strip_suffix(".weight")?;
    let mut pairs = loras.iter().filter_map(|lora| lora.get(layer)).peekable();
    pairs.peek()?;
    Some(pairs.fold(weight.to_kind(Kind::Float), |sum, pair| sum + pair.product(&weight.size())))
}

/// What the metadata of a file say of the LoRAs in it.
pub(crate) fn mark(loras: &[(PathBuf, f64)]) -> (&'static str, String) {
    let names = loras.iter().map(|(path, scale)| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        json!({ "file": name, "scale": scale })
    });
    ("comat.merged", Value::from_iter(names).to_string())
}
