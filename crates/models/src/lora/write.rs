//! Writes adapters in diffusers', PEFT's and kohya's formats.

use super::{
    Base, Lora, LowRank, Name, Network,
    peft::{self, OfLayer},
};
use crate::{
    error::Result,
    tensors::{self, Tensors},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};
use tch::{Kind, Tensor};

/// Adapted layers by name.
type Pairs = BTreeMap<Name, LowRank>;

/// Layers that have a rank, with rank and alpha.
pub type Layers = BTreeMap<Name, OfLayer>;

/// Writes diffusers' format, `unet.LAYER.lora.down.weight` and `.up.weight`, with alpha / rank multiplied into `up`,
/// because the format has no alpha.
pub fn write_diffusers(lora: &Lora, path: &Path) -> Result<()> {
    let pairs = of(lora, Some(Kind::Float));
    let out = pairs.iter().flat_map(|(name, pair)| diffusers_pair(name, pair)).collect();
    tensors::write(path, &out, HashMap::from([("format".into(), "pt".into())]))
}

/// Writes kohya's format, `lora_unet_LAYER_WITH_UNDERSCORES.lora_down.weight`, `.lora_up.weight` and `.alpha`, with the
/// metadata that readers of this format look for. `size`: width and height of the training images in pixels.
pub fn write_kohya(lora: &Lora, path: &Path, base: Base, title: &str, size: (i64, i64)) -> Result<()> {
    let pairs = of(lora, Some(Kind::Float));
    let out = kohya(&pairs, base == Base::Sdxl);
    let mut metadata = kohya_metadata(&of_layers(&pairs), Some(base), title, &out);
    metadata.insert("modelspec.resolution".into(), format!("{}x{}", size.0, size.1));
    tensors::write(path, &out, metadata)
}

/// Writes PEFT's format with alpha in the metadata. It is exact, so checkpoints use it.
pub fn write_peft(lora: &Lora, path: &Path) -> Result<()> {
    let pairs = of(lora, None);
    let metadata = HashMap::from([(peft::METADATA.into(), peft::metadata(&of_layers(&pairs), None))]);
    tensors::write(path, &peft(&pairs), metadata)
}

fn of(lora: &Lora, kind: Option<Kind>) -> Pairs {
    let named = |(layer, pair): (&String, &LowRank)| (Name::unet(layer), pair.detached(kind));
    lora.pairs().map(named).collect()
}

fn peft(pairs: &Pairs) -> Tensors {
    pairs.iter().flat_map(|(name, pair)| peft_pair(name, pair)).collect()
}

fn kohya(pairs: &Pairs, two_encoders: bool) -> Tensors {
    pairs.iter().flat_map(|(name, pair)| kohya_pair(name, pair, two_encoders)).collect()
}

/// Tensors in diffusers' format. Keys of text encoders have their own ending. Alpha / rank is multiplied into `up`.
pub fn diffusers_pair(name: &Name, pair: &LowRank) -> [(String, Tensor); 2] {
    let ending = if name.network == Network::UNet { "lora" } else { "lora_linear_layer" };
    [
        (format!("{}.{ending}.down.weight", name.dotted()), pair.down.shallow_clone()),
        (format!("{}.{ending}.up.weight", name.dotted()), pair.folded_up()),
    ]
}

/// Tensors in PEFT's format. Alpha is in the metadata: [`peft::metadata`].
pub fn peft_pair(name: &Name, pair: &LowRank) -> [(String, Tensor); 2] {
    [
        (format!("{}.lora_A.weight", name.dotted()), pair.down.shallow_clone()),
        (format!("{}.lora_B.weight", name.dotted()), pair.up.shallow_clone()),
    ]
}

/// Tensors in kohya's format. Blocks have diffusers' names for SDXL, too: readers of this format know both.
/// `two_encoders`: see [`Name::kohya`].
pub fn kohya_pair(name: &Name, pair: &LowRank, two_encoders: bool) -> [(String, Tensor); 3] {
    let name = name.kohya(two_encoders);
    [
        (format!("{name}.lora_down.weight"), pair.down.shallow_clone()),
        (format!("{name}.lora_up.weight"), pair.up.shallow_clone()),
        (format!("{name}.alpha"), Tensor::from(pair.alpha as f32)),
    ]
}

/// Rank and alpha of the pairs, for the metadata.
fn of_layers(pairs: &Pairs) -> Layers {
    let of = |pair: &LowRank| OfLayer { rank: pair.rank(), alpha: pair.alpha, has_norms: false };
    pairs.iter().map(|(name, pair)| (name.clone(), of(pair))).collect()
}

/// Metadata that readers of kohya's format look for; `out` holds the tensors of the file.
pub fn kohya_metadata(layers: &Layers, base: Option<Base>, title: &str, out: &Tensors) -> HashMap<String, String> {
    let mut metadata = HashMap::from(
        [
            ("ss_network_module", "networks.lora".into()),
            ("ss_network_dim", one_of(layers.values().map(|l| l.rank.to_string()))),
            ("ss_network_alpha", one_of(layers.values().map(|l| l.alpha.to_string()))),
            ("ss_network_args", "{}".into()),
            ("modelspec.sai_model_spec", "1.0.1".into()),
            ("modelspec.implementation", "diffusers".into()),
            ("modelspec.title", title.into()),
            (HASH, hash(out)),
        ]
        .map(|(key, value): (&str, String)| (key.to_owned(), value)),
    );
    if let Some(base) = base {
        metadata.insert("ss_v2".into(), if base == Base::Sd2 { "True" } else { "False" }.into());
        metadata.insert("ss_base_model_version".into(), base.version().into());
        metadata.insert("modelspec.architecture".into(), base.architecture().into());
    }
    metadata
}

/// The common value, or kohya's word for several values.
fn one_of(mut values: impl Iterator<Item = String>) -> String {
    let first = values.next().unwrap_or_default();
    if values.all(|value| value == first) { first } else { "Dynamic".into() }
}

/// Metadata key of the SHA-256 of everything after the file's header, as kohya names it.
pub const HASH: &str = "sshs_model_hash";

/// Hash of a file that is not written yet. Values are stored widest type first, then by name.
pub fn hash(tensors: &Tensors) -> String {
    let mut hasher = Sha256::new();
    let mut values: Vec<&Tensor> = tensors.values().collect();
    values.sort_by_key(|t| std::cmp::Reverse(t.kind().elt_size_in_bytes())); // stable: names stay in order
    for t in values {
        let flat = t.contiguous().view([-1]).view_dtype(Kind::Uint8);
        hasher.update(Vec::<u8>::try_from(flat).unwrap_or_default());
    }
    crate::hex(&hasher.finalize())
}
