//! Trains the captioner on true captions: of renders, of degraded renders, and of renders that the diffusion model has
//! redrawn from up to half of the noise, with its typical flaws. The judge has no part in it.

use super::{
    course::{self, Course, Losses, Watch},
    data::{self, Ahead, Stream},
    painter::{self, Painter},
    parameters::{Init, Parameters},
    stack::Stack,
};
use anyhow::{Context, Result};
use comat::loss::caption::CaptionLoss;
use models::blip::{Captioner, Config};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use scenes::{
    scene::{Kind as ObjectKind, Object, Scene},
    wording,
};
use tch::{Kind, Tensor};

pub const STEPS: u64 = 9700;
/// Steps of the cycles; the learning rate restarts after each.
const CYCLES: [u64; 2] = [FIRST_CYCLE, 1200];
/// Steps of the first cycle, which uses renders only.
pub const FIRST_CYCLE: u64 = 7500;
/// How often a relation is stated where there is one; relations are learned last.
const RELATIONS: f64 = 0.7;
/// Adversarial training starts at this step: each image is changed against the captioner before the captioner learns
/// from it (Goodfellow et al. 2015, in the Euclidean norm). To please a captioner trained in this way, an image must
/// change what it shows, not its noise (Tsipras et al. 2019).
const ADVERSARIAL_FROM: u64 = CYCLES[0] + CYCLES[1];
/// Largest adversarial change of an image: Euclidean norm over all values.
const STRONGEST: f64 = 4.0;
/// Number of gradient steps of the adversarial change; each starts where the one before ended.
const ADVERSARIAL_STEPS: usize = 2;
const BATCH: usize = 192;
/// Redrawn images in each batch after the first cycle.
const REDRAWN: usize = 64;
/// Largest number of redrawn images.
const POOL: u64 = 8192;

/// Number of redrawn images in a step's batch.
fn redrawn(step: u64) -> usize {
    if step < CYCLES[0] { 0 } else { REDRAWN }
}

/// Trains, and writes `blip`. The first cycle needs no diffusion model.
pub fn run(stack: &Stack, steps: u64, seed: u64, watch: &Watch) -> Result<()> {
    let config = Config::read(&stack.blip().join("config.json"))?;
    let parts = [("blip", Captioner::layout(&config), Init::Normal(0.02))];
    let mut parameters = Parameters::fresh(&parts, seed, stack.device)?;
    let pool_size = POOL.min(steps * REDRAWN as u64);
    let pool = match steps {
        ..=FIRST_CYCLE => Tensor::zeros([1, 3, 64, 64], (Kind::Uint8, stack.device)),
        _ => Painter::open(stack)?.redraw(seed, Stream::Scene, pool_size, watch)?,
    };
    let settings = config::Captioner::at(stack.blip());
    let loss = CaptionLoss::new(Captioner::new(&config, &parameters.training("blip")?)?, &settings, stack.device)?;
    let course = Course {
        name: "captioner",
        cycles: course::cycles(steps, &CYCLES),
        learning_rate: 1e-3,
        seed,
        average: 0.998,
        about: String::new(),
    };
    let mut batches = Ahead::new(move |step| Batch::new(seed, step, pool_size));
    course.run(&mut parameters, &stack.files(course.name), watch, |step, _| {
        let batch = batches.next(step)?;
        let redrawn = pool.index_select(0, &batch.redrawn.to_device(stack.device)).to_kind(Kind::Float) / 255.0;
        let mut images = Tensor::cat(&[batch.images.to_device(stack.device), redrawn], 0);
        if step >= ADVERSARIAL_FROM {
            images = worst(&loss, &images, &batch.captions, &batch.lengths.to_device(stack.device))?;
        }
        let nll = loss.nll(&images, &refs(&batch.captions), &vec![(0, 0); BATCH])?;
        let total = nll.sum.sum(Kind::Float) / nll.tokens.sum(Kind::Float);
        Ok(Losses { total, parts: vec![] })
    })?;
    parameters.write("blip", &stack.blip().join("model.safetensors"))
}

