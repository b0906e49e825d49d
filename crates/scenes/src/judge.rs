//! Finds what an image shows from its pixels alone, and compares it with the prompt.
//!
//! No network is used. A thing is a connected set of pixels that differ from the ground. Its outline is compared with
//! each shape ([`outline`]), its inside with each colour and texture ([`surface`]). If nothing matches well, or two
//! candidates match equally well, the property is unknown, and counts as wrong.

mod answer;
mod outline;
mod parts;
mod surface;

pub use answer::{swapped, verdict};

use crate::scene::{Color, SIDE, Shape, Texture};
use images::Image;
use parts::{Mask, Pixels, Rgb, distance};
use serde::{Deserialize, Serialize};
use surface::{Surface, distance_between};

/// Of the judge's rules: another number where the same image may be judged otherwise, so that judgements that are kept are
/// not mixed.
pub const VERSION: u32 = 1;

/// A connected thing in an image. A property that is not certain is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub shape: Option<Shape>,
    pub color: Option<Color>,
    pub texture: Option<Texture>,
    /// Centre in pixels, from the left and from the top.
    pub center: (f32, f32),
    /// Pixels that it covers.
    pub area: usize,
}

/// Everything in an image.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Look {
    pub found: Vec<Found>,
    /// Specks too small to be an object.
    pub specks: usize,
    /// Mean distance over the image of a pixel from what the ground and the objects found explain: 0 for a render;
    /// white and black are 1 apart. Noise, smears and a tinted ground raise it.
    pub unexplained: f32,
}

/// How well an image matches its prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Number of requested objects.
    pub wanted: usize,
    /// Number of requested objects with a match of the right shape.
    pub present: usize,
    /// Number of requested objects with a match that has all the right attributes.
    pub bound: usize,
    /// Whether the objects are placed as requested; `None` if no relation was requested.
    pub relation: Option<bool>,
    /// Number of things beyond the requested ones.
    pub extra: usize,
    /// Whether everything in the image is a whole object of this world.
    pub clean: bool,
    /// Everything together: every object with its attributes, placed as requested, and nothing else.
    pub correct: bool,
}

/// A pixel at least this far from the ground belongs to a thing; the lightest tint, that of yellow, is 0.25 to 0.4
/// away.
const APART: f32 = 0.13;
/// Faint things are at least this far from the ground, on average over 3x3 pixels. Noise does not reach it.
const FAINT: f32 = 0.09;
/// A set of fewer pixels than this is a speck, ...
const SPECK: usize = 60;
/// ... and one of fewer pixels than this is ignored.
const NOTHING: usize = 5;
/// Most pixels inside a whole thing where the ground shows through.
const GAPS: usize = 12;
/// Allowed lightness of the ground: that of scenes, with a margin.
const LIGHT: std::ops::RangeInclusive<f32> = 0.84..=1.0;
/// Largest deviation of a channel of the ground from grey.
const GREY: f32 = 0.04;

impl Look {
    /// A clean image has at most this value of `unexplained`. Noise with standard deviation 0.03 gives 0.03.
    pub const CLEAN: f32 = 0.045;
}

/// Analyses an image of this world's size; in an image of another size nothing is found.
pub fn look(image: &Image) -> Look {
    let pixels = Pixels::from(image);
    if (pixels.width, pixels.height) != (SIDE, SIDE) || pixels.values.len() != SIDE * SIDE {
        return Look { unexplained: 1.0, ..Look::default() };
    }
    let ground = pixels.ground();
    let apart = pixels.apart_from(ground, APART);
    let (things, small) = things(&pixels, ground, &apart);
    let mut found: Vec<Found> = things.iter().map(|thing| thing.found.clone()).collect();
    let mut specks = small.iter().filter(|piece| piece.area() >= NOTHING).count();
    for piece in pixels.smoothed().apart_from(ground, FAINT).without(&apart.grown(3)).pieces() {
        match piece.area() {
            SPECK.. => found.push(Found::unknown(&piece)),
            NOTHING.. => specks += 1,
            _ => {}
        }
    }
    Look { found, specks, unexplained: unexplained(&pixels, ground, &things) }
}

/// The things that are large enough to be objects, and the smaller pieces.
fn things(pixels: &Pixels, ground: Rgb, apart: &Mask) -> (Vec<Thing>, Vec<Mask>) {
    let (large, small): (Vec<Mask>, Vec<Mask>) = apart.pieces().into_iter().partition(|piece| piece.area() >= SPECK);
    (large.iter().map(|piece| Thing::new(pixels, ground, piece)).collect(), small)
}

