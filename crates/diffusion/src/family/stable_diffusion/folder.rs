//! Folders in diffusers layout.

use super::{
    StableDiffusion,
    text::{self, TextEncoders},
};
use crate::{
    family::model::{self, Family, Overrides, Parts, Request},
    resident::Resident,
};
use anyhow::{Result, bail};
use models::{
    autoencoder::Autoencoder,
    clip::TextConfig,
    config::Json,
    schedule::NoiseSchedule,
    unet,
    vae::{self, AutoencoderKl},
    weights::{self, Weights},
};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

/// The contents of a model folder's configurations. No weights are read.
pub struct Described {
    pub xl: bool,
    /// Whether the negative prompt's embedding is zero where there is none.
    pub zeros: bool,
    pub schedule: NoiseSchedule,
    pub unet: unet::Config,
    pub vae: vae::Config,
    /// Configurations of the text encoders, in their order.
    pub text: Vec<TextConfig>,
}

/// Reads and checks the configurations of a model folder.
///
/// # Errors
/// Names what is not implemented, by file and key. The scheduler's is checked first, since it decides whether a model
/// can be used at all.
pub fn describe(path: &Path, overrides: Overrides) -> Result<Described> {
    let (xl, index) = class(path)?;
    let zeros: bool = xl && index.get_or("force_zeros_for_empty_prompt", true)?;
    let text = places_of_text(path, xl).map(|place| TextConfig::read(&place.join("config.json")));
    Ok(Described {
        xl,
        zeros,
        schedule: NoiseSchedule::read(&path.join("scheduler/scheduler_config.json"), super::forced(overrides, xl))?,
        unet: unet::Config::read(&path.join("unet/config.json"))?,
        vae: vae::Config::read(&path.join("vae/config.json"))?,
        text: text.collect::<models::Result<_>>()?,
    })
}

/// The folders of the text encoders.
fn places_of_text(path: &Path, xl: bool) -> impl Iterator<Item = PathBuf> {
    text::NETWORKS[..if xl { 2 } else { 1 }].iter().map(|network| path.join(network.to_string()))
}

pub fn open(path: &Path, request: &Request) -> Result<Parts> {
    let Request { variant, overrides, precision, device, .. } = *request;
    let Described { xl, zeros, schedule, unet: unet_config, vae: vae_config, text: text_configs } =
        describe(path, overrides)?;
    if let Some(variant) = variant {
        check_variant(path, variant)?;
    }
    let kind = precision.networks;
    let tokenizers = if xl { &["tokenizer", "tokenizer_2"][..] } else { &["tokenizer"] };
    let tokenizers =
        tokenizers.iter().map(|name| Ok(super::tokenizer(overrides, &path.join(name))?)).collect::<Result<_>>()?;
    let places: Vec<(PathBuf, TextConfig)> = places_of_text(path, xl).zip(text_configs).collect();
    let of_text = variant.map(str::to_owned);
    let encoders = move || {
        let open = |(place, config): &(PathBuf, TextConfig)| {
            Ok((config.clone(), Weights::open_variant(place, "model", of_text.as_deref(), kind, device)?))
        };
        places.iter().map(open).collect()
    };
    let text = TextEncoders::open(path, tokenizers, encoders, overrides.clip_skip, zeros, kind, device)?;
    let (vae_kind, latent_channels) = (precision.of_vae(&vae_config, xl), vae_config.latent_channels);
    let (of_vae, vae) = (variant.map(str::to_owned), path.join("vae"));
    let vae = Resident::open(move || {
        let opened = AutoencoderKl::open_variant(&vae, of_vae.as_deref(), vae_kind, device)?;
        Ok(Box::new(opened) as Box<dyn Autoencoder>)
    })?;
    let family = StableDiffusion { xl, config: unet_config };
    family.check(path, &text, latent_channels)?;
    let weights = family.weights(path, variant, kind, device)?;
    Ok(Parts { family: Rc::new(family), weights, vae, text: Box::new(text), path: Box::new(schedule) })
}

/// Whether the folder is a Stable Diffusion XL, or 1.x or 2.x; and its `model_index.json`.
///
/// # Errors
/// It is neither.
pub fn class(path: &Path) -> Result<(bool, Json)> {
    let (class, index) = model::class(path)?;
    let Some(xl) = super::is_xl(&class) else { return Err(model::unknown(&index, &class).into()) };
    let key = "requires_aesthetics_score";
    if xl && index.truth_or(key, false)? {
        bail!(index.error(key, "is true: this is the refiner of SDXL, which cannot be used; take the base model"));
    }
    Ok((xl, index))
}

/// Single parts may lack a variant. If all of them lack it, its name is misspelt.
fn check_variant(path: &Path, variant: &str) -> Result<()> {
    let parts = [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")];
    if !parts.iter().any(|(part, stem)| weights::has_variant(&path.join(part), stem, variant)) {
        bail!(
            "{}: no part has weights of variant {variant}, as diffusion_pytorch_model.{variant}.safetensors in unet/",
            path.display()
        );
    }
    Ok(())
}
