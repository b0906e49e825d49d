//! `[lora]`, `[optimizer]`, `[train]`, `[checkpoints]`: what is trained, and how.

use super::{MOST_RANK, Scaled, above_zero, counts, in_range, one_or_more::OneOrMore};
use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The LoRA that is trained.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// Rank of the LoRA.
    #[schemars(range(min = 1))]
    pub rank: i64,
    /// The LoRA's update is scaled by `alpha / rank`. Absent: `alpha` is `rank`, a factor of 1.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Names of the linear layers that the LoRA changes, wherever they occur in the UNet.
    #[schemars(length(min = 1))]
    pub targets: Vec<String>,
    /// LoRA to start from: a file, a folder with one, a run's folder or an id of the hub, with a strength other than 1 as `FILE:0.8`; or a
    /// list of several, which are added up. Their ranks together are `rank` or less. Absent: a fresh one, which changes nothing at first.
    #[serde(skip_serializing_if = "OneOrMore::is_empty")]
    pub init: OneOrMore<Scaled>,
}

impl Default for Lora {
    fn default() -> Self {
        let targets = ["to_q", "to_k", "to_v", "to_out.0"].map(str::to_owned).to_vec();
        Self { rank: 128, alpha: None, targets, init: OneOrMore::default() }
    }
}

impl Lora {
    pub(super) fn check(&self) -> Result<()> {
        counts(&[("lora.rank", self.rank, MOST_RANK)])?;
        above_zero(&[("lora.alpha", self.alpha())])?;
        if self.targets.is_empty() {
            bail!("lora.targets is empty: nothing would be trained");
        }
        Ok(())
    }

    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }
}

/// The optimiser of the LoRA.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// The optimiser. Absent: `adamw`.
    #[serde(skip_serializing_if = "Rule::is_default")]
    pub kind: Rule,
    /// Learning rate after the warm-up. With Prodigy a factor of the rate that it finds: 1.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// AdamW's decay rates of the first and second moment (0 to below 1).
    pub betas: [f64; 2],
    /// AdamW's weight decay.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// AdamW's epsilon, added to the root of the second moment.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// Largest norm of the gradient; a larger one is scaled down to it.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_grad_norm: f64,
    /// How the learning rate goes on after the warm-up.
    pub schedule: RateSchedule,
    /// Warm-up: steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// Number of last steps over which the learning rate falls linearly to 0, in addition to the schedule. With a constant schedule:
    /// warm-up, constant, decay.
    pub decay_steps: u64,
    /// Options of Prodigy, for `kind = "prodigy"` alone.
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
            decay_steps: 0,
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
            ("optimizer.learning_rate", self.learning_rate, f64::MAX),
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

/// The optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// AdamW (Loshchilov and Hutter 2019).
    #[default]
    AdamW,
    /// Prodigy: AdamW that finds its learning rate (Mishchenko and Defazio 2023).
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

/// Options of Prodigy.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prodigy {
    /// First estimate of the distance to the solution; it should be far too small.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub d0: f64,
    /// Factor of every later estimate; 0.5 and 2 are common, too.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub d_coef: f64,
    /// Largest growth of the estimate in a step, a factor above 1, for example 1.02. 0: no limit.
    #[schemars(range(min = 0.0))]
    pub growth_rate: f64,
    /// Whether early updates are corrected for moments that start at zero, as AdamW's are.
    pub bias_correction: bool,
    /// Leave the learning rate out of the estimate's denominator; use it with `warmup_steps`.
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
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RateSchedule {
    /// It stays as it is.
    Constant,
    /// It falls to 0 at the last step along a line.
    Linear,
    /// It falls to 0 at the last step along half a cosine.
    Cosine,
}

/// How long to train, and how many samples a step has.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Number of optimiser steps.
    pub steps: u64,
    /// Samples in one trajectory. A step has `batch_size` times `accumulation` samples, by however many processes they are shared.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch_size: usize,
    /// Trajectories whose gradients are averaged for one optimiser step.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub accumulation: usize,
    /// Decay of a running average of the LoRA, for example 0.99. 0: no average is kept.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
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
        const MOST: i64 = 1_000_000;
        counts(&[
            ("train.batch_size", self.batch_size as i64, MOST),
            ("train.accumulation", self.accumulation as i64, MOST),
        ])?;
        in_range(&[("train.ema", self.ema, 1.0 - 1e-12)])
    }
}

/// Checkpoints, from which `--resume` goes on.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Steps between two checkpoints. 0: one at the end alone.
    pub every: u64,
    /// Number of checkpoints to keep, the newest ones. 0: all.
    pub keep: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 100, keep: 3 }
    }
}
