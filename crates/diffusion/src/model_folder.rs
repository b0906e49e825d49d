//! Writes a model folder in which some weights are changed. Everything else is copied unchanged.

use anyhow::{Context, Result, bail};
use models::write_text;
use models::{
    Error,
    tensors::{self, partial_name},
    weights::files_of,
};
use ranks::interrupt::Interrupt;
use serde_json::json;
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};
use tch::{Kind, Tensor};

/// A network whose weights change: its folder in the model's folder, and the beginning of its weight files' names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    pub folder: &'static str,
    pub stem: &'static str,
}

pub const UNET: Part = Part { folder: "unet", stem: "diffusion_pytorch_model" };

/// The plan of what to write; everything that can be checked in advance has been checked.
pub struct NewFolder {
    model: PathBuf,
    out: PathBuf,
    /// Precision of the changed networks; `None` keeps the files' own.
    kind: Option<Kind>,
    /// The changed parts, each with its weight files.
    parts: Vec<(Part, Vec<PathBuf>)>,
    files: Vec<PathBuf>,
    /// Weight files of the model that are not copied, because they hold it unchanged.
    pub left_out: Vec<PathBuf>,
    bytes: u64,
}

/// The changed tensor of a part, by its key; `None` keeps it, bit for bit.
pub type Change<'a> = dyn Fn(Part, &str, &Tensor) -> Option<Tensor> + 'a;

impl NewFolder {
    /// # Errors
    /// `out` exists, lies in the model's folder, or there is too little free space for it; the model's files cannot be read.
    pub fn plan(model: &Path, out: &Path, parts: &[Part], kind: Option<Kind>) -> Result<Self> {
        if out.symlink_metadata().is_ok() {
            bail!("{}: exists already; choose another --out", out.display());
        }
        let partial = partial_name(out);
        if partial.symlink_metadata().is_ok() {
            bail!("{}: left by a run that was cut off; delete it first", partial.display());
        }
        let with_sources = |part: &Part| Ok((*part, files_of(&model.join(part.folder), part.stem, None)?));
        let mut this = Self {
            model: model.to_owned(),
            out: out.to_owned(),
            kind,
            parts: parts.iter().map(with_sources).collect::<Result<_>>()?,
            files: vec![],
            left_out: vec![],
            bytes: 0,
        };
        this.list(Path::new(""), 0)?;
        let sources: Vec<&PathBuf> = this.parts.iter().flat_map(|(_, sources)| sources).collect();
        let is_source = |file: &PathBuf| sources.contains(&&model.join(file));
        let left_out = this.left_out.iter().filter(|file| !is_source(file) && !is_index(file)).cloned().collect();
        for source in sources {
            this.bytes += bytes(source, kind)?;
        }
        this.left_out = left_out;
        this.check_place()?;
        Ok(this)
    }

    /// Lists the files. Hub folders hold links to files; the files that they point to are copied.
    fn list(&mut self, inside: &Path, depth: usize) -> Result<()> {
        let folder = self.model.join(inside);
        if depth > 8 {
            bail!("{}: the folders go too deep; is there a link that leads back?", folder.display());
        }
        let entries = fs::read_dir(&folder).map_err(Error::io(&folder))?;
        let mut names =
            entries.map(|e| Ok(e?.file_name())).collect::<std::io::Result<Vec<_>>>().map_err(Error::io(&folder))?;
        names.sort();
        for name in names {
            let path = inside.join(&name);
            let what = fs::metadata(self.model.join(&path)).map_err(Error::io(self.model.join(&path)))?;
            if is_hidden(&name) {
                continue; // files of version control or of the hub
            } else if what.is_dir() {
                self.list(&path, depth + 1)?;
            } else if self.holds_the_original(&path) {
                self.left_out.push(path);
            } else {
                self.bytes += what.len();
                self.files.push(path);
            }
        }
        Ok(())
    }

    /// Whether the file holds original weights: of the changed parts, or a whole model in one file at the top of a
    /// folder.
    fn holds_the_original(&self, path: &Path) -> bool {
        const WEIGHTS: [&str; 8] = ["safetensors", "bin", "ckpt", "pt", "pth", "msgpack", "onnx", "gguf"];
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        let place = path.parent().unwrap_or(Path::new(""));
        let changes = place == Path::new("") || self.parts.iter().any(|(part, _)| place == Path::new(part.folder));
        changes && (WEIGHTS.contains(&extension) || is_index(path))
    }

