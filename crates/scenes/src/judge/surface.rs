//! Colour and texture of the inside of a thing.

use super::parts::{Mask, Pixels, Rgb, distance, dot, minus};
use crate::{
    render::{PERIOD, is_tinted},
    scene::{Color, SIDE, Texture},
};
use std::sync::OnceLock;

/// With fewer pixels than this nothing is recognised.
const LEAST: usize = 20;
/// A pixel belongs to a colour if it is within this distance of its line, from the colour to its tint.
const NEAR: f32 = 0.2;
/// A thing has a colour if at least this share of its pixels belongs to it,
const SHARE: f32 = 0.85;
/// the mean distance of all pixels from its line is at most this,
const MEAN: f32 = 0.12;
/// the mean distance from the second best line is larger by at least this,
const MARGIN: f32 = 0.05;
/// and at least this share of its pixels is near the colour itself; a faint thing has only tints.
const FULL: f32 = 0.3;

/// The line from a colour to its tint.
fn line(color: Color) -> (Rgb, Rgb) {
    (color.rgb(), minus(color.tint(), color.rgb()))
}

/// Position of a pixel on the line from colour to tint: 0 at the colour, 1 at the tint.
fn along(color: Color, pixel: Rgb) -> f32 {
    let (start, way) = line(color);
    dot(minus(pixel, start), way) / dot(way, way)
}

/// Distance of a pixel from the line between a colour and its tint.
fn distance_from_line(color: Color, pixel: Rgb) -> f32 {
    distance_between(pixel, color.rgb(), color.tint())
}

/// Distance of a pixel from the line between two colours.
pub fn distance_between(pixel: Rgb, from: Rgb, to: Rgb) -> f32 {
    let way = minus(to, from);
    let t = (dot(minus(pixel, from), way) / dot(way, way).max(1e-9)).clamp(0.0, 1.0);
    distance(pixel, std::array::from_fn(|c| from[c] + t * way[c]))
}

