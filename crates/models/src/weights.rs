//! The weights of one network, and how a network reads them: by a path that equals the checkpoint's key.
//!
//! A network is built by walking its [`Scope`]. Tensors that are missing, have a wrong shape or are not used are
//! collected and reported together. Low-rank adapters are attached to the weights before a network is built. So the
//! same constructor gives the original network, the network with the adapter merged, and the network that trains it.

mod adapted;

use crate::{
    error::{Error, Result},
    lora::LowRank,
    tensors::{self, Tensors},
    text,
};
use sha2::{Digest, Sha256};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Seek, SeekFrom},
    ops::Div,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

/// The weights of one network, in the precision and on the device it runs with.
pub struct Weights {
    tensors: Tensors,
    adapter: BTreeMap<String, LowRank>,
    origin: PathBuf,
}

impl Weights {
    /// Reads `STEM.safetensors`, its `.fp16.` variant, or the files that `STEM.safetensors.index.json` names.
    pub fn open(folder: &Path, stem: &str, kind: Kind, device: Device) -> Result<Self> {
        Self::open_variant(folder, stem, None, kind, device)
    }

    /// Like [`Weights::open`], but prefers `STEM.VARIANT.safetensors` if it exists.
    pub fn open_variant(folder: &Path, stem: &str, variant: Option<&str>, kind: Kind, device: Device) -> Result<Self> {
        let files = files_of(folder, stem, variant)?;
        let mut all = Tensors::new();
        for file in &files {
            all.append(&mut tensors::read(file)?.0);
        }
        let origin = if files.len() == 1 { files[0].clone() } else { folder.to_owned() };
        Self::new(all, origin, kind, device)
    }

    /// `origin` is the file or folder to name in errors.
    pub fn new(tensors: Tensors, origin: PathBuf, kind: Kind, device: Device) -> Result<Self> {
        let tensors = tensors
            .into_iter()
            .map(|(name, t)| {
                let kind = if t.is_floating_point() { kind } else { t.kind() };
                Ok((name, t.f_to_device(device)?.f_to_kind(kind)?))
            })
            .collect::<Result<_>>()?;
        Ok(Self { tensors, adapter: BTreeMap::new(), origin })
    }

    /// Builds a network and checks that it used every tensor, each with the expected shape.
    ///
    /// `ignored`: endings of keys that belong to no layer (old buffers, unused heads).
    pub fn build<T>(&self, ignored: &[&str], network: impl FnOnce(Scope) -> T) -> Result<T> {
        let session = Session::new(self, None);
        let built = network(Scope { session: &session, path: String::new() });
        let used = session.used.into_inner();
        let mut problems = session.problems.into_inner();
        for name in self.tensors.keys() {
            if !used.contains(name) && !ignored.iter().any(|i| name.ends_with(i)) {
                problems.push(format!("{name} is unexpected"));
            }
        }
        if problems.is_empty() { Ok(built) } else { Err(Error::file(&self.origin, enumerate(&problems))) }
    }

    /// Tensor shapes by key of a network without weights. `absent` tells which optional tensors it must not have.
    pub fn layout<T>(absent: &dyn Fn(&str) -> bool, network: impl FnOnce(Scope) -> T) -> Layout {
        let nothing = Self { tensors: Tensors::new(), adapter: BTreeMap::new(), origin: PathBuf::new() };
        let session = Session::new(&nothing, Some(absent));
        network(Scope { session: &session, path: String::new() });
        session.asked.into_inner()
    }

    /// Paths of the layers whose name ends in one of `targets` (`to_q`, `to_out.0`, …), with the shape of their weight.
    pub fn layers<'a>(&'a self, targets: &'a [String]) -> impl Iterator<Item = (&'a str, Vec<i64>)> {
        self.tensors.iter().filter_map(|(key, t)| {
            let path = key.strip_suffix(".weight")?;
            let is_target = |t: &String| path == t || path.strip_suffix(t.as_str()).is_some_and(|p| p.ends_with('.'));
            targets.iter().any(is_target).then(|| (path, t.size()))
        })
    }

    /// Paths of everything that has a `weight`.
    pub fn all_layers(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().filter_map(|key| key.strip_suffix(".weight"))
    }

    pub fn parameter_count(&self) -> i64 {
        self.tensors.values().map(|t| t.numel() as i64).sum()
    }

    pub fn origin(&self) -> &Path {
        &self.origin
    }

    pub fn device(&self) -> Device {
        self.tensors.values().next().map_or(Device::Cpu, |t| t.device())
    }

    /// The same weights again: tensors are shared, nothing is copied.
    pub fn shallow_clone(&self) -> Self {
        let adapter = self.adapter.iter().map(|(path, pair)| (path.clone(), pair.shallow_clone())).collect();
        Self { tensors: self.share(), adapter, origin: self.origin.clone() }
    }

    /// The tensor of a key, as in the file.
    pub fn get(&self, key: &str) -> Option<&Tensor> {
        self.tensors.get(key)
    }

    fn share(&self) -> Tensors {
        self.tensors.iter().map(|(name, t)| (name.clone(), t.shallow_clone())).collect()
    }
}

