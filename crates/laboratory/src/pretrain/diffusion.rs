//! Trains text encoder and UNet together, on latents of renders with captions like those of the web.

use super::{
    course::{Course, Losses, Watch},
    data::{self, Ahead, Stream},
    parameters::{Init, Parameters},
    stack::Stack,
    vae,
};
use anyhow::Result;
use models::{
    clip::{TextConfig, TextEncoder},
    network::{Conditions, Network},
    schedule::{Forced, NoiseSchedule},
    tokenizer::ClipTokenizer,
    unet::{self, UNet},
};
use rand::Rng;
use scenes::{
    scene::Scene,
    wording::{Faults, web_caption},
};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};
use tch::{Device, Kind, Tensor};

pub const STEPS: u64 = 4000;
pub const BATCH: u64 = 256;
pub const LEARNING_RATE: f64 = 1e-3;
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const TEXT_ENCODER: &str = "text_encoder/model.safetensors";
/// Largest number of images that are encoded, once, and sampled from.
const POOL: u64 = 65_536;
const ENCODED_AT_A_TIME: u64 = 256;
/// Signal-to-noise ratio above which timesteps get less weight (Hang et al. 2023).
const MOST_SIGNAL: f64 = 5.0;

/// Settings of the training.
#[derive(Debug, Clone)]
pub struct Lesson {
    pub steps: u64,
    /// Images per step.
    pub batch: u64,
    pub learning_rate: f64,
    pub seed: u64,
    /// Faults of the captions.
    pub faults: Faults,
    /// The models whose weights the training starts from; `None`: new weights.
    pub from: Option<PathBuf>,
}

/// Trains, and writes `sd/unet` and `sd/text_encoder`.
pub fn run(stack: &Stack, lesson: &Lesson, watch: &Watch) -> Result<()> {
    let Lesson { steps, batch, learning_rate, seed, faults, .. } = lesson.clone();
    let unet_config = unet::Config::read(&stack.sd("unet/config.json"))?;
    let text_config = TextConfig::read(&stack.sd("text_encoder/config.json"))?;
    let schedule = NoiseSchedule::read(&stack.sd("scheduler/scheduler_config.json"), Forced::by_pipeline_of(false))?;
    let parts = [
        ("unet", UNet::layout(&unet_config), Init::Uniform),
        ("text_encoder", TextEncoder::layout(&text_config), Init::Normal(0.02)),
    ];
    let mut parameters = Parameters::fresh(&parts, seed, stack.device)?;
    if let Some(from) = &lesson.from {
        let from = Stack::open(from, stack.device)?;
        parameters.load("unet", &from.sd(UNET))?;
        parameters.load("text_encoder", &from.sd(TEXT_ENCODER))?;
    }
    let unet = UNet::new(&unet_config, &parameters.training("unet")?)?;
    let encoder = TextEncoder::new(&text_config, &parameters.training("text_encoder")?)?;
    let tokens = Tokens { tokenizer: ClipTokenizer::open(&stack.sd("tokenizer"))?, known: Mutex::default() };
    let images = POOL.min(steps * batch);
    let pool = pool(stack, images, seed, watch)?;
    let mut shape = pool.size();
    shape[0] = batch as i64;
    let levels = Levels::of(&schedule, stack.device);
    let timesteps = schedule.signal().len() as i64;
    let about = format!("{batch} images a step, {faults:?}, from {:?}", lesson.from);
    let course = Course { name: "diffusion", cycles: vec![steps], learning_rate, seed, average: 0.998, about };
    let mut batches = Ahead::new(move |step| {
        let mut rng = data::rng(seed, Stream::Step, step);
        let numbers: Vec<i64> = (0..batch).map(|_| rng.random_range(0..images as i64)).collect();
        let caption = |n: &i64| web_caption(&faults, &data::scene(seed, *n as u64), &mut rng).unwrap_or_default();
        let captions: Vec<String> = numbers.iter().map(caption).collect();
        let timesteps: Vec<i64> = (0..batch).map(|_| rng.random_range(0..timesteps)).collect();
        let noise = data::randn(&mut rng, &shape)?;
        Ok([Tensor::from_slice(&numbers), tokens.rows(&captions)?, Tensor::from_slice(&timesteps), noise])
    });
    course.run(&mut parameters, &stack.files(course.name), watch, |step, _| {
        let [numbers, ids, timesteps, noise] = batches.next(step)?.map(|t| t.to_device(stack.device));
        let clean = pool.index_select(0, &numbers);
        let context = encoder.forward(&ids)?.last_hidden_state;
        let noisy = levels.mix(&clean, &noise, &timesteps);
        let predicted = unet.predict(&noisy, &timesteps, &Conditions::of_context(context), None)?;
        let error = (predicted - noise).square().mean_dim([1, 2, 3].as_slice(), false, Kind::Float);
        let plain = error.detach().mean(Kind::Float);
        let total = (error * levels.weight.index_select(0, &timesteps)).mean(Kind::Float);
        Ok(Losses { total, parts: vec![("error", plain)] })
    })?;
    parameters.write("unet", &stack.sd(UNET))?;
    parameters.write("text_encoder", &stack.sd(TEXT_ENCODER))
}

