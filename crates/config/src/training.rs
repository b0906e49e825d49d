//! `[lora]`, `[optimizer]`, `[train]`, `[checkpoints]`: what is trained, and how.

use super::{Adapter, above_zero, in_range};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    pub rank: i64,
    /// The adapter is scaled by alpha / rank; absent: alpha = rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Names of the linear layers that are adapted, wherever they occur in the UNet.
    pub targets: Vec<String>,
    /// An adapter to start from: a file, a folder with one, or an id of the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Adapter>,
}

impl Default for Lora {
    fn default() -> Self {
        let targets = ["to_q", "to_k", "to_v", "to_out.0"].map(str::to_owned).to_vec();
        Self { rank: 128, alpha: None, targets, init: None }
    }
}

impl Lora {
    pub(super) fn check(&self) -> Result<()> {
        above_zero(&[("lora.rank", self.rank as f64), ("lora.alpha", self.alpha())])?;
        if self.targets.is_empty() {
            bail!("lora.targets is empty: nothing would be trained");
        }
        Ok(())
    }

    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    #[serde(skip_serializing_if = "Rule::is_default")]
    pub kind: Rule,
    /// With Prodigy a factor of the rate that it finds: 1.
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub weight_decay: f64,
    pub epsilon: f64,
    /// Gradients are scaled down to this norm when they exceed it.
    pub max_grad_norm: f64,
    pub schedule: RateSchedule,
    /// Steps over which the rate rises from 0.
    pub warmup_steps: u64,
    /// With `kind = "prodigy"` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prodigy: Option<Prodigy>,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            kind: Rule::AdamW,
            learning_rate: 5e-5,
            betas: [0.9, 0.999],
            weight_decay: 1e-2,
            epsilon: 1e-8,
            max_grad_norm: 0.1,
            schedule: RateSchedule::Constant,
            warmup_steps: 0,
            prodigy: None,
        }
    }
}

impl Optimizer {
    /// The least that is taken for a factor rather than a rate.
    const LEAST_FACTOR: f64 = 1e-2;

    pub(super) fn check(&self) -> Result<()> {
        above_zero(&[
            ("optimizer.learning_rate", self.learning_rate),
            ("optimizer.epsilon", self.epsilon),
            ("optimizer.max_grad_norm", self.max_grad_norm),
        ])?;
        in_range(&[
            ("optimizer.betas[0]", self.betas[0], 1.0 - 1e-12),
            ("optimizer.betas[1]", self.betas[1], 1.0 - 1e-12),
            ("optimizer.weight_decay", self.weight_decay, f64::MAX),
        ])?;
        match (self.kind, &self.prodigy) {
            (Rule::AdamW, Some(_)) => {
                bail!("optimizer.prodigy belongs to optimizer.kind = \"prodigy\"; the kind here is adamw")
            }
            (Rule::Prodigy, _) if self.learning_rate < Self::LEAST_FACTOR => bail!(
                "optimizer.learning_rate is {}, too little for prodigy, which finds the rate itself and is multiplied by it; set it to 1",
                self.learning_rate
            ),
            (_, settings) => settings.iter().try_for_each(Prodigy::check),
        }
    }
}

/// How gradients become updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Loshchilov and Hutter 2019.
    #[default]
    AdamW,
    /// AdamW that finds its learning rate (Mishchenko and Defazio 2023).
    Prodigy,
}

impl Rule {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// As configurations and checkpoints have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdamW => "adamw",
            Self::Prodigy => "prodigy",
        }
    }
}

/// `[optimizer.prodigy]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prodigy {
    /// The first guess of the distance to the solution; far too little is right.
    pub d0: f64,
    /// A factor of every later guess; 0.5 and 2 are usual, too.
    pub d_coef: f64,
    /// The most that the guess grows by in a step, above 1, for example 1.02; 0: any.
    pub growth_rate: f64,
    /// Whether early updates are corrected for the moments' start at zero, as AdamW's are.
    pub bias_correction: bool,
    /// Whether the learning rate is left out of what the guess is divided by: for runs with `warmup_steps`.
    pub safeguard_warmup: bool,
}

impl Default for Prodigy {
    fn default() -> Self {
        Self { d0: 1e-6, d_coef: 1.0, growth_rate: 0.0, bias_correction: false, safeguard_warmup: false }
    }
}

impl Prodigy {
    fn check(&self) -> Result<()> {
        above_zero(&[("optimizer.prodigy.d0", self.d0), ("optimizer.prodigy.d_coef", self.d_coef)])?;
        in_range(&[("optimizer.prodigy.growth_rate", self.growth_rate, f64::MAX)])?;
        if self.growth_rate > 0.0 && self.growth_rate <= 1.0 {
            bail!("optimizer.prodigy.growth_rate is {}, it must be above 1, or 0 for any growth", self.growth_rate);
        }
        Ok(())
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RateSchedule {
    Constant,
    /// Down to 0 at the last step, linearly.
    Linear,
    /// Down to 0 at the last step, along half a cosine.
    Cosine,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Optimiser steps.
    pub steps: u64,
    /// Samples in one trajectory. Those of a step (times `accumulation`) are shared by the ranks, whose number changes nothing.
    pub batch_size: usize,
    /// Trajectories whose gradients are averaged for one optimiser step.
    pub accumulation: usize,
    /// Decay of the adapter's running average, for example 0.99; 0: none is kept.
    pub ema: f64,
}

impl Default for Train {
    fn default() -> Self {
        Self { steps: 2000, batch_size: 4, accumulation: 1, ema: 0.0 }
    }
}

impl Train {
    /// Of the whole run.
    pub fn samples(&self) -> u64 {
        self.steps.saturating_mul((self.batch_size * self.accumulation) as u64)
    }

    pub(super) fn check(&self) -> Result<()> {
        above_zero(&[("train.batch_size", self.batch_size as f64), ("train.accumulation", self.accumulation as f64)])?;
        in_range(&[
            ("train.batch_size", self.batch_size as f64, 1e6),
            ("train.accumulation", self.accumulation as f64, 1e6),
            ("train.ema", self.ema, 1.0 - 1e-12),
        ])
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Steps between two; 0: only at the end.
    pub every: u64,
    /// How many to keep; 0: all.
    pub keep: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 100, keep: 3 }
    }
}
