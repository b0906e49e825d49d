//! Converts an adapter file to another format.

use super::{
    AdapterFile, Base, Name, Network,
    file::not_finite,
    format::{self, Formatted},
    peft::{self, OfLayer},
    write::{self, HASH, Layers},
};
use crate::{
    error::{Error, Result},
    tensors::{self, Tensors},
};
use std::{collections::HashMap, path::Path};
use tch::{Kind, Tensor};

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// For diffusers; alpha / rank is folded into `up`. Plain LoRA only.
    Diffusers,
    /// For diffusers and peft; alpha is in the metadata. LoRA and DoRA.
    Peft,
    /// For ComfyUI, A1111, SD.Next, InvokeAI; alpha is a tensor. Holds every adapter kind that can be read.
    Kohya,
}

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Precision of the matrices; `None` keeps it.
    pub kind: Option<Kind>,
    /// Factor on the adapter's strength.
    pub factor: f64,
    /// Leaves the adapters of text encoders out.
    pub unet_only: bool,
}

/// Metadata that only hold for the file that they are in.
const OF_ONE_FILE: [&str; 3] = [HASH, "sshs_legacy_hash", "modelspec.hash_sha256"];

/// Writes the adapter in another format. Metadata are kept; those that follow from the tensors are written anew.
///
/// Matrices are copied bit for bit, unless precision or factor ask for others. PEFT and kohya keep alpha; in diffusers'
/// format `up` is rounded where alpha / rank is no power of two.
///
/// # Errors
/// If keys are not understood, layers are incomplete, values are not finite, too large or too small for the precision, the format
/// cannot hold the adapter, or names could not be read back.
pub fn convert(file: &AdapterFile, target: Target, options: Options, out: &Path) -> Result<()> {
    let names: Vec<&Name> =
        file.entries.keys().filter(|name| !options.unet_only || name.network == Network::UNet).collect();
    if names.is_empty() {
        return Err(Error::file(&file.path, "adapts no layer of the UNet"));
    }
    file.changes()?; // says what of it is not understood
    Network::ALL.into_iter().try_for_each(|network| file.check_finite(network))?;
    let base = file.base();
    let two_encoders = base == Some(Base::Sdxl) || file.networks().contains(&Network::TextEncoder2);
    let (mut tensors, mut layers) = (Tensors::new(), Layers::new());
    for name in &names {
        let layer = format::layer(file, name, target, options.factor, two_encoders);
        let Formatted { tensors: of_layer, rank, alpha, has_norms } =
            layer.map_err(|why| Error::file(&file.path, format!("{} {why}", name.dotted())))?;
        tensors.extend(of_layer);
        if let (Some(rank), Some(alpha)) = (rank, alpha) {
            layers.insert((*name).clone(), OfLayer { rank, alpha, has_norms });
        }
    }
    // diffusers' pairs are in float32, so that the scale is folded in before rounding
    let own = file.kinds().first().copied().filter(|_| target == Target::Diffusers);
    if let Some(kind) = options.kind.or(own) {
        let (mut before, mut after) = (0, 0); // matrices that are not 0
        for (_, tensor) in tensors.iter_mut().filter(|(key, _)| !key.ends_with(".alpha")) {
            before += usize::from(!is_zero(tensor));
            *tensor = tensor.to_kind(kind);
            after += usize::from(!is_zero(tensor));
        }
        if before > 0 && after == 0 {
            return Err(Error::file(&file.path, "all values are too small for the precision asked for"));
        }
    }
    if let Some((key, _)) = tensors.iter().find(|(_, t)| not_finite(t) > 0) {
        return Err(Error::file(
            &file.path,
            format!("{key} has values that are too large for the precision asked for"),
        ));
    }
    let made = match target {
        Target::Diffusers => HashMap::from([("format".into(), "pt".into())]),
        Target::Peft => HashMap::from([
            ("format".into(), "pt".into()),
            (peft::METADATA.into(), peft::metadata(&layers, file.metadata.get(peft::METADATA))),
        ]),
        Target::Kohya => {
            let title = out.file_stem().unwrap_or_default().to_string_lossy();
            write::kohya_metadata(&layers, base, &title, &tensors)
        }
    };
    let kept = file.metadata.iter().filter(|(key, _)| !OF_ONE_FILE.contains(&key.as_str()) && *key != peft::METADATA);
    let mut metadata: HashMap<_, _> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, value) in made {
        match key.as_str() {
            "ss_network_dim" | "ss_network_alpha" | HASH | peft::METADATA => drop(metadata.insert(key, value)),
            _ => drop(metadata.entry(key).or_insert(value)),
        }
    }
    can_be_read(&names, &tensors, &metadata, &file.path, target)?;
    tensors::write(out, &tensors, metadata)
}

fn is_zero(tensor: &Tensor) -> bool {
    tensor.count_nonzero(None).int64_value(&[]) == 0
}

/// Whether a reader finds exactly these layers in the tensors to be written.
fn can_be_read(
    names: &[&Name],
    tensors: &Tensors,
    metadata: &HashMap<String, String>,
    path: &Path,
    target: Target,
) -> Result<()> {
    let shared = tensors.iter().map(|(key, t)| (key.clone(), t.shallow_clone())).collect();
    let back = AdapterFile::parse(shared, metadata.clone(), path, 2)?;
    back.changes()?;
    let what = if target == Target::Kohya { ": dots of its path are lost in kohya's underscores" } else { "" };
    match names.iter().find(|name| !back.entries.contains_key(name)) {
        Some(name) => {
            Err(Error::file(path, format!("{} could not be read back from the new file{what}", name.dotted())))
        }
        None => Ok(()),
    }
}
