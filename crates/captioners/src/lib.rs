//! Captioners: the likelihood of a text, given an image. The caption loss (`comat::loss::caption`) works with any of
//! them. And wrong captions of prompts, to compare with.

mod blip;
mod contrast;

use anyhow::Result;
use std::{fs, path::Path};
use tch::{Device, Kind, Tensor};

pub use blip::Blip;
pub use contrast::Contrast;
pub use models::blip::Nll;

/// A frozen captioner with its preprocessing: of images, and template and tokenizer of texts. Threads may use it at the same time.
pub trait Likelihood: Sync {
    /// The precision that the network computes in.
    fn kind(&self) -> Kind;

    /// `-log p(text | image)` of each image with its text, over the tokens that count. `images` are `[B, 3, H, W]` in
    /// 0..1, of any size, not clamped; `texts` are B prompts as written. Each row of the result depends only on its own
    /// image and text, and is differentiable with respect to the image.
    ///
    /// # Errors
    /// Images of another shape.
    fn nll(&self, images: &Tensor, texts: &[&str]) -> Result<Nll>;

    /// The same of several texts about an image: `texts[i]` is about image `of[i]`; a row of the result for each text.
    ///
    /// # Errors
    /// The same as [`Likelihood::nll`]; a number that is no image's.
    fn nll_of(&self, images: &Tensor, of: &[i64], texts: &[&str]) -> Result<Nll> {
        self.nll(&rows(images, of)?, texts)
    }

    /// How many tokens of each text count, as in [`Nll::tokens`]. The loss is a mean over the tokens of a whole batch,
    /// whose other images may be on other ranks.
    ///
    /// # Errors
    /// Texts that cannot be tokenised.
    fn tokens(&self, texts: &[&str]) -> Result<Vec<i64>>;
}

/// The rows of a tensor with these numbers; a row can be there several times.
fn rows(of: &Tensor, numbers: &[i64]) -> Result<Tensor> {
    Ok(of.f_index_select(0, &Tensor::from_slice(numbers).to_device(of.device()))?)
}

/// Largest offset of the crop of an image of this size: `0..=jitter` in each direction.
pub fn jitter(height: i64, width: i64) -> i64 {
    height.min(width) / 224
}

/// Like [`Likelihood::nll`], of each image's own crop, whose place is its row and column in `0..=jitter`. The last token
/// of a text counts `end_weight` times.
///
/// # Errors
/// Those of [`Likelihood::nll`].
pub fn nll_of_crops(
    captioner: &dyn Likelihood,
    end_weight: f64,
    images: &Tensor,
    texts: &[&str],
    crops: &[(i64, i64)],
) -> Result<Nll> {
    let (_, _, height, width) = images.size4()?;
    let jitter = jitter(height, width);
    let crop = |(row, (top, left)): (i64, &(i64, i64))| {
        images.narrow(0, row, 1).narrow(2, *top, height - jitter).narrow(3, *left, width - jitter)
    };
    let cropped: Vec<Tensor> = (0..).zip(crops).map(crop).collect();
    let nll = captioner.nll(&Tensor::cat(&cropped, 0), texts)?;
    Ok(if end_weight == 1.0 { nll } else { nll.with_end(end_weight) })
}

type Open = fn(&config::Captioner, Kind, Device) -> Result<Box<dyn Likelihood>>;

/// All captioners, by `model_type` in their `config.json`.
const CAPTIONERS: &[(&str, Open)] = &[("blip", |config, kind, device| Ok(Box::new(Blip::open(config, kind, device)?)))];

/// Opens the captioner in the configured folder.
///
/// # Errors
/// The folder is missing, or holds another network.
pub fn open(config: &config::Captioner, kind: Kind, device: Device) -> Result<Box<dyn Likelihood>> {
    let found = model_type(&config.path);
    let known = CAPTIONERS.iter().find(|(name, _)| found.as_deref() == Some(*name));
    let (_, open) = known.unwrap_or(&CAPTIONERS[0]); // its error then says what is wrong with the folder
    open(config, kind, device)
}

fn model_type(folder: &Path) -> Option<String> {
    let config = fs::read_to_string(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&config).ok()?;
    Some(config["model_type"].as_str()?.to_owned())
}
