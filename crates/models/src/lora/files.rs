//! The spellings of adapter files. See `docs/formats.md` for a table of them.

use super::{Lora, LowRank};
use crate::{
    error::{Error, Result},
    tensors::{self, Tensors},
    weights::Weights,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};
use tch::{Kind, Tensor};

/// What base model an adapter belongs to, in the words of kohya's and the ModelSpec metadata.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Base {
    Sd1,
    Sd2,
    Sdxl,
}

impl Base {
    fn version(self) -> &'static str {
        match self {
            Base::Sd1 => "sd_v1",
            Base::Sd2 => "sd_v2",
            Base::Sdxl => "sdxl_base_v1-0",
        }
    }

    fn architecture(self) -> &'static str {
        match self {
            Base::Sd1 => "stable-diffusion-v1/lora",
            Base::Sd2 => "stable-diffusion-v2/lora",
            Base::Sdxl => "stable-diffusion-xl-v1-base/lora",
        }
    }
}

const ADAPTER_METADATA: &str = "lora_adapter_metadata";

/// `unet.LAYER.lora.down.weight` and `.up.weight`, with alpha / rank folded into `up`, as the spelling carries none.
pub fn write_diffusers(lora: &Lora, path: &Path) -> Result<()> {
    let mut out = Tensors::new();
    for (layer, pair) in lora.pairs() {
        out.insert(format!("unet.{layer}.lora.down.weight"), pair.down.detach().to_kind(Kind::Float));
        out.insert(format!("unet.{layer}.lora.up.weight"), pair.up.detach().to_kind(Kind::Float) * pair.scale());
    }
    tensors::write(path, &out, HashMap::from([("format".into(), "pt".into())]))
}

/// `lora_unet_LAYER_WITH_UNDERSCORES.lora_down.weight`, `.lora_up.weight` and `.alpha`, with the metadata that the
/// readers of this spelling look for. `size`: width and height of the images it was trained on.
pub fn write_kohya(lora: &Lora, path: &Path, base: Base, title: &str, size: (i64, i64)) -> Result<()> {
    let mut out = Tensors::new();
    for (layer, pair) in lora.pairs() {
        let name = kohya_name(layer);
        out.insert(format!("{name}.lora_down.weight"), pair.down.detach().to_kind(Kind::Float));
        out.insert(format!("{name}.lora_up.weight"), pair.up.detach().to_kind(Kind::Float));
        out.insert(format!("{name}.alpha"), Tensor::from(pair.alpha as f32));
    }
    let (rank, alpha) = lora.pairs().next().map_or((0, 0.0), |(_, p)| (p.rank(), p.alpha));
    let metadata = [
        ("ss_v2", (base == Base::Sd2).to_string().replace("true", "True").replace("false", "False")),
        ("ss_base_model_version", base.version().into()),
        ("ss_network_module", "networks.lora".into()),
        ("ss_network_dim", rank.to_string()),
        ("ss_network_alpha", alpha.to_string()),
        ("ss_network_args", "{}".into()),
        ("modelspec.sai_model_spec", "1.0.1".into()),
        ("modelspec.architecture", base.architecture().into()),
        ("modelspec.implementation", "diffusers".into()),
        ("modelspec.title", title.into()),
        ("modelspec.resolution", format!("{}x{}", size.0, size.1)),
        ("sshs_model_hash", hash(&out)),
    ];
    tensors::write(path, &out, metadata.map(|(k, v)| (k.to_owned(), v)).into())
}

/// PEFT's spelling with alpha in the metadata: exact, so it is what checkpoints hold.
pub fn write_peft(lora: &Lora, path: &Path) -> Result<()> {
    let out = lora.parameters().into_iter().map(|(key, t)| (key, t.detach().shallow_clone())).collect();
    // peft builds its configuration from this: one rank and alpha for most layers, patterns for the others.
    let (rank, alpha) = lora.pairs().next().map_or((0, 0.0), |(_, p)| (p.rank(), p.alpha));
    let others = |value: fn(&LowRank) -> Value, usual: Value| -> serde_json::Map<String, Value> {
        lora.pairs().map(|(layer, pair)| (layer.clone(), value(pair))).filter(|(_, v)| *v != usual).collect()
    };
    let adapter = json!({
        "unet.r": rank,
        "unet.lora_alpha": alpha,
        "unet.target_modules": lora.pairs().map(|(layer, _)| layer).collect::<Vec<_>>(),
        "unet.rank_pattern": others(|p| p.rank().into(), rank.into()),
        "unet.alpha_pattern": others(|p| p.alpha.into(), alpha.into()),
        "unet.bias": "none",
        "unet.lora_bias": false,
        "unet.use_dora": false,
        "unet.use_rslora": false,
    });
    tensors::write(path, &out, HashMap::from([(ADAPTER_METADATA.into(), adapter.to_string())]))
}

