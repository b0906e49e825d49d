//! Statistics of an adapter file.

use super::{AdapterFile, Entry, Name, Network};
use crate::error::{Error, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
};
use tch::{Kind, Tensor};

#[derive(Serialize)]
pub struct Info {
    /// Size in bytes.
    pub size: u64,
    /// Digest of the whole file.
    pub sha256: String,
    /// Digest of everything after the header; kohya's `sshs_model_hash`.
    pub tensors_sha256: String,
    pub formats: Vec<String>,
    /// `LoRA`, `DoRA`, `LoHa`, …
    pub kinds: BTreeSet<&'static str>,
    pub base: Option<String>,
    pub base_by_metadata: Option<String>,
    pub text_width: Option<i64>,
    pub dtypes: Vec<&'static str>,
    pub parameters: usize,
    pub networks: Vec<Part>,
    /// Keys that are not understood.
    pub foreign: Vec<String>,
    /// The other architecture that these keys show.
    pub looks_like: Option<&'static str>,
    /// Names of textual-inversion embeddings in the file.
    pub embeddings: Vec<String>,
    pub metadata: BTreeMap<String, String>,
}

/// Statistics of one network.
#[derive(Serialize)]
pub struct Part {
    pub network: String,
    pub layers: usize,
    pub parameters: usize,
    pub ranks: Vec<i64>,
    pub alphas: Vec<f64>,
    pub blocks: Vec<Block>,
}

/// Statistics of one block.
#[derive(Serialize)]
pub struct Block {
    pub block: String,
    pub layers: usize,
    pub parameters: usize,
    pub ranks: Vec<i64>,
    /// Frobenius norm of the update of all weights of the block; `null` if a value is not finite.
    pub norm: Option<f64>,
}

impl Info {
    pub fn of(file: &AdapterFile) -> Result<Self> {
        let (sha256, tensors_sha256) = digests(&file.path)?;
        Ok(Self {
            size: fs::metadata(&file.path).map_err(Error::io(&file.path))?.len(),
            sha256,
            tensors_sha256,
            formats: file.formats.iter().map(ToString::to_string).collect(),
            kinds: file.entries.keys().filter_map(|name| Some(file.change(name).ok()?.kind())).collect(),
            base: file.base().map(|base| base.to_string()),
            base_by_metadata: super::Base::of_metadata(&file.metadata).map(|base| base.to_string()),
            text_width: file.text_width(),
            dtypes: file.kinds().into_iter().map(dtype).collect(),
            parameters: file.entries.values().map(parameters).sum(),
            networks: Network::ALL.into_iter().filter_map(|network| part(file, network)).collect(),
            foreign: file.foreign.iter().map(|(key, _)| key.clone()).collect(),
            looks_like: file.looks_like(),
            embeddings: file.embeddings.iter().cloned().collect(),
            metadata: file.metadata.clone().into_iter().collect(),
        })
    }
}

fn part(file: &AdapterFile, network: Network) -> Option<Part> {
    let layers: Vec<(&Name, &Entry)> = file.entries.iter().filter(|(name, _)| name.network == network).collect();
    let mut blocks = BTreeMap::<String, Vec<(&Name, &Entry)>>::new();
    for &(name, entry) in &layers {
        blocks.entry(block(&name.layer)).or_default().push((name, entry));
    }
    let mut alphas: Vec<f64> = layers.iter().filter_map(|(name, _)| file.alpha(name)).collect();
    alphas.sort_by(f64::total_cmp);
    alphas.dedup();
    (!layers.is_empty()).then(|| Part {
        network: network.to_string(),
        layers: layers.len(),
        parameters: layers.iter().map(|(_, entry)| parameters(entry)).sum(),
        ranks: ranks(&layers),
        alphas,
        blocks: blocks
            .into_iter()
            .map(|(block, layers)| Block {
                block,
                layers: layers.len(),
                parameters: layers.iter().map(|(_, entry)| parameters(entry)).sum(),
                ranks: ranks(&layers),
                norm: norm(file, &layers),
            })
            .collect(),
    })
}

fn ranks(layers: &[(&Name, &Entry)]) -> Vec<i64> {
    layers.iter().filter_map(|(_, entry)| entry.rank()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn parameters(entry: &Entry) -> usize {
    entry.tensors().map(Tensor::numel).sum()
}

/// `down_blocks.1`, `mid_block`; all layers of a text encoder are one block.
fn block(layer: &str) -> String {
    let words: Vec<&str> = layer.split('.').collect();
    match words.as_slice() {
        [blocks, number, ..] if number.parse::<usize>().is_ok() => format!("{blocks}.{number}"),
        ["text_model", "encoder", "layers", ..] => "text_model.encoder.layers".into(),
        [first, ..] => (*first).into(),
        [] => String::new(),
    }
}

/// Without DoRA's norms: their effect depends on the model's weights.
fn norm(file: &AdapterFile, layers: &[(&Name, &Entry)]) -> Option<f64> {
    let square = |(name, _): &(&Name, &Entry)| file.change(name).ok()?.delta?.squared_norm();
    let sum: f64 = layers.iter().filter_map(square).sum();
    sum.is_finite().then(|| sum.sqrt())
}

fn dtype(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "float32",
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        Kind::Double => "float64",
        _ => "other",
    }
}

/// sha256 of a safetensors file, and of everything after its header.
pub fn digests(path: &Path) -> Result<(String, String)> {
    let mut file = fs::File::open(path).map_err(Error::io(path))?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(Error::io(path))?;
    let mut header = vec![];
    let mut start = (&mut file).take(u64::from_le_bytes(length));
    start.read_to_end(&mut header).map_err(Error::io(path))?;
    let (mut whole, mut values) = (Sha256::new(), Sha256::new());
    whole.update(length);
    whole.update(&header);
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(Error::io(path))? {
            0 => break,
            read => {
                whole.update(&piece[..read]);
                values.update(&piece[..read]);
            }
        }
    }
    Ok((crate::hex(&whole.finalize()), crate::hex(&values.finalize())))
}
