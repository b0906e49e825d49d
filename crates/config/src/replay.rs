//! `[replay]`: how gradients go back through the trajectory.

use super::{MicroBatch, Sampling, above_zero, in_range};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Whether gradients go from one step to the step before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The model's input carries no gradient (the paper; DRTune, Wu et al. 2024).
    Detached,
    /// On tracked steps the gradient also flows through the model's input (the authors' SD1.5 code).
    Chained,
}

/// Which steps receive gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    pub mode: Mode,
    /// Of what flows through the model's input in `chained` mode, how much goes on to the steps before: from 0, which is `detached`,
    /// to 1. Less keeps the way back through many guided steps from blowing up.
    pub discount: f64,
    /// Steps that receive gradients (K).
    pub tracked: usize,
    pub policy: Policy,
    /// A sample's cotangent (of its own loss, at its latents) is scaled down to this norm before it enters a step, where it
    /// exceeds it: a few samples would else drown the others. 0: it is left as it is.
    pub max_cotangent: f64,
    /// Samples replayed at a time: fewer need less memory. `auto`: as many as fit; 0: the whole batch.
    pub micro_batch: MicroBatch,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            mode: Mode::Detached,
            discount: 1.0,
            tracked: 5,
            policy: Policy::Grid,
            max_cotangent: 0.0,
            micro_batch: MicroBatch::Auto,
        }
    }
}

impl Replay {
    pub(super) fn check(&self, sampling: &Sampling) -> Result<()> {
        above_zero(&[("replay.tracked", self.tracked as f64)])?;
        in_range(&[("replay.max_cotangent", self.max_cotangent, f64::MAX), ("replay.discount", self.discount, 1.0)])?;
        if self.tracked > sampling.steps {
            bail!("replay.tracked is {}, more than the {} sampling steps", self.tracked, sampling.steps);
        }
        Ok(())
    }
}
