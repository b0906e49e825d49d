//! Turns a decoded image into the captioner's input: crop, resize, normalise. Differentiable with respect to the image.

use crate::{
    config::Json,
    error::{Error, Result},
};
use serde::Deserialize;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Mean and standard deviation of each channel, and the size, of a network's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    pub mean: [f64; 3],
    pub std: [f64; 3],
    /// Height and width, if the file gives them.
    pub size: Option<(i64, i64)>,
}

impl Default for Preprocess {
    /// CLIP's values; BLIP uses them, too.
    fn default() -> Self {
        Self { mean: [0.48145466, 0.4578275, 0.40821073], std: [0.26862954, 0.26130258, 0.27577711], size: None }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Side(i64),
    Sides { height: i64, width: i64 },
}

impl Preprocess {
    /// Reads `preprocessor_config.json` from a model's folder; without the file, uses CLIP's values.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("preprocessor_config.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let json = Json::read(&path)?;
        let clip = Self::default();
        let size = json.maybe("size")?.map(|size| match size {
            Size::Side(side) => (side, side),
            Size::Sides { height, width } => (height, width),
        });
        let read = Self { mean: json.get_or("image_mean", clip.mean)?, std: json.get_or("image_std", clip.std)?, size };
        if !read.std.iter().all(|&s| s > 0.0) {
            return Err(json.error("image_std", "must be positive"));
        }
        if read.size.is_some_and(|(height, width)| height < 1 || width < 1) {
            return Err(json.error("size", "must be at least 1"));
        }
        json.only("do_resize", true)?;
        json.only("resample", 3)?; // PIL's bicubic
        json.only("do_normalize", true)?;
        json.only("do_center_crop", false)?;
        // Conversion of bytes to 0..1, and information about the program that wrote the file.
        json.ignore(&["do_convert_rgb", "do_rescale", "rescale_factor", "do_pad", "size_divisor", "default_to_square"]);
        json.ignore(&["crop_size", "feature_extractor_type", "image_processor_type", "processor_class"]);
        json.ignore(&["data_format", "input_data_format", "return_tensors", "device", "disable_grouping"]);
        json.finish()?;
        Ok(read)
    }

    /// Resizes images in 0..1 and normalises them: `[B, 3, H, W]` → `[B, 3, size]`, float32 or float64.
    pub fn apply(&self, images: &Tensor, size: (i64, i64)) -> Result<Tensor> {
        self.normalise(&resize(images, size)?)
    }

    /// `(images - mean) / std`, by channel.
    pub fn normalise(&self, images: &Tensor) -> Result<Tensor> {
        check(images)?;
        let channels = |values: &[f64]| {
            Tensor::from_slice(values).view([1, 3, 1, 1]).to_device(images.device()).to_kind(images.kind())
        };
        Ok((images - channels(&self.mean)) / channels(&self.std))
    }
}

/// Antialiased bicubic interpolation, like PyTorch's `interpolate(mode="bicubic", antialias=True)`.
///
/// `[B, 3, H, W]` → `[B, 3, size]`, float32 or float64. Half precision is converted to float32, because not every
/// device can resize it.
pub fn resize(images: &Tensor, size: (i64, i64)) -> Result<Tensor> {
    check(images)?;
    let (height, width) = size;
    if height < 1 || width < 1 {
        return Err(Error::Input(format!("an image cannot be resized to {height}x{width}")));
    }
    let kind = if images.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    if images.device() == Device::Cpu {
        return Ok(images.to_kind(kind).f_internal_upsample_bicubic2d_aa([height, width], false, None, None)?);
    }
    Ok(resize_by_products(images, size)?.to_kind(kind))
}

/// The same by two matrix products, in float64. The gradient of libtorch's kernel on CUDA is a sum in any order, so its
/// bits differ from run to run. float64, because TF32 may round the factors of float32 products.
fn resize_by_products(images: &Tensor, (height, width): (i64, i64)) -> Result<Tensor> {
    let (rows, columns) = check(images)?;
    let device = images.device();
    let along = |images: &Tensor, from: i64, to: i64| -> Result<Tensor> {
        Ok(images.f_matmul(&bicubic(from, to, device)?.f_transpose(0, 1)?)?.f_transpose(2, 3)?)
    };
    let narrowed = along(&images.f_to_kind(Kind::Double)?, columns, width)?;
    Ok(along(&narrowed, rows, height)?.f_contiguous()?)
}

