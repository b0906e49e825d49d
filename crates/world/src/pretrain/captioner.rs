//! The captioner, from true captions: of renders, of spoilt renders, and of renders that the diffusion model has redrawn
//! from half-way, with all its flaws. It never hears of the judge.

use super::{
    course::{Course, Losses, Watch},
    data::{self, Stream},
    parameters::{Init, Parameters},
    redraw,
    stack::Stack,
};
use crate::{
    scene::{Direction, Kind as ObjectKind, Object, Scene},
    wording::{self, Demand, Wanted},
};
use anyhow::Result;
use comat::{config, loss::caption::CaptionLoss};
use models::blip::{Captioner, Config};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::fmt;
use tch::{Device, Kind, Tensor};

pub const STEPS: u64 = 6000;
const BATCH: usize = 64;
/// Of each batch, so many were redrawn.
const REDRAWN: usize = 20;
/// Redrawn pictures to draw from, at most.
const POOL: u64 = 4096;
/// New pictures that sharpness is measured on, at most.
const TESTED: u64 = 1024;

/// How often the true caption is likelier than a wrong one.
#[derive(Debug, Default, Serialize)]
pub struct Sharpness {
    pub color_swap: f64,
    pub texture_swap: f64,
    pub shape_swap: f64,
    pub opposite_relation: f64,
    pub missing_object: f64,
    pub pictures: usize,
}

impl fmt::Display for Sharpness {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let rates = [
            ("colours swapped", self.color_swap),
            ("textures swapped", self.texture_swap),
            ("shapes swapped", self.shape_swap),
            ("opposite relation", self.opposite_relation),
            ("an object missing", self.missing_object),
        ];
        let rates = rates.map(|(what, rate)| format!("{what} {:.1} %", 100.0 * rate));
        write!(f, "{} ({} pictures)", rates.join(", "), self.pictures)
    }
}

/// Trains, writes `blip`, and says how sharp it is on new renders and on new redrawn ones.
pub fn run(stack: &Stack, steps: u64, seed: u64, watch: &Watch) -> Result<(Sharpness, Sharpness)> {
    let config = Config::read(&stack.blip().join("config.json"))?;
    let mut parameters = Parameters::fresh(&[("blip", Captioner::layout(&config), Init::Normal(0.02))], seed)?;
    let pictures = POOL.min(steps * REDRAWN as u64);
    let pool = redraw::pool(stack, seed, Stream::Scene, pictures, watch)?;
    let settings = config::Captioner::at(stack.blip());
    let loss = CaptionLoss::new(Captioner::new(&config, &parameters.training("blip")?)?, &settings)?;
    let course = Course { name: "captioner", cycles: vec![steps], learning_rate: 1e-3, seed, average: 0.998 };
    course.run(&mut parameters, watch, |step, _| {
        let mut rng = data::rng(seed, Stream::Step, step);
        let first = (1 << 32) + step * BATCH as u64; // scenes that no other course has seen
        let mut scenes: Vec<Scene> = (0..(BATCH - REDRAWN) as u64).map(|i| data::scene(seed, first + i)).collect();
        let images = spoil(&scenes, &mut data::rng(seed, Stream::Spoil, step))?;
        let redrawn: Vec<i64> = (0..REDRAWN).map(|_| rng.random_range(0..pictures as i64)).collect();
        scenes.extend(redrawn.iter().map(|&n| data::scene(seed, n as u64)));
        let redrawn = pool.index_select(0, &Tensor::from_slice(&redrawn)).to_kind(Kind::Float) / 255.0;
        let captions: Vec<String> = scenes.iter().map(|s| wording::caption(s, &mut rng)).collect();
        let nll = loss.nll(&Tensor::cat(&[images, redrawn], 0), &refs(&captions), &vec![(0, 0); BATCH])?;
        let total = nll.sum.sum(Kind::Float) / nll.tokens.sum(Kind::Float);
        Ok(Losses { total, parts: vec![] })
    })?;
    parameters.write("blip", &stack.blip().join("model.safetensors"))?;
    let _guard = tch::no_grad_guard();
    let loss = CaptionLoss::open(&settings, Kind::Float, Device::Cpu)?;
    let tested = TESTED.min(steps * BATCH as u64);
    let renders = (0..tested).map(|n| Scene::any(&mut data::rng(seed, Stream::Test, n))).collect::<Vec<_>>();
    let redrawn = redraw::pool(stack, seed, Stream::Test, tested, watch)?.to_kind(Kind::Float) / 255.0;
    Ok((sharpness(&loss, &renders, &data::pictures(&renders))?, sharpness(&loss, &renders, &redrawn)?))
}

