//! `comat prepare`: a model made ready for pictures smaller than its own.
//!
//! SDXL at 512 pixels draws cut-off and shapeless things, since it has hardly seen pictures of that size. Before CoMat trains it
//! there, its authors tune it for some steps on its own pictures, drawn at 1024 pixels and reduced (the paper's appendix). Here
//! that is done with a LoRA, which a consumer's GPU has room for, and which is then added to the UNet's weights.

use crate::{
    config::{Optimizer, Sampling, Size},
    denoiser::Denoiser,
    generate,
    image::Picture,
    interrupt::Interrupt,
    optim::{AdamW, Gradients, learning_rate},
    pipeline::Pipeline,
    precision,
    random::{Purpose, stream},
};
use anyhow::{Result, bail};
use indicatif::ProgressBar;
use models::{
    Error,
    guidance::Guidance,
    lora::{self, Lora, Trainable},
    preprocess,
    schedule::Prediction,
    unet::UNet,
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tch::{Kind, Tensor};

pub struct Request {
    /// The pictures' prompts; each is drawn once.
    pub prompts: Vec<String>,
    pub seed: u64,
    /// How the pictures are drawn, at the model's own size.
    pub sampling: Sampling,
    /// What the model is made ready for.
    pub size: Size,
    pub steps: u64,
    pub batch: usize,
    pub learning_rate: f64,
    pub rank: i64,
    pub targets: Vec<String>,
    /// Receives `images/` and the LoRA; pictures that are there already are taken as they are.
    pub work: PathBuf,
}

/// The LoRA, and the mean squared error of the predicted noise on some pictures before and after.
pub struct Prepared {
    pub lora: PathBuf,
    pub before: f64,
    pub after: f64,
}

/// Pictures that the error is measured on.
const MEASURED: i64 = 16;

/// Draws what is missing, and trains.
pub fn run(
    pipeline: &mut Pipeline,
    request: &Request,
    bars: &dyn Fn(&str) -> Result<ProgressBar>,
    interrupt: &Interrupt,
) -> Result<Prepared> {
    let native = pipeline.native_size();
    if request.size.width * request.size.height >= native.width * native.height {
        bail!("--size {}: the model's own size is {native}; there is nothing to be prepared for", request.size);
    }
    if pipeline.schedule.prediction != Prediction::Epsilon {
        bail!(
            "this model predicts {:?}; only models that predict the noise can be prepared",
            pipeline.schedule.prediction
        );
    }
    pipeline.latent_shape(request.size)?;
    let images = request.work.join("images");
    draw(pipeline, request, &images, bars, interrupt)?;
    let bar = bars("encode")?;
    let latents = encode(pipeline, request, &images, &bar, interrupt)?;
    bar.finish_and_clear();

    let draws = |index: usize| stream(request.seed, Purpose::Adapter, 0, index as u64);
    let draw = |layer: usize, shape: &[i64]| Ok(draws(layer).map_err(|e| Error::Input(e.to_string()))?.randn(shape)?);
    let lora = Lora::fresh(&pipeline.unet_weights, &request.targets, request.rank, request.rank as f64, draw)?;
    let adapter =
        lora.trainable(if pipeline.kind == Kind::Double { Kind::Double } else { Kind::Float }, pipeline.device);
    let mut course = Course { request, latents: &latents, adapter };
    let before = course.measure(pipeline)?;
    course.train(pipeline, bars, interrupt)?;
    let after = course.measure(pipeline)?;
    let lora = request.work.join("pytorch_lora_weights.safetensors");
    lora::write_diffusers(&course.adapter.lora, &lora)?;
    Ok(Prepared { lora, before, after })
}

fn image(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:05}.png"))
}

