//! `[fidelity]`: the discriminator.

use super::{Location, MOST_RANK, MicroBatch, Optimizer, above_zero, counts, in_range};
use anyhow::Result;
use diffusion::settings::paths;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Fidelity Preservation: a discriminator learns to tell latents of the tuned model from those of the original model, and the tuned model
/// learns to be mistaken for it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fidelity {
    /// Weight of the adversarial loss; with `[preference]` of its reward, in units of the caption loss.
    #[schemars(range(min = 0.0))]
    pub weight: f64,
    /// Folder of the original model's latents, which runs can share; missing ones are sampled at the start. Absent: `latents` in the
    /// run's own folder.
    #[serde(deserialize_with = "paths::maybe", skip_serializing_if = "Option::is_none")]
    pub latents: Option<PathBuf>,
    /// Seed that these latents are sampled from.
    pub latents_seed: u64,
    /// Latents sampled at a time. 0: on the CPU `train.batch_size`, on a GPU up to 32, as memory allows.
    pub latents_batch: usize,
    /// Guidance scale that these latents are sampled with. Absent: `sampling.guidance_scale`. A run that trains without guidance can thus
    /// be held to images that the original model draws with guidance.
    #[schemars(range(min = 0.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// Model whose UNet the discriminator uses: a folder or an id of the hub. Absent: the model that is tuned, whose weights are shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Location>,
    /// Rank of the discriminator's own LoRA.
    #[schemars(range(min = 1))]
    pub rank: i64,
    /// Learning rate of the discriminator.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// AdamW's decay rates of the first and second moment (0 to below 1).
    pub betas: [f64; 2],
    /// AdamW's weight decay.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Largest norm of the discriminator's gradient; a larger one is scaled down to it.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_grad_norm: f64,
    /// Samples that go through the discriminator at a time. `"auto"`: as many as fit into the free memory; 0: the whole batch.
    pub micro_batch: MicroBatch,
}

impl Default for Fidelity {
    fn default() -> Self {
        Self {
            weight: 1.0,
            latents: None,
            latents_seed: 0,
            latents_batch: 0,
            guidance_scale: None,
            model: None,
            rank: 128,
            learning_rate: 2e-5,
            betas: [0.0, 0.999],
            weight_decay: 1e-2,
            max_grad_norm: 1.0,
            micro_batch: MicroBatch::Auto,
        }
    }
}

impl Fidelity {
    pub(super) fn check(&self) -> Result<()> {
        counts(&[("fidelity.rank", self.rank, MOST_RANK)])?;
        above_zero(&[("fidelity.learning_rate", self.learning_rate), ("fidelity.max_grad_norm", self.max_grad_norm)])?;
        in_range(&[
            ("fidelity.weight", self.weight, f64::MAX),
            ("fidelity.learning_rate", self.learning_rate, f64::MAX),
            ("fidelity.guidance_scale", self.guidance_scale.unwrap_or(0.0), f64::MAX),
            ("fidelity.betas[0]", self.betas[0], 1.0 - 1e-12),
            ("fidelity.betas[1]", self.betas[1], 1.0 - 1e-12),
            ("fidelity.weight_decay", self.weight_decay, f64::MAX),
        ])
    }

    /// The discriminator's.
    pub fn optimizer(&self) -> Optimizer {
        Optimizer {
            learning_rate: self.learning_rate,
            betas: self.betas,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            ..Default::default()
        }
    }
}
