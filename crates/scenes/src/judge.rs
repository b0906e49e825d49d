//! What an image shows, found from its pixels alone, and whether that is what its prompt asks for.
//!
//! No network takes part. A thing is a connected set of pixels that stand out from the ground. Its outline is held against
//! each shape ([`outline`]), its inside against each colour and texture ([`surface`]). What fits nothing well, or two things
//! alike, stays unknown, and counts as wrong.

mod answer;
mod outline;
mod parts;
mod surface;

pub use answer::verdict;

use crate::scene::{Color, SIDE, Shape, Texture};
use images::Image;
use parts::{Mask, Pixels, Rgb, distance};
use serde::{Deserialize, Serialize};
use surface::{Surface, distance_between};

/// A connected thing in an image. What cannot be told for certain is `None`.
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
    /// How far a pixel is, on average over the image, from what the ground and the found objects explain: 0 for a
    /// render, in units where white and black are 1 apart. Noise, smears and a tinted ground raise it.
    pub unexplained: f32,
}

/// How an image answers its prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Objects that were asked for.
    pub wanted: usize,
    /// Of them, those of which there is one of the right shape.
    pub present: usize,
    /// Of them, those of which there is one with all the right attributes.
    pub bound: usize,
    /// Whether the objects lie as asked; `None` where nothing was asked.
    pub relation: Option<bool>,
    /// Things beyond those that were asked for.
    pub extra: usize,
    /// Whether everything in the image is a whole object of this world.
    pub clean: bool,
    /// All of it: every object with its attributes, lying as asked, and nothing else.
    pub correct: bool,
}

/// A pixel this far from the ground is of a thing; the lightest tint, that of yellow, is 0.25 to 0.4 away.
const APART: f32 = 0.13;
/// So far from the ground, on average over 3x3 pixels, are things too faint for the above. Noise does not come so far.
const FAINT: f32 = 0.09;
/// Fewer pixels than this are a speck, ...
const SPECK: usize = 60;
/// ... and fewer than this nothing at all.
const NOTHING: usize = 5;
/// A whole thing has at most so many pixels inside through which the ground is seen.
const GAPS: usize = 12;
/// Grounds as light as those of scenes, and a little more.
const LIGHT: std::ops::RangeInclusive<f32> = 0.84..=1.0;
/// How far a channel of the ground may be from grey.
const GREY: f32 = 0.04;

impl Look {
    /// More unexplained than this is not a clean image. Noise of a deviation of 0.03 leaves 0.03.
    pub const CLEAN: f32 = 0.045;
}

/// Looks at an image of this world's size; in one of another size nothing is found.
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

/// Things large enough to be objects, and the pieces that are not.
fn things(pixels: &Pixels, ground: Rgb, apart: &Mask) -> (Vec<Thing>, Vec<Mask>) {
    let (large, small): (Vec<Mask>, Vec<Mask>) = apart.pieces().into_iter().partition(|piece| piece.area() >= SPECK);
    (large.iter().map(|piece| Thing::new(pixels, ground, piece)).collect(), small)
}

/// Shape of every thing in an image of any size, where it has one, and the pixels that it covers, row by row.
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

    /// Whether nothing of it is in doubt.
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

/// The part of a thing that is more thing than ground: a pixel at the edge is half-way between the ground and what the
/// surface has there. One limit for all would thicken dark things and nibble at light stripes.
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

/// The edge of a solid thing takes at most so many pixels from one side to the other. Sharp edges take 0.7, those blurred
/// by a Gaussian of one pixel's width 2.1.
const EDGE: f32 = 2.1;

/// Whether the edge of a solid thing is too soft: how many pixels there are between ground and colour, for each pixel that
/// the edge is long. Blurred textures need no such test, they lose their swing.
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
