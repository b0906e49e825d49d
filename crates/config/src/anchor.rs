//! `[anchor]`: what the model is held to while it is tuned.

use super::{above_zero, in_range};
use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An anchor to the original model: a loss on the squared distance between what the tuned model predicts at the tracked steps and what
/// the original model predicts there with guidance. Where `sampling.guidance_scale` is 1, it distils guidance into the LoRA.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Anchor {
    /// Weight of the anchor loss.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub weight: f64,
    /// Guidance scale of the original model's prediction. Absent: `sampling.guidance_scale`.
    #[schemars(range(min = 0.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// Number of tracked steps that have the loss, drawn anew for each optimiser step. 0: all of them.
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
