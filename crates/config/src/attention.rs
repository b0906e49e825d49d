//! `[attention]`: the losses on attention maps.

use super::{Location, above_zero, in_range};
use anyhow::Result;
use diffusion::segment::{self, Grounded};
use entities::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

/// Attribute Concentration: losses that hold the attention of a noun and its attributes on the object that a segmenter finds.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// The segmenter that says where in an image a noun is.
    pub segmenter: Segmenter,
    /// Number of steps whose attention maps take part; they are drawn from the tracked steps, with replacement.
    #[schemars(range(min = 1))]
    #[serde(default = "Attention::default_steps")]
    pub steps: usize,
    /// The form of both losses.
    #[serde(default)]
    pub form: Form,
    /// How nouns and their attributes are taken from a prompt.
    #[serde(default)]
    pub entities: Mode,
    /// Weight of the token loss: how much of a word's attention lies on its object.
    #[schemars(range(min = 0.0))]
    #[serde(default = "Attention::default_token_weight")]
    pub token_weight: f64,
    /// Weight of the pixel loss: whether each pixel of the object attends to the word.
    #[schemars(range(min = 0.0))]
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

/// The segmenter that says where in an image a noun is.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Segmenter {
    /// The miniature world's own: no network.
    World,
    /// Grounding DINO finds boxes, SAM outlines what is in them.
    Grounded {
        /// Grounding DINO: a folder in transformers layout, or an id of the hub.
        detector: Location,
        /// SAM: a folder in transformers layout, or an id of the hub.
        segmenter: Location,
        /// Minimum confidence of a box for its noun (0 to 1).
        #[schemars(range(min = 0.0, max = 1.0))]
        #[serde(default = "Segmenter::default_box_threshold")]
        box_threshold: f64,
        /// Minimum confidence of a box for a single word (0 to 1), for the word to count.
        #[schemars(range(min = 0.0, max = 1.0))]
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

/// The form of the attention losses.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As the authors' program has them.
    #[default]
    Reference,
    /// As the paper prints them.
    Paper,
}
