//! `scores.jsonl`: one line for each question about an image, with its answer and score.

mod answers;
pub(crate) mod image;
mod log;

pub use image::{Image, Key};
pub use log::{Images, Log, read};

use crate::t2i_compbench::three_in_one::Kind;
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Benchmark {
    #[serde(rename = "t2i-compbench")]
    T2iCompbench,
    Tifa,
    Dsg,
    Dpg,
    Geneval,
}

/// How an image is scored. A score is a number from 0 to 1 (CLIP's cosine from −1). In the order of a table: the
/// benchmarks' own metrics, then second opinions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Not in the file; computed from three other metrics for complex prompts.
    #[serde(rename = "3-in-1")]
    ThreeInOne,
    /// The product of the questions' scores.
    BlipVqa,
    #[serde(rename = "2d-spatial")]
    Spatial,
    #[serde(rename = "3d-spatial")]
    Spatial3d,
    Numeracy,
    /// The mean of the questions' scores: TIFA, DSG, DPG.
    Questions,
    /// 1 if the image is correct, else 0: GenEval.
    Correct,
    /// Cosine of image and text.
    Clip,
    /// The mean of the questions' scores, answered by a network behind an endpoint: a second opinion on any benchmark.
    Endpoint,
}

impl Benchmark {
    pub fn name(self) -> &'static str {
        match self {
            Self::T2iCompbench => "t2i-compbench",
            Self::Tifa => "tifa",
            Self::Dsg => "dsg",
            Self::Dpg => "dpg",
            Self::Geneval => "geneval",
        }
    }
}

impl Metric {
    pub fn name(self) -> &'static str {
        match self {
            Self::BlipVqa => "blip-vqa",
            Self::Spatial => "2d-spatial",
            Self::Spatial3d => "3d-spatial",
            Self::Numeracy => "numeracy",
            Self::Clip => "clip",
            Self::ThreeInOne => "3-in-1",
            Self::Questions => "questions",
            Self::Correct => "correct",
            Self::Endpoint => "endpoint",
        }
    }
}

impl fmt::Display for Benchmark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A line: one question about one image, or the whole image if nothing is asked. In the file it is one flat object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    #[serde(flatten)]
    pub subject: Subject,
    pub metric: Metric,
    /// Number of the line among the image's lines of this metric, from 0; `parts` is their count. They show whether an
    /// image was finished.
    pub part: usize,
    pub parts: usize,
    #[serde(flatten)]
    pub answer: Answer,
}

/// The image that is scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    pub benchmark: Benchmark,
    /// As the benchmark names it: `color`, `counting`, `coco`.
    pub category: String,
    /// Kind of a complex prompt of T2I-CompBench: what it has besides attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Id in the benchmark, or the number of the prompt in its file.
    pub prompt_id: String,
    pub prompt: String,
    /// Number of the image among the prompt's images.
    pub index: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Relative to the folder that was scored.
    pub file: String,
    /// Digest of the file; it shows whether the image was replaced since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Digest of what is asked about the image; it shows whether the benchmark's questions have changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
}

/// A question, its answer and its score.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// `object` or `color` (TIFA), `attribute` (DSG)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question_type: Option<String>,
    /// The answer, or what was detected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Probability of the answer "yes", before rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// The answer's own score, where `score` depends on other answers too (DSG, DPG).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<f64>,
    pub score: f64,
}

impl Subject {
    /// Key that identifies this image, scored by a metric.
    pub fn key(&self, metric: Metric) -> Key {
        let Self { benchmark, category, prompt_id, index, .. } = self.clone();
        Key { benchmark, metric, category, prompt_id, index }
    }
}
