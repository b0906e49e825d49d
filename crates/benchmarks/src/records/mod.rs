//! `scores.jsonl`: what was asked about each image, what was answered, and what that is worth, a line each.

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

/// How an image's score comes about, as a number from 0 to 1 (CLIP's cosine from −1). In the order of a table: a benchmark's own, then
/// second opinions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Not of lines: made of three others for complex prompts.
    #[serde(rename = "3-in-1")]
    ThreeInOne,
    /// The product of its questions.
    BlipVqa,
    #[serde(rename = "2d-spatial")]
    Spatial,
    #[serde(rename = "3d-spatial")]
    Spatial3d,
    Numeracy,
    /// The mean of its questions: TIFA, DSG, DPG.
    Questions,
    /// Right or not: GenEval.
    Correct,
    /// The cosine between image and text.
    Clip,
    /// The mean of its questions, asked of a network that a server runs: a second opinion on any benchmark.
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

/// A line: one question about one image, or the image as a whole where nothing is asked. In the file all of it is one flat object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    #[serde(flatten)]
    pub subject: Subject,
    pub metric: Metric,
    /// Which of the image's lines of this metric, from 0, and of how many: an image that was not finished is known by it.
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
    /// What a complex prompt of T2I-CompBench has beside attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Of the benchmark, or the prompt's number in its file.
    pub prompt_id: String,
    pub prompt: String,
    /// Which of the prompt's images.
    pub index: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Relative to the folder that was scored.
    pub file: String,
    /// Of the file: an image that was replaced since is known by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What was asked and answered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// `object` or `color` (TIFA), `attribute` (DSG)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question_type: Option<String>,
    /// What was answered, or what was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Of the answer "yes", before rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// The answer's own score, where `score` depends on other answers too (DSG, DPG).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<f64>,
    pub score: f64,
}

impl Subject {
    /// What tells this image, scored by a metric, from all others.
    pub fn key(&self, metric: Metric) -> Key {
        let Self { benchmark, category, prompt_id, index, .. } = self.clone();
        Key { benchmark, metric, category, prompt_id, index }
    }
}
