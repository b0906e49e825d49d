//! The training of `comat prepare`: denoising of the model's own images, with the squared error of the predicted noise.

use super::{Bars, Request};
use anyhow::{Result, bail};
use config::Optimizer;
use diffusion::{
    denoiser::Denoiser,
    merge,
    model_folder::{NewFolder, UNET},
    pipeline::{Pipeline, wide},
    precision,
    random::{Purpose, stream},
};
use models::{
    guidance::Guidance,
    lora::{self, Changes, Lora, Trainable},
    network::Network,
    tensors::{self, Tensors},
    weights::{Weights, files_of},
};
use optim::{Masters, learning_rate};
use ranks::interrupt::Interrupt;
use serde_json::json;
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

/// Number of images that the error is measured on.
const MEASURED: i64 = 16;
/// Largest norm of the gradient; larger ones are scaled down.
const MOST: f64 = 1.0;

/// A training in progress.
pub struct Course<'a> {
    request: &'a Request,
    config: Optimizer,
    /// Latents of the images, `[n, C, h, w]`.
    latents: Tensor,
    tuned: Tuned,
    masters: Masters,
}

/// The network whose weights are trained.
enum Tuned {
    /// An adapter for the pipeline's network.
    Adapted(Trainable),
    /// All weights of the pipeline's network; the keys of the master copies.
    Whole(Vec<String>),
}

/// A new adapter, which changes nothing yet.
pub fn fresh(pipeline: &Pipeline, rank: i64, targets: &[String], seed: u64) -> Result<Lora> {
    let draws = |index: usize| stream(seed, Purpose::Adapter, 0, index as u64);
    let draw = |layer: usize, shape: &[i64]| Ok(draws(layer)?.randn(shape)?);
    Ok(Lora::fresh(&pipeline.weights, targets, rank, rank as f64, draw)?)
}

impl<'a> Course<'a> {
    pub fn of_lora(request: &'a Request, latents: Tensor, pipeline: &Pipeline, lora: &Lora) -> Self {
        let adapter = lora.trainable(wide(pipeline.kind), pipeline.device);
        let config = config(request);
        let pairs = adapter.lora.matrices().into_iter().map(|leaf| (leaf.shallow_clone(), leaf.detach()));
        let masters = Masters::new(pairs, &config);
        Self { request, config, latents, tuned: Tuned::Adapted(adapter), masters }
    }

    /// Replaces the pipeline's weights by leaves of the graph. Master copies are made from the files, so that they keep
    /// the files' full precision.
    pub fn of_unet(
        request: &'a Request,
        latents: Tensor,
        pipeline: &mut Pipeline,
        optimizer_on: Device,
    ) -> Result<Self> {
        let (kind, device) = (pipeline.kind, pipeline.device);
        let folder = pipeline.path.join(UNET.folder);
        pipeline.weights = Weights::new(Tensors::new(), folder.clone(), kind, device)?; // frees memory for the leaves
        let (mut weights, mut keys, mut pairs) = (Tensors::new(), vec![], vec![]);
        for file in files_of(&folder, UNET.stem, pipeline.variant.as_deref())? {
            for (key, tensor) in tensors::read(&file)?.0 {
                if !tensor.is_floating_point() {
                    weights.insert(key, tensor);
                    continue;
                }
                let mut value = Tensor::f_empty(tensor.size(), (wide(kind), optimizer_on))?;
                value.copy_(&tensor); // a copy, since the file's own values must not be overwritten
                let leaf = value.f_to_device(device)?.f_to_kind(kind)?.detach().set_requires_grad(true);
                weights.insert(key.clone(), leaf.shallow_clone());
                keys.push(key);
                pairs.push((leaf, value));
            }
        }
        pipeline.weights = Weights::new(weights, folder, kind, device)?;
        let config = config(request);
        let masters = Masters::new(pairs, &config);
        Ok(Self { request, config, latents, tuned: Tuned::Whole(keys), masters })
    }

    fn unet(&self, pipeline: &Pipeline) -> Result<Box<dyn Network>> {
        Ok(match &self.tuned {
            Tuned::Adapted(adapter) => pipeline.network(&pipeline.weights.with_adapter(&adapter.lora)?)?,
            Tuned::Whole(_) => pipeline.network(&pipeline.weights)?,
        })
    }