/// The colour of the pixels inside, if they all have the same.
pub fn color(pixels: &Pixels, inside: &Mask) -> Option<Color> {
    let inside: Vec<Rgb> = inside.pixels().map(|i| pixels.values[i]).collect();
    if inside.len() < LEAST {
        return None;
    }
    let mean = |color: Color| inside.iter().map(|p| distance_from_line(color, *p)).sum::<f32>() / inside.len() as f32;
    let mut ranked: Vec<(f32, Color)> = Color::ALL.iter().map(|color| (mean(*color), *color)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ((mean, color), (second, _)) = (ranked[0], ranked[1]);
    let share = |test: &dyn Fn(Rgb) -> bool| inside.iter().filter(|p| test(**p)).count() as f32 / inside.len() as f32;
    let certain = mean <= MEAN
        && second - mean >= MARGIN
        && share(&|p| distance_from_line(color, p) < NEAR) >= SHARE
        && share(&|p| along(color, p) < 0.4) >= FULL;
    certain.then_some(color)
}

/// Largest root mean square of a solid inside, on the line from colour to tint.
const SOLID: f32 = 0.22;
/// Least share of the variance of a textured inside that the pattern explains, ...
const EXPLAINED: f32 = 0.6;
/// ... and least share in each half separately: a texture does not end in the middle.
const EXPLAINED_OF_HALF: f32 = 0.5;
/// Amplitude of the pattern, as a share of the line from colour to tint.
const SWING: std::ops::Range<f32> = 0.45..1.5;

/// The texture of a thing, and the position of its tint.
#[derive(Debug, Clone, Copy)]
pub struct Surface {
    pub texture: Texture,
    pattern: &'static [f32],
}

impl Surface {
    /// Share of the tint in a pixel, 0 to 1, if the texture is regular.
    pub fn tint(&self, x: usize, y: usize) -> f32 {
        match self.texture {
            Texture::Solid => 0.0,
            Texture::Striped => self.pattern[diagonal(x, y)],
        }
    }
}

/// The diagonal of a pixel: all pixels on one have the same position in a stripe.
fn diagonal(x: usize, y: usize) -> usize {
    x + y
}

/// The texture of the pixels inside, if it is certain.
pub fn surface(pixels: &Pixels, inside: &Mask, color: Color) -> Option<Surface> {
    let values: Vec<(usize, f32)> =
        inside.pixels().map(|i| (i, along(color, pixels.values[i]).clamp(-0.3, 1.3))).collect();
    if values.len() < LEAST {
        return None;
    }
    if (values.iter().map(|(_, t)| t * t).sum::<f32>() / values.len() as f32).sqrt() < SOLID {
        return Some(Surface { texture: Texture::Solid, pattern: &[] });
    }
    let folded = |values: &[(usize, f32)]| Folded::new(values, |i| diagonal(i % pixels.width, i / pixels.width));
    let best = folded(&values).best(stripes());
    let (x, y) = inside.middle();
    let halves: [&dyn Fn((f32, f32)) -> bool; 4] = [&|p| p.0 < x, &|p| p.0 >= x, &|p| p.1 < y, &|p| p.1 >= y];
    let in_each_half = || {
        halves.iter().all(|half| {
            let values: Vec<_> = values.iter().copied().filter(|(i, _)| half(inside.place(*i))).collect();
            folded(&values).fit(best.pattern).explained >= EXPLAINED_OF_HALF
        })
    };
    let certain = best.explained >= EXPLAINED && SWING.contains(&best.swing) && in_each_half();
    certain.then_some(Surface { texture: Texture::Striped, pattern: best.pattern })
}

/// How well a pattern explains a surface.
#[derive(Debug, Clone, Copy)]
struct Fit {
    pattern: &'static [f32],
    /// The share of the variance that a linear function of the pattern explains, ...
    explained: f32,
    /// ... and its slope.
    swing: f32,
}

/// Positions on the line from colour to tint, grouped by diagonal: count and sum of each.
struct Folded {
    bins: Vec<(f32, f32)>,
    count: f32,
    variance: f32,
}

impl Folded {
    fn new(values: &[(usize, f32)], bin: impl Fn(usize) -> usize) -> Self {
        let mut folded = vec![(0.0, 0.0); 2 * SIDE];
        for (i, value) in values {
            let bin = &mut folded[bin(*i)];
            *bin = (bin.0 + 1.0, bin.1 + value);
        }
        let count = values.len().max(1) as f32;
        let mean = values.iter().map(|(_, t)| t).sum::<f32>() / count;
        let variance = values.iter().map(|(_, t)| (t - mean) * (t - mean)).sum::<f32>() / count;
        Self { bins: folded, count, variance }
    }

    fn best(&self, patterns: &'static [Vec<f32>]) -> Fit {
        let nothing = Fit { pattern: &patterns[0], explained: 0.0, swing: 0.0 };
        let better = |best: Fit, new: Fit| if new.explained > best.explained { new } else { best };
        patterns.iter().map(|pattern| self.fit(pattern)).fold(nothing, better)
    }

    fn fit(&self, pattern: &'static [f32]) -> Fit {
        let [mut p, mut t, mut pp, mut pt] = [0.0f32; 4];
        for ((count, sum), here) in self.bins.iter().zip(pattern) {
            p += here * count;
            t += sum;
            pp += here * here * count;
            pt += here * sum;
        }
        let n = self.count;
        let (variance, covariance) = (pp / n - p * p / (n * n), pt / n - p * t / (n * n));
        if covariance <= 0.0 || variance <= 0.0 || self.variance <= 0.0 {
            return Fit { pattern, explained: 0.0, swing: 0.0 };
        }
        let explained = covariance * covariance / (variance * self.variance);
        Fit { pattern, explained, swing: covariance / variance }
    }
}

/// Share of the tint in the pixels of each diagonal, for stripes that start at each half pixel.
fn stripes() -> &'static [Vec<f32>] {
    static ALL: OnceLock<Vec<Vec<f32>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let along_diagonal = (PERIOD * std::f32::consts::SQRT_2 * 2.0).ceil() as usize;
        let starts = (0..along_diagonal).map(|i| i as f32 / 2.0);
        let tinted = |start: f32, d: usize| cover(|x, y| is_tinted(Texture::Striped, x + d as f32 + start, y));
        starts.map(|start| (0..2 * SIDE).map(|d| tinted(start, d)).collect()).collect()
    })
}

/// The share of a pixel's area where a condition holds.
fn cover(holds: impl Fn(f32, f32) -> bool) -> f32 {
    const SAMPLES: usize = 4;
    let part = |s: usize| (s as f32 + 0.5) / SAMPLES as f32;
    let count = (0..SAMPLES * SAMPLES).filter(|s| holds(part(s % SAMPLES), part(s / SAMPLES))).count();
    count as f32 / (SAMPLES * SAMPLES) as f32
}
