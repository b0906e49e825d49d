//! The networks that look at pictures, and which of them are needed.

mod colours;
mod detector;
mod endpoint;

pub use colours::ByClip;
pub use endpoint::{Endpoint, Settings as EndpointSettings};

use crate::prompts::Prompt;
use anyhow::{Context, Result};
use benchmarks::{geneval::Thresholds, tifa};
use models::{blip::Vqa, clip::ClipScore, grounding_dino, sentence::SentenceEmbedder};
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};
use tch::{Device, Kind};

/// A network, or where one is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judge {
    Vqa,
    Clip,
    Detector,
    Sentences,
    Endpoint,
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Vqa => "vqa",
            Self::Clip => "clip",
            Self::Detector => "detector",
            Self::Sentences => "sentences",
            Self::Endpoint => "endpoint",
        })
    }
}

/// What these prompts need.
pub fn needed(prompts: &[Prompt]) -> BTreeSet<Judge> {
    prompts.iter().flat_map(|prompt| &prompt.tasks).flat_map(|task| task.judges()).collect()
}

/// Where the networks lie; those that are needed.
#[derive(Debug, Clone, Default)]
pub struct Places {
    pub vqa: Option<PathBuf>,
    pub clip: Option<PathBuf>,
    pub detector: Option<PathBuf>,
    pub sentences: Option<PathBuf>,
    pub endpoint: Option<EndpointSettings>,
}

/// The networks, opened.
pub struct Judges {
    pub vqa: Option<Vqa>,
    pub clip: Option<ClipScore>,
    pub detector: Option<grounding_dino::Detector>,
    pub sentences: Option<Sentences>,
    pub endpoint: Option<Endpoint>,
    /// What the detector is surer of than this is there.
    pub threshold: f64,
}

impl Judges {
    /// # Errors
    /// Folders that hold no such network.
    pub fn open(places: Places, threshold: f64, kind: Kind, device: Device) -> Result<Self> {
        let at = |place: Option<PathBuf>| place.map(|folder| (folder.clone(), folder.display().to_string()));
        let vqa = at(places.vqa).map(|(f, name)| Vqa::open(&f, kind, device).context(name)).transpose()?;
        let clip = at(places.clip).map(|(f, name)| ClipScore::open(&f, kind, device).context(name)).transpose()?;
        let detector = match at(places.detector) {
            Some((folder, name)) => {
                let mut detector = grounding_dino::Detector::open(&folder, kind, device).context(name)?;
                detector.box_threshold = threshold;
                detector.text_threshold = detector.text_threshold.min(threshold);
                Some(detector)
            }
            None => None,
        };
        let sentences = places.sentences.map(|folder| Sentences::open(&folder, kind, device)).transpose()?;
        let endpoint = places.endpoint.map(Endpoint::new).transpose()?;
        Ok(Self { vqa, clip, detector, sentences, endpoint, threshold })
    }

    /// The detector's one threshold, for all of GenEval.
    pub fn thresholds(&self) -> Thresholds {
        Thresholds { present: self.threshold, counted: self.threshold }
    }
}

/// How like an answer is to its choices.
pub struct Sentences(SentenceEmbedder);

impl Sentences {
    fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        Ok(Self(SentenceEmbedder::open(folder, kind, device).with_context(|| folder.display().to_string())?))
    }
}

impl tifa::Similarity for Sentences {
    fn similarities(&self, answer: &str, choices: &[String]) -> Result<Vec<f64>> {
        let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
        Ok(self.0.similarities(answer, &choices)?)
    }
}

pub use detector::detect;