    pub fn train(&mut self, pipeline: &mut Pipeline, bars: &Bars, interrupt: &Interrupt) -> Result<()> {
        let (steps, batch) = (self.request.steps, self.request.batch);
        let unet = self.unet(pipeline)?;
        let bar = bars("tune")?;
        bar.set_length(steps);
        for step in 0..steps {
            let mut draw = stream(self.request.seed, Purpose::Order, step, 1)?;
            let count = self.latents.size()[0];
            let rows = (0..batch).map(|_| Ok(draw.below(0, count)?)).collect::<Result<Vec<i64>>>()?;
            let mut sum = 0.0;
            for (place, row) in rows.into_iter().enumerate() {
                // one image at a time, so that a batch needs no more memory than an image
                let loss = self.loss(pipeline, unet.as_ref(), row, step, place as u64)?;
                let gradients = precision::vjp(pipeline.kind, &[&loss], &self.masters.leaves(), &[&loss.ones_like()])?;
                self.masters.add(gradients);
                sum += loss.double_value(&[]);
                interrupt.check()?;
            }
            let norm = self.masters.step(batch, MOST, learning_rate(&self.config, step, steps))?;
            if !norm.is_finite() {
                bail!("step {}: the gradient is {norm}; try a lower --learning-rate or --dtype bfloat16", step + 1);
            }
            bar.set_message(format!("loss {:.4}", sum / batch as f64));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The mean squared error on the first images, with the same noise every time.
    pub fn measure(&self, pipeline: &mut Pipeline, interrupt: &Interrupt) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let unet = self.unet(pipeline)?;
        let rows = 0..self.latents.size()[0].min(MEASURED);
        let mut loss = |row: i64| {
            interrupt.check()?;
            Ok(self.loss(pipeline, unet.as_ref(), row, u64::MAX, row as u64)?.double_value(&[]))
        };
        let losses = rows.map(&mut loss).collect::<Result<Vec<f64>>>()?;
        Ok(losses.iter().sum::<f64>() / losses.len() as f64)
    }

    /// Squared error of the predicted noise for an image; noise and timestep are drawn for this step and place (Ho et
    /// al. 2020).
    fn loss(&self, pipeline: &mut Pipeline, unet: &dyn Network, row: i64, step: u64, place: u64) -> Result<Tensor> {
        let signal = pipeline.schedule()?.signal();
        let mut draw = stream(self.request.seed, Purpose::Trajectory, step, place)?;
        let timestep = draw.below(0, signal.len() as i64)?;
        let share = signal[timestep as usize];
        let latents = self.latents.narrow(0, row, 1).to_device(pipeline.device);
        let noise = draw.randn(&latents.size())?.to_device(pipeline.device).to_kind(latents.kind());
        let noisy = latents * share.sqrt() + &noise * (1.0 - share).sqrt();
        let size = (self.request.size.height, self.request.size.width);
        let text = pipeline.text.guided(&[&self.request.prompts[row as usize]], None, false, size)?;
        let denoiser = Denoiser { network: unet, guidance: Guidance { scale: 1.0, rescale: 0.0 }, kind: pipeline.kind };
        let predicted = denoiser.predict(&noisy, timestep as f64, &text)?;
        Ok((predicted - noise).square().mean(wide(pipeline.kind)))
    }

    /// Writes the model with the trained weights; a LoRA also as a separate file.
    pub fn write(self, folder: &NewFolder, interrupt: &Interrupt) -> Result<()> {
        let Self { request, tuned, masters, .. } = self;
        match tuned {
            Tuned::Adapted(adapter) => {
                let file = request.work.join("pytorch_lora_weights.safetensors");
                lora::write_diffusers(&adapter.lora, &file)?;
                let changes = [Changes::from(&adapter.lora.trainable(Kind::Float, Device::Cpu).lora)];
                folder.write(&|_, key, weight| lora::sum(key, weight, &changes), merge::mark(&[(file, 1.0)]), interrupt)
            }
            Tuned::Whole(keys) => {
                let values: HashMap<String, Tensor> = keys.into_iter().zip(masters.into_values()).collect();
                let said = json!({ "size": request.size.to_string(), "steps": request.steps, "seed": request.seed });
                let mark = ("comat.prepared", said.to_string());
                folder.write(&|_, key, _| Some(values.get(key)?.to_device(Device::Cpu)), mark, interrupt)
            }
        }
    }
}

fn config(request: &Request) -> Optimizer {
    Optimizer { learning_rate: request.learning_rate, ..Optimizer::default() }
}
