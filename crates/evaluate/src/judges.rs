//! The networks that judge images, and which of them are needed.

mod colours;
mod detector;
mod endpoint;

pub use colours::ByClip;
pub use endpoint::{Endpoint, Settings as EndpointSettings};

use crate::prompts::Prompt;
use anyhow::{Context, Result};
use benchmarks::{geneval::Thresholds, tifa};
use models::{blip::Vqa, clip::ClipScore, grounding_dino, sentence::SentenceEmbedder};
use ranks::interrupt::Interrupt;
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

/// A network that judges images, or an endpoint that runs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// The judges that these prompts need.
pub fn needed(prompts: &[Prompt]) -> BTreeSet<Judge> {
    prompts.iter().flat_map(|prompt| &prompt.tasks).flat_map(|task| task.judges()).collect()
}

/// Paths of the networks that are needed.
#[derive(Debug, Clone, Default)]
pub struct Places {
    pub vqa: Option<PathBuf>,
    pub clip: Option<PathBuf>,
    pub detector: Option<PathBuf>,
    pub sentences: Option<PathBuf>,
    pub endpoint: Option<EndpointSettings>,
}

/// The opened networks.
pub struct Judges {
    pub vqa: Option<Vqa>,
    pub clip: Option<ClipScore>,
    pub detector: Option<grounding_dino::Detector>,
    pub sentences: Option<Sentences>,
    pub endpoint: Option<Endpoint>,
    /// Minimum confidence of the detector.
    pub threshold: f64,
}

impl Judges {
    /// # Errors
    /// A folder without such a network.
    pub fn open(places: Places, threshold: f64, kind: Kind, device: Device, interrupt: &Interrupt) -> Result<Self> {
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
        let endpoint = places.endpoint.map(|settings| Endpoint::new(settings, interrupt)).transpose()?;
        Ok(Self { vqa, clip, detector, sentences, endpoint, threshold })
    }

    /// One threshold for all tasks of GenEval.
    pub fn thresholds(&self) -> Thresholds {
        Thresholds { present: self.threshold, counted: self.threshold }
    }
}

/// Similarity of an answer to the choices. Every text is embedded once, because most choices occur many times.
pub struct Sentences {
    embedder: SentenceEmbedder,
    known: RefCell<HashMap<String, Tensor>>,
}

impl Sentences {
    fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let embedder = SentenceEmbedder::open(folder, kind, device).with_context(|| folder.display().to_string())?;
        Ok(Self { embedder, known: RefCell::default() })
    }

    /// Embeddings `[B, D]`, each row of length 1.
    fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        let mut known = self.known.borrow_mut();
        let mut new: Vec<&str> = texts.iter().copied().filter(|text| !known.contains_key(*text)).collect();
        new.sort_unstable();
        new.dedup();
        if !new.is_empty() {
            let rows = self.embedder.embed(&new)?.to_kind(Kind::Double).unbind(0);
            known.extend(new.into_iter().map(str::to_owned).zip(rows));
        }
        let rows: Vec<&Tensor> = texts.iter().filter_map(|text| known.get(*text)).collect();
        Ok(Tensor::stack(&rows, 0))
    }
}

impl tifa::Similarity for Sentences {
    fn similarities(&self, answer: &str, choices: &[String]) -> Result<Vec<f64>> {
        let all: Vec<&str> = std::iter::once(answer).chain(choices.iter().map(String::as_str)).collect();
        let embeddings = self.embed(&all)?;
        Ok(Vec::try_from(embeddings.narrow(0, 1, choices.len() as i64).mv(&embeddings.get(0)))?)
    }
}

pub use detector::detect;

#[cfg(test)]
mod tests {
    use super::*;
    use benchmarks::tifa::Similarity;
    use torch_ext::testing::device;

    #[test]
    fn what_is_known_is_the_same_as_what_is_new() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/sentence_mpnet");
        let sentences = Sentences::open(&folder, Kind::Double, device()).unwrap();
        let choices = ["a dog", "two dogs on a hill", "a dog", "no"].map(str::to_owned);
        for answer in ["a dog", "yes", "two"] {
            let likeness = sentences.similarities(answer, &choices).unwrap();
            let texts = choices.each_ref().map(String::as_str);
            let expected = sentences.embedder.similarities(answer, &texts).unwrap();
            assert!(likeness.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12), "{likeness:?} {expected:?}");
        }
        assert_eq!(sentences.known.borrow().len(), 5);
    }
}
