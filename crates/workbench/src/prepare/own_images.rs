//! Samples the model's own images, reduces them, and encodes their latents.

use super::{Bars, Request};
use anyhow::{Result, bail};
use config::Size;
use diffusion::{
    generate,
    pipeline::{Pipeline, wide},
};
use images::Image;
use models::{Error, preprocess};
use ranks::interrupt::Interrupt;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tch::{Device, Tensor};

fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:05}.png"))
}

/// Samples missing images at the model's own size, and reduces them.
///
/// # Errors
/// An image exists, but with other settings; this is checked before anything is sampled.
pub fn draw(
    pipeline: &mut Pipeline,
    request: &Request,
    folder: &Path,
    bars: &Bars,
    interrupt: &Interrupt,
) -> Result<()> {
    let (there, missing): (Vec<usize>, Vec<usize>) =
        (0..request.prompts.len()).partition(|n| path(folder, *n).exists());
    for n in there {
        open(pipeline, request, folder, n)?;
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    if missing.is_empty() {
        return Ok(());
    }
    let bar = bars("draw")?;
    bar.set_length(missing.len() as u64);
    let unet = pipeline.network(&pipeline.weights)?;
    for batch in missing.chunks(request.batch.max(1)) {
        let jobs: Vec<(&str, u64)> = batch.iter().map(|n| (request.prompts[*n].as_str(), seed(request, *n))).collect();
        let drawn = generate::draw(pipeline, unet.as_ref(), &request.sampling, &jobs, || Ok(interrupt.check()?))?;
        let reduced = preprocess::resize(&drawn.clamp(0.0, 1.0), (request.size.height, request.size.width))?;
        for (i, (n, (prompt, seed))) in batch.iter().zip(&jobs).enumerate() {
            let image = Image::from_tensor(&reduced.get(i as i64))?;
            let parameters = parameters(pipeline, request, *n);
            let texts = [("parameters", parameters.as_str()), ("prompt", prompt), ("seed", &seed.to_string())];
            image.save(&path(folder, *n), &texts)?;
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Latents of the images, `[n, C, h, w]`, on the CPU.
pub fn encode(
    pipeline: &Pipeline,
    request: &Request,
    folder: &Path,
    bars: &Bars,
    interrupt: &Interrupt,
) -> Result<Tensor> {
    let bar = bars("encode")?;
    bar.set_length(request.prompts.len() as u64);
    let mut all = vec![];
    for n in 0..request.prompts.len() {
        let image = open(pipeline, request, folder, n)?;
        let pixels = (image.tensor()?.unsqueeze(0) * 2.0 - 1.0).to_device(pipeline.device);
        let (mean, _) = tch::no_grad(|| pipeline.vae.with(|vae| Ok(vae.encode(&pixels)?)))?;
        all.push((mean.to_kind(wide(pipeline.kind)) * pipeline.latents.scale).to_device(Device::Cpu));
        bar.inc(1);
        interrupt.check()?;
    }
    bar.finish_and_clear();
    Ok(Tensor::cat(&all, 0))
}

/// Opens an existing image, if it was sampled with this request's settings.
fn open(pipeline: &Pipeline, request: &Request, folder: &Path, n: usize) -> Result<Image> {
    let path = path(folder, n);
    let (image, texts) = Image::open_with_texts(&path)?;
    let size = Size { width: image.width as i64, height: image.height as i64 };
    if texts.get("parameters") != Some(&parameters(pipeline, request, n)) || size != request.size {
        bail!("{}: was drawn with other settings; choose another folder (--work), or delete this one", path.display());
    }
    Ok(image)
}

/// Everything that an image depends on.
fn parameters(pipeline: &Pipeline, request: &Request, n: usize) -> String {
    let (prompt, size) = (&request.prompts[n], pipeline.native_size());
    generate::parameters(&request.sampling, prompt, seed(request, n), size, &pipeline.name, &[])
}

fn seed(request: &Request, n: usize) -> u64 {
    request.seed.wrapping_add(n as u64)
}
