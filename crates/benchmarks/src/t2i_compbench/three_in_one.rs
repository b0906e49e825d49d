//! The score of complex prompts, from three metrics (T2I-CompBench, 3_in_1_eval/3_in_1.py).

use super::protocol;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::Path};

/// What a complex prompt has besides attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Spatial,
    Action,
    SpatialAction,
}

impl Kind {
    /// The mean of those of the three metrics that apply: BLIP-VQA (attributes), 2D spatial in its complex form, and
    /// CLIP without adjectives.
    pub fn score(self, attributes: f64, spatial: f64, clip: f64) -> f64 {
        match self {
            Self::Spatial => (spatial + attributes) / 2.0,
            Self::Action => (clip + attributes) / 2.0,
            Self::SpatialAction => (attributes + spatial + clip) / 3.0,
        }
    }
}

/// The kind of each complex prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kinds {
    spatial: BTreeSet<String>,
    action: BTreeSet<String>,
}

impl Kinds {
    /// Reads `complex_val_spatial.txt` and `complex_val_action.txt` in a folder.
    ///
    /// # Errors
    /// A file that cannot be read or has no prompts.
    pub fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| -> Result<BTreeSet<String>> {
            Ok(protocol::read_prompts(&folder.join(name))?.iter().map(|prompt| key(prompt)).collect())
        };
        Ok(Self { spatial: read("complex_val_spatial.txt")?, action: read("complex_val_action.txt")? })
    }

    pub fn of(&self, prompt: &str) -> Kind {
        match key(prompt) {
            key if self.spatial.contains(&key) => Kind::Spatial,
            key if self.action.contains(&key) => Kind::Action,
            _ => Kind::SpatialAction,
        }
    }
}

/// Key of a prompt: lower case, up to the first full stop.
fn key(prompt: &str) -> String {
    prompt.split('.').next().unwrap_or(prompt).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_mean_of_what_applies() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        near(Kind::Spatial.score(0.6, 0.8, 0.3), 0.7);
        near(Kind::Action.score(0.6, 0.8, 0.3), 0.45);
        near(Kind::SpatialAction.score(0.6, 0.9, 0.3), 0.6);
    }

    #[test]
    fn kinds_of_prompts() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("complex_val_spatial.txt"), "The cup is near the dog. It sits.\n").unwrap();
        let error = Kinds::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("complex_val_action.txt: no such file"), "{error}");
        fs::write(folder.path().join("complex_val_action.txt"), "The cat sleeps.\nthe cup is near the dog").unwrap();
        let kinds = Kinds::read(folder.path()).unwrap();
        assert_eq!(kinds.of("the CUP is near the dog"), Kind::Spatial); // spatial goes first
        assert_eq!(kinds.of("The cat sleeps"), Kind::Action);
        assert_eq!(kinds.of("The cat sleeps on it."), Kind::SpatialAction);
    }
}
