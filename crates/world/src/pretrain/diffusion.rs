//! Text encoder and UNet together, on latents of renders with web-like captions.

use super::{
    course::{self, Course, Losses, Watch},
    data::{self, Stream},
    parameters::{Init, Parameters},
    stack::Stack,
    vae,
};
use crate::{scene::Scene, wording};
use anyhow::Result;
use models::{
    clip::{TextConfig, TextEncoder},
    schedule::NoiseSchedule,
    tokenizer::ClipTokenizer,
    unet::{self, Text, UNet},
};
use rand::Rng;
use std::collections::HashMap;
use tch::{Kind, Tensor};

pub const STEPS: u64 = 7000;
/// The first cycle of the learning rate is so long, the second one takes the rest.
const FIRST_CYCLE: u64 = 4000;
const BATCH: u64 = 48;
/// Pictures that are encoded once and drawn from, at most.
const POOL: u64 = 32_000;
const ENCODED_AT_A_TIME: u64 = 64;
/// Timesteps with less noise than this ratio of signal to noise count less (Hang et al. 2023).
const MOST_SIGNAL: f64 = 5.0;

/// Trains, and writes `sd/unet` and `sd/text_encoder`.
pub fn run(stack: &Stack, steps: u64, seed: u64, watch: &Watch) -> Result<()> {
    let unet_config = unet::Config::read(&stack.sd("unet/config.json"))?;
    let text_config = TextConfig::read(&stack.sd("text_encoder/config.json"))?;
    let schedule = NoiseSchedule::read(&stack.sd("scheduler/scheduler_config.json"))?;
    let parts = [
        ("unet", UNet::layout(&unet_config), Init::Uniform),
        ("text_encoder", TextEncoder::layout(&text_config), Init::Normal(0.02)),
    ];
    let mut parameters = Parameters::fresh(&parts, seed)?;
    let unet = UNet::new(&unet_config, &parameters.training("unet")?)?;
    let encoder = TextEncoder::new(&text_config, &parameters.training("text_encoder")?)?;
    let mut tokens = Tokens { tokenizer: ClipTokenizer::open(&stack.sd("tokenizer"))?, known: HashMap::new() };
    let pictures = POOL.min(steps * BATCH);
    let pool = pool(stack, pictures, seed, watch)?;
    let levels = Levels::of(&schedule);
    let course = Course {
        name: "diffusion",
        cycles: course::cycles(steps, &[FIRST_CYCLE]),
        learning_rate: 1e-3,
        seed,
        average: 0.998,
    };
    course.run(&mut parameters, &stack.files(course.name), watch, |step, _| {
        let mut rng = data::rng(seed, Stream::Step, step);
        let numbers: Vec<i64> = (0..BATCH).map(|_| rng.random_range(0..pictures as i64)).collect();
        let captions: Vec<String> = numbers
            .iter()
            .map(|&n| wording::web_caption(&data::scene(seed, n as u64), &mut rng).unwrap_or_default())
            .collect();
        let timesteps: Vec<i64> = (0..BATCH).map(|_| rng.random_range(0..levels.count)).collect();
        let clean = pool.index_select(0, &Tensor::from_slice(&numbers));
        let noise = data::randn(&mut rng, &clean.size())?;
        let timesteps = Tensor::from_slice(&timesteps);
        let context = encoder.forward(&tokens.rows(&captions)?)?.last_hidden_state;
        let noisy = levels.mix(&clean, &noise, &timesteps);
        let predicted = unet.forward(&noisy, &timesteps, &Text { context, added: None })?;
        let error = (predicted - noise).square().mean_dim([1, 2, 3].as_slice(), false, Kind::Float);
        let plain = error.mean(Kind::Float).double_value(&[]);
        let total = (error * levels.weight.index_select(0, &timesteps)).mean(Kind::Float);
        Ok(Losses { total, parts: vec![("error", plain)] })
    })?;
    parameters.write("unet", &stack.sd("unet/diffusion_pytorch_model.safetensors"))?;
    parameters.write("text_encoder", &stack.sd("text_encoder/model.safetensors"))
}

/// Scaled latents of the first scenes `[count, 4, 16, 16]`.
fn pool(stack: &Stack, count: u64, seed: u64, watch: &Watch) -> Result<Tensor> {
    let vae = vae::open(stack)?;
    watch.bar.set_length(count);
    watch.bar.set_message("encoding pictures");
    let mut latents = vec![];
    for first in (0..count).step_by(ENCODED_AT_A_TIME as usize) {
        let scenes: Vec<Scene> =
            (first..(first + ENCODED_AT_A_TIME).min(count)).map(|n| data::scene(seed, n)).collect();
        latents.push(vae::encode(&vae, &data::pictures(&scenes))?);
        watch.bar.inc(ENCODED_AT_A_TIME);
        watch.interrupt.check()?;
    }
    watch.bar.set_message("");
    Ok(Tensor::cat(&latents, 0))
}

struct Tokens {
    tokenizer: ClipTokenizer,
    known: HashMap<String, Vec<i64>>,
}

impl Tokens {
    /// `[B, L]`
    fn rows(&mut self, captions: &[String]) -> Result<Tensor> {
        let mut rows = vec![];
        for caption in captions {
            if !self.known.contains_key(caption) {
                self.known.insert(caption.clone(), self.tokenizer.encode(caption)?.ids);
            }
            rows.push(Tensor::from_slice(&self.known[caption]));
        }
        Ok(Tensor::stack(&rows, 0))
    }
}

/// How much of signal and noise is in a picture at each timestep, `[T]`.
pub struct Levels {
    count: i64,
    signal: Tensor,
    noise: Tensor,
    weight: Tensor,
}

impl Levels {
    pub fn of(schedule: &NoiseSchedule) -> Self {
        let table = |f: &dyn Fn(f64) -> f64| {
            Tensor::from_slice(&schedule.signal().iter().map(|s| f(*s) as f32).collect::<Vec<_>>())
        };
        Self {
            count: schedule.signal().len() as i64,
            signal: table(&|s| s.sqrt()),
            noise: table(&|s| (1.0 - s).sqrt()),
            weight: table(&|s| (MOST_SIGNAL * (1.0 - s) / s).min(1.0)),
        }
    }

    /// Latents and noise `[B, 4, h, w]`, timesteps `[B]`
    pub fn mix(&self, clean: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        let at = |table: &Tensor| table.index_select(0, timesteps).view([-1, 1, 1, 1]);
        clean * at(&self.signal) + noise * at(&self.noise)
    }
}