/// Of pictures with two objects that differ in everything.
pub fn sharpness(loss: &CaptionLoss, scenes: &[Scene], images: &Tensor) -> Result<Sharpness> {
    let mut rates = Sharpness::default();
    let mut relations = 0;
    for (i, scene) in scenes.iter().enumerate() {
        let [a, b] = &scene.objects[..] else { continue };
        if a.shape == b.shape || a.color == b.color || a.texture == b.texture {
            continue;
        }
        let (ka, kb) = (a.kind(), b.kind());
        let image = images.narrow(0, i as i64, 1);
        let text = |kinds: [ObjectKind; 2], color: bool, texture: bool, relation| {
            let wanted = kinds.map(|k| Wanted::one(k.shape, color.then_some(k.color), texture.then_some(k.texture)));
            let mut fixed = data::rng(0, Stream::Test, 0); // the same wording for right and wrong
            Demand { wanted: wanted.to_vec(), relation }.words(&mut fixed)
        };
        let prefers = |right: String, wrong: String| -> Result<f64> {
            let texts = [right.as_str(), wrong.as_str()];
            let nll = loss.nll(&image.repeat([2, 1, 1, 1]), &texts, &[(0, 0); 2])?.sum;
            Ok(f64::from(nll.double_value(&[0]) < nll.double_value(&[1])))
        };
        rates.pictures += 1;
        let colors = [ObjectKind { color: kb.color, ..ka }, ObjectKind { color: ka.color, ..kb }];
        rates.color_swap += prefers(text([ka, kb], true, false, None), text(colors, true, false, None))?;
        let textures = [ObjectKind { texture: kb.texture, ..ka }, ObjectKind { texture: ka.texture, ..kb }];
        rates.texture_swap += prefers(text([ka, kb], false, true, None), text(textures, false, true, None))?;
        let shapes = [ObjectKind { shape: kb.shape, ..ka }, ObjectKind { shape: ka.shape, ..kb }];
        rates.shape_swap += prefers(text([ka, kb], true, true, None), text(shapes, true, true, None))?;
        rates.missing_object +=
            prefers(text([ka, kb], true, false, None), {
                Demand { wanted: vec![Wanted::one(ka.shape, Some(ka.color), None)], relation: None }
                    .words(&mut data::rng(0, Stream::Test, 0))
            })?;
        if let Some(direction) = Direction::between(a.center, b.center, 1.3) {
            relations += 1;
            rates.opposite_relation += prefers(
                text([ka, kb], true, false, Some(direction)),
                text([ka, kb], true, false, Some(direction.opposite())),
            )?;
        }
    }
    let n = rates.pictures.max(1) as f64;
    for rate in [&mut rates.color_swap, &mut rates.texture_swap, &mut rates.shape_swap, &mut rates.missing_object] {
        *rate /= n;
    }
    rates.opposite_relation /= f64::from(relations.max(1));
    Ok(rates)
}

/// Pictures as a camera or a poor model would have them: some with the ghost of another object, blurred, noisy, off in
/// colour. Captions stay those of the scene. `[B, 3, 64, 64]`
fn spoil(scenes: &[Scene], rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let mut images = vec![];
    for scene in scenes {
        let mut image = data::pictures(std::slice::from_ref(scene));
        if rng.random_bool(0.3)
            && let Some(haunted) = haunted(scene, rng)
        {
            let strength = rng.random_range(0.05..0.35);
            image = image * (1.0 - strength) + data::pictures(&[haunted]) * strength;
        }
        if rng.random_bool(0.4) {
            image = redraw::blur(&image, rng.random_range(0.3..1.0));
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

/// The scene with one object more, if there is room.
fn haunted(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Scene> {
    let mut scene = scene.clone();
    let ghost: Object = scene.room_for(ObjectKind::any(rng), rng)?;
    scene.objects.push(ghost);
    Some(scene)
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
