//! From one spelling to another.

use super::{
    AdapterFile, Base, LowRank, Network, peft,
    write::{self, HASH, Pairs},
};
use crate::{
    error::{Error, Result},
    tensors::{self, Tensors},
};
use std::{collections::HashMap, path::Path};
use tch::{Kind, Tensor};

/// The spellings that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// For diffusers; alpha / rank is folded into `up`.
    Diffusers,
    /// For diffusers and peft; alpha is in the metadata.
    Peft,
    /// For ComfyUI, A1111, SD.Next, InvokeAI; alpha is a tensor.
    Kohya,
}

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Precision of the matrices; `None` leaves it.
    pub kind: Option<Kind>,
    /// The adapter is added this many times.
    pub factor: f64,
    /// Leaves the adapters of text encoders out.
    pub unet_only: bool,
}

/// Metadata that are true of the file they stand in only.
const OF_ONE_FILE: [&str; 3] = [HASH, "sshs_legacy_hash", "modelspec.hash_sha256"];

/// Writes the adapter in another spelling. Metadata stay; those that say what the tensors already say are made anew.
///
/// Matrices are copied bit for bit, unless precision or factor ask for others. PEFT and kohya keep alpha; in diffusers'
/// spelling `up` is rounded where alpha / rank is no power of two.
///
/// # Errors
/// Keys that are not understood, layers that are not whole, values that are too large for the precision.
pub fn convert(file: &AdapterFile, target: Target, options: Options, out: &Path) -> Result<()> {
    let mut pairs = Pairs::new();
    for (name, pair) in file.pairs()? {
        if options.unet_only && name.network != Network::UNet {
            continue;
        }
        if pair.up.size()[1] != pair.rank() {
            return Err(Error::file(&file.path, format!("{}: {}", name.dotted(), pair.mismatch())));
        }
        let mut pair = LowRank { alpha: pair.alpha * options.factor, ..pair };
        if target == Target::Diffusers && pair.up.kind() != Kind::Double {
            pair.up = pair.up.to_kind(Kind::Float); // the scale is folded into it before it is rounded
        }
        pairs.insert(name, pair);
    }
    if pairs.is_empty() {
        return Err(Error::file(&file.path, "adapts no layer of the UNet"));
    }
    let own = pairs.values().next().map(|pair| pair.down.kind()).filter(|_| target == Target::Diffusers);
    let (tensors, made) = spelt(file, target, &pairs, options.kind.or(own), out)?;
    let kept = file.metadata.iter().filter(|(key, _)| !OF_ONE_FILE.contains(&key.as_str()) && *key != peft::METADATA);
    let mut metadata: HashMap<_, _> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, value) in made {
        match key.as_str() {
            "ss_network_dim" | "ss_network_alpha" | HASH | peft::METADATA => drop(metadata.insert(key, value)),
            _ => drop(metadata.entry(key).or_insert(value)),
        }
    }
    tensors::write(out, &tensors, metadata)
}

/// The tensors of the file, and the metadata that go with the spelling.
fn spelt(
    file: &AdapterFile,
    target: Target,
    pairs: &Pairs,
    kind: Option<Kind>,
    out: &Path,
) -> Result<(Tensors, HashMap<String, String>)> {
    let base = file.base();
    let mut tensors = match target {
        Target::Diffusers => write::diffusers(pairs),
        Target::Peft => write::peft(pairs),
        Target::Kohya => {
            let second = file.networks().contains(&Network::TextEncoder2);
            write::kohya(pairs, base == Some(Base::Sdxl) || second)
        }
    };
    if let Some(kind) = kind {
        for (key, tensor) in tensors.iter_mut().filter(|(key, _)| !key.ends_with(".alpha")) {
            let cast = tensor.to_kind(kind);
            if is_finite(tensor) && !is_finite(&cast) {
                let message = format!("{key} has values that are too large for the precision asked for");
                return Err(Error::file(&file.path, message));
            }
            *tensor = cast;
        }
    }
    let metadata = match target {
        Target::Diffusers => HashMap::from([("format".into(), "pt".into())]),
        Target::Peft => HashMap::from([
            ("format".into(), "pt".into()),
            (peft::METADATA.into(), peft::metadata(pairs, file.metadata.get(peft::METADATA))),
        ]),
        Target::Kohya => {
            let title = out.file_stem().unwrap_or_default().to_string_lossy();
            write::kohya_metadata(pairs, base, &title, &tensors)
        }
    };
    Ok((tensors, metadata))
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) != 0
}
