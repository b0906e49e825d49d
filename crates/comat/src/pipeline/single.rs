//! Models in one file, with the keys of the original program.

use super::{Parts, Precision};
use crate::{resident::Resident, text::TextEncoders};
use anyhow::Result;
use models::{
    Error, clip::TextEncoder, config::Json, ldm, schedule::NoiseSchedule, tensors::Tensors, tokenizer::ClipTokenizer,
    vae::AutoencoderKl, weights::Weights,
};
use std::path::Path;
use tch::Device;

/// `tokenizer`: a folder with the vocabulary of CLIP, which all these models have.
pub fn open(path: &Path, tokenizer: &Path, precision: Precision, device: Device) -> Result<Parts> {
    let kind = precision.networks;
    let file = ldm::Parts::read(path)?;
    let xl = file.is_xl();
    let unknown = |part: &str| {
        Error::file(
            path,
            format!("{part} has other sizes than those of SD1.x and SDXL; name a folder in diffusers layout"),
        )
    };
    let weights = |tensors: Tensors, kind| Weights::new(tensors, path.to_owned(), kind, device);
    let unet_config = ldm::unet_config(&ldm::shapes(&file.unet)).ok_or_else(|| unknown("the UNet"))?;
    let vae_config = ldm::vae_config(&ldm::shapes(&file.vae), xl).ok_or_else(|| unknown("the autoencoder"))?;
    let (mut tokenizers, mut text_configs) = (vec![], vec![]);
    for (i, tensors) in file.text.iter().enumerate() {
        let config = ldm::text_config(&ldm::shapes(tensors), i == 1).ok_or_else(|| unknown("a text encoder"))?;
        let words = ClipTokenizer::open(tokenizer)?;
        tokenizers.push(if i == 1 { words.padded_with("!")? } else { words });
        text_configs.push(config);
    }
    let vae_kind = precision.of_vae(&vae_config);
    let place = path.to_owned();
    let vae = Resident::open(move || {
        let weights = Weights::new(ldm::Parts::read(&place)?.vae, place.clone(), vae_kind, device)?;
        Ok(AutoencoderKl::new(&vae_config, &weights, vae_kind)?)
    })?;
    let place = path.to_owned();
    let encoders = Resident::open(move || {
        let open =
            |(config, tensors)| Ok(TextEncoder::new(config, &Weights::new(tensors, place.clone(), kind, device)?)?);
        text_configs.iter().zip(ldm::Parts::read(&place)?.text).map(open).collect()
    })?;
    Ok(Parts {
        xl,
        unet_weights: weights(file.unet, kind)?,
        unet_config,
        vae,
        text: TextEncoders::new(path, tokenizers, encoders, xl, kind, device)?,
        schedule: NoiseSchedule::of(&Json::of(ldm::scheduler(file.predicts_velocity), path)?)?,
    })
}
