//! Resizes images to the network's input: the shorter side to 800 pixels, the longer to 1333 at most.
//!
//! Source: transformers `GroundingDinoImageProcessor`.

use crate::{
    config::Json,
    error::{Error, Result},
    preprocess::Preprocess,
};
use serde::Deserialize;
use std::path::Path;
use tch::{Kind, Tensor};

/// Settings of resizing and normalisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Resize {
    /// Length of the shorter side in pixels.
    pub shortest: i64,
    /// Maximum length of the longer side in pixels.
    pub longest: i64,
    normalise: Preprocess,
}

/// A batch of images as input of the network.
pub struct Pixels {
    /// Normalised, zero in the padding `[B, 3, H, W]`
    pub values: Tensor,
    /// Booleans `[B, H, W]`, false in the padding to the right and below; `None` if all images have one size.
    pub mask: Option<Tensor>,
}

impl Default for Resize {
    fn default() -> Self {
        let normalise = Preprocess { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], size: None };
        Self { shortest: 800, longest: 1333, normalise }
    }
}

#[derive(Deserialize)]
struct Size {
    shortest_edge: i64,
    longest_edge: i64,
}

impl Resize {
    /// Reads `preprocessor_config.json`, or `processor_config.json` of newer folders; without either, the published
    /// values apply.
    pub fn open(folder: &Path) -> Result<Self> {
        let Some(json) = Json::of_image_processor(folder)? else { return Ok(Self::default()) };
        let default = Self::default();
        let size: Size =
            json.get_or("size", Size { shortest_edge: default.shortest, longest_edge: default.longest })?;
        let normalise = Preprocess {
            mean: json.get_or("image_mean", default.normalise.mean)?,
            std: json.get_or("image_std", default.normalise.std)?,
            size: None,
        };
        if size.shortest_edge < 1 || size.longest_edge < 1 {
            return Err(json.error("size", "must be at least 1"));
        }
        if !normalise.std.iter().all(|&s| s > 0.0) {
            return Err(json.error("image_std", "must be positive"));
        }
        json.only("do_resize", true)?;
        json.only("resample", 2)?; // PIL's bilinear
        json.only("do_normalize", true)?;
        json.only("do_center_crop", false)?;
        json.only("do_pad", true)?;
        json.only("pad_and_return_pixel_mask", true)?;
        // How bytes become 0..1, annotations for training, and which program wrote the file.
        json.ignore(&["do_convert_annotations", "do_convert_rgb", "do_rescale", "format", "rescale_factor"]);
        json.ignore(&["crop_size", "default_to_square", "feature_extractor_type", "image_processor_type"]);
        json.ignore(&["data_format", "device", "disable_grouping", "input_data_format", "processor_class"]);
        json.ignore(&["return_tensors"]);
        json.finish()?;
        Ok(Self { shortest: size.shortest_edge, longest: size.longest_edge, normalise })
    }

    /// Size after resizing of an image with this height and width.
    pub fn size(&self, (height, width): (i64, i64)) -> (i64, i64) {
        let (least, most) = (height.min(width) as f64, height.max(width) as f64);
        // If the longer side is the limit, it is computed before the shorter one is rounded.
        let exact =
            (most / least * self.shortest as f64 > self.longest as f64).then(|| self.longest as f64 * least / most);
        let short = exact.map_or(self.shortest, |exact| exact.round_ties_even() as i64);
        if height.min(width) == short {
            return (height, width);
        }
        let exact = exact.unwrap_or(short as f64);
        if width < height {
            ((exact * height as f64 / width as f64) as i64, short)
        } else {
            (short, (exact * width as f64 / height as f64) as i64)
        }
    }

    /// Images in 0..1, `[3, H, W]` each; smaller ones are padded to the largest.
    pub fn apply(&self, images: &[Tensor]) -> Result<Pixels> {
        let resized = images.iter().map(|image| self.resize(image)).collect::<Result<Vec<_>>>()?;
        let largest = |axis: i64| resized.iter().map(|image| image.size()[axis as usize]).max().unwrap_or(0);
        let (height, width) = (largest(1), largest(2));
        if resized.is_empty() {
            return Err(Error::Input("detector: there are no images".into()));
        }
        let pad = |image: &Tensor| {
            let size = image.size();
            image.constant_pad_nd([0, width - size[2], 0, height - size[1]])
        };
        let values = Tensor::stack(&resized.iter().map(pad).collect::<Vec<_>>(), 0);
        let masks: Vec<_> = resized.iter().map(|image| pad(&image.get(0).ones_like().unsqueeze(0)).get(0)).collect();
        let whole = resized.iter().all(|image| image.size()[1..] == [height, width]);
        Ok(Pixels { values, mask: (!whole).then(|| Tensor::stack(&masks, 0).to_kind(Kind::Bool)) })
    }

    fn resize(&self, image: &Tensor) -> Result<Tensor> {
        let [3, height, width] = image.size()[..] else {
            return Err(Error::Input(format!("detector: image {:?} is not [3, H, W]", image.size())));
        };
        if height < 1 || width < 1 || !image.is_floating_point() {
            let (size, kind) = (image.size(), image.kind());
            return Err(Error::Input(format!("detector: image {size:?} of {kind:?} is empty or not in 0..1")));
        }
        let (rows, columns) = self.size((height, width));
        if rows < 1 || columns < 1 {
            return Err(Error::Input(format!("detector: an image of {height}x{width} is too narrow")));
        }
        // Half precision is converted to float32: not every device can resize it.
        let kind = if image.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let image = image.to_kind(kind).unsqueeze(0);
        let image = image.f_internal_upsample_bilinear2d_aa([rows, columns], false, None, None)?;
        Ok(self.normalise.normalise(&image)?.squeeze_dim(0))
    }
}