/// The pictures at the model's own size, reduced.
fn draw(
    pipeline: &mut Pipeline,
    request: &Request,
    folder: &Path,
    bars: &dyn Fn(&str) -> Result<ProgressBar>,
    interrupt: &Interrupt,
) -> Result<()> {
    let missing: Vec<usize> = (0..request.prompts.len()).filter(|n| !image(folder, *n).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let bar = bars("draw")?;
    bar.set_length(missing.len() as u64);
    let unet = pipeline.unet(&pipeline.unet_weights)?;
    for batch in missing.chunks(request.batch.max(1)) {
        let jobs: Vec<(&str, u64)> =
            batch.iter().map(|n| (request.prompts[*n].as_str(), request.seed.wrapping_add(*n as u64))).collect();
        let pictures = generate::draw(pipeline, &unet, &request.sampling, &jobs, || Ok(interrupt.check()?))?;
        let reduced = preprocess::resize(&pictures.clamp(0.0, 1.0), (request.size.height, request.size.width))?;
        for (i, (n, (prompt, seed))) in batch.iter().zip(&jobs).enumerate() {
            let picture = Picture::from_tensor(&reduced.get(i as i64))?;
            let parameters = parameters(pipeline, request, prompt, *seed);
            let texts = [("parameters", parameters.as_str()), ("prompt", prompt), ("seed", &seed.to_string())];
            picture.save(&image(folder, *n), &texts)?;
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Everything that a picture depends on.
fn parameters(pipeline: &Pipeline, request: &Request, prompt: &str, seed: u64) -> String {
    generate::parameters(&request.sampling, prompt, seed, pipeline.native_size(), &pipeline.name, None)
}

/// `[n, C, h, w]` on the CPU.
fn encode(
    pipeline: &Pipeline,
    request: &Request,
    folder: &Path,
    bar: &ProgressBar,
    interrupt: &Interrupt,
) -> Result<Tensor> {
    bar.set_length(request.prompts.len() as u64);
    let mut all = vec![];
    for (n, prompt) in request.prompts.iter().enumerate() {
        let path = image(folder, n);
        let (picture, texts) = Picture::open_with_texts(&path)?;
        let size = Size { width: picture.width as i64, height: picture.height as i64 };
        let wanted = parameters(pipeline, request, prompt, request.seed.wrapping_add(n as u64));
        if texts.get("parameters") != Some(&wanted) || size != request.size {
            bail!(
                "{}: was drawn with other settings; choose another folder (--work), or delete this one",
                path.display()
            );
        }
        let pixels = (picture.tensor()?.unsqueeze(0) * 2.0 - 1.0).to_device(pipeline.device);
        let (mean, _) = tch::no_grad(|| pipeline.vae.with(|vae| Ok(vae.encode(&pixels)?)))?;
        all.push((mean * pipeline.vae_config.scaling_factor).to_device(tch::Device::Cpu));
        bar.inc(1);
        interrupt.check()?;
    }
    Ok(Tensor::cat(&all, 0))
}

struct Course<'a> {
    request: &'a Request,
    latents: &'a Tensor,
    adapter: Trainable,
}

impl Course<'_> {
    fn train(
        &mut self,
        pipeline: &mut Pipeline,
        bars: &dyn Fn(&str) -> Result<ProgressBar>,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let config = Optimizer { learning_rate: self.request.learning_rate, ..Optimizer::default() };
        let mut optimizer = AdamW::new(config.clone(), &self.adapter.flat);
        let mut gradients = Gradients::zeros(&self.adapter);
        let bar = bars("prepare")?;
        bar.set_length(self.request.steps);
        for step in 0..self.request.steps {
            let mut draw = stream(self.request.seed, Purpose::Order, step, 1)?;
            let count = self.latents.size()[0];
            let rows = (0..self.request.batch).map(|_| Ok(draw.below(0, count)?)).collect::<Result<Vec<i64>>>()?;
            let unet = pipeline.unet(&pipeline.unet_weights.with_adapter(&self.adapter.lora)?)?;
            let leaves = self.adapter.lora.matrices();
            let mut sum = 0.0;
            for (place, row) in rows.iter().enumerate() {
                // one after the other, so that a batch needs no more memory than a picture
                let loss = self.loss(pipeline, &unet, *row, step, place as u64)?;
                gradients.add(&precision::vjp(pipeline.kind, &[&loss], &leaves, &[&loss.ones_like()])?);
                sum += loss.double_value(&[]);
            }
            gradients.scale(1.0 / rows.len() as f64);
            let norm = gradients.clip(1.0);
            if !norm.is_finite() {
                bail!("step {}: the gradient is {norm}; try a lower --learning-rate or --dtype bfloat16", step + 1);
            }
            let rate = learning_rate(&config, step, self.request.steps);
            optimizer.step(&mut self.adapter.flat, &gradients.flat, rate);
            let _ = gradients.flat.zero_();
            bar.set_message(format!("loss {:.4}", sum / rows.len() as f64));
            bar.inc(1);
            interrupt.check()?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The mean squared error on the first pictures, from the same noise every time.
    fn measure(&self, pipeline: &mut Pipeline) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let unet = pipeline.unet(&pipeline.unet_weights.merged(&self.adapter.lora)?)?;
        let rows = 0..self.latents.size()[0].min(MEASURED);
        let losses = rows
            .map(|row| Ok(self.loss(pipeline, &unet, row, u64::MAX, row as u64)?.double_value(&[])))
            .collect::<Result<Vec<f64>>>()?;
        Ok(losses.iter().sum::<f64>() / losses.len() as f64)
    }

    /// Of a picture's noise at a timestep, both drawn for this step and place. (Ho et al. 2020)
    fn loss(&self, pipeline: &mut Pipeline, unet: &UNet, row: i64, step: u64, place: u64) -> Result<Tensor> {
        let signal = pipeline.schedule.signal();
        let mut draw = stream(self.request.seed, Purpose::Trajectory, step, place)?;
        let timestep = draw.below(0, signal.len() as i64)?;
        let share = signal[timestep as usize];
        let latents = self.latents.narrow(0, row, 1).to_device(pipeline.device);
        let noise = draw.randn(&latents.size())?.to_device(pipeline.device).to_kind(latents.kind());
        let noisy = latents * share.sqrt() + &noise * (1.0 - share).sqrt();
        let size = (self.request.size.height, self.request.size.width);
        let text = pipeline.text.guided(&[&self.request.prompts[row as usize]], None, false, size)?;
        let denoiser = Denoiser { unet, guidance: Guidance { scale: 1.0, rescale: 0.0 }, kind: pipeline.kind };
        let predicted = denoiser.predict(&noisy, timestep, &text)?;
        Ok((predicted - noise).square().mean(Kind::Float))
    }
}
