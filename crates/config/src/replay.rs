//! `[replay]`: how gradients go back through the trajectory.

use super::{MicroBatch, Sampling, above_zero, in_range};
use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether gradients go from one step to the step before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The model's input carries no gradient (the paper; DRTune, Wu et al. 2024).
    Detached,
    /// On tracked steps the gradient also flows through the model's input (the authors' SD1.5 code).
    Chained,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Detached => "detached",
            Self::Chained => "chained",
        })
    }
}

/// Which steps receive gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// An even grid with a random offset (CoMat).
    Grid,
    /// The last K steps (DRaFT, Clark et al. 2024).
    Last,
    /// K different steps, anywhere.
    Random,
}

/// How gradients go back through the trajectory.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// Whether gradients go from one step to the step before it.
    pub mode: Mode,
    /// Factor of the gradient through the model's input in `chained` mode (0 to 1); 0 is `detached`. Less than 1 keeps the gradient from
    /// growing without bound over many guided steps.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub discount: f64,
    /// Whether gradients also go through the unconditional half of guidance. `false`: it is computed without a graph, which takes less time and
    /// memory, and the LoRA learns for the prompt's half alone. Without guidance there is no such half.
    pub unconditional: bool,
    /// Number of steps that receive gradients (K in the paper); at most `sampling.steps`.
    #[schemars(range(min = 1))]
    pub tracked: usize,
    /// Which steps receive gradients.
    pub policy: Policy,
    /// Largest norm of a sample's gradient at its latents, before it enters a step; a larger one is scaled down to it. It keeps a few
    /// samples from outweighing the others. 0: no limit.
    #[schemars(range(min = 0.0))]
    pub max_cotangent: f64,
    /// Samples replayed at a time; fewer need less memory. `"auto"`: as many as fit into the free memory; 0: the whole batch.
    pub micro_batch: MicroBatch,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            mode: Mode::Detached,
            discount: 1.0,
            unconditional: true,
            tracked: 5,
            policy: Policy::Grid,
            max_cotangent: 0.0,
            micro_batch: MicroBatch::Auto,
        }
    }
}

impl Replay {
    /// `sampling`: of steps that are replayed; `None` where none are.
    pub(super) fn check(&self, sampling: Option<&Sampling>) -> Result<()> {
        above_zero(&[("replay.tracked", self.tracked as f64)])?;
        in_range(&[("replay.max_cotangent", self.max_cotangent, f64::MAX), ("replay.discount", self.discount, 1.0)])?;
        if let Some(sampling) = sampling.filter(|sampling| self.tracked > sampling.steps) {
            bail!(
                "replay.tracked is {}, more than the {} sampling steps; lower it or raise sampling.steps",
                self.tracked,
                sampling.steps
            );
        }
        Ok(())
    }
}