/// The shape of every tensor of a network, by key.
pub type Layout = BTreeMap<String, Vec<i64>>;

struct Session<'a> {
    weights: &'a Weights,
    /// Set only to learn the layout; these optional tensors are left out.
    absent: Option<&'a dyn Fn(&str) -> bool>,
    asked: RefCell<Layout>,
    used: RefCell<BTreeSet<String>>,
    problems: RefCell<Vec<String>>,
}

impl<'a> Session<'a> {
    fn new(weights: &'a Weights, absent: Option<&'a dyn Fn(&str) -> bool>) -> Self {
        let (asked, used, problems) = Default::default();
        Self { weights, absent, asked, used, problems }
    }
}

/// A path in the checkpoint: `scope / "resnets" / 0 / "conv1"`.
#[derive(Clone)]
pub struct Scope<'a> {
    session: &'a Session<'a>,
    path: String,
}

impl Scope<'_> {
    /// The tensor with this name at this path. A missing tensor or a wrong shape is noted, and [`Weights::build`]
    /// reports it; the returned tensor then only has the right shape.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Tensor {
        let key = self.key(name);
        match self.session.weights.tensors.get(&key) {
            Some(t) => {
                self.session.used.borrow_mut().insert(key.clone());
                if t.size() == shape {
                    return t.shallow_clone();
                }
                self.problem(format!("{key} has shape {:?}, expected {shape:?}", t.size()));
            }
            None if self.session.absent.is_some() => {
                self.session.asked.borrow_mut().insert(key, shape.to_vec());
            }
            None => self.problem(format!("{key} is missing")),
        }
        let one = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        one.f_expand(shape, true).unwrap_or_else(|_| {
            self.problem(format!("{} cannot have the shape {shape:?}", self.key(name)));
            one
        })
    }

    /// The tensor with this name, or `None` if the checkpoint does not have it.
    pub fn optional(&self, name: &str, shape: &[i64]) -> Option<Tensor> {
        self.has(name).then(|| self.tensor(name, shape))
    }

    pub fn has(&self, name: &str) -> bool {
        let key = self.key(name);
        match self.session.absent {
            Some(absent) => !absent(&key),
            None => self.session.weights.tensors.contains_key(&key),
        }
    }

    /// The adapter of the layer at this path, if any.
    pub fn adapter(&self) -> Option<LowRank> {
        self.session.weights.adapter.get(&self.path).map(LowRank::shallow_clone)
    }

    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn problem(&self, text: String) {
        self.session.problems.borrow_mut().push(text);
    }
}

impl<'a, T: std::fmt::Display> Div<T> for &Scope<'a> {
    type Output = Scope<'a>;
    fn div(self, name: T) -> Scope<'a> {
        Scope { session: self.session, path: self.key(&name.to_string()) }
    }
}

impl<'a, T: std::fmt::Display> Div<T> for Scope<'a> {
    type Output = Scope<'a>;
    fn div(self, name: T) -> Scope<'a> {
        &self / name
    }
}

/// The first few problems, and the number of the others.
fn enumerate(problems: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if problems.len() > SHOWN {
        text += &format!("; and {} more", problems.len() - SHOWN);
    }
    text
}

/// A digest that distinguishes weight files without reading them completely: of their sizes, their headers and 256
/// pieces spread over each file. Training changes nearly every value, so it changes some of the pieces.
pub fn fingerprint(folder: &Path, stem: &str, variant: Option<&str>) -> Result<String> {
    fingerprint_of(&files_of(folder, stem, variant)?)
}

/// Like [`fingerprint`], for the given files.
pub fn fingerprint_of(paths: &[PathBuf]) -> Result<String> {
    const PIECES: u64 = 256;
    const PIECE: u64 = 4096;
    let mut hasher = Sha256::new();
    for path in paths {
        let mut file = fs::File::open(path).map_err(Error::io(path))?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        hasher.update(size.to_le_bytes());
        let mut piece = vec![];
        for i in 0..PIECES {
            let start = size.saturating_sub(PIECE) / (PIECES - 1) * i;
            piece.clear();
            file.seek(SeekFrom::Start(start))
                .and_then(|_| (&mut file).take(PIECE).read_to_end(&mut piece))
                .map_err(Error::io(path))?;
            hasher.update(&piece);
        }
    }
    Ok(crate::hex(&hasher.finalize()[..8]))
}

