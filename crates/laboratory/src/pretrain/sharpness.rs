//! Accuracy of the captioner: how often it finds the true caption of an image more likely than a wrong one.

use super::{
    course::Watch,
    data::{self, Stream},
    painter::Painter,
    stack::Stack,
};
use anyhow::Result;
use comat::loss::caption::CaptionLoss;
use images::Image;
use scenes::{
    judge,
    prompts::{self, Split},
    scene::{Direction, Kind as ObjectKind, Object, Scene},
    wording::{Demand, Wanted},
};
use serde::Serialize;
use std::fmt;
use tch::{Kind, Tensor};

/// For images with two objects that differ in everything, the share where the true caption is more likely than a wrong
/// one.
#[derive(Debug, Default, Serialize)]
pub struct Sharpness {
    pub color_swap: f64,
    pub texture_swap: f64,
    pub shape_swap: f64,
    pub opposite_relation: f64,
    pub missing_object: f64,
    pub images: usize,
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
        let rates = rates.map(|(what, rate)| match self.images {
            0 => format!("{what} –"),
            _ => format!("{what} {:.1} %", 100.0 * rate),
        });
        write!(f, "{} ({} images)", rates.join(", "), self.images)
    }
}

/// Accuracy on each kind of image.
#[derive(Debug, Serialize)]
pub struct Report {
    pub renders: Sharpness,
    /// Renders that the diffusion model has redrawn from up to half of the noise.
    pub redrawn: Sharpness,
    /// Images sampled from prompts. Their content is what the judge finds; images where the judge is unsure are not
    /// counted.
    pub drawn: Sharpness,
}

/// Measures on `count` new images of each kind.
pub fn measure(stack: &Stack, count: u64, seed: u64, watch: &Watch) -> Result<Report> {
    let _guard = tch::no_grad_guard();
    let loss = CaptionLoss::open(&config::Captioner::at(stack.blip()), Kind::Float, stack.device)?;
    let mut painter = Painter::open(stack)?;
    let scenes: Vec<Scene> = (0..count).map(|n| Scene::any(&mut data::rng(seed, Stream::Test, n))).collect();
    let redrawn = painter.redraw(seed, Stream::Test, count, watch)?;
    let asked = prompts::make(Split::HeldOut, count as usize, seed);
    let asked: Vec<&str> = asked.iter().map(|p| p.prompt.as_str()).collect();
    let drawn = painter.draw(&asked, seed, watch)?;
    let seen = seen(&drawn)?;
    let unit = |bytes: Tensor| bytes.to_kind(Kind::Float) / 255.0;
    Ok(Report {
        renders: sharpness(&loss, &scenes, &data::images(&scenes).to_device(stack.device))?,
        redrawn: sharpness(&loss, &scenes, &unit(redrawn))?,
        drawn: sharpness(&loss, &seen, &unit(drawn))?,
    })
}

/// What the judge finds in images, bytes `[B, 3, 64, 64]`; no objects if the judge is unsure of anything.
fn seen(images: &Tensor) -> Result<Vec<Scene>> {
    let mut scenes = vec![];
    for i in 0..images.size()[0] {
        let look = judge::look(&Image::from_tensor(&(images.get(i).to_kind(Kind::Float) / 255.0))?);
        let objects = look.found.iter().map(|found| {
            Some(Object {
                shape: found.shape?,
                color: found.color?,
                texture: found.texture?,
                center: found.center,
                radius: (found.area as f32 / std::f32::consts::PI).sqrt(),
                phase: (0.0, 0.0),
            })
        });
        scenes.push(Scene { ground: [1.0; 3], objects: objects.collect::<Option<_>>().unwrap_or_default() });
    }
    Ok(scenes)
}

/// Scenes and their images `[B, 3, 64, 64]` in 0..1.
fn sharpness(loss: &CaptionLoss, scenes: &[Scene], images: &Tensor) -> Result<Sharpness> {
    let mut rates = Sharpness::default();
    let mut relations = 0;
    for (i, scene) in scenes.iter().enumerate() {
        let [a, b] = &scene.objects[..] else { continue };
        if a.shape == b.shape || a.color == b.color || a.texture == b.texture {
            continue;
        }
        let (ka, kb) = (a.kind(), b.kind());
        let image = images.narrow(0, i as i64, 1).repeat([2, 1, 1, 1]);
        let prefers = |right: &Demand, wrong: &Demand| -> Result<f64> {
            let texts = [right, wrong].map(|demand| demand.words(&mut data::rng(0, Stream::Test, 0))); // in the same wording
            let nll = loss.nll(&image, &[&texts[0], &texts[1]], &[(0, 0); 2])?.sum;
            Ok(f64::from(nll.double_value(&[0]) < nll.double_value(&[1])))
        };
        rates.images += 1;
        let colored = says([ka, kb], true, false, None);
        let colors = [ObjectKind { color: kb.color, ..ka }, ObjectKind { color: ka.color, ..kb }];
        rates.color_swap += prefers(&colored, &says(colors, true, false, None))?;
        let textures = [ObjectKind { texture: kb.texture, ..ka }, ObjectKind { texture: ka.texture, ..kb }];
        rates.texture_swap += prefers(&says([ka, kb], false, true, None), &says(textures, false, true, None))?;
        let shapes = [ObjectKind { shape: kb.shape, ..ka }, ObjectKind { shape: ka.shape, ..kb }];
        rates.shape_swap += prefers(&says([ka, kb], true, true, None), &says(shapes, true, true, None))?;
        let one = Demand { wanted: colored.wanted[..1].to_vec(), relation: None };
        rates.missing_object += prefers(&colored, &one)?;
        if let Some(direction) = Direction::between(a.center, b.center, 1.3) {
            relations += 1;
            let lying = |direction| says([ka, kb], true, false, Some(direction));
            rates.opposite_relation += prefers(&lying(direction), &lying(direction.opposite()))?;
        }
    }
    let n = rates.images.max(1) as f64;
    for rate in [&mut rates.color_swap, &mut rates.texture_swap, &mut rates.shape_swap, &mut rates.missing_object] {
        *rate /= n;
    }
    rates.opposite_relation /= f64::from(relations.max(1));
    Ok(rates)
}

fn says(kinds: [ObjectKind; 2], color: bool, texture: bool, relation: Option<Direction>) -> Demand {
    let wanted = kinds.map(|k| Wanted::one(k.shape, color.then_some(k.color), texture.then_some(k.texture)));
    Demand { wanted: wanted.to_vec(), relation }
}
