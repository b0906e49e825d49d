//! `[sampling]`: how images are drawn.

use super::{Size, above_zero, in_range};
use anyhow::Result;
use models::{guidance::Guidance, schedule::SamplerKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How training images are drawn.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// The sampler.
    pub sampler: SamplerKind,
    /// Sampling steps from noise to image.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// Noise that the `ddim` sampler adds in each step: 0: none, 1: as much as `ddpm`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub eta: f64,
    /// Scale of classifier-free guidance. 1 and below: no guidance, which takes half the time.
    #[schemars(range(min = 0.0))]
    pub guidance_scale: f64,
    /// How much of the contrast that guidance adds is taken back (phi of Lin et al. 2023). 0: none of it.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub guidance_rescale: f64,
    /// What the images should not show; it has a part only with guidance.
    pub negative_prompt: String,
    /// Width and height in pixels, as `"768x512"`, or `512` for a square. Absent: the size that the model was trained for.
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
    /// Far above every scale at which a model gives useful images.
    const MOST_GUIDANCE: f64 = 1000.0;

    /// Settings that change nothing as the others are, each with the reason.
    pub fn without_effect(&self) -> Vec<(&'static str, String)> {
        let unguided = self.guidance_scale <= 1.0;
        let guidance = "there is no guidance at a scale of 1 and below";
        let all = [
            (self.eta != 0.0 && self.sampler != SamplerKind::Ddim)
                .then(|| ("eta", format!("only ddim has it, not {}", self.sampler))),
            (unguided && self.guidance_rescale != 0.0).then(|| ("guidance_rescale", guidance.into())),
            (unguided && !self.negative_prompt.is_empty()).then(|| ("negative_prompt", guidance.into())),
        ];
        all.into_iter().flatten().collect()
    }

    /// Rejects values that no sampler can use.
    pub fn check(&self) -> Result<()> {
        above_zero(&[("sampling.steps", self.steps as f64)])?;
        in_range(&[
            ("sampling.guidance_scale", self.guidance_scale, Self::MOST_GUIDANCE),
            ("sampling.guidance_rescale", self.guidance_rescale, 1.0),
            ("sampling.eta", self.eta, 1.0),
        ])
    }

    pub fn guidance(&self) -> Guidance {
        Guidance { scale: self.guidance_scale, rescale: self.guidance_rescale }
    }
}