/// Weights of antialiased bicubic interpolation (Keys, a = -0.5) along one axis, `[to, from]`, float64. A pixel further
/// from the centre than two (times the scale, where the image shrinks) has none.
fn bicubic(from: i64, to: i64, device: Device) -> Result<Tensor> {
    let scale = from as f64 / to as f64;
    let middles = |count: i64| -> Result<Tensor> { Ok(Tensor::f_arange(count, (Kind::Double, device))? + 0.5) };
    let centres = middles(to)?.unsqueeze(1) * scale;
    let x = ((middles(from)?.unsqueeze(0) - centres) / scale.max(1.0)).abs();
    let near = (&x * 1.5 - 2.5) * &x * &x + 1.0;
    let far = (((&x - 5.0) * &x + 8.0) * &x - 4.0) * -0.5;
    let weights = near.where_self(&x.lt(1.0), &(far * x.lt(2.0)));
    let sums = weights.sum_dim_intlist([1].as_slice(), true, None);
    Ok(weights / sums)
}

/// Resizes as PIL does: columns first, rounded to 8 bits after each direction. Published scores are computed this way.
/// Gradients do not pass the rounding.
///
/// `[B, 3, H, W]` in 0..1 → `[B, 3, size]` in 0..1, float32 or float64.
pub fn resize_as_bytes(images: &Tensor, size: (i64, i64)) -> Result<Tensor> {
    let (height, _) = check(images)?;
    let (rows, columns) = size;
    bytes(&resize(&bytes(&resize(&bytes(images)?, (height, columns))?)?, (rows, columns))?)
}

/// Rounds the values to those of an 8-bit image.
fn bytes(images: &Tensor) -> Result<Tensor> {
    let kind = if images.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    Ok((images.to_kind(kind).f_clamp(0.0, 1.0)? * 255.0).round() / 255.0)
}

/// Cuts out the part of this size whose upper left corner is at `offset` (down, right).
pub fn crop(images: &Tensor, offset: (i64, i64), size: (i64, i64)) -> Result<Tensor> {
    let (rows, columns) = check(images)?;
    let ((top, left), (height, width)) = (offset, size);
    let inside = |from: i64, length: i64, all: i64| from >= 0 && length >= 1 && length <= all && from <= all - length;
    if !inside(top, height, rows) || !inside(left, width, columns) {
        let part = format!("{height}x{width} at ({top}, {left})");
        return Err(Error::Input(format!("a crop of {part} does not lie within an image of {rows}x{columns}")));
    }
    Ok(images.narrow(2, top, height).narrow(3, left, width))
}

/// Height and width of a batch of colour images.
pub(crate) fn check(images: &Tensor) -> Result<(i64, i64)> {
    match images.size()[..] {
        [rows, 3, height, width] if rows > 0 && height > 0 && width > 0 && images.is_floating_point() => {
            Ok((height, width))
        }
        _ => Err(Error::Input(format!("{:?} of {:?} are no images [B, 3, H, W]", images.size(), images.kind()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The products that other devices use are libtorch's kernel, forward and backward.
    #[test]
    fn resizing_by_products_is_libtorchs() {
        for (from, to) in [
            ((48, 64), (32, 32)),
            ((31, 17), (13, 16)),
            ((16, 24), (37, 41)),
            ((64, 64), (64, 64)),
            ((40, 9), (7, 33)),
            ((12, 12), (1, 1)),
            ((1, 3), (5, 2)),
            ((512, 500), (384, 384)),
        ] {
            // libtorch computes its weights in the precision of the image
            for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-4)] {
                let options = (kind, Device::Cpu);
                let images = Tensor::rand([2, 3, from.0, from.1], options).set_requires_grad(true);
                let cotangent = Tensor::randn([2, 3, to.0, to.1], options);
                let of = |resized: &Tensor| {
                    let gradient = torch_ext::vjp(&[resized], &[&images], &[&cotangent]).unwrap().remove(0).unwrap();
                    [resized.detach(), gradient]
                };
                let expected = of(&resize(&images, to).unwrap());
                let products = of(&resize_by_products(&images, to).unwrap().to_kind(kind));
                for (what, (a, b)) in ["values", "gradient"].iter().zip(products.iter().zip(&expected)) {
                    assert_eq!((a.size(), a.kind()), (b.size(), kind));
                    let error = ((a - b).abs().max() / b.abs().max()).double_value(&[]);
                    assert!(error < tolerance, "{from:?} to {to:?}, {kind:?}, {what}: {error:.1e}");
                }
            }
        }
    }
}