/// sha256 of everything behind the header. Values lie there widest type first, then by name; ours are all float32.
fn hash(tensors: &Tensors) -> String {
    let mut hasher = Sha256::new();
    for t in tensors.values() {
        let values = Vec::<f32>::try_from(t.contiguous().view([-1])).unwrap_or_default();
        values.iter().for_each(|v| hasher.update(v.to_le_bytes()));
    }
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn kohya_name(layer: &str) -> String {
    format!("lora_unet_{}", layer.replace('.', "_"))
}

pub(super) fn read(path: &Path, weights: &Weights) -> Result<BTreeMap<String, LowRank>> {
    let (tensors, metadata) = tensors::read(path)?;
    parse(tensors, &metadata, path, weights)
}

/// The three things a file says about a layer.
#[derive(Default)]
struct Entry {
    down: Option<Tensor>,
    up: Option<Tensor>,
    alpha: Option<f64>,
}

enum Part {
    Down,
    Up,
    Alpha,
}

const ENDINGS: [(&str, Part); 11] = [
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_A.default.weight", Part::Down),
    (".lora_B.default.weight", Part::Up),
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    (".alpha", Part::Alpha),
];

pub(super) fn parse(
    tensors: Tensors,
    metadata: &HashMap<String, String>,
    path: &Path,
    weights: &Weights,
) -> Result<BTreeMap<String, LowRank>> {
    let by_kohya_name: HashMap<String, &str> = weights.all_layers().map(|layer| (kohya_name(layer), layer)).collect();
    let mut entries = BTreeMap::<String, Entry>::new();
    for (key, tensor) in tensors {
        let Some((name, part)) = ENDINGS.iter().find_map(|(end, part)| Some((key.strip_suffix(end)?, part))) else {
            return Err(Error::file(path, format!("{key} is in no LoRA spelling that this program reads")));
        };
        let layer = layer_name(name, &by_kohya_name).ok_or_else(|| {
            let what = if name.starts_with("text_encoder") || name.starts_with("lora_te") {
                "is an adapter of the text encoder; only UNet adapters are supported"
            } else {
                "belongs to no layer of this UNet; was the LoRA made for another base model?"
            };
            Error::file(path, format!("{key} {what}"))
        })?;
        if !tensor.is_floating_point() {
            return Err(Error::file(path, format!("{key} holds whole numbers")));
        }
        let entry = entries.entry(layer).or_default();
        let tensor = tensor.to_device(weights.device()).to_kind(Kind::Float);
        match part {
            Part::Down => entry.down = Some(tensor),
            Part::Up => entry.up = Some(tensor),
            Part::Alpha if tensor.numel() == 1 => entry.alpha = Some(tensor.reshape([1]).double_value(&[0])),
            Part::Alpha => return Err(Error::file(path, format!("{key} is not a single number"))),
        }
    }
    if entries.is_empty() {
        return Err(Error::file(path, "holds no tensors"));
    }
    let alphas = Alphas::new(metadata.get(ADAPTER_METADATA), path)?;
    let complete = |(layer, entry): (String, Entry)| match entry {
        Entry { down: Some(down), up: Some(up), alpha } if down.dim() >= 2 && up.dim() >= 2 && down.size()[0] > 0 => {
            let alpha = alpha.or_else(|| alphas.of(&layer)).unwrap_or(down.size()[0] as f64);
            Ok((layer, LowRank { down, up, alpha }))
        }
        _ => Err(Error::file(path, format!("{layer} lacks its down or up matrix"))),
    };
    entries.into_iter().map(complete).collect()
}

/// The path of the layer in the UNet, from its name in a file without the ending.
fn layer_name(name: &str, by_kohya_name: &HashMap<String, &str>) -> Option<String> {
    if let Some(layer) = by_kohya_name.get(name) {
        return Some((*layer).to_owned());
    }
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let name = name.strip_prefix("unet.").unwrap_or(name);
    let name = match name.split_once(".processor.") {
        Some((attention, "to_out")) => format!("{attention}.to_out.0"),
        Some((attention, projection)) => format!("{attention}.{projection}"),
        None => name.to_owned(),
    };
    by_kohya_name.contains_key(&kohya_name(&name)).then_some(name)
}

/// PEFT's configuration of an adapter, as diffusers stores it in the file's metadata.
struct Alphas(serde_json::Map<String, Value>);

impl Alphas {
    fn new(text: Option<&String>, path: &Path) -> Result<Self> {
        let Some(text) = text else { return Ok(Self(Default::default())) };
        serde_json::from_str(text).map(Self).map_err(|e| Error::file(path, format!("metadata {ADAPTER_METADATA}: {e}")))
    }

    fn of(&self, layer: &str) -> Option<f64> {
        let get = |key: &str| self.0.get(&format!("unet.{key}")).or_else(|| self.0.get(key));
        let pattern = get("alpha_pattern").and_then(Value::as_object);
        let matching = pattern.and_then(|p| p.iter().find(|(k, _)| layer == *k || layer.ends_with(&format!(".{k}"))));
        matching.map(|(_, v)| v).or_else(|| get("lora_alpha")).and_then(Value::as_f64)
    }
}
