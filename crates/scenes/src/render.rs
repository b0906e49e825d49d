//! Renders a scene to pixels, with anti-aliasing.

use crate::scene::{Object, SIDE, Scene, Shape, Texture};
use images::Image;

/// Samples along each side of a pixel.
const SAMPLES: usize = 4;
/// Distance from one stripe to the next, in pixels.
pub const PERIOD: f32 = 6.0;

/// Whether a point, relative to the centre and in units of the radius, is inside a shape. y points down.
pub fn contains(shape: Shape, x: f32, y: f32) -> bool {
    match shape {
        Shape::Circle => x * x + y * y <= 1.0,
        Shape::Square => x.abs().max(y.abs()) <= 0.87,
        Shape::Triangle => y <= 0.8 && y >= -1.0 + 1.9 * x.abs(),
        Shape::Star => in_star(x, y),
        Shape::Heart => {
            // the sextic curve (x² + y² - 1)³ = x² y³, upright, moved to the middle
            let (x, y) = (1.1 * x, -1.1 * y + 0.1);
            (x * x + y * y - 1.0).powi(3) <= x * x * y * y * y
        }
        Shape::Cross => x.abs().max(y.abs()) <= 1.0 && x.abs().min(y.abs()) <= 0.38,
    }
}

/// Five points at 1.12, five notches at 0.54.
fn in_star(x: f32, y: f32) -> bool {
    use std::f32::consts::PI;
    const OUTER: f32 = 1.12;
    const INNER: f32 = 0.54;
    let y = y - 0.06;
    let sector = 2.0 * PI / 5.0;
    let angle = x.atan2(-y).rem_euclid(sector);
    let angle = angle.min(sector - angle); // 0 at a point, 36° at a notch
    let radius = x.hypot(y);
    let (px, py) = (radius * angle.cos(), radius * angle.sin());
    // the edge from the point (OUTER, 0) to the notch
    let (nx, ny) = (INNER * (PI / 5.0).cos(), INNER * (PI / 5.0).sin());
    (nx - OUTER) * py - ny * (px - OUTER) >= 0.0
}

/// Whether a point has the lighter tint; in pixels from the texture's origin.
pub fn is_tinted(texture: Texture, x: f32, y: f32) -> bool {
    match texture {
        Texture::Solid => false,
        Texture::Striped => ((x + y) * std::f32::consts::FRAC_1_SQRT_2).rem_euclid(PERIOD) < PERIOD / 2.0,
    }
}

/// The image as floats, row by row, `[3][SIDE][SIDE]`, 0 to 1.
pub fn pixels(scene: &Scene) -> Vec<f32> {
    let paints: Vec<Paint> =
        scene.objects.iter().map(|o| Paint { fill: o.color.rgb(), tint: o.color.tint() }).collect();
    painted(scene, &paints)
}

/// What an object is painted with: red, green and blue, 0 to 1, of its inside and of its stripes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paint {
    pub fill: [f32; 3],
    pub tint: [f32; 3],
}

/// As [`pixels`], but the objects have these paints in turn instead of their colours.
pub fn painted(scene: &Scene, paints: &[Paint]) -> Vec<f32> {
    let mut out: Vec<f32> = scene.ground.iter().flat_map(|v| std::iter::repeat_n(*v, SIDE * SIDE)).collect();
    for (object, Paint { fill, tint }) in scene.objects.iter().zip(paints) {
        visit(object, |pixel, inside, tinted| {
            let all = (SAMPLES * SAMPLES) as f32;
            for channel in 0..3 {
                let here = &mut out[channel * SIDE * SIDE + pixel];
                let color = (inside - tinted) * fill[channel] + tinted * tint[channel];
                *here = (*here * (all - inside) + color) / all;
            }
        });
    }
    out
}

pub fn image(scene: &Scene) -> Image {
    let planes = pixels(scene);
    let byte = |v: f32| (v * 255.0).round() as u8;
    let pixels =
        (0..SIDE * SIDE).flat_map(|i| (0..3).map(move |c| (c, i))).map(|(c, i)| byte(planes[c * SIDE * SIDE + i]));
    Image { width: SIDE, height: SIDE, pixels: pixels.collect() }
}

/// The share of each pixel that an object covers, 0 to 1, row by row.
pub fn mask(object: &Object) -> Vec<f32> {
    let mut out = vec![0.0; SIDE * SIDE];
    visit(object, |pixel, inside, _| out[pixel] = inside / (SAMPLES * SAMPLES) as f32);
    out
}

/// For each pixel that an object touches: its index, and how many samples are inside and tinted.
fn visit(object: &Object, mut pixel: impl FnMut(usize, f32, f32)) {
    let ((cx, cy), radius) = (object.center, object.radius);
    let reach = 1.25 * radius + 1.0;
    let range =
        |center: f32| (center - reach).floor().max(0.0) as usize..((center + reach).ceil().max(0.0) as usize).min(SIDE);
    for row in range(cy) {
        for column in range(cx) {
            let (mut inside, mut tinted) = (0.0, 0.0);
            for sample in 0..SAMPLES * SAMPLES {
                let at = |start: usize, i: usize| start as f32 + (i as f32 + 0.5) / SAMPLES as f32;
                let (x, y) = (at(column, sample % SAMPLES) - cx, at(row, sample / SAMPLES) - cy);
                if contains(object.shape, x / radius, y / radius) {
                    inside += 1.0;
                    tinted += f32::from(is_tinted(object.texture, x + object.phase.0, y + object.phase.1));
                }
            }
            if inside > 0.0 {
                pixel(row * SIDE + column, inside, tinted);
            }
        }
    }
}
