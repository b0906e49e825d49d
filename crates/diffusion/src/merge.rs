//! `comat lora merge`: writes a model folder with LoRAs added to its UNet and text encoders, for programs without
//! support for LoRA.

use crate::{
    family::stable_diffusion,
    model_folder::{NewFolder, Part, UNET},
};
use anyhow::{Context, Result};
use models::{
    Error,
    clip::{TextConfig, TextEncoder},
    layers::is_half,
    lora::{self, AdapterFile, Changes, Network},
    tensors,
    unet::{self, UNet},
    weights::{Weights, files_of},
};
use ranks::interrupt::Interrupt;
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

pub struct Request {
    pub model: PathBuf,
    /// LoRA files, each with its strength.
    pub loras: Vec<(PathBuf, f64)>,
    /// Output folder; it must not exist yet.
    pub out: PathBuf,
    /// Precision of the changed networks' weights; `None` keeps the files' own.
    pub kind: Option<Kind>,
}

pub struct Merged {
    /// Weight files of the folder that were left out, because they hold the model without the LoRAs.
    pub left_out: Vec<PathBuf>,
    /// Where sums were rounded to 16 bits: the share of the update that remains in the rounded weights.
    pub surviving: Option<Surviving>,
}

/// How much of an update dW survives when W + dW is rounded: with k = round(W + dW) - round(W), it is `<k, dW> / <dW,
/// dW>` over all changed weights. 1: all of it; 0: none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Surviving {
    pub kind: Kind,
    pub share: f64,
}

/// Sums over the weights that were written so far.
#[derive(Default)]
struct Rounding {
    kind: Option<Kind>,
    kept: f64,
    whole: f64,
}

impl Rounding {
    /// Adds a weight. `sum`: the weight with the update, before it is rounded to `kind`.
    fn add(&mut self, weight: &Tensor, sum: &Tensor, kind: Kind) {
        let rounded = |t: &Tensor| t.to_kind(kind).to_kind(Kind::Float);
        let update = sum - weight.to_kind(Kind::Float);
        let kept = rounded(sum) - rounded(weight);
        self.kind = Some(kind);
        self.kept += (kept * &update).sum(Kind::Double).double_value(&[]);
        self.whole += update.square().sum(Kind::Double).double_value(&[]);
    }

    fn surviving(&self) -> Option<Surviving> {
        let share = self.kept / self.whole;
        self.kind.filter(|_| self.whole > 0.0).map(|kind| Surviving { kind, share })
    }
}

/// Adds the LoRAs to the weights of the networks that they adapt, in float32, and copies everything else.
///
/// # Errors
/// The folder exists; a model or LoRA that is not understood, or do not fit together; too little free disk space; sums
/// that are too large for the precision.
pub fn run(request: &Request, interrupt: &Interrupt) -> Result<Merged> {
    let model = &request.model;
    stable_diffusion::class(model)?;
    let unet = open(model, Network::UNet)?;
    let read = |(path, scale): &(PathBuf, f64)| Ok((AdapterFile::read_beside(path, &unet)?, *scale));
    let files: Vec<(AdapterFile, f64)> = request.loras.iter().map(read).collect::<Result<_>>()?;
    let mut changed: Vec<(Part, Vec<Changes>)> = vec![];
    for network in Network::ALL {
        let of_it: Vec<_> = files.iter().filter(|(file, _)| file.networks().contains(&network)).collect();
        let Some((first, _)) = of_it.first() else { continue };
        if !model.join(part(network).folder).is_dir() {
            let message = format!("it adapts {network}, which {} does not have", model.display());
            return Err(Error::file(&first.path, message).into());
        }
        let weights = open(model, network)?;
        let mut all = vec![];
        for (file, scale) in of_it {
            let changes = file.changes_of(network, &weights)?.scaled(*scale);
            has_biases(&changes, &weights)?;
            all.push(changes);
        }
        changed.push((part(network), all));
    }
    let left_out = |(file, _): &(AdapterFile, f64)| Some(format!("{}: {}", file.path.display(), file.left_out()?));
    files.iter().filter_map(left_out).for_each(|text| tracing::warn!("{text}"));
    let parts: Vec<Part> = changed.iter().map(|(part, _)| *part).collect();
    let folder = NewFolder::plan(model, &request.out, &parts, request.kind)?;
    let rounding = RefCell::new(Rounding::default());
    let change = |part: Part, key: &str, weight: &Tensor| {
        let (_, all) = changed.iter().find(|(changed, _)| *changed == part)?;
        let sum = lora::sum(key, weight, all)?;
        let kind = request.kind.unwrap_or(weight.kind());
        if is_half(kind) {
            rounding.borrow_mut().add(weight, &sum, kind);
        }
        Some(sum)
    };
    folder.write(&change, mark(&request.loras), interrupt)?;
    Ok(Merged { left_out: folder.left_out, surviving: rounding.into_inner().surviving() })
}

/// Checks that no layer gets a bias that it lacks in the model's folder: no program would read it.
fn has_biases(changes: &Changes, weights: &Weights) -> Result<()> {
    let lacks = |layer: &String| weights.get(&format!("{layer}.bias")).is_none();
    match changes.layers().find(|(layer, change)| change.bias.is_some() && lacks(layer)) {
        Some((layer, _)) => {
            let message = format!("it has a bias for {layer}, which has none in the model: draw with --lora instead");
            Err(Error::file(changes.origin(), message).into())
        }
        None => Ok(()),
    }
}

fn part(network: Network) -> Part {
    match network {
        Network::UNet => UNET,
        Network::TextEncoder => Part { folder: "text_encoder", stem: "model" },
        Network::TextEncoder2 => Part { folder: "text_encoder_2", stem: "model" },
    }
}

/// A network's weights in the file's own precision, without a copy; checked against its configuration.
fn open(model: &Path, network: Network) -> Result<Weights> {
    let Part { folder, stem } = part(network);
    let (folder, misfit) = (model.join(folder), || format!("the weights of {network} do not fit its config.json"));
    let kind = kind_of(&files_of(&folder, stem, None)?)?;
    let weights = Weights::open(&folder, stem, kind, Device::Cpu)?;
    let config = folder.join("config.json");
    match network {
        Network::UNet => drop(UNet::new(&unet::Config::read(&config)?, &weights).with_context(misfit)?),
        _ => drop(TextEncoder::new(&TextConfig::read(&config)?, &weights).with_context(misfit)?),
    }
    Ok(weights)
}

/// Precision of the first tensor of floating-point numbers.
fn kind_of(sources: &[PathBuf]) -> Result<Kind> {
    for source in sources {
        let (tensors, _) = tensors::read(source)?;
        if let Some(tensor) = tensors.values().find(|t| t.is_floating_point()) {
            return Ok(tensor.kind());
        }
    }
    Ok(Kind::Float)
}

/// The metadata that describe the LoRAs in a file.
pub fn mark(loras: &[(PathBuf, f64)]) -> (&'static str, String) {
    let names = loras.iter().map(|(path, scale)| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        json!({ "file": name, "scale": scale })
    });
    ("comat.merged", Value::from_iter(names).to_string())
}
