//! Recognises the shape of an outline.

use super::parts::Mask;
use crate::{render, scene::Shape};
use std::sync::OnceLock;

/// The best fit of a shape to a thing.
#[derive(Debug, Clone, Copy)]
pub struct Fit {
    pub shape: Shape,
    pub center: (f32, f32),
    pub radius: f32,
    /// Intersection over union of the pixels.
    pub overlap: f32,
}

/// Least overlap for a shape to be recognised.
const OVERLAP: f32 = 0.86;
/// The error of the second best shape must be at least this many times that of the best.
const CLEARER: f32 = 1.5;
/// Radii that a whole object can have, in pixels. Renders have 9 to 13.5; the upper half of a triangle is a triangle of at
/// most 7.5.
const RADII: std::ops::RangeInclusive<f32> = 7.6..=17.0;

/// The shape of a thing, if it is certain.
pub fn shape(mask: &Mask) -> Option<Fit> {
    let mut fits: Vec<Fit> = Shape::ALL.iter().map(|shape| fit(mask, *shape)).collect();
    fits.sort_by(|a, b| b.overlap.total_cmp(&a.overlap));
    let (best, second) = (fits[0], fits[1]);
    let certain = best.overlap >= OVERLAP
        && 1.0 - second.overlap >= CLEARER * (1.0 - best.overlap)
        && RADII.contains(&best.radius);
    certain.then_some(best)
}

/// Starts with the same area and centre, then moves and scales the shape in smaller and smaller steps.
fn fit(mask: &Mask, shape: Shape) -> Fit {
    let silhouette = silhouette(shape);
    let area = mask.area();
    let radius = (area as f32 / silhouette.area).sqrt();
    let middle = mask.middle();
    let at = [middle.0 - silhouette.middle.0 * radius, middle.1 - silhouette.middle.1 * radius, radius];
    let mut best = (silhouette.overlap(mask, area, at), at);
    for step in [1.0, 0.5, 0.25] {
        for _ in 0..12 {
            let before = best.0;
            for (axis, sign) in [(0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0), (2, 1.0), (2, -1.0)] {
                let mut at = best.1;
                at[axis] += sign * step;
                let overlap = silhouette.overlap(mask, area, at);
                if overlap > best.0 {
                    best = (overlap, at);
                }
            }
            if best.0 <= before {
                break;
            }
        }
    }
    let [x, y, radius] = best.1;
    Fit { shape, center: (x, y), radius, overlap: best.0 }
}

/// A shape of radius 1, sampled once for all.
struct Silhouette {
    inside: Vec<bool>,
    area: f32,
    middle: (f32, f32),
}

/// Half the side of the square that is sampled.
const EXTENT: f32 = 1.25;
const CELLS: usize = 200;

impl Silhouette {
    fn of(shape: Shape) -> Self {
        let size = 2.0 * EXTENT / CELLS as f32;
        let place = |i: usize| (i as f32 + 0.5) * size - EXTENT;
        let places = |i: usize| (place(i % CELLS), place(i / CELLS));
        let inside: Vec<bool> = (0..CELLS * CELLS).map(places).map(|(x, y)| render::contains(shape, x, y)).collect();
        let (mut count, mut sum) = (0.0, (0.0, 0.0));
        for i in (0..inside.len()).filter(|i| inside[*i]) {
            let (x, y) = places(i);
            count += 1.0;
            sum = (sum.0 + x, sum.1 + y);
        }
        Self { inside, area: count * size * size, middle: (sum.0 / count, sum.1 / count) }
    }

    fn contains(&self, x: f32, y: f32) -> bool {
        let scale = CELLS as f32 / (2.0 * EXTENT);
        let (column, row) = ((x + EXTENT) * scale, (y + EXTENT) * scale);
        let range = 0.0..CELLS as f32;
        range.contains(&column) && range.contains(&row) && self.inside[row as usize * CELLS + column as usize]
    }

    fn overlap(&self, mask: &Mask, area: usize, [cx, cy, radius]: [f32; 3]) -> f32 {
        if radius < 1.0 {
            return 0.0;
        }
        let reach = EXTENT * radius;
        let range = |center: f32, side: usize| {
            (center - reach).floor().max(0.0) as usize..((center + reach).ceil().max(0.0) as usize).min(side)
        };
        let (mut both, mut own) = (0usize, 0usize);
        for row in range(cy, mask.height) {
            let y = (row as f32 + 0.5 - cy) / radius;
            for column in range(cx, mask.width) {
                if self.contains((column as f32 + 0.5 - cx) / radius, y) {
                    own += 1;
                    both += usize::from(mask.on[row * mask.width + column]);
                }
            }
        }
        both as f32 / (area + own - both).max(1) as f32
    }
}

fn silhouette(shape: Shape) -> &'static Silhouette {
    static ALL: OnceLock<Vec<Silhouette>> = OnceLock::new();
    &ALL.get_or_init(|| Shape::ALL.iter().map(|shape| Silhouette::of(*shape)).collect())[shape as usize]
}
