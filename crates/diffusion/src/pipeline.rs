//! An opened model: everything that generation and training share.

use crate::{
    conditions::{Adapter, PromptEncoder},
    family::{self, Family, Parts, Request},
    resident::Resident,
    settings::Location,
};
use anyhow::{Context, Result, bail};
use images::Size;
use models::{
    autoencoder::Autoencoder,
    lora::{AdapterFile, Base, Network as Which},
    network::Network,
    schedule::{NoisePath, NoiseSchedule},
    weights::Weights,
};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};
use tch::{Device, Kind};

pub use crate::family::{Overrides, Precision, is_single_file};

pub struct Pipeline {
    pub path: PathBuf,
    /// The name of the model: its path, or its id on the hub.
    pub name: PathBuf,
    pub variant: Option<String>,
    pub kind: Kind,
    pub device: Device,
    pub family: Rc<dyn Family>,
    /// Weights of the denoising network.
    pub weights: Weights,
    pub latents: Latents,
    pub vae: Resident<Box<dyn Autoencoder>>,
    pub text: Box<dyn PromptEncoder>,
    /// The path between noise and latents.
    pub noise_path: Box<dyn NoisePath>,
    /// Overrides of its files.
    pub overrides: Overrides,
}

/// How latents relate to images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latents {
    pub channels: i64,
    /// Image pixels along the side of a latent cell.
    pub downscale: i64,
    /// See [`Autoencoder::scale`].
    pub scale: f64,
}

impl Pipeline {
    /// Opens a model folder, in one precision.
    ///
    /// # Errors
    /// Names what is missing or not implemented, by file and key.
    ///
    /// # Example
    /// ```no_run
    /// use diffusion::{generate, pipeline::Pipeline, settings::Sampling};
    /// use tch::{Device, Kind};
    ///
    /// let mut pipeline = Pipeline::open("stable-diffusion-v1-5".as_ref(), Kind::Float, Device::cuda_if_available())?;
    /// let unet = pipeline.adapt(&[("style.safetensors".into(), 0.8)])?;
    /// let sampling = Sampling { steps: 30, ..Sampling::default() };
    /// let images = generate::draw(&mut pipeline, unet.as_ref(), &sampling, &[("a red dog", 42)], || Ok(()))?;
    /// images::Image::from_tensor(&images.get(0))?.save("dog.png".as_ref(), &[])?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn open(path: &Path, precision: impl Into<Precision>, device: Device) -> Result<Self> {
        let (overrides, precision) = (Overrides::default(), precision.into());
        let request = Request { variant: None, tokenizer: None, overrides, precision, device };
        Self::assemble(path, family::open(path, &request)?, &request)
    }

    /// Opens a model as named in a configuration or on the command line. `tokenizer`: a tokenizer's folder, for a model
    /// in a single file.
    pub fn open_at(
        location: &Location,
        variant: Option<&str>,
        tokenizer: Option<&Path>,
        overrides: Overrides,
        precision: Precision,
        device: Device,
    ) -> Result<Self> {
        let request = Request { variant, tokenizer, overrides, precision, device };
        let this = Self::assemble(location, family::open(location, &request)?, &request)?;
        Ok(Self { name: location.typed().to_owned(), overrides, ..this })
    }

    fn assemble(path: &Path, parts: Parts, request: &Request) -> Result<Self> {
        let Parts { family, weights, vae, text, path: noise_path } = parts;
        let of = |vae: &dyn Autoencoder| Latents {
            channels: vae.channels(),
            downscale: vae.downscale(),
            scale: vae.scale(),
        };
        let latents = vae.with(|vae| Ok(of(vae.as_ref())))?;
        let this = Self {
            path: path.to_owned(),
            name: path.to_owned(),
            // a single file has no variant
            variant: request.variant.filter(|_| !is_single_file(path)).map(str::to_owned),
            kind: request.precision.networks,
            device: request.device,
            family,
            weights,
            latents,
            vae,
            text,
            noise_path,
            overrides: Overrides::default(),
        };
        this.network(&this.weights).context("the network's weights do not fit its config.json")?;
        Ok(this)
    }

    /// Fingerprint of everything in the model that its latents depend on: denoising network, text encoders and noise
    /// schedule, not the VAE.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let said = serde_json::to_string(&self.overrides)?;
        let said = (!self.overrides.is_none()).then_some(said);
        let mut parts = match self.path.is_file() {
            true => vec![models::weights::fingerprint_of(std::slice::from_ref(&self.path))?],
            false => self.family.fingerprints(&self.path, self.variant.as_deref())?,
        };
        parts.extend(said);
        Ok(models::digest(parts.join("\n").as_bytes()))
    }

    /// Fingerprint of everything in the model that its images depend on: the VAE, too.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn fingerprint_of_images(&self) -> Result<String> {
        let (mut print, vae) = (self.fingerprint()?, self.path.join("vae"));
        if vae.is_dir() {
            print += &models::weights::fingerprint(&vae, "diffusion_pytorch_model", self.variant.as_deref())?;
        }
        Ok(print)
    }

    /// The noise schedule of a diffusion model.
    ///
    /// # Errors
    /// The model has a different noise path.
    pub fn schedule(&self) -> Result<&NoiseSchedule> {
        let other = || format!("{}: it was not trained on the noise of diffusion", self.path.display());
        self.noise_path.diffusion().with_context(other)
    }

    /// The base model, as named in LoRA files.
    pub fn base(&self) -> Base {
        self.family.base()
    }

    /// The network with weights derived from its own.
    pub fn network(&self, weights: &Weights) -> models::Result<Box<dyn Network>> {
        self.family.network(weights)
    }

    /// The network with LoRA files, each with its strength, or unchanged without any. From now on the text encoders
    /// have these files' adapters, or none. So sample with a network before you request the next one, or use conditions
    /// that were encoded then.
    ///
    /// # Errors
    /// A file that cannot be read, has values that are not finite, or belongs to another base model.
    pub fn adapt(&mut self, loras: &[(PathBuf, f64)]) -> Result<Box<dyn Network>> {
        let (mut changes, mut adapters) = (vec![], vec![]);
        for (path, scale) in loras {
            let file = AdapterFile::read_beside(path, &self.weights)?;
            changes.push(file.changes_of(Which::UNet, &self.weights)?.scaled(*scale));
            adapters.push(Adapter { file, scale: *scale });
        }
        let network = self.network(&self.weights.changed(&changes)?)?;
        let left_out = adapters.iter().filter_map(|Adapter { file, .. }| Some((&file.path, file.left_out()?)));
        let left_out: Vec<_> = left_out.map(|(path, text)| format!("{}: {text}", path.display())).collect();
        self.text.adapt(adapters)?;
        left_out.iter().for_each(|text| tracing::warn!("{text}"));
        Ok(network)
    }

    /// Image size in pixels that the model was trained for.
    pub fn native_size(&self) -> Size {
        let side = self.family.native_cells() * self.latents.downscale;
        Size { width: side, height: side }
    }

    /// Channels, height and width of the latents of an image of that size.
    pub fn latent_shape(&self, size: Size) -> Result<[i64; 3]> {
        let cell = self.latents.downscale;
        let least = cell * self.family.least_cells();
        if size.width % cell != 0 || size.height % cell != 0 || size.width < least || size.height < least {
            bail!("size {size}: width and height must be multiples of {cell}, and at least {least}, for this model");
        }
        Ok([self.latents.channels, size.height / cell, size.width / cell])
    }
}

/// The precision of trained weights and of losses, for networks that compute in `kind`.
pub fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
