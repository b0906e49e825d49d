//! Checkpoints in one file, with the keys of the original latent-diffusion program: SD1.x, SD2.x and SDXL.
//!
//! Such a file has UNet, autoencoder and text encoders, each below a prefix, and no configuration. The layer of a key
//! follows from the keys themselves: from the contents of a numbered block it is clear whether it is a residual block,
//! a downsampler or an upsampler. Upstream: `ldm/modules/diffusionmodules/{openaimodel,model}.py` of latent-diffusion,
//! open_clip's `TextTransformer`.

mod configs;
mod noise;
mod other;
mod text;
mod unet;
mod vae;

use crate::{
    error::{Error, Result},
    tensors::{self, Tensors},
};
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};
use tch::Tensor;

use configs::scheduler;
pub use configs::{shapes, text_config, unet_config, vae_config};
pub use noise::Statements;

/// The parts of a file, each with its keys as in diffusers' and transformers' folders.
pub struct Parts {
    pub unet: Tensors,
    pub vae: Tensors,
    /// One for SD1 and SD2, two for SDXL.
    pub text: Vec<Tensors>,
    pub family: Family,
    /// What the file says about the noise schedule.
    pub said: Statements,
}

/// Model families with such files; they differ in their text encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// OpenAI's CLIP ViT-L.
    Sd1,
    /// open_clip's ViT-H, without its last layer.
    Sd2,
    /// OpenAI's ViT-L and open_clip's ViT-bigG.
    Sdxl,
}

/// What precedes the keys of the UNet, of the autoencoder, and of open_clip's text encoders.
const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const SD2: &str = "cond_stage_model.model.";
const SECOND: &str = "conditioner.embedders.1.model.";
/// The first text encoder in sgm's form: of SD2 (as of SD-Turbo) in place of [`SD2`], or of an SDXL refiner.
const SGM: &str = "conditioner.embedders.0.model.";
const REFINER: &str =
    "is an SDXL refiner, which has open_clip's text encoder alone; it cannot be used, take the base model";

impl Parts {
    pub fn read(path: &Path) -> Result<Self> {
        let (all, mut metadata) = tensors::read(path)?;
        metadata.extend(noise::said_beside(path));
        Self::of(all, &metadata, path)
    }

    /// An error for a file that holds something else than a whole model, such as a LoRA.
    ///
    /// # Errors
    /// That one; those of reading the file.
    pub fn check(path: &Path) -> Result<()> {
        let (mut all, _) = tensors::read(path)?;
        without_wrapper(&mut all);
        other::instead(&all).map_or(Ok(()), |what| Err(Error::file(path, what)))
    }

    /// `origin` is the file to name in errors.
    pub fn of(mut all: Tensors, metadata: &HashMap<String, String>, origin: &Path) -> Result<Self> {
        without_wrapper(&mut all);
        if let Some(what) = other::instead(&all) {
            return Err(Error::file(origin, what));
        }
        let said = Statements::read(&all, metadata, origin)?;
        let mut take = |prefix: &str| below(&mut all, prefix);
        let (unet, vae) = (take(UNET), take(VAE));
        let sd1 = take("cond_stage_model.transformer.");
        let mut sd2 = take(SD2);
        let (first, second) = (take("conditioner.embedders.0.transformer."), take(SECOND));
        let sgm = take(SGM);
        for (part, what) in [(&unet, "model.diffusion_model (the UNet)"), (&vae, "first_stage_model (the autoencoder)")]
        {
            if part.is_empty() {
                return Err(Error::file(
                    origin,
                    format!(
                        "has no {what}, so it is not a whole Stable Diffusion model in one file; name a model folder"
                    ),
                ));
            }
        }
        let open_clip =
            |tensors, prefix: &str| text::from_open_clip(tensors, prefix).map_err(|e| Error::file(origin, e));
        let only_sgm = !sgm.is_empty() && [&sd1, &sd2, &first, &second].iter().all(|part| part.is_empty());
        // only SDXL's UNets know of sizes and crops
        let is_refiner = only_sgm && unet.keys().any(|key| key.starts_with("label_emb."));
        let open_clip_of_sd2 = if only_sgm && !is_refiner { SGM } else { SD2 };
        if only_sgm && !is_refiner {
            sd2 = sgm;
        }
        let (family, text) = match [&sd1, &sd2, &first, &second].map(|part| !part.is_empty()) {
            [true, false, false, false] => (Family::Sd1, vec![sd1]),
            [false, true, false, false] => (Family::Sd2, vec![text::penultimate(open_clip(sd2, open_clip_of_sd2)?)]),
            [false, false, true, true] => (Family::Sdxl, vec![first, open_clip(second, SECOND)?]),
            _ if is_refiner => return Err(Error::file(origin, REFINER)),
            [false, false, false, true] => {
                let what =
                    "has no conditioner.embedders.0.transformer (the first text encoder of SDXL); take the whole model";
                return Err(Error::file(origin, what));
            }
            _ => {
                let what = "has no text encoder, or several, where one of SD1.x (cond_stage_model.transformer), SD2.x \
                            (cond_stage_model.model) or SDXL (conditioner.embedders) is expected; name a model folder";
                return Err(Error::file(origin, what));
            }
        };
        let said = said.of(family);
        let renamed = |part: Tensors, prefix: &str, name: &dyn Fn(&str) -> Option<String>| -> Result<Tensors> {
            let rename = |(key, tensor): (String, Tensor)| match name(&key) {
                Some(name) => Ok((name, tensor)),
                None => Err(Error::file(origin, format!("{prefix}{key} belongs to no layer that is known here"))),
            };
            part.into_iter().map(rename).collect()
        };
        let places = unet::Places::of(unet.keys().map(String::as_str).collect());
        let levels = vae.keys().filter_map(|key| key.strip_prefix("decoder.up.")?.split('.').next()?.parse().ok());
        let levels: usize = levels.max().map_or(0, |last: usize| last + 1);
        let mut vae = vae;
        vae.retain(|key, _| !key.starts_with("loss."));
        Ok(Self {
            unet: unet::pointwise(renamed(unet, UNET, &|key| places.name(key))?, family != Family::Sd1)?,
            vae: vae::pointwise(renamed(vae, VAE, &|key| vae::name(key, levels))?)?,
            text,
            family,
            said,
        })
    }
}

/// Removes what precedes the prefixes if a whole training state was saved: `state_dict.`, `module.`, …
fn without_wrapper(all: &mut Tensors) {
    let of = |key: &String| Some(key[..key.find(UNET)?].to_owned());
    let is_plain = all.keys().any(|key| key.starts_with(UNET));
    let Some(wrapper) = all.keys().find_map(of).filter(|wrapper| !is_plain && wrapper.ends_with('.')) else { return };
    let inside = below(all, &wrapper);
    all.extend(inside);
}

/// Takes out all tensors below a prefix, and removes the prefix.
fn below(all: &mut Tensors, prefix: &str) -> Tensors {
    let keys: Vec<String> = all.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
    keys.into_iter().filter_map(|key| Some((key[prefix.len()..].to_owned(), all.remove(&key)?))).collect()
}

/// Finds the table entry that the key begins with, and returns its translation with the rest of the key.
fn reworded(key: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(theirs, ours)| {
        let rest = key.strip_prefix(theirs)?;
        rest.starts_with('.').then(|| format!("{ours}{rest}"))
    })
}

type Keys<'a> = BTreeSet<&'a str>;

fn has_below(keys: &Keys, prefix: &str) -> bool {
    keys.range(prefix..).next().is_some_and(|key| key.starts_with(prefix))
}