/// The data of a step.
struct Batch {
    /// Degraded renders, `[B - REDRAWN, 3, 64, 64]`.
    images: Tensor,
    /// Indices of the redrawn images that follow them, `[REDRAWN]`.
    redrawn: Tensor,
    /// True captions of all images.
    captions: Vec<String>,
    /// Length of each image's adversarial change, `[B]`.
    lengths: Tensor,
}

impl Batch {
    fn new(seed: u64, step: u64, pool_size: u64) -> Result<Self> {
        let mut rng = data::rng(seed, Stream::Step, step);
        let first = (1 << 32) + step * BATCH as u64; // scenes that no other training has used
        let old = redrawn(step);
        let mut scenes: Vec<Scene> = (0..(BATCH - old) as u64).map(|i| data::scene(seed, first + i)).collect();
        let images = degrade(&scenes, step < ADVERSARIAL_FROM, &mut data::rng(seed, Stream::Spoil, step))?;
        let redrawn: Vec<i64> = (0..old).map(|_| rng.random_range(0..pool_size as i64)).collect();
        scenes.extend(redrawn.iter().map(|&n| data::scene(seed, n as u64)));
        let captions = scenes.iter().map(|s| wording::caption_with(RELATIONS, s, &mut rng)).collect();
        let lengths: Vec<f32> = (0..BATCH).map(|_| rng.random_range(0.0..STRONGEST) as f32).collect();
        Ok(Self { images, redrawn: Tensor::from_slice(&redrawn), captions, lengths: Tensor::from_slice(&lengths) })
    }
}

/// The images `[B, 3, 64, 64]`, each moved by its length in the direction that makes its caption less likely.
fn worst(loss: &CaptionLoss, images: &Tensor, captions: &[String], lengths: &Tensor) -> Result<Tensor> {
    let step_length = lengths.view([-1, 1, 1, 1]) / ADVERSARIAL_STEPS as f64;
    let mut images = images.shallow_clone();
    for _ in 0..ADVERSARIAL_STEPS {
        let start = images.detach().set_requires_grad(true);
        let nll = loss.nll(&start, &refs(captions), &vec![(0, 0); captions.len()])?.sum;
        let gradient = torch_ext::vjp(&[&nll], &[&start], &[&nll.ones_like()])?.remove(0).context("a gradient")?;
        let norm = gradient.square().sum_dim_intlist([1, 2, 3].as_slice(), true, Kind::Float).sqrt();
        images = start.detach() + gradient * &step_length / norm.clamp_min(1e-12);
    }
    Ok(images)
}

/// Degrades images as a camera or a poor model would: blur, noise, colour shifts and, with `ghosts`, a faint additional
/// object in some. Captions are still those of the scene. `[B, 3, 64, 64]`
fn degrade(scenes: &[Scene], ghosts: bool, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let mut images = vec![];
    for scene in scenes {
        let mut image = data::images(std::slice::from_ref(scene));
        if ghosts
            && rng.random_bool(0.3)
            && let Some(ghostly) = with_ghost(scene, rng)
        {
            let strength = rng.random_range(0.05..0.35);
            image = image * (1.0 - strength) + data::images(&[ghostly]) * strength;
        }
        if rng.random_bool(0.4) {
            image = painter::blur(&image, rng.random_range(0.3..1.0));
        }
        if rng.random_bool(0.4) {
            let contrast = rng.random_range(0.9..1.08);
            image = image * contrast + rng.random_range(-0.04..0.04);
        }
        if rng.random_bool(0.5) {
            let deviation = rng.random_range(0.0..0.06);
            image = &image + data::randn(rng, &image.size())? * deviation;
        }
        images.push(image);
    }
    Ok(Tensor::cat(&images, 0))
}

/// The scene with one more object, if there is space for it.
fn with_ghost(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Scene> {
    let mut scene = scene.clone();
    let ghost: Object = scene.room_for(ObjectKind::any(rng), rng)?;
    scene.objects.push(ghost);
    Some(scene)
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
