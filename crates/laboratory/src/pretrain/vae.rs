//! Trains the autoencoder, on renders only.

use super::{
    course::{Course, Losses, Watch},
    data::{self, Ahead, Stream},
    parameters::{Init, Parameters},
    stack::Stack,
};
use anyhow::Result;
use models::{
    autoencoder::Autoencoder,
    vae::{AutoencoderKl, Config},
    weights::Weights,
};
use scenes::scene::{SIDE, Scene};
use tch::{Kind, Tensor};

pub const STEPS: u64 = 2500;
const BATCH: u64 = 64;
/// The first steps use twice as many crops in place of whole images, since most of an image is background.
const STEPS_ON_PIECES: f64 = 0.7;
const PIECE: i64 = 32;
/// Weight of the divergence from a standard normal, per latent value.
const DIVERGENCE: f64 = 1e-3;

/// Trains, writes `sd/vae`, and returns the mean absolute error of a pixel (0..1) on new images.
pub fn run(stack: &Stack, steps: u64, seed: u64, watch: &Watch) -> Result<f64> {
    let config = Config::read(&stack.sd("vae/config.json"))?;
    let parts = [("vae", AutoencoderKl::layout(&config), Init::Uniform)];
    let mut parameters = Parameters::fresh(&parts, seed, stack.device)?;
    let course =
        Course { name: "vae", cycles: vec![steps], learning_rate: 2e-3, seed, average: 0.995, about: String::new() };
    let vae = AutoencoderKl::new(&unscaled(&config), &parameters.training("vae")?, Kind::Float)?;
    let mut batches = Ahead::new(move |step| {
        let pieces = (step as f64) < STEPS_ON_PIECES * steps as f64;
        let batch = if pieces { 2 * BATCH } else { BATCH };
        let scenes: Vec<Scene> = (0..batch).map(|i| data::scene(seed, step * 2 * BATCH + i)).collect();
        let images = data::images(&scenes) * 2.0 - 1.0;
        Ok(if pieces { around_an_object(&images, &scenes) } else { images })
    });
    course.run(&mut parameters, &stack.files(course.name), watch, |step, _| {
        let images = batches.next(step)?.to_device(stack.device);
        let (mean, log_variance) = vae.encode(&images)?;
        let noise = data::randn(&mut data::rng(seed, Stream::Step, step), &mean.size())?.to_device(stack.device);
        let decoded = vae.decode(&(&mean + (&log_variance * 0.5).exp() * noise))?;
        let error = (&decoded - &images).abs().mean(Kind::Float);
        let square = (&decoded - &images).square().mean(Kind::Float);
        let divergence = (mean.square() + log_variance.exp() - 1.0 - &log_variance).mean(Kind::Float) * 0.5;
        let total = &error + square * 2.0 + &divergence * DIVERGENCE;
        Ok(Losses { total, parts: vec![("error", error / 2.0), ("divergence", divergence)] })
    })?;
    parameters.write("vae", &stack.sd("vae/diffusion_pytorch_model.safetensors"))?;
    judge(stack, &parameters.averaged("vae")?, &config, seed)
}

/// Sets the scaling factor that gives latents a deviation of 1, and measures the error.
fn judge(stack: &Stack, weights: &Weights, config: &Config, seed: u64) -> Result<f64> {
    let _guard = tch::no_grad_guard();
    let vae = AutoencoderKl::new(&unscaled(config), weights, Kind::Float)?;
    let scenes: Vec<Scene> = (0..256).map(|i| Scene::any(&mut data::rng(seed, Stream::Test, i))).collect();
    let (mut errors, mut latents) = (vec![], vec![]);
    for scenes in scenes.chunks(32) {
        let images = data::images(scenes).to_device(stack.device);
        let mean = vae.encode(&(&images * 2.0 - 1.0))?.0;
        errors.push(((vae.decode(&mean)? / 2.0 + 0.5) - images).abs().mean(Kind::Float));
        latents.push(mean);
    }
    stack.set_scaling_factor(1.0 / Tensor::cat(&latents, 0).std(true).double_value(&[]))?;
    Ok(Tensor::stack(&errors, 0).mean(Kind::Float).double_value(&[]))
}

/// Crops around the first object of each scene, `[B, 3, 32, 32]`.
fn around_an_object(images: &Tensor, scenes: &[Scene]) -> Tensor {
    let start = |center: f32| (center as i64 - PIECE / 2).clamp(0, SIDE as i64 - PIECE);
    let piece = |(i, scene): (usize, &Scene)| {
        let (x, y) = scene.objects.first().map_or((0.0, 0.0), |o| o.center);
        images.narrow(0, i as i64, 1).narrow(2, start(y), PIECE).narrow(3, start(x), PIECE)
    };
    Tensor::cat(&scenes.iter().enumerate().map(piece).collect::<Vec<_>>(), 0)
}

fn unscaled(config: &Config) -> Config {
    Config { scaling_factor: 1.0, ..config.clone() }
}

/// Scaled latents of images `[B, 3, 64, 64]` in 0..1, without a graph.
pub fn encode(vae: &dyn Autoencoder, images: &Tensor) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    Ok(vae.latents(&(images * 2.0 - 1.0))?)
}

pub fn open(stack: &Stack) -> Result<AutoencoderKl> {
    Ok(AutoencoderKl::open(&stack.sd("vae"), Kind::Float, stack.device)?)
}
