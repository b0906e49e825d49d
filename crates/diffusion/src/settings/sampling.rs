//! `[sampling]`: how pictures come about.

use super::{Size, above_zero, in_range};
use anyhow::Result;
use models::{guidance::Guidance, schedule::SamplerKind};
use serde::{Deserialize, Serialize};

/// How a training image comes about.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    pub sampler: SamplerKind,
    pub steps: usize,
    /// DDIM only: 0 is deterministic.
    pub eta: f64,
    pub guidance_scale: f64,
    pub guidance_rescale: f64,
    pub negative_prompt: String,
    /// Width and height in pixels; absent: what the model was trained for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            sampler: SamplerKind::Ddpm,
            steps: 50,
            eta: 0.0,
            guidance_scale: 7.5,
            guidance_rescale: 0.0,
            negative_prompt: String::new(),
            size: None,
        }
    }
}

impl Sampling {
    /// Refuses values that no sampler can have.
    pub fn check(&self) -> Result<()> {
        above_zero(&[("sampling.steps", self.steps as f64)])?;
        in_range(&[
            ("sampling.guidance_scale", self.guidance_scale, f64::MAX),
            ("sampling.guidance_rescale", self.guidance_rescale, 1.0),
            ("sampling.eta", self.eta, 1.0),
        ])
    }

    pub fn guidance(&self) -> Guidance {
        Guidance { scale: self.guidance_scale, rescale: self.guidance_rescale }
    }
}