    /// Creates the parent folder of `out`.
    fn check_place(&self) -> Result<()> {
        let parent = self.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let real = |path: &Path| path.canonicalize().map_err(Error::io(path));
        if real(parent)?.starts_with(real(&self.model)?) {
            bail!("{}: lies in the model's own folder; choose another --out", parent.display());
        }
        let (needed, free) = (self.bytes, fs4::available_space(parent).map_err(Error::io(parent))?);
        if needed > free {
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            bail!("{}: {:.1} MB are needed, {:.1} MB are free", self.out.display(), megabytes(needed), megabytes(free));
        }
        Ok(())
    }

    /// Writes to a temporary folder and renames it, so that a folder that exists is complete. `mark` goes into the
    /// metadata of the changed files.
    ///
    /// # Errors
    /// New values that are NaN, or too large for the precision.
    pub fn write(&self, change: &Change, mark: (&str, String), interrupt: &Interrupt) -> Result<()> {
        let partial = partial_name(&self.out);
        let written = (|| {
            fs::create_dir_all(&partial).map_err(Error::io(&partial))?;
            for file in &self.files {
                interrupt.check()?;
                copy(&self.model.join(file), &partial.join(file))?;
            }
            for (part, sources) in &self.parts {
                let folder = partial.join(part.folder);
                fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
                for source in sources {
                    interrupt.check()?;
                    self.write_changed(*part, source, &folder, change, &mark)?;
                }
                if sources.len() > 1 {
                    write_index(part.stem, &self.model.join(part.folder), &folder, sources)?;
                }
            }
            fs::rename(&partial, &self.out).map_err(Error::io(&self.out))?;
            Ok(())
        })();
        if written.is_err() {
            let _ = fs::remove_dir_all(&partial);
        }
        written
    }

    /// Writes one weight file, under its own name.
    fn write_changed(
        &self,
        part: Part,
        source: &Path,
        folder: &Path,
        change: &Change,
        mark: &(&str, String),
    ) -> Result<()> {
        let (mut all, mut metadata) = tensors::read(source)?;
        for (key, tensor) in all.iter_mut().filter(|(_, t)| t.is_floating_point()) {
            let kind = self.kind.unwrap_or(tensor.kind());
            let new = change(part, key, tensor).unwrap_or_else(|| tensor.shallow_clone()).to_kind(kind);
            if !is_finite(&new) && is_finite(tensor) {
                let message = format!("{key} is now too large for {kind:?}; write it in float32");
                return Err(Error::file(source, message).into());
            }
            *tensor = new;
        }
        metadata.insert(mark.0.to_owned(), mark.1.clone());
        metadata.entry("format".into()).or_insert("pt".into());
        let name = source.file_name().context("a weight file has no name")?;
        Ok(tensors::write(&folder.join(name), &all, metadata)?)
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_index(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.contains(".index.") && name.ends_with(".json")
}

/// Size of a weight file in the given precision, or in its own; 8-bit numbers become wider.
fn bytes(file: &Path, kind: Option<Kind>) -> Result<u64> {
    let (tensors, _) = tensors::read(file)?;
    let kind_of = |t: &Tensor| kind.filter(|_| t.is_floating_point()).unwrap_or(t.kind());
    Ok(tensors.values().map(|t| t.numel() * kind_of(t).elt_size_in_bytes()).sum::<usize>() as u64)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    fs::copy(from, to).map_err(Error::io(to))?;
    Ok(())
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) != 0
}

/// Writes the index of a network in several files: the files are the same, but their size may differ.
fn write_index(stem: &str, from: &Path, to: &Path, sources: &[PathBuf]) -> Result<()> {
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
    let names = [format!("{stem}.fp16.safetensors.index.json"), format!("{stem}.safetensors.index.fp16.json")];
    let variant = names.into_iter().find(|name| fp16 && from.join(name).exists());
    let name = variant.unwrap_or(format!("{stem}.safetensors.index.json"));
    let index = json!({ "metadata": { "total_size": bytes }, "weight_map": map });
    Ok(write_text(&to.join(name), &serde_json::to_string_pretty(&index)?)?)
}
