use crate::{
    config::Json,
    error::{Error, Result},
    preprocess::Preprocess,
};
use std::path::Path;
use tch::{Kind, Tensor};

/// The square input of the network: images are padded to it, and masks are cut out of it.
///
/// Source: transformers `SamImageProcessor`. It resizes bytes and rounds; this code resizes the exact values.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    side: i64,
    norm: Preprocess,
}

impl Frame {
    /// Reads `preprocessor_config.json`, or `processor_config.json` of newer folders. Without either, uses the values
    /// of ImageNet, like every published SAM.
    pub fn open(folder: &Path, side: i64) -> Result<Self> {
        let mut norm = Preprocess { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], size: None };
        let Some(json) = Json::of_image_processor(folder)? else { return Ok(Self { side, norm }) };
        norm.mean = json.get_or("image_mean", norm.mean)?;
        norm.std = json.get_or("image_std", norm.std)?;
        if !norm.std.iter().all(|&s| s > 0.0) {
            return Err(json.error("image_std", "must be positive"));
        }
        json.only("size", serde_json::json!({ "longest_edge": side }))?;
        json.only("pad_size", serde_json::json!({ "height": side, "width": side }))?;
        json.only("resample", 2)?; // PIL's bilinear
        for key in ["do_resize", "do_normalize", "do_pad"] {
            json.only(key, true)?;
        }
        // Conversion of bytes to 0..1, masks for training, and information about the program that wrote the file.
        json.ignore(&["do_convert_rgb", "do_rescale", "rescale_factor", "mask_size", "mask_pad_size"]);
        json.ignore(&["feature_extractor_type", "image_processor_type", "processor_class"]);
        json.ignore(&["data_format", "input_data_format", "return_tensors", "device", "disable_grouping"]);
        json.finish()?;
        Ok(Self { side, norm })
    }

    /// Height and width of an image scaled so that its longer side equals the square's side.
    pub fn fit(&self, (height, width): (i64, i64)) -> Result<(i64, i64)> {
        let scale = self.side as f64 / height.max(width) as f64;
        let fitted = |length: i64| (length as f64 * scale + 0.5) as i64;
        let (rows, columns) = (fitted(height), fitted(width));
        if rows < 1 || columns < 1 {
            return Err(Error::Input(format!("segmenter: an image of {height}x{width} is too narrow")));
        }
        Ok((rows, columns))
    }

    /// images `[B, 3, H, W]` in 0..1 → `[B, 3, side, side]`, normalised, with zeros below or to the right of the image
    pub fn put(&self, images: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = images.size4()?;
        let (rows, columns) = self.fit((height, width))?;
        let resized = images.f_internal_upsample_bilinear2d_aa([rows, columns], false, None, None)?;
        let normalised = self.norm.normalise(&resized)?;
        Ok(normalised.f_constant_pad_nd([0, self.side - columns, 0, self.side - rows])?)
    }

    /// boxes in pixels of an image of this size → `[N, 4]`, float64, in pixels of the square
    pub fn boxes(&self, boxes: &[[f64; 4]], (height, width): (i64, i64)) -> Result<Tensor> {
        let (rows, columns) = self.fit((height, width))?;
        let (x, y) = (columns as f64 / width as f64, rows as f64 / height as f64);
        let scaled: Vec<f64> = boxes.iter().flat_map(|b| [b[0] * x, b[1] * y, b[2] * x, b[3] * y]).collect();
        Ok(Tensor::from_slice(&scaled).view([-1, 4]))
    }

    /// logits `[N, h, w]` over the square → `[N, H, W]`, true where an image of this size shows the object
    pub fn take(&self, logits: &Tensor, (height, width): (i64, i64)) -> Result<Tensor> {
        let (rows, columns) = self.fit((height, width))?;
        let whole = logits.unsqueeze(1).f_upsample_bilinear2d([self.side, self.side], false, None, None)?;
        let part = whole.narrow(2, 0, rows).narrow(3, 0, columns);
        Ok(part.f_upsample_bilinear2d([height, width], false, None, None)?.squeeze_dim(1).gt(0.0))
    }
}

/// Precision for resizing images.
pub fn precise(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
