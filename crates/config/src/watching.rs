//! `[samples]` and `[validation]`: how a run is watched.

use super::{Location, Prompts, SamplerKind, Sampling, above_zero};
use anyhow::{Context, Result, bail};
use diffusion::{judge, prompts, settings::paths};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::{borrow::Cow, path::PathBuf};
use tch::{Device, Kind};

/// Sample images that the run draws now and then, always from the same noise.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Samples {
    /// Steps between two rounds of samples. 0: before and after the training alone.
    pub every: u64,
    /// Prompts to draw: a list, or the file that has them (as `prompts.train`). Absent or empty: the first `count` held-out prompts, or
    /// training prompts where none are held out.
    pub prompts: SamplePrompts,
    /// Number of prompts to draw where `prompts` names none. 0: no samples.
    pub count: usize,
    /// Seed of their noise.
    pub seed: u64,
    /// Sampler of the sample images, also one that cannot train. Absent: that of `sampling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
    /// Sampling steps of the sample images. Absent: those of `sampling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Whether to show the attention of each word, too, beside that before the training.
    pub attention: bool,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            every: 100,
            prompts: SamplePrompts::default(),
            count: 4,
            seed: 0,
            sampler: None,
            steps: None,
            attention: false,
        }
    }
}

/// Prompts, or the file that has them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum SamplePrompts {
    These(Vec<String>),
    Of(PathBuf),
}

impl<'de> Deserialize<'de> for SamplePrompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a list of prompts, or the name of a file with prompts")]
        enum Typed {
            These(Vec<String>),
            Of(PathBuf),
        }
        Ok(match Typed::deserialize(deserializer)? {
            Typed::These(prompts) => Self::These(prompts),
            Typed::Of(file) => Self::Of(paths::expanded(&file).map_err(D::Error::custom)?),
        })
    }
}

impl Default for SamplePrompts {
    fn default() -> Self {
        Self::These(vec![])
    }
}

impl SamplePrompts {
    /// The prompts, none where `count` says how many to take of others.
    ///
    /// # Errors
    /// A file that is no prompt file.
    pub fn read(&self) -> Result<Vec<String>> {
        match self {
            Self::These(prompts) => Ok(prompts.clone()),
            Self::Of(file) => {
                let prompts = prompts::read(file).context("samples.prompts (a list of prompts stands in brackets)")?;
                Ok(prompts.into_iter().map(|prompt| prompt.text).collect())
            }
        }
    }
}

impl JsonSchema for SamplePrompts {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "SamplePrompts".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
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

/// Measurements on held-out prompts (`prompts.validation`), always from the same noise: the caption loss, and a judge's metrics.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Validation {
    /// Steps between two measurements. 0: before and after the training alone.
    pub every: u64,
    /// Number of held-out prompts to use, the first ones. 0: all.
    pub count: usize,
    /// A judge that looks at the images of held-out prompts and has no part in the losses. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<Judge>,
    /// Whether to keep the LoRA of the best measurement, by the judge's first metric, in `best/`.
    pub keep_best: bool,
    /// The run ends after this many measurements in a row that were no better than the best. 0: never.
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
            bail!("validation.keep_best and validation.early_stop need a judge; name one in validation.judge");
        }
        if self.judge.is_some() && prompts.validation.is_none() {
            bail!("validation.judge looks at images of held-out prompts; name their file in prompts.validation");
        }
        Ok(())
    }
}

/// The judge of a run's images.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Judge {
    /// The miniature world's own: no network.
    World,
    /// CLIP: the cosine between image and prompt.
    Clip {
        /// CLIP: a folder in transformers layout, or an id of the hub.
        model: Location,
    },
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
