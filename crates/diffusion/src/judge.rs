//! Judges of images: metrics that a run is observed by, and that no loss uses.

use anyhow::{Context, Result};
use models::clip::ClipScore;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Computes metrics of each image; more is better.
pub trait Judge {
    /// Names of the metrics. The first is the one that a run is steered by.
    fn metrics(&self) -> &'static [&'static str];

    /// Images `[B, 3, H, W]` in 0..1 and their prompts → for each metric, a value per image.
    fn judge(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<Vec<f64>>>;
}

/// The cosine between image and prompt in CLIP's space.
pub struct Clip(ClipScore);

impl Clip {
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        Ok(Self(ClipScore::open(folder, kind, device).context("validation.judge")?))
    }
}

impl Judge for Clip {
    fn metrics(&self) -> &'static [&'static str] {
        &["clip_cosine"]
    }

    fn judge(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<Vec<f64>>> {
        Ok(self.0.cosines(images, prompts)?.into_iter().map(|cosine| vec![cosine]).collect())
    }
}
