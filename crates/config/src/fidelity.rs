//! `[fidelity]`: the discriminator.

use super::{Location, MicroBatch, Optimizer, above_zero, in_range};
use anyhow::Result;
use diffusion::settings::paths;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Fidelity Preservation: a discriminator that tells generated latents from those of the original model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fidelity {
    /// Of the adversarial loss, beside the other losses.
    pub weight: f64,
    /// Folder of the original model's latents; the missing ones are made. Absent: `latents` in the run's own folder.
    #[serde(deserialize_with = "paths::maybe", skip_serializing_if = "Option::is_none")]
    pub latents: Option<PathBuf>,
    /// The seed that they are sampled from: runs with other seeds can share them.
    pub latents_seed: u64,
    /// How many are sampled at a time; 0: on the CPU as many as a trajectory of the training has, on a GPU up to 32, as memory allows.
    pub latents_batch: usize,
    /// Guidance scale that they are sampled with; absent: that of `sampling`. A run that trains without guidance can so be held
    /// to the pictures that the original model draws with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// The model whose UNet the discriminator is made of; absent: the one that is tuned, whose weights are then shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Location>,
    /// Of the discriminator's own adapter.
    pub rank: i64,
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    /// Samples judged at a time; `auto`: as many as fit; 0: the whole batch.
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
        above_zero(&[
            ("fidelity.rank", self.rank as f64),
            ("fidelity.learning_rate", self.learning_rate),
            ("fidelity.max_grad_norm", self.max_grad_norm),
        ])?;
        in_range(&[
            ("fidelity.weight", self.weight, f64::MAX),
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
