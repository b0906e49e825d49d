//! `comat lora merge`: a model folder with LoRAs added to its UNet, for programs that take no LoRA.

use crate::{files::write_whole, interrupt::Interrupt, pipeline};
use anyhow::{Context, Result, bail};
use models::{
    Error,
    lora::Lora,
    tensors::{self, partial_name},
    unet::{self, UNet},
    weights::{Weights, files_of},
};
use serde_json::{Value, json};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

const STEM: &str = "diffusion_pytorch_model";

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

/// Adds the LoRAs to the UNet's weights, in float32, and copies everything else. Written beside and renamed, so a folder
/// that is there is whole.
///
/// # Errors
/// A folder that exists; a model or LoRA that is not understood or do not fit together; too little room on the disk; sums
/// that are too large for the precision.
pub fn run(request: &Request, interrupt: &Interrupt) -> Result<Merged> {
    let Request { model, out, .. } = request;
    if out.symlink_metadata().is_ok() {
        bail!("{}: exists already; choose another --out", out.display());
    }
    pipeline::class(model)?;
    let unet = model.join("unet");
    let sources = files_of(&unet, STEM, None)?;
    let config = unet::Config::read(&unet.join("config.json"))?;
    let kind = kind_of(&sources)?;
    let weights = Weights::open(&unet, STEM, kind, Device::Cpu)?; // in the file's own precision nothing is copied
    UNet::new(&config, &weights).context("the UNet's weights do not fit its config.json")?;
    let mut loras = vec![];
    for (path, scale) in &request.loras {
        let lora = Lora::read(path, &weights)?.scaled(*scale);
        weights.with_adapter(&lora)?; // checks the shapes
        loras.push(lora);
    }

    let mut plan = Plan::default();
    plan.folder(model, Path::new(""), 0)?;
    plan.left_out.retain(|file| !sources.contains(&model.join(file)) && !is_index(file));
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    check_place(model, parent)?;
    let needed = plan.bytes
        + match request.kind {
            Some(kind) => weights.parameter_count() as u64 * kind.elt_size_in_bytes() as u64,
            None => sizes(&sources)?,
        };
    let free = fs4::available_space(parent).map_err(Error::io(parent))?;
    if needed > free {
        bail!("{}: {:.1} MB are needed, {:.1} MB are free", out.display(), needed as f64 / 1e6, free as f64 / 1e6);
    }

    let partial = partial_name(out);
    if partial.symlink_metadata().is_ok() {
        bail!("{}: left by a merge that was cut off; delete it first", partial.display());
    }
    let written = (|| {
        fs::create_dir_all(partial.join("unet")).map_err(Error::io(&partial))?;
        for file in &plan.files {
            interrupt.check()?;
            copy(&model.join(file), &partial.join(file))?;
        }
        for source in &sources {
            interrupt.check()?;
            write_merged(source, &partial.join("unet"), &loras, request)?;
        }
        if sources.len() > 1 {
            write_index(&unet, &partial.join("unet"), &sources)?;
        }
        fs::rename(&partial, out).map_err(Error::io(out))?;
        Ok(Merged { left_out: plan.left_out })
    })();
    if written.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// What is copied as it is.
#[derive(Default)]
struct Plan {
    files: Vec<PathBuf>,
    left_out: Vec<PathBuf>,
    bytes: u64,
}

impl Plan {
    /// Hub folders hold links to files; what they point to is copied.
    fn folder(&mut self, root: &Path, inside: &Path, depth: usize) -> Result<()> {
        let folder = root.join(inside);
        if depth > 8 {
            bail!("{}: the folders go too deep; is there a link that leads back?", folder.display());
        }
        let entries = fs::read_dir(&folder).map_err(Error::io(&folder))?;
        let mut names =
            entries.map(|e| Ok(e?.file_name())).collect::<std::io::Result<Vec<_>>>().map_err(Error::io(&folder))?;
        names.sort();
        for name in names {
            let path = inside.join(&name);
            let what = fs::metadata(root.join(&path)).map_err(Error::io(root.join(&path)))?;
            if is_hidden(&name) {
                continue; // a version control's or the hub's own
            } else if what.is_dir() {
                self.folder(root, &path, depth + 1)?;
            } else if holds_the_original(&path) {
                self.left_out.push(path);
            } else {
                self.bytes += what.len();
                self.files.push(path);
            }
        }
        Ok(())
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Weights of the UNet, and whole models in one file, which lie at the top of some folders.
fn holds_the_original(path: &Path) -> bool {
    const WEIGHTS: [&str; 8] = ["safetensors", "bin", "ckpt", "pt", "pth", "msgpack", "onnx", "gguf"];
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let place = path.parent().unwrap_or(Path::new(""));
    (place == Path::new("") || place == Path::new("unet")) && (WEIGHTS.contains(&extension) || is_index(path))
}

fn is_index(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.contains(".index.") && name.ends_with(".json")
}

fn check_place(model: &Path, parent: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().map_err(Error::io(path));
    if real(parent)?.starts_with(real(model)?) {
        bail!("{}: lies in the model's own folder; choose another --out", parent.display());
    }
    Ok(())
}

fn sizes(files: &[PathBuf]) -> Result<u64> {
    files.iter().map(|file| Ok(fs::metadata(file).map_err(Error::io(file))?.len())).sum()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    fs::copy(from, to).map_err(Error::io(to))?;
    Ok(())
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

/// One weight file, under its own name. Tensors that no LoRA adapts are those of the source, bit for bit.
fn write_merged(source: &Path, folder: &Path, loras: &[Lora], request: &Request) -> Result<()> {
    let (mut all, mut metadata) = tensors::read(source)?;
    for (key, tensor) in all.iter_mut().filter(|(_, t)| t.is_floating_point()) {
        let kind = request.kind.unwrap_or(tensor.kind());
        let merged = merged(key, tensor, loras).to_kind(kind);
        if !is_finite(&merged) && is_finite(tensor) {
            let message = format!("{key} is too large for {kind:?} with the LoRA added; try --dtype float32");
            return Err(Error::file(source, message).into());
        }
        *tensor = merged;
    }
    let loras = request.loras.iter().map(|(path, scale)| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        json!({ "file": name, "scale": scale })
    });
    metadata.insert("comat.merged".into(), Value::from_iter(loras).to_string());
    metadata.entry("format".into()).or_insert("pt".into());
    let name = source.file_name().context("a weight file has no name")?;
    Ok(tensors::write(&folder.join(name), &all, metadata)?)
}

/// The weight with every adapter of its layer added, in float32.
fn merged(key: &str, weight: &Tensor, loras: &[Lora]) -> Tensor {
    let layer = key.strip_suffix(".weight").unwrap_or_default();
    let mut pairs = loras.iter().filter_map(|lora| lora.get(layer)).peekable();
    if pairs.peek().is_none() {
        return weight.shallow_clone();
    }
    pairs.fold(weight.to_kind(Kind::Float), |sum, pair| sum + pair.product(&weight.size()))
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) != 0
}

/// The index of a UNet in several files: the files are the same, their size may not be.
fn write_index(unet: &Path, to: &Path, sources: &[PathBuf]) -> Result<()> {
    let mut map = serde_json::Map::new();
    let mut bytes = 0;
    for source in sources {
        let name = source.file_name().unwrap_or_default();
        let (tensors, _) = tensors::read(&to.join(name))?;
        for (key, tensor) in tensors {
            bytes += tensor.numel() * tensor.kind().elt_size_in_bytes();
            map.insert(key, name.to_string_lossy().into());
        }
    }
    let fp16 = sources.iter().any(|s| s.to_string_lossy().contains(".fp16"));
    let names = [format!("{STEM}.fp16.safetensors.index.json"), format!("{STEM}.safetensors.index.fp16.json")];
    let variant = names.into_iter().find(|name| fp16 && unet.join(name).exists());
    let name = variant.unwrap_or(format!("{STEM}.safetensors.index.json"));
    let index = json!({ "metadata": { "total_size": bytes }, "weight_map": map });
    Ok(write_whole(&to.join(name), &serde_json::to_string_pretty(&index)?)?)
}
