//! Draws candidates of a prompt, with a LoRA or without one, and asks the captioner which one shows it best.
//!
//!     cargo run --release -p run --example draw_and_score -- weights/world/sd weights/world/blip "a red circle and a blue square"

use anyhow::{Context, Result};
use comat::loss::caption::CaptionLoss;
use diffusion::{generate, pipeline::Pipeline, settings::Sampling};
use images::Image;
use models::schedule::SamplerKind;
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

/// Folders of the networks, LoRA files with their strengths, and the device.
pub struct Networks<'a> {
    pub model: &'a Path,
    pub captioner: &'a Path,
    pub loras: Vec<(PathBuf, f64)>,
    pub device: Device,
}

/// The image of each seed, and its loss: `-log p` of the prompt by token, given the image. The best image comes first.
pub fn ranked(networks: &Networks, prompt: &str, seeds: &[u64], sampling: &Sampling) -> Result<Vec<(f64, u64, Image)>> {
    let mut pipeline = Pipeline::open(networks.model, Kind::Float, networks.device)?;
    let unet = pipeline.adapt(&networks.loras)?;
    let settings = config::Captioner::at(networks.captioner.to_owned());
    let captioner = CaptionLoss::open(&settings, Kind::Float, networks.device)?;

    let jobs: Vec<(&str, u64)> = seeds.iter().map(|seed| (prompt, *seed)).collect();
    let images = generate::draw(&mut pipeline, unet.as_ref(), sampling, &jobs, || Ok(()))?; // [B, 3, H, W] in 0..1, not clamped
    let losses = captioner.losses(&images, &vec![prompt; seeds.len()])?;
    let mut all = vec![];
    for (row, (seed, loss)) in seeds.iter().zip(losses).enumerate() {
        all.push((loss, *seed, Image::from_tensor(&images.get(row as i64))?));
    }
    all.sort_by(|(one, ..), (other, ..)| one.total_cmp(other));
    Ok(all)
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [model, captioner, prompt, loras @ ..] = &words[..] else {
        anyhow::bail!("draw_and_score MODEL CAPTIONER PROMPT [LORA …]")
    };
    let networks = Networks {
        model: Path::new(model),
        captioner: Path::new(captioner),
        loras: loras.iter().map(|file| (file.into(), 1.0)).collect(),
        device: Device::cuda_if_available(),
    };
    let sampling = Sampling { sampler: SamplerKind::Ddim, steps: 10, guidance_scale: 4.0, ..Sampling::default() };
    let ranked = ranked(&networks, prompt, &[0, 1, 2, 3, 4, 5, 6, 7], &sampling)?;
    for (loss, seed, _) in &ranked {
        println!("seed {seed}: {loss:.3}");
    }
    let (_, seed, best) = ranked.first().context("nothing was drawn")?;
    best.save(Path::new("best.png"), &[("prompt", prompt), ("seed", &seed.to_string())])?;
    Ok(())
}