/// Shape of every thing in an image of any size, if it is recognised, and the pixels that it covers, row by row.
pub fn outlines(image: &Image) -> Vec<(Option<Shape>, Vec<bool>)> {
    let pixels = Pixels::from(image);
    let ground = pixels.ground();
    let (things, _) = things(&pixels, ground, &pixels.apart_from(ground, APART));
    things.into_iter().map(|thing| (thing.found.shape, thing.mask.on)).collect()
}

impl Found {
    fn unknown(mask: &Mask) -> Self {
        Self { shape: None, color: None, texture: None, center: mask.middle(), area: mask.area() }
    }

    /// Whether all its properties are known.
    pub fn is_whole(&self) -> bool {
        self.shape.is_some() && self.color.is_some() && self.texture.is_some()
    }
}

/// A thing and the pixels it covers.
struct Thing {
    mask: Mask,
    found: Found,
}

impl Thing {
    fn new(pixels: &Pixels, ground: Rgb, piece: &Mask) -> Self {
        let mask = piece.filled();
        let gaps = mask.area() - piece.area();
        let inside = mask.shrunk(1);
        let color = surface::color(pixels, &inside);
        let surface = color.and_then(|color| Some((color, surface::surface(pixels, &inside, color)?)));
        let mut texture = surface.map(|(_, surface)| surface.texture);
        let mask = surface.map_or(mask.clone(), |(color, surface)| halfway(pixels, ground, &mask, color, surface));
        if let (Some(color), Some(Texture::Solid)) = (color, texture)
            && is_blurred(pixels, ground, color, &mask)
        {
            texture = None;
        }
        let fit = outline::shape(&mask).filter(|_| gaps <= GAPS);
        let center = fit.map_or(mask.middle(), |fit| fit.center);
        let found = Found { shape: fit.map(|fit| fit.shape), color, texture, center, area: mask.area() };
        Self { mask, found }
    }
}

/// The pixels of a thing that are closer to the thing than to the ground: a pixel at the edge is half-way between the
/// ground and the surface's colour there. A single threshold for all would make dark things too thick and cut off parts
/// of light stripes.
fn halfway(pixels: &Pixels, ground: Rgb, mask: &Mask, color: Color, surface: Surface) -> Mask {
    let (fill, tint) = (color.rgb(), color.tint());
    let is_thing = |i: usize| {
        let tinted = surface.tint(i % mask.width, i / mask.width);
        let whole: Rgb = std::array::from_fn(|c| fill[c] + tinted * (tint[c] - fill[c]));
        distance(pixels.values[i], ground) > (distance(whole, ground) / 2.0).max(APART)
    };
    let part = mask.filter(is_thing).pieces().into_iter().next();
    part.map_or(mask.clone(), |largest| largest.filled())
}

/// Largest width of a solid thing's edge, in pixels. Sharp edges have 0.7; those blurred by a Gaussian with a standard
/// deviation of one pixel have 2.1.
const EDGE: f32 = 2.1;

/// Whether the edge of a solid thing is too soft: the number of pixels with a value between ground and colour, per
/// pixel of the edge's length. Blurred textures need no such test, since they lose contrast.
fn is_blurred(pixels: &Pixels, ground: Rgb, color: Color, mask: &Mask) -> bool {
    let fill = color.rgb();
    let full = distance(fill, ground).max(1e-3);
    let between = |i: &usize| (0.15..0.85).contains(&(distance(pixels.values[*i], ground) / full));
    let band = mask.grown(3).without(&mask.shrunk(3));
    let length = mask.without(&mask.shrunk(1)).area().max(1);
    band.pixels().filter(between).count() as f32 / length as f32 > EDGE
}

fn unexplained(pixels: &Pixels, ground: Rgb, things: &[Thing]) -> f32 {
    let grey = ground.iter().sum::<f32>() / 3.0;
    let light = grey.clamp(*LIGHT.start(), *LIGHT.end());
    let allowed = ground.map(|v| (v - grey).clamp(-GREY, GREY) + light);
    let mut off: Vec<f32> = pixels.values.iter().map(|v| distance(*v, allowed)).collect();
    for thing in things {
        let Some(color) = thing.found.color.filter(|_| thing.found.shape.is_some()) else { continue };
        let (fill, tint) = (color.rgb(), color.tint());
        let inside = thing.mask.shrunk(1);
        for i in thing.mask.grown(1).pixels() {
            let pixel = pixels.values[i];
            off[i] = distance_between(pixel, fill, tint);
            if !inside.on[i] {
                off[i] = off[i].min(distance_between(pixel, fill, allowed)).min(distance_between(pixel, tint, allowed));
            }
        }
    }
    off.iter().sum::<f32>() / off.len() as f32 / 3f32.sqrt()
}
