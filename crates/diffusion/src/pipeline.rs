//! A model, opened: everything that generating and training have in common.

mod folder;
mod single;

use crate::{
    resident::Resident,
    settings::Location,
    text::{Adapter, TextEncoders},
};
use anyhow::{Context, Result, bail};
use images::Size;
use models::{
    lora::{AdapterFile, Base, Network},
    schedule::{Forced, NoiseSchedule, Prediction},
    tokenizer::ClipTokenizer,
    unet::{self, UNet},
    vae::{self, AutoencoderKl},
    weights::Weights,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

pub use folder::{Described, class, describe, unet_weights};

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
    pub vae_config: vae::Config,
    pub vae: Resident<AutoencoderKl>,
    pub text: TextEncoders,
    pub schedule: NoiseSchedule,
    /// What was said against its files.
    pub overrides: Overrides,
}

/// How a model is read, where that is not as its files say: what they do not say, or say wrongly, and longer prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_type: Option<Prediction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_betas_zero_snr: Option<bool>,
    /// Which of the text encoders' layers the UNet sees, counted from the end: 1 is the last one, SD1's and SD2's; 2 is SDXL's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,
    /// The most chunks of 75 tokens that a prompt is cut into; absent: one, as the model was trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<usize>,
}

impl Overrides {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// As its tokenizers are to be opened.
    fn tokenizer(self, folder: &Path) -> models::Result<ClipTokenizer> {
        Ok(ClipTokenizer::open(folder)?.in_chunks(self.chunks.unwrap_or(1)))
    }

    fn forced(self, xl: bool) -> Forced {
        Forced { prediction: self.prediction_type, zero_snr: self.rescale_betas_zero_snr, ..Forced::by_pipeline_of(xl) }
    }
}

/// What the networks compute in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Precision {
    pub networks: Kind,
    /// Absent: as the networks, or float32 for an autoencoder that is known to overflow in float16.
    pub vae: Option<Kind>,
}

impl Precision {
    /// Of an autoencoder of that configuration.
    fn of_vae(self, config: &vae::Config, xl: bool) -> Kind {
        self.vae.unwrap_or(config.kind(self.networks, xl))
    }
}

impl From<Kind> for Precision {
    fn from(networks: Kind) -> Self {
        Self { networks, vae: None }
    }
}

impl Pipeline {
    pub fn open(path: &Path, precision: impl Into<Precision>, device: Device) -> Result<Self> {
        Self::open_variant(path, None, Overrides::default(), precision.into(), device)
    }

    /// A model as it is named by a configuration or on the command line. `tokenizer`: the folder of one, for a model in
    /// a single file.
    pub fn open_at(
        location: &Location,
        variant: Option<&str>,
        tokenizer: Option<&Path>,
        overrides: Overrides,
        precision: Precision,
        device: Device,
    ) -> Result<Self> {
        let this = match tokenizer {
            Some(tokenizer) if is_single_file(location) => {
                let parts = single::open(location, tokenizer, overrides, precision, device)?;
                Self::assemble(location, None, parts, precision.networks, device)?
            }
            _ => Self::open_variant(location, variant, overrides, precision, device)?,
        };
        Ok(Self { name: location.typed().to_owned(), overrides, ..this })
    }

    fn open_variant(
        path: &Path,
        variant: Option<&str>,
        overrides: Overrides,
        precision: Precision,
        device: Device,
    ) -> Result<Self> {
        let parts = folder::open(path, variant, overrides, precision, device)?;
        Self::assemble(path, variant, parts, precision.networks, device)
    }

