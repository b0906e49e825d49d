//! Redraws renders with the models: encodes them, adds noise of some level, denoises them from there with their true
//! caption, and decodes them. They show the same as before, with the flaws of sampled images.

use super::{
    course::Watch,
    data::{self, Stream},
    diffusion::Levels,
    stack::Stack,
    vae,
};
use anyhow::Result;
use diffusion::{denoiser::Denoiser, pipeline::Pipeline, trajectory};
use models::{
    guidance::Guidance,
    network::Network,
    schedule::{Sampler, SamplerKind},
};
use rand::Rng;
use scenes::{
    scene::{SIDE, Scene},
    wording,
};
use std::{collections::BTreeSet, ops::Range};
use tch::{Device, Kind, Tensor};
use torch_ext::parallel;

const STEPS: usize = 10;
/// Largest number of the sampler's steps that are redrawn: half of all steps lose details, but not objects.
const MOST: usize = 5;
const GUIDANCE: f64 = 3.0;
const BATCH: u64 = 128;

/// The trained diffusion model, ready for sampling.
pub struct Painter {
    pipeline: Pipeline,
    unet: Box<dyn Network>,
    sampler: Sampler,
    levels: Levels,
    device: Device,
}

impl Painter {
    pub fn open(stack: &Stack) -> Result<Self> {
        let pipeline = Pipeline::open(&stack.sd(""), Kind::Float, stack.device)?;
        let unet = pipeline.network(&pipeline.weights)?;
        let levels = Levels::of(pipeline.schedule()?, stack.device);
        let sampler = pipeline.noise_path.sampler(SamplerKind::Ddim, STEPS, 0.0)?;
        Ok(Self { pipeline, unet, sampler, levels, device: stack.device })
    }

    /// The first scenes of a stream, redrawn by 0 to 5 of 10 steps; bytes `[count, 3, 64, 64]`.
    pub fn redraw(&mut self, seed: u64, stream: Stream, count: u64, watch: &Watch) -> Result<Tensor> {
        self.batches("redrawing images", count, watch, |this, numbers| {
            let mut rng = data::rng(seed, Stream::Redraw, numbers.start);
            let scenes: Vec<Scene> = numbers.map(|n| Scene::any(&mut data::rng(seed, stream, n))).collect();
            let latents = this
                .pipeline
                .vae
                .with(|vae| vae::encode(vae.as_ref(), &data::images(&scenes).to_device(this.device)))?;
            let steps = rng.random_range(0..=MOST);
            if steps == 0 {
                return Ok(latents);
            }
            let captions: Vec<String> = scenes.iter().map(|s| wording::caption(s, &mut rng)).collect();
            let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
            let timestep = this.sampler.steps[STEPS - steps].time as i64;
            let timesteps = Tensor::full([scenes.len() as i64], timestep, (Kind::Int64, this.device));
            let noise = data::randn(&mut rng, &latents.size())?.to_device(this.device);
            let start = this.levels.mix(&latents, &noise, &timesteps);
            this.denoise(start, steps, &captions)
        })
    }

    /// Samples an image of each prompt from noise; bytes `[count, 3, 64, 64]`.
    pub fn draw(&mut self, prompts: &[&str], seed: u64, watch: &Watch) -> Result<Tensor> {
        self.batches("drawing images", prompts.len() as u64, watch, |this, numbers| {
            let mut rng = data::rng(seed, Stream::Draw, numbers.start);
            let prompts = &prompts[numbers.start as usize..numbers.end as usize];
            let side = SIDE as i64 / this.pipeline.latents.downscale;
            let noise = data::randn(&mut rng, &[prompts.len() as i64, 4, side, side])?.to_device(this.device);
            this.denoise(noise, STEPS, prompts)
        })
    }

    /// Runs the last `steps` steps of the sampler.
    fn denoise(&mut self, start: Tensor, steps: usize, captions: &[&str]) -> Result<Tensor> {
        let denoiser = Denoiser {
            network: self.unet.as_ref(),
            guidance: Guidance { scale: GUIDANCE, rescale: 0.0 },
            kind: Kind::Float,
        };
        let text = self.pipeline.text.guided(captions, None, true, (SIDE as i64, SIDE as i64))?;
        let rest = self.sampler.from(STEPS - steps);
        let no_noise = |_| Ok(start.zeros_like());
        let start = start.shallow_clone();
        Ok(trajectory::walk(denoiser.conditioned_on(&text), &rest, start, &BTreeSet::new(), no_noise, || Ok(()))?
            .latents)
    }

    fn batches(
        &mut self,
        what: &'static str,
        count: u64,
        watch: &Watch,
        latents: impl Fn(&mut Self, Range<u64>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        watch.bar.set_length(count);
        watch.bar.set_position(0);
        watch.bar.set_message(what);
        let mut pieces = vec![];
        for first in (0..count).step_by(BATCH as usize) {
            let latents = latents(self, first..(first + BATCH).min(count))?;
            let images =
                self.pipeline.vae.with(|vae| parallel::over_rows(&latents, |latents| Ok(vae.decode(latents)?)))? / 2.0
                    + 0.5;
            pieces.push((images.clamp(0.0, 1.0) * 255.0).round().to_kind(Kind::Uint8));
            watch.bar.inc(BATCH);
            watch.interrupt.check()?;
        }
        watch.bar.set_message("");
        Ok(Tensor::cat(&pieces, 0))
    }
}

/// Gaussian blur of images `[B, 3, H, W]`; sigma in pixels, up to 1.
pub fn blur(images: &Tensor, sigma: f64) -> Tensor {
    let weights: Vec<f32> = (-2..=2).map(|i| (-0.5 * (f64::from(i) / sigma).powi(2)).exp() as f32).collect();
    let line = Tensor::from_slice(&weights);
    let line = &line / line.sum(Kind::Float);
    let kernel = (line.view([5, 1]) * line.view([1, 5])).expand([3, 1, 5, 5], false);
    images.replication_pad2d([2, 2, 2, 2]).conv2d(&kernel, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 3)
}
