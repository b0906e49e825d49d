//! Captioners: how likely is a text, given an image? The caption loss ([`crate::loss::caption`]) takes any of them.

mod blip;

use anyhow::Result;
use std::{fs, path::Path};
use tch::{Device, Kind, Tensor};

pub use blip::Blip;
pub use models::blip::Nll;

/// A frozen captioner, with all that stands before its network: preprocessing of images, template and tokens of texts.
pub trait Likelihood {
    /// The precision that its network computes in.
    fn kind(&self) -> Kind;

    /// `-log p(text | image)` of each image with its text, over the tokens that count.
    /// `images` `[B, 3, H, W]` in 0..1, of any size, not clamped; B prompts as they were written. Each row of the result is about
    /// its own image and text alone, and is differentiable with respect to the image.
    ///
    /// # Errors
    /// Images of another shape.
    fn nll(&self, images: &Tensor, texts: &[&str]) -> Result<Nll>;

    /// How many tokens of each text count, as in [`Nll::tokens`]: the loss is a mean over the tokens of a batch, of which the images may
    /// be elsewhere.
    ///
    /// # Errors
    /// Texts that cannot be tokenised.
    fn tokens(&self, texts: &[&str]) -> Result<Vec<i64>>;
}

type Open = fn(&config::Captioner, Kind, Device) -> Result<Box<dyn Likelihood>>;

/// Every captioner, by `model_type` in its `config.json`.
const CAPTIONERS: &[(&str, Open)] = &[("blip", |config, kind, device| Ok(Box::new(Blip::open(config, kind, device)?)))];

/// The captioner of the configured folder.
///
/// # Errors
/// A folder that is not there, or holds another network.
pub fn open(config: &config::Captioner, kind: Kind, device: Device) -> Result<Box<dyn Likelihood>> {
    let found = model_type(&config.path);
    let known = CAPTIONERS.iter().find(|(name, _)| found.as_deref() == Some(*name));
    let (_, open) = known.unwrap_or(&CAPTIONERS[0]); // which then says what is wrong with the folder
    open(config, kind, device)
}

fn model_type(folder: &Path) -> Option<String> {
    let config = fs::read_to_string(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&config).ok()?;
    Some(config["model_type"].as_str()?.to_owned())
}
