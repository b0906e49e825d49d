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
use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use scenes::{
    render::{self, Paint},
    scene::{Color, Kind as ObjectKind, Object, Scene, Texture, lighter},
    wording,
};
use std::path::PathBuf;
use tch::{Kind, Tensor};

pub const STEPS: u64 = ADVERSARIAL_FROM + CYCLES[2];
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
/// Steps that a trained captioner can go through in addition, in which most renders are repainted. A captioner that knows the
/// named colours alone takes what lies between them, a dark green for black, for either of them without a doubt. Images are
/// no longer changed against it: preferences, for which this is, follow no gradient through it.
pub const REPAINTED_STEPS: u64 = 1000;
/// Largest adversarial change of an image: Euclidean norm over all values.
const STRONGEST: f64 = 4.0;
/// Number of gradient steps of the adversarial change; each starts where the one before ended.
const ADVERSARIAL_STEPS: usize = 2;
const WEIGHTS: &str = "model.safetensors";
const BATCH: usize = 192;
/// Share of the renders that are repainted, in the additional steps.
const REPAINTED: f64 = 0.7;
/// How far a colour is moved at most, in units of the RGB cube's side.
const FARTHEST: f32 = 0.5;
/// Standard deviation of a named colour, in the same units.
const CONFUSED: f32 = 0.05;
/// The weight by which each name is guessed; a colour's own name has weight one.
const GUESSED: f32 = 0.02;
/// Scale of the logistic curve by which stripes of half the strength are named as such.
const UNSURE: f64 = 0.1;
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
    /// The stack whose captioner goes through additional steps with repainted renders, and with images of its diffusion model;
    /// `None`: a new captioner.
    pub from: Option<PathBuf>,
}

/// Trains, and writes `blip`. The first cycle needs no diffusion model.
pub fn run(stack: &Stack, lesson: &Lesson, watch: &Watch) -> Result<()> {
    let Lesson { steps, seed, .. } = *lesson;
    let from = lesson.from.as_ref().map(|from| Stack::open(from, stack.device)).transpose()?;
    let done = if from.is_some() { STEPS } else { 0 };
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
        if (ADVERSARIAL_FROM..STEPS).contains(&(done + step)) {
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
        let repainted = if step < STEPS { 0.0 } else { REPAINTED };
        let images =
            degrade(&mut scenes, step < ADVERSARIAL_FROM, repainted, &mut data::rng(seed, Stream::Spoil, step))?;
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
/// object in some. Captions are still those of the scene; a share `repainted` of the scenes is repainted, and `scenes`
/// has their new names. `[B, 3, 64, 64]`
fn degrade(scenes: &mut [Scene], ghosts: bool, repainted: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let mut images = vec![];
    for scene in scenes {
        let repaints = repainted > 0.0 && rng.random_bool(repainted);
        let mut image = if repaints { repaint(scene, rng)? } else { data::images(std::slice::from_ref(scene)) };
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

/// The image of a scene whose objects are repainted: their colours are moved towards any other colour, and their stripes are
/// of any strength. The scene gets the colours and textures by which they would be named.
fn repaint(scene: &mut Scene, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let mut drawn = scene.clone();
    let mut paints = vec![];
    for (object, drawn) in scene.objects.iter_mut().zip(&mut drawn.objects) {
        let towards: [f32; 3] = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
        let moved = rng.random_range(0.0..FARTHEST) / towards.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-3);
        let fill = std::array::from_fn(|c| (object.color.rgb()[c] + moved * towards[c]).clamp(0.0, 1.0));
        let strength = rng.random::<f32>();
        paints.push(Paint { fill, tint: lighter(fill, strength * Color::TINT) });
        drawn.texture = Texture::Striped;
        object.color = name_of(fill, rng)?;
        let striped = 1.0 / (1.0 + (-(f64::from(strength) - 0.5) / UNSURE).exp());
        object.texture = if rng.random_bool(striped) { Texture::Striped } else { Texture::Solid };
    }
    Ok(data::image(&render::painted(&drawn, &paints)))
}

/// A name for a colour that may lie between those that have names: each is the likelier, the nearer it is; far from all
/// of them any is as likely as any other.
fn name_of(color: [f32; 3], rng: &mut ChaCha8Rng) -> Result<Color> {
    let weight = |named: &Color| {
        let squared: f32 = named.rgb().iter().zip(color).map(|(a, b)| (a - b) * (a - b)).sum();
        (-squared / (2.0 * CONFUSED * CONFUSED)).exp() + GUESSED
    };
    Ok(*Color::ALL.choose_weighted(rng, weight)?)
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

    /// A colour keeps its name where it is named, loses it between two, and far from all any name is as likely.
    #[test]
    fn colours_between_the_named_ones_are_named_at_random() -> Result<()> {
        let mut rng = data::rng(1, Stream::Test, 0);
        let mut share = |color: [f32; 3], named| -> Result<f64> {
            let names: Vec<Color> = (0..2000).map(|_| name_of(color, &mut rng)).collect::<Result<_>>()?;
            Ok(names.iter().filter(|n| **n == named).count() as f64 / 2000.0)
        };
        let (black, green) = (Color::Black.rgb(), Color::Green.rgb());
        let between = std::array::from_fn(|c| 0.75 * black[c] + 0.25 * green[c]);
        assert!(share(black, Color::Black)? > 0.85);
        let dark_green = share(between, Color::Black)?;
        assert!((0.2..0.45).contains(&dark_green), "{dark_green}");
        let cyan = share([0.0, 1.0, 1.0], Color::Black)?;
        assert!((0.12..0.22).contains(&cyan), "{cyan}");
        Ok(())
    }

    /// The stronger the stripes, the likelier the object is named as striped.
    #[test]
    fn faint_stripes_are_named_at_random() -> Result<()> {
        let mut rng = data::rng(2, Stream::Test, 0);
        let kind = ObjectKind { shape: scenes::scene::Shape::Square, color: Color::Black, texture: Texture::Striped };
        let mut spreads = vec![];
        for _ in 0..400 {
            let mut scene = Scene::place(&[kind], &mut rng);
            let mask = data::image(&render::mask(&scene.objects[0]).repeat(3)).ge(1.0);
            let image = repaint(&mut scene, &mut rng)?;
            let inside = image.select(1, 2).masked_select(&mask.select(1, 2));
            spreads.push((inside.std(false).double_value(&[]), scene.objects[0].texture == Texture::Striped));
        }
        spreads.sort_by(|a, b| a.0.total_cmp(&b.0));
        let striped = |part: &[(f64, bool)]| part.iter().filter(|(_, striped)| *striped).count();
        let (faint, strong) = (striped(&spreads[..100]), striped(&spreads[300..]));
        assert!(faint < 30 && strong > 70, "{faint} {strong}");
        Ok(())
    }
}
