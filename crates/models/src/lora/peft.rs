//! peft's configuration of an adapter: rank and alpha of its layers, which PEFT's format stores outside the tensors.

use super::{Name, Network, patterns::Patterns};
use crate::{
    error::{Error, Result},
    json as python, text,
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// The metadata key under which diffusers stores the configuration: one JSON object, its keys prefixed with their
/// network.
pub const METADATA: &str = "lora_adapter_metadata";

/// Rank and alpha of layers by network: a value for all layers, and patterns for some. `None`: for every network.
#[derive(Default)]
pub struct Configuration {
    networks: BTreeMap<Option<Network>, OfNetwork>,
}

struct OfNetwork {
    rank: Option<f64>,
    alpha: f64,
    ranks: Patterns,
    alphas: Patterns,
    rooted: bool,
    dora: bool,
}

/// peft's own alpha of LoRA, LoHa and LoKr, for a configuration that leaves it out.
const ALPHA: f64 = 8.0;

impl Configuration {
    /// Reads a file's metadata.
    ///
    /// # Errors
    /// If the metadata are not a JSON object, a pattern is not a regular expression, or this program does not know the
    /// kind of adapter.
    pub fn of(metadata: &HashMap<String, String>, path: &Path) -> Result<Self> {
        let Some(text) = metadata.get(METADATA) else { return Ok(Self::default()) };
        Self::parse(text).map_err(|e| Error::file(path, format!("metadata {METADATA}: {e}")))
    }

    /// Reads `adapter_config.json`, which peft itself writes beside the weights.
    ///
    /// # Errors
    /// The same as [`Configuration::of`].
    pub fn beside(path: &Path) -> Result<Self> {
        let path = path.with_file_name("adapter_config.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = text::read(&path)?;
        Self::parse(&text).map_err(|e| Error::file(&path, e))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let all: Map<String, Value> = python::from_str(text).map_err(|e| e.to_string())?;
        let mut networks = BTreeMap::new();
        for network in [None, Some(Network::UNet), Some(Network::TextEncoder), Some(Network::TextEncoder2)] {
            let key = |name: &str| network.map_or(name.to_owned(), |network| format!("{network}.{name}"));
            let get = |name: &str| all.get(&key(name)).filter(|value| !value.is_null());
            let number = |name: &str| match get(name) {
                Some(value) => value.as_f64().map(Some).ok_or(format!("{} is {value}, not a number", key(name))),
                None => Ok(None),
            };
            let patterns = |name: &str| match get(name) {
                Some(value) => Patterns::parse(value).map_err(|e| format!("{}: {e}", key(name))),
                None => Ok(Patterns::default()),
            };
            refuse_unknown(&get, &key)?;
            let is_true = |value: &Value| value.as_bool().unwrap_or_else(|| value.as_f64().is_some_and(|n| n != 0.0));
            let flag = |name: &str| get(name).is_some_and(is_true);
            let of = OfNetwork {
                rank: number("r")?,
                // LoHa and LoKr call it `alpha`
                alpha: number("lora_alpha")?.or(number("alpha")?).unwrap_or(ALPHA),
                ranks: patterns("rank_pattern")?,
                alphas: patterns("alpha_pattern")?,
                rooted: flag("use_rslora"),
                dora: flag("use_dora"),
            };
            let is_of = |key: &str| match network {
                Some(network) => key.strip_prefix(&network.to_string()).is_some_and(|rest| rest.starts_with('.')),
                None => !key.contains('.'),
            };
            if all.iter().any(|(key, value)| is_of(key) && !value.is_null()) {
                networks.insert(network, of);
            }
        }
        Ok(Self { networks })
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    fn of_network(&self, network: Network) -> Option<&OfNetwork> {
        self.networks.get(&Some(network)).or_else(|| self.networks.get(&None))
    }

    /// Whether the adapter of a network is a DoRA (`use_dora`).
    pub fn is_dora(&self, network: Network) -> bool {
        self.of_network(network).is_some_and(|of| of.dora)
    }

    /// The scale of a layer's matrices: alpha / rank, or alpha / √rank with peft's `use_rslora`. `None`: the configuration
    /// says nothing of the network.
    ///
    /// # Errors
    /// If the tensors have another rank than the configuration says.
    pub fn scale(&self, name: &Name, rank: Option<i64>) -> Result<Option<f64>, String> {
        Ok(self.of_layer(name, rank)?.map(|of| if of.rooted { of.alpha / of.rank.sqrt() } else { of.alpha / of.rank }))
    }

    /// Alpha of a layer, as the number that [`Self::scale`] times rank would be without rounding.
    ///
    /// # Errors
    /// The same as those of [`Self::scale`].
    pub fn alpha(&self, name: &Name, rank: Option<i64>) -> Result<Option<f64>, String> {
        Ok(self.of_layer(name, rank)?.map(|of| if of.rooted { of.alpha * of.rank.sqrt() } else { of.alpha }))
    }

    /// Rank and alpha of a layer. The first pattern that matches the layer counts, as in peft; alpha is peft's own where
    /// the configuration leaves it out.
    fn of_layer(&self, name: &Name, rank: Option<i64>) -> Result<Option<Scaling>, String> {
        let Some(of) = self.of_network(name.network) else { return Ok(None) };
        // transformers 5 drops the prefix of text encoders; the whole model may have been wrapped
        let bare = name.layer.strip_prefix("text_model.").unwrap_or(&name.layer);
        let names = [name.layer.as_str(), bare, &name.dotted()];
        let pattern = of.ranks.first(&names)?;
        let said = pattern.map(|(_, rank)| rank).or(of.rank);
        if let (Some(said), Some(rank)) = (said, rank)
            && said != rank as f64
        {
            let by = pattern.map_or("r".into(), |(key, _)| format!("rank_pattern `{key}`"));
            return Err(format!("has rank {rank}, but its configuration says {said} ({by})"));
        }
        let alpha = of.alphas.first(&names)?.map_or(of.alpha, |(_, alpha)| alpha);
        let rank = rank.map(|rank| rank as f64).or(said);
        Ok(rank.map(|rank| Scaling { rank, alpha, rooted: of.rooted }))
    }
}

/// What the scale of a layer is made of.
struct Scaling {
    rank: f64,
    alpha: f64,
    rooted: bool,
}

/// Refuses adapters whose effect depends on more than their tensors.
fn refuse_unknown<'a>(get: &dyn Fn(&str) -> Option<&'a Value>, key: &dyn Fn(&str) -> String) -> Result<(), String> {
    if let Some(kind) = get("peft_type").and_then(Value::as_str)
        && !["LORA", "LOHA", "LOKR"].contains(&kind)
    {
        return Err(format!("{} is {kind}; only LORA, LOHA and LOKR are read", key("peft_type")));
    }
    // these change the base model's weights at the start of training
    let start = get("init_lora_weights").and_then(Value::as_str).unwrap_or_default().to_lowercase();
    let replaces = ["pissa", "olora", "corda", "loftq", "mica", "lora_ga"];
    if replaces.iter().any(|kind| start.starts_with(kind)) {
        return Err(format!(
            "{} is {start}: the adapter belongs to a base model with other weights than the published ones; convert it to an \
             ordinary LoRA with peft (save_pretrained with path_initial_model_for_weight_conversion)",
            key("init_lora_weights")
        ));
    }
    Ok(())
}

/// Rank and alpha of a layer in the metadata.
pub struct OfLayer {
    pub rank: i64,
    pub alpha: f64,
    pub has_norms: bool,
}

/// The configuration of these layers as metadata: for each network one rank and alpha, and patterns for the layers that
/// differ. Other keys of `old` are kept.
pub fn metadata(all_layers: &BTreeMap<Name, OfLayer>, old: Option<&String>) -> String {
    let mut all: Map<String, Value> = old.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    for network in Network::ALL {
        let layers: Vec<_> = all_layers.iter().filter(|(name, _)| name.network == network).collect();
        let Some((_, first)) = layers.first() else {
            all.retain(|key, _| !key.starts_with(&format!("{network}.")));
            continue;
        };
        let (rank, alpha) = (first.rank, first.alpha);
        let ranks = layers.iter().filter(|(_, p)| p.rank != rank).map(|(n, p)| (ending(n).into(), p.rank.into()));
        let alphas = layers.iter().filter(|(_, p)| p.alpha != alpha).map(|(n, p)| (ending(n).into(), p.alpha.into()));
        for (key, value) in [
            ("r", json!(rank)),
            ("lora_alpha", json!(alpha)),
            ("target_modules", layers.iter().map(|(name, _)| ending(name)).collect()),
            ("rank_pattern", Value::Object(ranks.collect())),
            ("alpha_pattern", Value::Object(alphas.collect())),
            ("bias", json!("none")),
            ("lora_bias", json!(false)),
            ("use_dora", json!(layers.iter().any(|(_, p)| p.has_norms))),
            ("use_rslora", json!(false)),
        ] {
            all.insert(format!("{network}.{key}"), value);
        }
    }
    Value::Object(all).to_string()
}

/// The ending that every layer with this name has in common: peft compares endings, and transformers 5 drops the prefix
/// of text encoders.
fn ending(name: &Name) -> &str {
    name.layer.strip_prefix("text_model.").unwrap_or(&name.layer)
}
