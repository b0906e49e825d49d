//! Models in a single file, with the keys of the original program.

use super::{StableDiffusion, text::TextEncoders};
use crate::{
    family::model::{Parts, Request},
    resident::Resident,
};
use anyhow::{Context, Result};
use models::{
    Error,
    autoencoder::Autoencoder,
    clip::TextConfig,
    ldm::{self, Family},
    tensors::Tensors,
    vae::AutoencoderKl,
    weights::Weights,
};
use std::{path::Path, rc::Rc};
use tch::{Device, Kind};

/// Uses the request's tokenizer: a folder with the vocabulary of CLIP, which all these models have.
pub fn open(path: &Path, request: &Request) -> Result<Parts> {
    let Request { overrides, precision, device, .. } = *request;
    let tokenizer = request.tokenizer.context("a model in one file needs a tokenizer")?;
    let kind = precision.networks;
    let file = ldm::Parts::read(path)?;
    let xl = file.family == Family::Sdxl;
    let clip_skip = overrides.clip_skip.or(file.said.clip_skip);
    if let (Some(layer), None) = (clip_skip, overrides.clip_skip) {
        tracing::info!("{}: modelspec.encoder_layer = {layer} is taken as clip_skip", path.display());
    }
    let unknown = |part: &str| unknown(path, part);
    let weights = |tensors: Tensors, kind| Weights::new(tensors, path.to_owned(), kind, device);
    let mut unet_config = ldm::unet_config(&ldm::shapes(&file.unet)).ok_or_else(|| unknown("the UNet"))?;
    unet_config.sample_size = file.said.sample_size(super::forced(overrides, xl)).unwrap_or(unet_config.sample_size);
    let vae_config = ldm::vae_config(&ldm::shapes(&file.vae), xl).ok_or_else(|| unknown("the autoencoder"))?;
    let tokenizers = (0..file.text.len()).map(|i| {
        let tokenizer = super::tokenizer(overrides, tokenizer)?;
        if is_open_clip(file.family, i) { tokenizer.padded_with("!") } else { Ok(tokenizer) }
    });
    let tokenizers = tokenizers.collect::<models::Result<_>>()?;
    let place = path.to_owned();
    let encoders = move || text_encoders(ldm::Parts::read(&place)?, &place, kind, device);
    let (vae_kind, latent_channels) = (precision.of_vae(&vae_config, xl), vae_config.latent_channels);
    let place = path.to_owned();
    let vae = Resident::open(move || {
        let weights = Weights::new(ldm::Parts::read(&place)?.vae, place.clone(), vae_kind, device)?;
        Ok(Box::new(AutoencoderKl::new(&vae_config, &weights, vae_kind)?) as Box<dyn Autoencoder>)
    })?;
    let family = StableDiffusion { xl, config: unet_config };
    let text = TextEncoders::open(path, tokenizers, encoders, clip_skip, xl, kind, device)?;
    family.check(path, &text, latent_channels)?;
    Ok(Parts {
        weights: weights(file.unet, kind)?,
        family: Rc::new(family),
        vae,
        text: Box::new(text),
        path: Box::new(file.said.schedule(super::forced(overrides, xl), path)?),
    })
}

/// Whether a text encoder is OpenCLIP's; the others are OpenAI's.
fn is_open_clip(family: Family, encoder: usize) -> bool {
    family == Family::Sd2 || encoder == 1
}

fn text_encoders(file: ldm::Parts, path: &Path, kind: Kind, device: Device) -> Result<Vec<(TextConfig, Weights)>> {
    let of = |(i, tensors): (usize, Tensors)| {
        let config = ldm::text_config(&ldm::shapes(&tensors), is_open_clip(file.family, i));
        let config = config.ok_or_else(|| unknown(path, "a text encoder"))?;
        Ok((config, Weights::new(tensors, path.to_owned(), kind, device)?))
    };
    file.text.into_iter().enumerate().map(of).collect()
}

fn unknown(path: &Path, part: &str) -> Error {
    let message =
        format!("{part} has other sizes than those of SD1.x, SD2.x and SDXL; name a folder in diffusers layout");
    Error::file(path, message)
}
