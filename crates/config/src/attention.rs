//! `[attention]`: the losses on attention maps.

use super::{Location, above_zero, in_range};
use anyhow::Result;
use diffusion::segment::{self, Grounded};
use entities::Mode;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

/// Attribute Concentration: a noun's attention on its object.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    pub segmenter: Segmenter,
    /// Of the tracked steps, so many are drawn, with replacement; their maps take part.
    #[serde(default = "Attention::default_steps")]
    pub steps: usize,
    #[serde(default)]
    pub form: Form,
    /// How nouns and what is said of them are taken from a prompt: `repaired`, or `reference`, as the authors' program does.
    #[serde(default)]
    pub entities: Mode,
    #[serde(default = "Attention::default_token_weight")]
    pub token_weight: f64,
    #[serde(default = "Attention::default_pixel_weight")]
    pub pixel_weight: f64,
}

impl Attention {
    pub(super) fn check(&self) -> Result<()> {
        above_zero(&[("attention.steps", self.steps as f64)])?;
        in_range(&[
            ("attention.token_weight", self.token_weight, f64::MAX),
            ("attention.pixel_weight", self.pixel_weight, f64::MAX),
        ])?;
        match self.segmenter {
            Segmenter::Grounded { box_threshold, text_threshold, .. } => in_range(&[
                ("attention.segmenter.box_threshold", box_threshold, 1.0),
                ("attention.segmenter.text_threshold", text_threshold, 1.0),
            ]),
            Segmenter::World => Ok(()),
        }
    }

    fn default_steps() -> usize {
        2
    }

    fn default_token_weight() -> f64 {
        1e-3
    }

    fn default_pixel_weight() -> f64 {
        5e-5
    }
}

/// Who says where in an image a noun is.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Segmenter {
    /// The miniature world's own, without a network.
    World,
    /// Grounding DINO finds boxes, SAM what is in them; folders in transformers layout, or ids of the hub.
    Grounded {
        detector: Location,
        segmenter: Location,
        /// How well a box must fit its noun, 0 to 1.
        #[serde(default = "Segmenter::default_box_threshold")]
        box_threshold: f64,
        /// How well a box must fit a word that counts for it, 0 to 1.
        #[serde(default = "Segmenter::default_text_threshold")]
        text_threshold: f64,
    },
}

impl Segmenter {
    /// Opened, in a run's precision and on its device.
    ///
    /// # Errors
    /// A folder that is not there, or holds another network.
    pub fn open(&self, kind: Kind, device: Device) -> Result<Box<dyn segment::Segmenter>> {
        Ok(match self {
            Self::World => Box::new(scenes::segmenter::Judged),
            Self::Grounded { detector, segmenter, box_threshold, text_threshold } => {
                let mut grounded = Grounded::open(detector, segmenter, kind, device)?;
                grounded.detector.box_threshold = *box_threshold;
                grounded.detector.text_threshold = *text_threshold;
                Box::new(grounded)
            }
        })
    }

    fn default_box_threshold() -> f64 {
        0.3
    }

    fn default_text_threshold() -> f64 {
        0.25
    }
}

/// Which of two spellings of the attention losses.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As the authors' program has them.
    #[default]
    Reference,
    /// As the paper prints them.
    Paper,
}
