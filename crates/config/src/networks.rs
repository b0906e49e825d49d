//! `[model]` and `[captioner]`: the frozen networks.

use super::{Dtype, Location, MicroBatch, Where, in_range};
use anyhow::Result;
use diffusion::pipeline::{Overrides, Pipeline, Precision};
use models::schedule::Prediction;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The diffusion model to tune.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A folder in diffusers layout, or the id of one on the hub: `OWNER/NAME`, `OWNER/NAME@REVISION`.
    pub path: Location,
    /// Weights of this variant, where there are such: `fp16` are `NAME.fp16.safetensors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// For a model in a single file: a folder with CLIP's tokenizer, or an id of the hub; absent: [`TOKENIZER`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Location>,
    /// What the UNet predicts, where the files do not say or say wrongly: `epsilon` or `v_prediction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_type: Option<Prediction>,
    /// Whether the noise leaves nothing of the image at the last timestep, where the files do not say or say wrongly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_betas_zero_snr: Option<bool>,
    /// Which of the text encoders' layers the UNet sees, counted from the end as A1111 and sd-scripts count: 1 is the last one. Absent:
    /// 1 for SD1 and SD2, 2 for SDXL. (diffusers counts from 0: its 1 is 2 here for SD1.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,
    /// Whether a key that is not known in a model's configuration is an error, rather than a warning.
    #[serde(default)]
    pub strict: bool,
    /// Of the frozen networks. The adapter, the latents and the losses are in float32.
    #[serde(default)]
    pub dtype: Dtype,
    /// Of the autoencoder. Absent: `dtype`; but float32 in place of float16 where its configuration says that it overflows there
    /// (`force_upcast`), and for SDXL where it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_dtype: Option<Dtype>,
    /// Whether float32 matrix products on a GPU may round their factors to 10 bits (TF32): faster, and as good as float16.
    /// Convolutions do, as PyTorch's by default.
    #[serde(default)]
    pub tf32: bool,
    /// Whether a GPU is to compute the same bits every time, as far as libtorch can, at the price of speed.
    #[serde(default)]
    pub deterministic: bool,
    #[serde(default)]
    pub device: Where,
}

impl Model {
    pub fn precision(&self) -> Precision {
        Precision { networks: self.dtype.kind(), vae: self.vae_dtype.map(Dtype::kind) }
    }

    /// After [`Config::fetch`], if it is named by an id. `chunks`: the most that a prompt is cut into.
    pub fn open(&self, chunks: usize) -> Result<Pipeline> {
        if self.strict {
            models::config::be_strict(true);
        }
        let (variant, tokenizer) = (self.variant.as_deref(), self.tokenizer.as_deref());
        let Self { prediction_type, rescale_betas_zero_snr, clip_skip, .. } = *self;
        let chunks = (chunks > 1).then_some(chunks);
        let overrides = Overrides { prediction_type, rescale_betas_zero_snr, clip_skip, chunks };
        Pipeline::open_at(&self.path, variant, tokenizer, overrides, self.precision(), self.device.device()?)
    }
}

/// The frozen network that judges whether the image says what the prompt says.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Captioner {
    /// A BLIP folder in transformers layout, or an id of the hub.
    pub path: Location,
    /// Text before the prompt; not part of the loss.
    #[serde(default = "Captioner::default_prefix")]
    pub prefix: String,
    #[serde(default)]
    pub reduction: Reduction,
    /// Part of each token's label that the gradient's loss spreads over the vocabulary; the loss that is logged and measured on
    /// held-out prompts has none.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Of the caption loss, beside the other losses.
    #[serde(default = "Captioner::default_weight")]
    pub weight: f64,
    /// How much of the loss with a wrong caption, in which two things have each other's attributes, is subtracted from the loss
    /// with the right one: 0 (none) to below 1. What makes any caption likelier then cancels.
    #[serde(default)]
    pub contrast: f64,
    /// Samples decoded, captioned and rewarded at a time; `auto`: as many as fit; 0: the whole batch.
    #[serde(default)]
    pub micro_batch: MicroBatch,
}

impl Captioner {
    pub(super) fn check(&self) -> Result<()> {
        in_range(&[
            ("captioner.weight", self.weight, f64::MAX),
            ("captioner.label_smoothing", self.label_smoothing, 1.0),
            ("captioner.contrast", self.contrast, 1.0),
        ])
    }

    /// The captioner of a folder, with everything else as it is by default.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path: path.into(),
            prefix: Self::default_prefix(),
            reduction: Reduction::default(),
            label_smoothing: 0.0,
            weight: 1.0,
            contrast: 0.0,
            micro_batch: MicroBatch::Auto,
        }
    }

    fn default_weight() -> f64 {
        1.0
    }

    fn default_prefix() -> String {
        "a photography of ".into()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// Mean over all tokens of the batch.
    #[default]
    Mean,
    /// Sum over the tokens of a sample, mean over samples, as the paper prints it.
    Sum,
}
