//! `[samples]` and `[validation]`: how a run is watched.

use super::{Location, Prompts, SamplerKind, Sampling, above_zero};
use anyhow::{Result, bail};
use diffusion::judge;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

/// Images made on the way, always from the same seeds.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Samples {
    /// Steps between two rounds; 0: only before and after.
    pub every: u64,
    /// Absent: the first `count` held-out prompts, or training prompts where none are held out.
    pub prompts: Vec<String>,
    pub count: usize,
    pub seed: u64,
    /// Any sampler, also one that does not train; absent: the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
    /// Sampling steps; absent: the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Also show where each word of a prompt looks, beside where it looked before the training.
    pub attention: bool,
}

impl Default for Samples {
    fn default() -> Self {
        Self { every: 100, prompts: vec![], count: 4, seed: 0, sampler: None, steps: None, attention: false }
    }
}

impl Samples {
    pub(super) fn check(&self) -> Result<()> {
        above_zero(&[("samples.steps", self.steps.unwrap_or(1) as f64)])
    }

    /// How they are drawn: as the run samples, but for what is said here.
    pub fn sampling(&self, of_run: &Sampling) -> Sampling {
        Sampling {
            sampler: self.sampler.unwrap_or(of_run.sampler),
            steps: self.steps.unwrap_or(of_run.steps),
            ..of_run.clone()
        }
    }
}

/// The caption loss on held-out prompts, always from the same noise.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Validation {
    /// Steps between two measurements; 0: only before and after.
    pub every: u64,
    /// How many of the prompts to use; 0: all.
    pub count: usize,
    /// Looks at the images, too, and has no part in the losses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<Judge>,
    /// Keep the adapter of the best round, by the judge's first figure, in `best/`.
    pub keep_best: bool,
    /// Stop after so many rounds that were no better than the best; 0: never.
    pub early_stop: u64,
}

impl Default for Validation {
    fn default() -> Self {
        Self { every: 100, count: 32, judge: None, keep_best: false, early_stop: 0 }
    }
}

impl Validation {
    pub(super) fn check(&self, prompts: &Prompts) -> Result<()> {
        if self.judge.is_none() && (self.keep_best || self.early_stop > 0) {
            bail!("validation.keep_best and validation.early_stop go by a judge; name one in validation.judge");
        }
        if self.judge.is_some() && prompts.validation.is_none() {
            bail!("validation.judge looks at pictures of held-out prompts; name their file in prompts.validation");
        }
        Ok(())
    }
}

/// Who watches a run.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Judge {
    /// The miniature world's own.
    World,
    /// The cosine between picture and prompt; a CLIP folder in transformers layout, or an id of the hub.
    Clip { model: Location },
}

impl Judge {
    /// Opened, in a run's precision and on its device.
    ///
    /// # Errors
    /// A folder that is not there, or holds another network.
    pub fn open(&self, kind: Kind, device: Device) -> Result<Box<dyn judge::Judge>> {
        Ok(match self {
            Self::World => Box::new(scenes::judging::Watch),
            Self::Clip { model } => Box::new(judge::Clip::open(model, kind, device)?),
        })
    }
}
