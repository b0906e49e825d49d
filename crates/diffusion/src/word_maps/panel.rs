//! Draws maps over images, with the words above them.

use super::Heatmaps;
use images::Image;
use tch::{Device, Kind, Tensor};

/// Images are enlarged to at least this many pixels.
const CELL: usize = 192;
/// Height of a line of text above a cell, in pixels.
const LINE: usize = 20;
const GAP: usize = 6;
/// Cells side by side, including the image; further words continue below.
const COLUMNS: usize = 7;

/// One panel: a row for each model, first its image, then the map of each word. A word has the same scale in all rows:
/// from its smallest value anywhere (dark) to its largest (bright).
pub fn panel(words: &[&str], rows: &[(&str, &Heatmaps)]) -> Image {
    let (width, height) = rows.iter().fold((1, 1), |(w, h), (_, l)| (w.max(l.image.width), h.max(l.image.height)));
    let factor = CELL.div_ceil(width.max(height));
    let (width, height) = (width * factor, height * factor);
    let words: Vec<(usize, &str)> = words.iter().copied().enumerate().collect();
    let blocks: Vec<&[(usize, &str)]> = if words.is_empty() { vec![&[]] } else { words.chunks(COLUMNS - 1).collect() };
    let columns = 1 + blocks.iter().map(|block| block.len()).max().unwrap_or(0);
    let lines = blocks.len() * rows.len();
    let mut panel = Image::white(columns * (width + GAP) + GAP, lines * (LINE + height + GAP) + GAP);
    for (block, words) in blocks.iter().enumerate() {
        for (row, (side, looks)) in rows.iter().enumerate() {
            let top = GAP + (block * rows.len() + row) * (LINE + height + GAP);
            let mut put = |column: usize, label: &str, cell: &Image| {
                let left = GAP + column * (width + GAP);
                panel.label(left, top, width, label);
                panel.paste(left, top + LINE, cell);
            };
            let image = looks.image.enlarge(factor);
            put(0, side, &image);
            for (column, (word, text)) in words.iter().enumerate() {
                let scale = scale(rows, *word as i64);
                put(1 + column, text, &overlay(&image, &looks.maps.get(*word as i64), scale));
            }
        }
    }
    panel
}

/// The smallest and largest value of a word in any row.
fn scale(rows: &[(&str, &Heatmaps)], word: i64) -> (f64, f64) {
    rows.iter().fold((f64::MAX, f64::MIN), |(low, high), (_, looks)| {
        let map = looks.maps.get(word);
        (low.min(map.min().double_value(&[])), high.max(map.max().double_value(&[])))
    })
}

/// Weights of red, green and blue in the brightness (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// A map `[h, w]` in colours from dark to bright, laid over the image in grey.
fn overlay(image: &Image, map: &Tensor, (low, high): (f64, f64)) -> Image {
    let size = [image.height as i64, image.width as i64];
    let map = (map.to_device(Device::Cpu).to_kind(Kind::Float) - low) / (high - low).max(1e-12);
    let map = map.unsqueeze(0).unsqueeze(0).upsample_bilinear2d(size, false, None, None).clamp(0.0, 1.0);
    let heat = Vec::<f32>::try_from(map.flatten(0, -1)).unwrap_or_default();
    let pixels = image.pixels.chunks_exact(3).zip(heat).flat_map(|(pixel, heat)| {
        let grey = pixel.iter().zip(LUMA).map(|(value, weight)| f32::from(*value) * weight).sum::<f32>();
        colour(heat).map(|value| (0.35 * grey + 0.65 * value).round() as u8)
    });
    Image { width: image.width, height: image.height, pixels: pixels.collect() }
}

/// From dark blue over red to light yellow; the brightness rises evenly, so it can also be read without the colours.
fn colour(heat: f32) -> [f32; 3] {
    const STOPS: [[f32; 3]; 5] =
        [[5.0, 5.0, 40.0], [85.0, 15.0, 110.0], [190.0, 55.0, 80.0], [250.0, 145.0, 35.0], [252.0, 252.0, 170.0]];
    let place = heat.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let stop = (place as usize).min(STOPS.len() - 2);
    let part = place - stop as f32;
    [0, 1, 2].map(|i| STOPS[stop][i] * (1.0 - part) + STOPS[stop + 1][i] * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(values: &[f32]) -> Heatmaps {
        let words = values.len() as i64 / 2;
        Heatmaps { image: Image::white(64, 32), maps: Tensor::from_slice(values).view([words, 1, 2]) }
    }

    #[test]
    fn a_row_a_side_and_a_column_a_word() {
        let (base, tuned) = (looks(&[0.0, 0.5, 0.0, 0.1]), looks(&[1.0, 0.5, 0.1, 0.1]));
        let panel = panel(&["red", "dog"], &[("base", &base), ("tuned", &tuned)]);
        let (width, height) = (64 * 3, 32 * 3);
        assert_eq!((panel.width, panel.height), (3 * (width + GAP) + GAP, 2 * (LINE + height + GAP) + GAP));
        let at = |column: usize, row: usize, x: usize| {
            let (x, y) = (GAP + column * (width + GAP) + x, GAP + row * (LINE + height + GAP) + LINE + 5);
            panel.pixels[(y * panel.width + x) * 3..][..3].to_vec()
        };
        let shade = |heat: f32| colour(heat).map(|c| (0.35 * 255.0 + 0.65 * c).round() as u8).to_vec();
        assert_eq!(at(0, 0, 10), [255; 3], "the image itself");
        assert_eq!([at(1, 0, 0), at(1, 1, 0)], [shade(0.0), shade(1.0)], "one scale for both rows");
        assert_eq!(at(1, 0, width - 1), at(1, 1, width - 1));
        assert_eq!(at(2, 1, 0), shade(1.0), "every word has its own scale");
    }

    #[test]
    fn many_words_go_on_below_and_none_are_no_error() {
        let many = looks(&[0.5; 40]);
        let words = ["x"; 20];
        assert_eq!(panel(&words, &[("base", &many)]).height, 4 * (LINE + 96 + GAP) + GAP);
        assert_eq!(panel(&[], &[("base", &many)]).height, LINE + 96 + 2 * GAP);
    }

    #[test]
    fn brightness_rises() {
        let brightness = |heat: f32| colour(heat).iter().zip(LUMA).map(|(c, w)| c * w).sum::<f32>();
        assert!((0..20).all(|i| brightness(i as f32 / 20.0) < brightness((i + 1) as f32 / 20.0)));
    }
}
