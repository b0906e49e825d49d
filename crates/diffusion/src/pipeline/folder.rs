//! Folders in diffusers layout.

use super::{Overrides, Parts, Precision, is_single_file};
use crate::{
    resident::Resident,
    text::{self, TextEncoders},
};
use anyhow::{Result, bail};
use models::{
    Error,
    clip::TextConfig,
    config::Json,
    schedule::NoiseSchedule,
    unet,
    vae::{self, AutoencoderKl},
    weights::{self, Weights},
};
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

/// What the configurations of a model folder say. No weights are read.
pub struct Described {
    pub xl: bool,
    /// Whether the negative prompt's embedding is zero where there is none.
    pub zeros: bool,
    pub schedule: NoiseSchedule,
    pub unet: unet::Config,
    pub vae: vae::Config,
    /// Of the text encoders, in their order.
    pub text: Vec<TextConfig>,
}

/// Reads and checks the configurations of a model folder.
///
/// # Errors
/// What of it is not implemented, by file and key; the noise first, which decides whether a model can be used at all.
pub fn describe(path: &Path, overrides: Overrides) -> Result<Described> {
    let (xl, index) = class(path)?;
    let zeros: bool = xl && index.get_or("force_zeros_for_empty_prompt", true)?;
    let text = places_of_text(path, xl).map(|place| TextConfig::read(&place.join("config.json")));
    Ok(Described {
        xl,
        zeros,
        schedule: NoiseSchedule::read(&path.join("scheduler/scheduler_config.json"), overrides.forced(xl))?,
        unet: unet::Config::read(&path.join("unet/config.json"))?,
        vae: vae::Config::read(&path.join("vae/config.json"))?,
        text: text.collect::<models::Result<_>>()?,
    })
}

/// The folders of the text encoders.
fn places_of_text(path: &Path, xl: bool) -> impl Iterator<Item = PathBuf> {
    text::NETWORKS[..if xl { 2 } else { 1 }].iter().map(|network| path.join(network.to_string()))
}

pub fn open(
    path: &Path,
    variant: Option<&str>,
    overrides: Overrides,
    precision: Precision,
    device: Device,
) -> Result<Parts> {
    let Described { xl, zeros, schedule, unet: unet_config, vae: vae_config, text: text_configs } =
        describe(path, overrides)?;
    if let Some(variant) = variant {
        check_variant(path, variant)?;
    }
    let kind = precision.networks;
    let tokenizers = if xl { &["tokenizer", "tokenizer_2"][..] } else { &["tokenizer"] };
    let tokenizers = tokenizers.iter().map(|name| Ok(overrides.tokenizer(&path.join(name))?)).collect::<Result<_>>()?;
    let places: Vec<(PathBuf, TextConfig)> = places_of_text(path, xl).zip(text_configs).collect();
    let of_text = variant.map(str::to_owned);
    let encoders = move || {
        let open = |(place, config): &(PathBuf, TextConfig)| {
            Ok((config.clone(), Weights::open_variant(place, "model", of_text.as_deref(), kind, device)?))
        };
        places.iter().map(open).collect()
    };
    let vae = path.join("vae");
    let vae_kind = precision.of_vae(&vae_config, xl);
    Ok(Parts {
        xl,
        unet_config,
        text: TextEncoders::open(path, tokenizers, encoders, overrides.clip_skip, zeros, kind, device)?,
        vae: {
            let variant = variant.map(str::to_owned);
            Resident::open(move || Ok(AutoencoderKl::open_variant(&vae, variant.as_deref(), vae_kind, device)?))?
        },
        unet_weights: unet_weights(path, variant, kind, device)?,
        schedule,
    })
}

/// The UNet's of a model folder.
pub fn unet_weights(path: &Path, variant: Option<&str>, kind: Kind, device: Device) -> models::Result<Weights> {
    Weights::open_variant(&path.join("unet"), "diffusion_pytorch_model", variant, kind, device)
}

/// Whether the folder is a Stable Diffusion XL, or 1.x or 2.x; and its `model_index.json`.
pub fn class(path: &Path) -> Result<(bool, Json)> {
    let index = path.join("model_index.json");
    if !index.exists() {
        return Err(not_a_model_folder(path));
    }
    let index = Json::read(&index)?;
    let class: String = index.get("_class_name")?;
    match class.as_str() {
        "StableDiffusionPipeline" => Ok((false, index)),
        "StableDiffusionXLPipeline" => Ok((true, index)),
        _ => Err(index
            .error("_class_name", &format!("is {class}; only Stable Diffusion 1.x, 2.x and XL are supported"))
            .into()),
    }
}

/// A part may lack a variant, but all of them only do when it is misspelt.
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

/// Says what else the path may be, since that is what people try.
fn not_a_model_folder(path: &Path) -> anyhow::Error {
    let message = if is_single_file(path) {
        "is a single file; model.path, and --model of generate and attention, can be one, with a tokenizer named by model.tokenizer or --tokenizer"
    } else if !path.exists() {
        "no such file or folder"
    } else if path.is_file() {
        "is a file; a model is a folder in diffusers layout, or one .safetensors file"
    } else if path.join("config.json").exists() {
        "holds a single network; a model is the folder above, with model_index.json, unet/, vae/, text_encoder/ and tokenizer/"
    } else {
        "has no model_index.json; a model is a folder in diffusers layout"
    };
    Error::file(path, message).into()
}
