//! peft's configuration of an adapter: rank and alpha of its layers, which PEFT's spelling keeps apart from the tensors.

use super::{LowRank, Name, Network};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

/// Where diffusers keeps it in a file's metadata: one JSON object, keys with the prefix of their network.
pub const METADATA: &str = "lora_adapter_metadata";

#[derive(Default)]
pub struct Configuration(Map<String, Value>);

impl Configuration {
    pub fn of(metadata: &HashMap<String, String>, path: &Path) -> Result<Self> {
        let Some(text) = metadata.get(METADATA) else { return Ok(Self::default()) };
        serde_json::from_str(text).map(Self).map_err(|e| Error::file(path, format!("metadata {METADATA}: {e}")))
    }

    /// Of `adapter_config.json`, which peft itself writes beside the weights.
    pub fn beside(path: &Path) -> Result<Self> {
        let path = path.with_file_name("adapter_config.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        serde_json::from_str(&text).map(Self).map_err(|e| Error::file(&path, e.to_string()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Alpha of a layer of that rank. With peft's `use_rslora` the scale is alpha / √rank.
    pub fn of_layer(&self, name: &Name, rank: f64) -> Option<f64> {
        let get = |key: &str| self.0.get(&format!("{}.{key}", name.network)).or_else(|| self.0.get(key));
        let is_layer = |key: &str| name.layer == key || name.layer.ends_with(&format!(".{key}"));
        let pattern = get("alpha_pattern").and_then(Value::as_object);
        let matching = pattern.and_then(|p| p.iter().find(|(key, _)| is_layer(key)));
        let alpha = matching.map(|(_, v)| v).or_else(|| get("lora_alpha")).and_then(Value::as_f64)?;
        let rooted = get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Some(if rooted { alpha * rank.sqrt() } else { alpha })
    }
}

/// The configuration of these layers, as the metadata hold it: for each network one rank and alpha, patterns for the layers
/// that have others. Keys of `old` that it says nothing about stay.
pub fn metadata(pairs: &BTreeMap<Name, LowRank>, old: Option<&String>) -> String {
    let mut all: Map<String, Value> = old.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    for network in [Network::UNet, Network::TextEncoder, Network::TextEncoder2] {
        let layers: Vec<_> = pairs.iter().filter(|(name, _)| name.network == network).collect();
        let Some((_, first)) = layers.first() else {
            all.retain(|key, _| !key.starts_with(&format!("{network}.")));
            continue;
        };
        let (rank, alpha) = (first.rank(), first.alpha);
        let ranks = layers.iter().filter(|(_, p)| p.rank() != rank).map(|(n, p)| (ending(n).into(), p.rank().into()));
        let alphas = layers.iter().filter(|(_, p)| p.alpha != alpha).map(|(n, p)| (ending(n).into(), p.alpha.into()));
        for (key, value) in [
            ("r", json!(rank)),
            ("lora_alpha", json!(alpha)),
            ("target_modules", layers.iter().map(|(name, _)| ending(name)).collect()),
            ("rank_pattern", Value::Object(ranks.collect())),
            ("alpha_pattern", Value::Object(alphas.collect())),
            ("bias", json!("none")),
            ("lora_bias", json!(false)),
            ("use_dora", json!(false)),
            ("use_rslora", json!(false)),
        ] {
            all.insert(format!("{network}.{key}"), value);
        }
    }
    Value::Object(all).to_string()
}

/// What every layer of that name ends in: peft compares ends, and transformers 5 leaves the prefix of text encoders out.
fn ending(name: &Name) -> &str {
    name.layer.strip_prefix("text_model.").unwrap_or(&name.layer)
}
