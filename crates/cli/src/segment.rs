//! `comat segment`: finds nouns in an image and paints their masks over it.

use crate::{
    args::shared::{Engine, unit_interval},
    console::Console,
    fetch,
};
use anyhow::{Result, bail};
use clap::Args as Group;
use diffusion::{
    segment::{Detection, Grounded},
    settings::Location,
};
use hub::Layout;
use images::Image;
use std::path::PathBuf;
use tch::{Device, Tensor};

/// Find nouns in an image and colour them in
///
/// Prints for every noun its colour, how much of the image it covers, and its boxes: confidence of the detector, then left,
/// upper, right and lower edge in pixels. This is what the attention losses of a run would be told about an image.
#[derive(Group)]
pub struct Segment {
    /// The image (PNG, JPEG or WebP)
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// What to look for, for example "dog,cat"
    #[arg(long, value_name = "NOUN,NOUN,…", required = true, value_delimiter = ',', value_parser = noun)]
    pub nouns: Vec<String>,
    /// Grounding DINO in transformers layout, or an id of the hub
    #[arg(long, value_name = "DIR|ID")]
    pub detector: Location,
    /// SAM in transformers layout, or an id of the hub
    #[arg(long, value_name = "DIR|ID")]
    pub segmenter: Location,
    /// Where to write the painted image (PNG)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace a file that exists
    #[arg(long)]
    pub overwrite: bool,
    /// Minimum confidence of a box for its noun, 0 to 1
    #[arg(long, value_name = "SCORE", default_value_t = 0.3, value_parser = unit_interval)]
    pub box_threshold: f64,
    /// Minimum confidence of a box for a single word, 0 to 1
    #[arg(long, value_name = "SCORE", default_value_t = 0.25, value_parser = unit_interval)]
    pub text_threshold: f64,
    #[command(flatten)]
    pub engine: Engine,
}

fn noun(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("there is no noun between two commas".into()),
        noun => Ok(noun.to_owned()),
    }
}

pub fn run(mut args: Segment, console: &Console) -> Result<()> {
    if args.out.exists() && !args.overwrite {
        bail!("{} exists already; choose another --out, or pass --overwrite", args.out.display());
    }
    let image = Image::open(&args.image)?;
    let (kind, device) = (args.engine.dtype.kind(), args.engine.device.device()?);
    fetch::option("--detector", &mut args.detector, Layout::Network { tokenizer: true }, None, console)?;
    fetch::option("--segmenter", &mut args.segmenter, Layout::Network { tokenizer: false }, None, console)?;
    let mut grounded = Grounded::open(&args.detector, &args.segmenter, kind, device)?;
    grounded.detector.box_threshold = args.box_threshold;
    grounded.detector.text_threshold = args.text_threshold;
    let found = grounded.find(&image.tensor()?.unsqueeze(0), std::slice::from_ref(&args.nouns))?.remove(0);
    let masks = booleans(&found.masks)?;
    let mut painted = image;
    for (i, (noun, mask)) in args.nouns.iter().zip(&masks).enumerate() {
        let (colour, name) = COLOURS[i % COLOURS.len()];
        paint(&mut painted, mask, colour);
        let boxes: Vec<&Detection> = found.detections.iter().filter(|d| d.noun == i).collect();
        say!("{}", line(noun, name, mask, boxes.len()));
        for found in boxes {
            let [left, upper, right, lower] = found.box_;
            say!("  {:.2}  {left:.1} {upper:.1} {right:.1} {lower:.1}", found.score);
        }
    }
    painted.save(&args.out, &[])?;
    say!("written to {}", args.out.display());
    Ok(())
}

fn line(noun: &str, colour: &str, mask: &[bool], boxes: usize) -> String {
    let share = 100.0 * mask.iter().filter(|&&here| here).count() as f64 / mask.len() as f64;
    match boxes {
        0 => format!("{noun}: not found"),
        1 => format!("{noun} ({colour}): 1 box, {share:.1}% of the image"),
        _ => format!("{noun} ({colour}): {boxes} boxes, {share:.1}% of the image"),
    }
}

/// Converts masks `[nouns, H, W]` to a list of pixels for each noun, row by row.
fn booleans(masks: &Tensor) -> Result<Vec<Vec<bool>>> {
    let flat = masks.to_device(Device::Cpu).flatten(1, 2);
    Ok((0..flat.size()[0]).map(|i| Vec::<bool>::try_from(flat.get(i))).collect::<Result<_, _>>()?)
}

/// Colours that differ clearly from each other and from most images.
const COLOURS: [([u8; 3], &str); 8] = [
    ([230, 25, 75], "red"),
    ([0, 130, 255], "blue"),
    ([60, 200, 75], "green"),
    ([255, 200, 25], "yellow"),
    ([200, 50, 230], "magenta"),
    ([70, 240, 240], "cyan"),
    ([245, 130, 48], "orange"),
    ([255, 255, 255], "white"),
];

/// Tints the pixels of a mask. Pixels on its edge get the full colour.
fn paint(image: &mut Image, mask: &[bool], colour: [u8; 3]) {
    let (width, height) = (image.width, image.height);
    let here = |x: usize, y: usize| x < width && y < height && mask[y * width + x]; // 0 - 1 wraps around: outside
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))).filter(|&(y, x)| here(x, y)) {
        let neighbours = [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)];
        let inside = neighbours.into_iter().all(|(x, y)| here(x, y));
        let start = (y * width + x) * 3;
        for (value, colour) in image.pixels[start..start + 3].iter_mut().zip(colour) {
            *value = if inside { ((u16::from(*value) + u16::from(colour)) / 2) as u8 } else { colour };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_tinted_and_outlined() {
        let mut image = Image { width: 5, height: 4, pixels: vec![100; 60] };
        let mask: Vec<bool> = (0..20).map(|i| i % 5 < 3 && i / 5 < 3).collect(); // 3x3 in the upper left corner
        paint(&mut image, &mask, [200, 0, 50]);
        let at = |x: usize, y: usize| image.pixels[(y * 5 + x) * 3..][..3].to_vec();
        assert_eq!(at(1, 1), [150, 50, 75]);
        assert_eq!([at(0, 0), at(2, 1), at(1, 2)], [[200, 0, 50]; 3]);
        assert_eq!([at(3, 1), at(1, 3), at(4, 3)], [[100; 3]; 3]);
    }

    #[test]
    fn lines_of_the_legend() {
        assert_eq!(line("dog", "red", &[true, false], 1), "dog (red): 1 box, 50.0% of the image");
        assert_eq!(line("dog", "red", &[true, true], 2), "dog (red): 2 boxes, 100.0% of the image");
        assert_eq!(line("dog", "red", &[false], 0), "dog: not found");
    }
}
