//! T2I-CompBench (Huang et al. 2023): attributes, relations and counts in eight categories of 300 prompts, with ten
//! images per prompt.

pub mod blip_vqa;
pub mod clip;
pub mod depth;
pub mod nouns;
pub mod numeracy;
pub mod protocol;
pub mod spatial;
pub mod three_in_one;

use crate::{boxes::Detection, records::Metric};
use anyhow::{Error, anyhow};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Minimum confidence of the original's detector (UniDet). Other detectors need another value.
pub const DETECTION_THRESHOLD: f64 = 0.5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    Color,
    Shape,
    Texture,
    Spatial,
    #[serde(rename = "3d_spatial")]
    Spatial3d,
    Numeracy,
    NonSpatial,
    Complex,
}

impl Category {
    pub const ALL: [Self; 8] = [
        Self::Color,
        Self::Shape,
        Self::Texture,
        Self::Spatial,
        Self::Spatial3d,
        Self::Numeracy,
        Self::NonSpatial,
        Self::Complex,
    ];

    /// Name of the category in the names of the benchmark's files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Color => "color",
            Self::Shape => "shape",
            Self::Texture => "texture",
            Self::Spatial => "spatial",
            Self::Spatial3d => "3d_spatial",
            Self::Numeracy => "numeracy",
            Self::NonSpatial => "non_spatial",
            Self::Complex => "complex",
        }
    }

    /// Name of its prompt file in `examples/dataset` of the benchmark.
    pub fn prompt_file(self) -> String {
        format!("{}_val.txt", self.name())
    }

    /// The metrics of its images; the three metrics of `Complex` become one (`three_in_one`).
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Color | Self::Shape | Self::Texture => &[Metric::BlipVqa],
            Self::Spatial => &[Metric::Spatial],
            Self::Spatial3d => &[Metric::Spatial3d],
            Self::Numeracy => &[Metric::Numeracy],
            Self::NonSpatial => &[Metric::Clip],
            Self::Complex => &[Metric::BlipVqa, Metric::Spatial, Metric::Clip],
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Category {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|category| category.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            anyhow!("`{name}` is not a category of T2I-CompBench; those are {names}")
        })
    }
}

/// The detection with the highest confidence above `threshold` for whose label `holds` is true. Of equal ones it is the
/// first, as the first match in a detector's sorted list.
fn surest(detections: &[Detection], threshold: f64, holds: impl Fn(&str) -> bool) -> Option<&Detection> {
    let there = detections.iter().filter(|d| d.score > threshold && holds(&d.label));
    there.reduce(|best, next| if next.score > best.score { next } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_typed_makes_it_fail() {
        let parser = entities::Parser::shipped().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new_objects.txt");
        std::fs::write(&path, "dog - dogs\n - \n").unwrap();
        let counted = numeracy::Nouns::read(&path).unwrap();
        for prompt in [
            "",
            " ",
            "?",
            "a",
            "two",
            "on the",
            "near near near",
            "🐕 next to 🐈",
            "zwei Hunde\u{301} \u{200b}",
            "\n\ta  dog\n",
        ] {
            blip_vqa::questions(&parser, prompt);
            clip::text_without_adjectives(&parser, prompt);
            let objects = [nouns::simple(&parser, prompt), nouns::complex(&parser, prompt)];
            for objects in &objects {
                let score =
                    spatial::score(objects.as_ref(), spatial::Locality::of(prompt), &[], DETECTION_THRESHOLD, 150.0);
                assert_eq!(score, 0.0, "{prompt}");
            }
            assert_eq!(numeracy::score(&counted.wanted(&parser, prompt), &[], DETECTION_THRESHOLD), 0.0, "{prompt}");
        }
    }

    #[test]
    fn names() {
        for category in Category::ALL {
            assert_eq!(category.name().parse::<Category>().unwrap(), category);
            assert_eq!(serde_json::to_value(category).unwrap(), category.name());
        }
        assert_eq!(Category::Spatial3d.prompt_file(), "3d_spatial_val.txt");
        let error = "colour".parse::<Category>().unwrap_err().to_string();
        assert!(error.contains("`colour` is not a category") && error.contains("color, shape, texture"));
    }
}
