//! `[anchor]`: what the model is held to while it is tuned.

use super::{above_zero, in_range};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Guidance distillation and anchor in one: on tracked steps, the squared distance of the tuned model's output to what the
/// original model predicts there with guidance. A run without guidance so learns to draw what the original draws with it, and
/// the caption loss goes on from there.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Anchor {
    /// Of the anchor loss, beside the other losses.
    pub weight: f64,
    /// Guidance scale of the original model's prediction; absent: that of `sampling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// How many of the tracked steps have it, drawn anew for each optimiser step; 0: all.
    pub steps: usize,
}

impl Default for Anchor {
    fn default() -> Self {
        Self { weight: 1.0, guidance_scale: None, steps: 0 }
    }
}

impl Anchor {
    pub(super) fn check(&self) -> Result<()> {
        above_zero(&[("anchor.weight", self.weight)])?;
        in_range(&[
            ("anchor.weight", self.weight, f64::MAX),
            ("anchor.guidance_scale", self.guidance_scale.unwrap_or(0.0), f64::MAX),
        ])
    }
}
