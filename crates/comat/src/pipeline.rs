//! A model folder in diffusers layout, opened: everything that generating and training have in common.

use crate::{
    config::{Location, Size},
    text::TextEncoders,
};
use anyhow::{Context, Result, bail};
use models::{
    Error,
    config::Json,
    lora::Base,
    schedule::NoiseSchedule,
    unet::{self, UNet},
    vae::AutoencoderKl,
    weights::{self, Weights},
};
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

pub struct Pipeline {
    pub path: PathBuf,
    /// What the model is called: its path, or its id on the hub.
    pub name: PathBuf,
    pub variant: Option<String>,
    pub base: Base,
    pub kind: Kind,
    pub device: Device,
    pub unet_config: unet::Config,
    pub unet_weights: Weights,
    pub vae: AutoencoderKl,
    pub text: TextEncoders,
    pub schedule: NoiseSchedule,
}

impl Pipeline {
    pub fn open(path: &Path, kind: Kind, device: Device) -> Result<Self> {
        Self::open_variant(path, None, kind, device)
    }

    /// A model as it is named by a configuration or on the command line.
    pub fn open_at(location: &Location, variant: Option<&str>, kind: Kind, device: Device) -> Result<Self> {
        Ok(Self { name: location.typed().to_owned(), ..Self::open_variant(location, variant, kind, device)? })
    }

    fn open_variant(path: &Path, variant: Option<&str>, kind: Kind, device: Device) -> Result<Self> {
        let index = path.join("model_index.json");
        if !index.exists() {
            return Err(not_a_model_folder(path));
        }
        let index = Json::read(&index)?;
        if let Some(variant) = variant {
            check_variant(path, variant)?;
        }
        let class: String = index.get("_class_name")?;
        let xl = match class.as_str() {
            "StableDiffusionPipeline" => false,
            "StableDiffusionXLPipeline" => true,
            _ => {
                return Err(index
                    .error("_class_name", &format!("is {class}; only Stable Diffusion 1.x, 2.x and XL are supported"))
                    .into());
            }
        };
        let zeros: bool = xl && index.get_or("force_zeros_for_empty_prompt", true)?;
        let folders: &[_] = if xl {
            &[("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")]
        } else {
            &[("tokenizer", "text_encoder")]
        };
        let unet_config = unet::Config::read(&path.join("unet/config.json"))?;
        let text = TextEncoders::open(path, folders, zeros, variant, kind, device)?;
        if text.width() != unet_config.cross_attention_dim {
            bail!(
                "{}: unet/config.json: cross_attention_dim is {}, but the text encoder gives {}; do UNet and encoder belong together?",
                path.display(),
                unet_config.cross_attention_dim,
                text.width()
            );
        }
        let vae = AutoencoderKl::open_variant(&path.join("vae"), variant, kind, device)?;
        if (unet_config.in_channels, unet_config.out_channels)
            != (vae.config().latent_channels, vae.config().latent_channels)
        {
            bail!(
                "{}: unet/config.json: {} channels in and {} out, but the VAE's latents have {}; inpainting models cannot be used",
                path.display(),
                unet_config.in_channels,
                unet_config.out_channels,
                vae.config().latent_channels
            );
        }
        let base = match (xl, unet_config.cross_attention_dim) {
            (true, _) => Base::Sdxl,
            (false, 1024) => Base::Sd2,
            (false, _) => Base::Sd1,
        };
        let unet_weights = Weights::open_variant(&path.join("unet"), "diffusion_pytorch_model", variant, kind, device)?;
        let this = Self {
            path: path.to_owned(),
            name: path.to_owned(),
            variant: variant.map(str::to_owned),
            base,
            kind,
            device,
            unet_config,
            unet_weights,
            vae,
            text,
            schedule: NoiseSchedule::read(&path.join("scheduler/scheduler_config.json"))?,
        };
        this.unet(&this.unet_weights).context("the UNet's weights do not fit its config.json")?;
        Ok(this)
    }

    /// The UNet with weights that were derived from its own.
    pub fn unet(&self, weights: &Weights) -> models::Result<UNet> {
        UNet::new(&self.unet_config, weights)
    }

    /// Image size in pixels that the model was trained for.
    pub fn native_size(&self) -> Size {
        let side = self.unet_config.sample_size * self.vae.config().downscale();
        Size { width: side, height: side }
    }

    /// Channels, height and width of the latents of an image of that size.
    pub fn latent_shape(&self, size: Size) -> Result<[i64; 3]> {
        let cell = self.vae.config().downscale();
        let least = cell << self.unet_config.halvings();
        if size.width % cell != 0 || size.height % cell != 0 || size.width < least || size.height < least {
            bail!("size {size}: width and height must be multiples of {cell}, and at least {least}, for this model");
        }
        Ok([self.vae.config().latent_channels, size.height / cell, size.width / cell])
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
    let message = if !path.exists() {
        "no such file or folder"
    } else if path.is_file() {
        "is a file; a model is a folder in diffusers layout (single-file checkpoints are not supported yet)"
    } else if path.join("config.json").exists() {
        "holds a single network; a model is the folder above, with model_index.json, unet/, vae/, text_encoder/ and tokenizer/"
    } else {
        "has no model_index.json; a model is a folder in diffusers layout"
    };
    Error::file(path, message).into()
}