    fn assemble(path: &Path, variant: Option<&str>, parts: Parts, kind: Kind, device: Device) -> Result<Self> {
        let Parts { xl, unet_config, unet_weights, vae, text, schedule } = parts;
        let vae_config = vae.with(|vae| Ok(vae.config().clone()))?;
        if text.width() != unet_config.cross_attention_dim {
            bail!(
                "{}: unet/config.json: cross_attention_dim is {}, but the text encoder gives {}; do UNet and encoder belong together?",
                path.display(),
                unet_config.cross_attention_dim,
                text.width()
            );
        }
        if (unet_config.in_channels, unet_config.out_channels)
            != (vae_config.latent_channels, vae_config.latent_channels)
        {
            bail!(
                "{}: unet/config.json: {} channels in and {} out, but the VAE's latents have {}; inpainting models cannot be used",
                path.display(),
                unet_config.in_channels,
                unet_config.out_channels,
                vae_config.latent_channels
            );
        }
        let base = match (xl, unet_config.cross_attention_dim) {
            (true, _) => Base::Sdxl,
            (false, 1024) => Base::Sd2,
            (false, _) => Base::Sd1,
        };
        let this = Self {
            path: path.to_owned(),
            name: path.to_owned(),
            variant: variant.map(str::to_owned),
            base,
            kind,
            device,
            unet_config,
            unet_weights,
            vae_config,
            vae,
            text,
            schedule,
            overrides: Overrides::default(),
        };
        this.unet(&this.unet_weights).context("the UNet's weights do not fit its config.json")?;
        Ok(this)
    }

    /// The UNet with weights that were derived from its own.
    pub fn unet(&self, weights: &Weights) -> models::Result<UNet> {
        UNet::new(&self.unet_config, weights)
    }

    /// The UNet with LoRA files, each with its strength, or as it is. The text encoders have the files' adapters of them, or none,
    /// from now on: what is drawn with a UNet is drawn before the next one is asked for, or from text that was encoded then.
    ///
    /// # Errors
    /// A file that cannot be read, has values that are not finite, or is of another base model.
    pub fn adapt(&mut self, loras: &[(PathBuf, f64)]) -> Result<UNet> {
        let (mut changes, mut adapters) = (vec![], vec![]);
        for (path, scale) in loras {
            let file = AdapterFile::read_beside(path, &self.unet_weights)?;
            changes.push(file.changes_of(Network::UNet, &self.unet_weights)?.scaled(*scale));
            adapters.push(Adapter { file, scale: *scale });
        }
        let unet = self.unet(&self.unet_weights.changed(&changes)?)?;
        let left_out =
            adapters.iter().filter_map(|Adapter { file, .. }| Some((&file.path, file.embeddings_left_out()?)));
        let left_out: Vec<_> = left_out.map(|(path, text)| format!("{}: {text}", path.display())).collect();
        self.text.adapt(adapters)?;
        left_out.iter().for_each(|text| tracing::warn!("{text}"));
        Ok(unet)
    }

    /// Image size in pixels that the model was trained for.
    pub fn native_size(&self) -> Size {
        let side = self.unet_config.sample_size * self.vae_config.downscale();
        Size { width: side, height: side }
    }

    /// Channels, height and width of the latents of an image of that size.
    pub fn latent_shape(&self, size: Size) -> Result<[i64; 3]> {
        let cell = self.vae_config.downscale();
        let least = cell << self.unet_config.halvings();
        if size.width % cell != 0 || size.height % cell != 0 || size.width < least || size.height < least {
            bail!("size {size}: width and height must be multiples of {cell}, and at least {least}, for this model");
        }
        Ok([self.vae_config.latent_channels, size.height / cell, size.width / cell])
    }
}

/// What a model is put together from.
struct Parts {
    xl: bool,
    unet_config: unet::Config,
    unet_weights: Weights,
    vae: Resident<AutoencoderKl>,
    text: TextEncoders,
    schedule: NoiseSchedule,
}

/// Whether a model is one file rather than a folder.
pub fn is_single_file(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|end| end.eq_ignore_ascii_case("safetensors"))
}

/// The precision of weights that are trained, and of losses, beside networks that compute in `kind`.
pub fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