/// Scaled latents of the first scenes `[count, 4, 16, 16]`.
fn pool(stack: &Stack, count: u64, seed: u64, watch: &Watch) -> Result<Tensor> {
    let vae = vae::open(stack)?;
    watch.bar.set_length(count);
    watch.bar.set_message("encoding images");
    let mut latents = vec![];
    let mut renders = Ahead::new(move |piece| {
        let first = piece * ENCODED_AT_A_TIME;
        let numbers = first.min(count)..(first + ENCODED_AT_A_TIME).min(count);
        Ok(data::images(&numbers.map(|n| data::scene(seed, n)).collect::<Vec<Scene>>()))
    });
    for piece in 0..count.div_ceil(ENCODED_AT_A_TIME) {
        latents.push(vae::encode(&vae, &renders.next(piece)?.to_device(stack.device))?);
        watch.bar.inc(ENCODED_AT_A_TIME);
        watch.interrupt.check()?;
    }
    watch.bar.set_message("");
    Ok(Tensor::cat(&latents, 0))
}

struct Tokens {
    tokenizer: ClipTokenizer,
    known: Mutex<HashMap<String, Vec<i64>>>,
}

impl Tokens {
    /// Token ids of captions, `[B, L]`.
    fn rows(&self, captions: &[String]) -> Result<Tensor> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = vec![];
        for caption in captions {
            if !known.contains_key(caption) {
                known.insert(caption.clone(), self.tokenizer.encode(caption)?.ids);
            }
            rows.push(Tensor::from_slice(&known[caption]));
        }
        Ok(Tensor::stack(&rows, 0))
    }
}

/// Scale of signal and noise at each timestep, `[T]`.
pub struct Levels {
    signal: Tensor,
    noise: Tensor,
    weight: Tensor,
}

impl Levels {
    pub fn of(schedule: &NoiseSchedule, device: Device) -> Self {
        let table = |f: &dyn Fn(f64) -> f64| {
            let values: Vec<f32> = schedule.signal().iter().map(|s| f(*s) as f32).collect();
            Tensor::from_slice(&values).to_device(device)
        };
        Self {
            signal: table(&|s| s.sqrt()),
            noise: table(&|s| (1.0 - s).sqrt()),
            weight: table(&|s| (MOST_SIGNAL * (1.0 - s) / s).min(1.0)),
        }
    }

    /// Noisy latents. Latents and noise are `[B, 4, h, w]`, timesteps `[B]`.
    pub fn mix(&self, clean: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        let at = |table: &Tensor| table.index_select(0, timesteps).view([-1, 1, 1, 1]);
        clean * at(&self.signal) + noise * at(&self.noise)
    }
}