/// The layers of a network, each with the shape of its weight. Values are not read.
pub fn layer_shapes(folder: &Path, stem: &str) -> Result<Layout> {
    let mut all = Layout::new();
    for file in files_of(folder, stem, None)? {
        let tensors = tensors::read(&file)?.0.into_iter();
        all.extend(tensors.filter_map(|(key, t)| Some((key.strip_suffix(".weight")?.to_owned(), t.size()))));
    }
    Ok(all)
}

/// Whether a folder has weights of this variant.
pub fn has_variant(folder: &Path, stem: &str, variant: &str) -> bool {
    let names = [
        format!("{stem}.{variant}.safetensors"),
        format!("{stem}.{variant}.safetensors.index.json"),
        format!("{stem}.safetensors.index.{variant}.json"),
    ];
    names.iter().any(|name| folder.join(name).exists())
}

/// The weight files of a network that [`Weights::open`] reads.
pub fn files_of(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Vec<PathBuf>> {
    let first = variant.map(|variant| format!(".{variant}")); // a part without this variant uses its plain weights
    for variant in first.as_deref().into_iter().chain(["", ".fp16"]) {
        // the last is transformers' name, with the ending that some tools give it
        let names = [
            format!("{stem}{variant}.safetensors"),
            format!("{stem}{variant}.SAFETENSORS"),
            format!("pytorch_{stem}{variant}.safetensors"),
        ];
        if let Some(whole) = names.iter().map(|name| folder.join(name)).find(|path| path.exists()) {
            return Ok(vec![whole]);
        }
        // diffusers puts the variant before `.index`, in one of two places
        for index in
            [format!("{stem}{variant}.safetensors.index.json"), format!("{stem}.safetensors.index{variant}.json")]
        {
            let index = folder.join(index);
            if index.exists() {
                return parts_of(&index);
            }
        }
    }
    let wanted = format!("{stem}.safetensors");
    let hint = instead(folder, stem, &wanted).map_or(String::new(), |hint| format!("; {hint}"));
    Err(Error::file(folder.join(wanted), format!("no such file{hint}")))
}

/// What lies in a folder without the weights of this stem, and what to do about it.
fn instead(folder: &Path, stem: &str, wanted: &str) -> Option<String> {
    if let Ok(target) = fs::read_link(folder.join(wanted)) {
        return Some(format!("it is a link to {}, which is not there; fetch that file again", target.display()));
    }
    let entries = fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = entries.filter(|name| !name.starts_with('.')).collect();
    names.sort_by_key(|name| (!name.contains(stem), name.clone()));
    let ends = |name: &&String, endings: &[&str]| {
        endings.iter().any(|ending| Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case(ending)))
    };
    let first = |of_stem: bool, endings: &[&str]| {
        names.iter().find(|name| (!of_stem || name.contains(stem)) && ends(name, endings))
    };
    if let Some(name) = first(true, &["safetensors"]) {
        let inner = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".safetensors"));
        return Some(match inner {
            _ if name.contains("-of-") => {
                let index = format!("{wanted}.index.json");
                format!("{name} beside it is one of several parts; {index}, which names them, is missing: fetch it")
            }
            Some(variant) => {
                let set = "set model.variant or --variant to it, or rename the file";
                format!("{name} beside it is of the variant {variant}: {set}")
            }
            None => format!("if {name} beside it holds these weights, rename it"),
        });
    }
    if let Some(name) = first(false, &["bin", "ckpt", "pt", "pth"]) {
        return Some(format!("{name} beside it is a pickle: convert it to safetensors"));
    }
    if let Some(name) = first(false, &["msgpack", "h5", "onnx", "pb", "gguf"]) {
        return Some(format!("{name} beside it is of another library: take the model's safetensors"));
    }
    let name = first(false, &["safetensors"])?;
    Some(format!("if {name} beside it holds these weights, rename it"))
}

fn parts_of(index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = text::read(index)?;
    let parsed: Index = serde_json::from_str(&text).map_err(|e| Error::file(index, e.to_string()))?;
    let parts: BTreeSet<String> = parsed.weight_map.into_values().collect();
    Ok(parts.into_iter().map(|part| index.with_file_name(part)).collect())
}
