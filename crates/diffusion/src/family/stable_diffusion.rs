//! Stable Diffusion 1.x, 2.x and XL: a UNet, one or two CLIP text encoders, and a diffusion noise schedule.

pub mod folder;
pub mod single;
pub mod text;

use super::model::{Family, Overrides};
use anyhow::{Result, bail};
use models::{
    lora::Base,
    network::Network,
    schedule::Forced,
    tokenizer::ClipTokenizer,
    unet::{self, UNet},
    weights::{self, Weights},
};
use std::path::Path;
use tch::{Device, Kind};

pub use folder::{Described, class, describe};

/// The pipelines of the same networks, between `StableDiffusion` or `StableDiffusionXL` and `Pipeline`: a folder names
/// the one that it was saved from.
const PIPELINES: [&str; 20] = [
    "",
    "Adapter",
    "AttendAndExcite",
    "ControlNet",
    "ControlNetImg2Img",
    "ControlNetInpaint",
    "ControlNetPAG",
    "ControlNetPAGImg2Img",
    "ControlNetPAGInpaint",
    "ControlNetUnion",
    "ControlNetUnionImg2Img",
    "ControlNetUnionInpaint",
    "Img2Img",
    "Inpaint",
    "KDiffusion",
    "PAG",
    "PAGImg2Img",
    "PAGInpaint",
    "Panorama",
    "SAG",
];

/// Whether a `_class_name` of `model_index.json` is one of XL (true), or of 1.x and 2.x (false). `None`: of neither.
pub fn is_xl(class: &str) -> Option<bool> {
    if matches!(class, "StableDiffusionInpaintPipelineLegacy" | "StableDiffusionPipelineSafe") {
        return Some(false);
    }
    let kind = class.strip_prefix("StableDiffusion")?.strip_suffix("Pipeline")?;
    let (xl, kind) = kind.strip_prefix("XL").map_or((false, kind), |kind| (true, kind));
    PIPELINES.contains(&kind).then_some(xl)
}

pub struct StableDiffusion {
    pub xl: bool,
    pub config: unet::Config,
}

impl StableDiffusion {
    /// Checks that the UNet fits the text encoders and the autoencoder.
    fn check(&self, path: &Path, text: &text::TextEncoders, latent_channels: i64) -> Result<()> {
        let config = &self.config;
        let place = if path.is_file() { "the UNet's shapes" } else { "unet/config.json" };
        let path = path.display();
        if text.width() != config.cross_attention_dim {
            bail!(
                "{path}: {place}: cross_attention_dim is {}, but the text encoder gives {}; do UNet and encoder belong together?",
                config.cross_attention_dim,
                text.width()
            );
        }
        if (config.in_channels, config.out_channels) != (latent_channels, latent_channels) {
            let kind = match config.in_channels - latent_channels {
                1 => "models that are given a depth map",
                3 => "upscaling models",
                5 => "inpainting models",
                more if more == latent_channels => "models that edit an image (InstructPix2Pix)",
                _ => "such models",
            };
            bail!(
                "{path}: {place}: {} channels in and {} out, but the VAE's latents have {latent_channels}; {kind} cannot be used",
                config.in_channels,
                config.out_channels
            );
        }
        Ok(())
    }
}

impl Family for StableDiffusion {
    fn network(&self, weights: &Weights) -> models::Result<Box<dyn Network>> {
        Ok(Box::new(UNet::new(&self.config, weights)?))
    }

    fn weights(&self, model: &Path, variant: Option<&str>, kind: Kind, device: Device) -> models::Result<Weights> {
        Weights::open_variant(&model.join("unet"), "diffusion_pytorch_model", variant, kind, device)
    }

    /// Fingerprints of UNet, text encoders and scheduler, not of the VAE.
    fn fingerprints(&self, model: &Path, variant: Option<&str>) -> models::Result<Vec<String>> {
        let mut parts = vec![weights::fingerprint(&model.join("unet"), "diffusion_pytorch_model", variant)?];
        for encoder in text::NETWORKS.map(|network| model.join(network.to_string())).iter().filter(|f| f.exists()) {
            parts.push(weights::fingerprint(encoder, "model", variant)?);
        }
        let scheduler = model.join("scheduler/scheduler_config.json");
        parts.push(models::text::read(&scheduler)?);
        Ok(parts)
    }

    fn base(&self) -> Base {
        match (self.xl, self.config.cross_attention_dim) {
            (true, _) => Base::Sdxl,
            (false, 1024) => Base::Sd2,
            (false, _) => Base::Sd1,
        }
    }

    fn channels(&self) -> (i64, i64) {
        (self.config.in_channels, self.config.out_channels)
    }

    fn native_cells(&self) -> i64 {
        self.config.sample_size
    }

    fn least_cells(&self) -> i64 {
        1 << self.config.halvings()
    }
}

/// Opens the tokenizer in a folder, with the overrides.
fn tokenizer(overrides: Overrides, folder: &Path) -> models::Result<ClipTokenizer> {
    Ok(ClipTokenizer::open(folder)?.in_chunks(overrides.chunks.unwrap_or(1)))
}

/// Overrides of the scheduler's configuration.
fn forced(overrides: Overrides, xl: bool) -> Forced {
    let Overrides { prediction_type: prediction, rescale_betas_zero_snr: zero_snr, .. } = overrides;
    Forced { prediction, zero_snr, ..Forced::by_pipeline_of(xl) }
}

#[cfg(test)]
mod tests {
    use super::is_xl;

    #[test]
    fn classes_of_the_same_networks() {
        for (class, xl) in [
            ("StableDiffusionPipeline", Some(false)),
            ("StableDiffusionXLPipeline", Some(true)),
            ("StableDiffusionImg2ImgPipeline", Some(false)),
            ("StableDiffusionXLInpaintPipeline", Some(true)),
            ("StableDiffusionXLControlNetPAGPipeline", Some(true)),
            ("StableDiffusionInpaintPipelineLegacy", Some(false)),
            ("StableDiffusionPipelineSafe", Some(false)),
            ("StableDiffusion3Pipeline", None),
            ("StableDiffusionUpscalePipeline", None),
            ("StableDiffusionInstructPix2PixPipeline", None),
            ("LatentConsistencyModelPipeline", None),
            ("", None),
        ] {
            assert_eq!(is_xl(class), xl, "{class}");
        }
    }
}
