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
use std::path::PathBuf;
use tch::{Kind, Tensor};

pub const STEPS: u64 = BLENDED_FROM + LAST_CYCLE;
/// Steps of the cycles; the learning rate restarts after each.
const CYCLES: [u64; 3] = [FIRST_CYCLE, 1200, 1000];
/// Steps of the first cycle, which uses renders only.
pub const FIRST_CYCLE: u64 = 7500;
/// How often a relation is stated where there is one; relations are learned last.
const RELATIONS: f64 = 0.7;
/// Adversarial training starts at this step: each image is changed against the captioner before the captioner learns
/// from it (Goodfellow et al. 2015, in the Euclidean norm). To please a captioner trained in this way, an image must
/// change what it shows, not its noise (Tsipras et al. 2019).
const ADVERSARIAL_FROM: u64 = CYCLES[0] + CYCLES[1];
/// From this step on, half of the renders are blends of two scenes whose objects differ in colour or texture. A captioner that knows
/// pure colours alone takes what lies between them, a dark green for black, for either of them without a doubt.
const BLENDED_FROM: u64 = ADVERSARIAL_FROM + CYCLES[2];
/// Steps of the last cycle.
pub const LAST_CYCLE: u64 = 1000;
/// Largest adversarial change of an image: Euclidean norm over all values.
const STRONGEST: f64 = 4.0;
/// Number of gradient steps of the adversarial change; each starts where the one before ended.
const ADVERSARIAL_STEPS: usize = 2;
const WEIGHTS: &str = "model.safetensors";
const BATCH: usize = 192;
/// Share of the renders that are blends, in the last cycle.
const BLENDED: f64 = 0.5;
/// Redrawn images in each batch after the first cycle.
const REDRAWN: usize = 64;
/// Largest number of redrawn images.
const POOL: u64 = 8192;

/// Number of redrawn images in a step's batch.
fn redrawn(step: u64) -> usize {
    if step < CYCLES[0] { 0 } else { REDRAWN }
}

/// What is trained.
#[derive(Debug, Clone)]
pub struct Lesson {
    pub steps: u64,
    pub seed: u64,
    /// The stack whose captioner goes through the last cycle alone, with images of its diffusion model; `None`: a new
    /// captioner.
    pub from: Option<PathBuf>,
}

/// Trains, and writes `blip`. The first cycle needs no diffusion model.
pub fn run(stack: &Stack, lesson: &Lesson, watch: &Watch) -> Result<()> {
    let Lesson { steps, seed, .. } = *lesson;
    let from = lesson.from.as_ref().map(|from| Stack::open(from, stack.device)).transpose()?;
    let done = if from.is_some() { BLENDED_FROM } else { 0 };
    let config = Config::read(&stack.blip().join("config.json"))?;
    let parts = [("blip", Captioner::layout(&config), Init::Normal(0.02))];
    let mut parameters = Parameters::fresh(&parts, seed, stack.device)?;
    if let Some(from) = &from {
        parameters.load("blip", &from.blip().join(WEIGHTS))?;
    }
    let pool_size = POOL.min(steps * REDRAWN as u64);
    let pool = match done + steps {
        ..=FIRST_CYCLE => Tensor::zeros([1, 3, 64, 64], (Kind::Uint8, stack.device)),
        _ => Painter::open(from.as_ref().unwrap_or(stack))?.redraw(seed, Stream::Scene, pool_size, watch)?,
    };
    let settings = config::Captioner::at(stack.blip());
    let loss = CaptionLoss::new(Captioner::new(&config, &parameters.training("blip")?)?, &settings, stack.device)?;
    let course = Course {
        name: "captioner",
        cycles: if done > 0 { vec![steps] } else { course::cycles(steps, &CYCLES) },
        learning_rate: 1e-3,
        seed,
        average: 0.998,
        about: lesson.from.as_ref().map(|from| format!("from {}", from.display())).unwrap_or_default(),
    };
    let mut batches = Ahead::new(move |step| Batch::new(seed, done + step, pool_size));
    course.run(&mut parameters, &stack.files(course.name), watch, |step, _| {
        let batch = batches.next(step)?;
        let redrawn = pool.index_select(0, &batch.redrawn.to_device(stack.device)).to_kind(Kind::Float) / 255.0;
        let mut images = Tensor::cat(&[batch.images.to_device(stack.device), redrawn], 0);
        if done + step >= ADVERSARIAL_FROM {
            images = worst(&loss, &images, &batch.captions, &batch.lengths.to_device(stack.device))?;
        }
        let nll = loss.nll(&images, &refs(&batch.captions), &vec![(0, 0); BATCH])?;
        let total = nll.sum.sum(Kind::Float) / nll.tokens.sum(Kind::Float);
        Ok(Losses { total, parts: vec![] })
    })?;
    parameters.write("blip", &stack.blip().join(WEIGHTS))
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
        let blended = if step < BLENDED_FROM { 0.0 } else { BLENDED };
        let images = degrade(&mut scenes, step < ADVERSARIAL_FROM, blended, &mut data::rng(seed, Stream::Spoil, step))?;
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
/// object in some. Captions are still those of the scene; of a share `blended` of the scenes, which are blends of two, those of
/// the one that is left in `scenes`. `[B, 3, 64, 64]`
fn degrade(scenes: &mut [Scene], ghosts: bool, blended: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let mut images = vec![];
    for scene in scenes {
        let mut image = data::images(std::slice::from_ref(scene));
        if blended > 0.0 && rng.random_bool(blended) {
            image = blend(scene, image, rng);
        }
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

/// The image of a scene, blended with that of a scene whose objects have other colours and textures. The scene becomes the other
/// one with a probability that is the other one's part of the blend.
fn blend(scene: &mut Scene, image: Tensor, rng: &mut ChaCha8Rng) -> Tensor {
    let mut other = scene.clone();
    for object in &mut other.objects {
        if rng.random_bool(0.5) {
            let ObjectKind { color, texture, .. } = ObjectKind::any(rng);
            (object.color, object.texture) = (color, texture);
        }
    }
    let part: f64 = rng.random();
    let blended = image * (1.0 - part) + data::images(std::slice::from_ref(&other)) * part;
    if rng.random_bool(part) {
        *scene = other;
    }
    blended
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearer a blend is to a scene, the likelier it is told as that scene.
    #[test]
    fn blends_are_told_by_their_parts() {
        let mut rng = data::rng(1, Stream::Test, 0);
        let scene = Scene::any(&mut rng);
        let pure = data::images(std::slice::from_ref(&scene));
        let (mut far, mut told) = (vec![], [0.0, 0.0]);
        for _ in 0..400 {
            let mut other = scene.clone();
            let image = blend(&mut other, pure.shallow_clone(), &mut rng);
            let distance = (image - &pure).abs().max().double_value(&[]);
            if distance > 0.01 {
                far.push((distance, f64::from(other != scene)));
            }
        }
        far.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(far.len() > 80, "{}", far.len());
        for (half, told) in far.chunks(far.len().div_ceil(2)).zip(&mut told) {
            *told = half.iter().map(|(_, other)| other).sum::<f64>() / half.len() as f64;
        }
        let all = far.iter().map(|(_, other)| other).sum::<f64>() / far.len() as f64;
        assert!((0.4..0.6).contains(&all) && told[0] + 0.2 < told[1], "{all} {told:?}");
    }
}
