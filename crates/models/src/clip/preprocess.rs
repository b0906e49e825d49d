use crate::{
    config::Json,
    error::Result,
    preprocess::{Preprocess, check, crop, resize, resize_as_bytes},
};
use serde::Deserialize;
use std::path::Path;
use tch::Tensor;

/// Turns images of any size into the network's square: resizes the shorter side and crops the centre.
///
/// Source: transformers `CLIPImageProcessor` with PIL's resize: columns first, rounded to bytes after each direction.
/// [`CentreCrop::apply`] rounds as well, so that scores compare with published ones; [`CentreCrop::smooth`] does not,
/// for gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct CentreCrop {
    /// Length of the shorter side after resizing, in pixels.
    pub shortest: i64,
    /// Side of the square crop in pixels.
    pub side: i64,
    norm: Preprocess,
}

/// Older files have a plain number for a size.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or shortest_edge with one")]
enum Shortest {
    Edge(i64),
    Named { shortest_edge: i64 },
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or height and width with one each")]
enum Square {
    Side(i64),
    Sides { height: i64, width: i64 },
}

impl CentreCrop {
    /// Reads `preprocessor_config.json`, or `processor_config.json` of newer folders; without either, CLIP's own values
    /// apply. `side` is the network's.
    pub fn open(folder: &Path, side: i64) -> Result<Self> {
        let clip = Preprocess::default();
        let Some(json) = Json::of_image_processor(folder)? else {
            return Ok(Self { shortest: side, side, norm: clip });
        };
        let norm = Preprocess {
            mean: json.get_or("image_mean", clip.mean)?,
            std: json.get_or("image_std", clip.std)?,
            size: None,
        };
        let shortest = match json.get_or("size", Shortest::Edge(224))? {
            Shortest::Edge(shortest) | Shortest::Named { shortest_edge: shortest } => shortest,
        };
        let (height, width) = match json.get_or("crop_size", Square::Side(224))? {
            Square::Side(side) => (side, side),
            Square::Sides { height, width } => (height, width),
        };
        if (height, width) != (side, side) {
            let message = format!("is {height}x{width}, but image_size in config.json is {side}");
            return Err(json.error("crop_size", &message));
        }
        if shortest < side {
            return Err(json.error("size", &format!("is {shortest}, which is less than crop_size {side}")));
        }
        if !norm.std.iter().all(|&s| s > 0.0) {
            return Err(json.error("image_std", "must be positive"));
        }
        json.only("resample", 3)?; // PIL's bicubic
        for key in ["do_resize", "do_center_crop", "do_normalize"] {
            json.only(key, true)?;
        }
        for key in ["default_to_square", "do_pad", "use_square_size"] {
            json.only(key, false)?;
        }
        // How bytes become 0..1, and which program wrote the file.
        json.ignore(&["do_convert_rgb", "do_rescale", "rescale_factor"]);
        json.ignore(&["feature_extractor_type", "image_processor_type", "processor_class", "pad_size"]);
        json.ignore(&["data_format", "input_data_format", "return_tensors", "device", "disable_grouping"]);
        json.finish()?;
        Ok(Self { shortest, side, norm })
    }

    /// Size after resizing of an image with this height and width.
    pub fn size(&self, (height, width): (i64, i64)) -> (i64, i64) {
        let short = self.shortest;
        let long = |long: i64, by: i64| (short as f64 * long as f64 / by as f64) as i64;
        if width <= height { (long(height, width), short) } else { (short, long(width, height)) }
    }

    /// Images `[B, 3, H, W]` in 0..1 → `[B, 3, side, side]`, normalised, float32 or better
    pub fn apply(&self, images: &Tensor) -> Result<Tensor> {
        self.middle(&resize_as_bytes(images, self.size(check(images)?))?)
    }

    /// As [`Self::apply`], without rounding: differentiable with respect to the images.
    pub fn smooth(&self, images: &Tensor) -> Result<Tensor> {
        self.middle(&resize(images, self.size(check(images)?))?)
    }

    /// Crops the centre of the resized images and normalises it.
    fn middle(&self, resized: &Tensor) -> Result<Tensor> {
        let (rows, columns) = check(resized)?;
        let offset = ((rows - self.side) / 2, (columns - self.side) / 2);
        self.norm.normalise(&crop(resized, offset, (self.side, self.side))?)
    }
}
