//! `[model]` and `[captioner]`: the frozen networks.

use super::{Dtype, Location, MicroBatch, Where, in_range};
use anyhow::Result;
use diffusion::pipeline::{Overrides, Pipeline, Precision};
use models::schedule::Prediction;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use torch_ext::cuda;

/// The diffusion model to tune.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A folder in diffusers layout, a single `.safetensors` file, or an id of the hub: `OWNER/NAME` or `OWNER/NAME@REVISION`.
    pub path: Location,
    /// Variant of the weight files, where the model has it: with `"fp16"` they are `NAME.fp16.safetensors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Tokenizer of a model in a single file: a folder, or an id of the hub. Absent: `openai/clip-vit-large-patch14`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Location>,
    /// What the UNet predicts, where the model's files do not say it or are wrong. Absent: as the files say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_type: Option<Prediction>,
    /// Whether the last timestep is pure noise (zero terminal SNR), where the model's files do not say it or are wrong. Absent: as the
    /// files say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_betas_zero_snr: Option<bool>,
    /// Layer of the text encoders whose output the UNet sees, counted from the end as A1111 and sd-scripts count: 1 is the last. Absent:
    /// 1 for SD1 and SD2, 2 for SDXL. (diffusers counts from 0: its 1 is 2 here for SD1.)
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,
    /// Whether an unknown key in a model's configuration files is an error. Otherwise it is a warning.
    #[serde(default)]
    pub strict: bool,
    /// Precision of the frozen networks. The LoRA, the latents and the losses are in float32.
    #[serde(default)]
    pub dtype: Dtype,
    /// Precision of the autoencoder. Absent: `dtype`; but `"float32"` in place of `"float16"` where the autoencoder's configuration says
    /// that it overflows (`force_upcast`), and for SDXL where it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_dtype: Option<Dtype>,
    /// Whether float32 matrix products on a GPU may use TF32 (10 bits of mantissa): faster, and as exact as float16. Convolutions always
    /// may, as in PyTorch.
    #[serde(default)]
    pub tf32: bool,
    /// Whether a GPU computes the same bits in every run; slower.
    #[serde(default)]
    pub deterministic: bool,
    /// `"auto"` (the first GPU, else the CPU), `"cpu"`, `"cuda"` or `"cuda:N"`.
    #[serde(default)]
    pub device: Where,
}

impl Model {
    pub fn precision(&self) -> Precision {
        Precision { networks: self.dtype.kind(), vae: self.vae_dtype.map(Dtype::kind) }
    }

    /// After [`crate::Config::fetch`], if it is named by an id. `chunks`: the most that a prompt is cut into. On a GPU
    /// this process computes from then on as `tf32` and `deterministic` say.
    pub fn open(&self, chunks: usize) -> Result<Pipeline> {
        if self.strict {
            models::config::be_strict(true);
        }
        let (variant, tokenizer) = (self.variant.as_deref(), self.tokenizer.as_deref());
        let Self { prediction_type, rescale_betas_zero_snr, clip_skip, .. } = *self;
        let chunks = (chunks > 1).then_some(chunks);
        let overrides = Overrides { prediction_type, rescale_betas_zero_snr, clip_skip, chunks };
        let device = self.device.device()?;
        if device.is_cuda() {
            cuda::allow_tf32(self.tf32)?;
            cuda::set_deterministic(self.deterministic)?;
        }
        Pipeline::open_at(&self.path, variant, tokenizer, overrides, self.precision(), device)
    }
}

/// The frozen captioner. Training raises the likelihood that it gives to the prompt, given the image.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Captioner {
    /// A BLIP folder in transformers layout, or an id of the hub.
    pub path: Location,
    /// Text that the captioner sees before the prompt; its tokens have no part in the loss.
    #[serde(default = "Captioner::default_prefix")]
    pub prefix: String,
    /// How the losses of a batch's tokens become one number.
    #[serde(default)]
    pub reduction: Reduction,
    /// Label smoothing of the loss that gives the gradient (0 to 1). The loss that is logged, and that of held-out prompts, has none.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default)]
    pub label_smoothing: f64,
    /// Weight of the caption loss.
    #[schemars(range(min = 0.0))]
    #[serde(default = "Captioner::default_weight")]
    pub weight: f64,
    /// Share of the loss of a wrong caption that is subtracted from that of the right one (0 to 1). In the wrong caption two objects have
    /// exchanged their attributes. What makes any caption likelier then cancels out.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default)]
    pub contrast: f64,
    /// How many times the end of the caption counts, among its tokens. An end that is unlikely says that the image shows something else,
    /// too; above 1, such images are rewarded less.
    #[schemars(range(min = 0.0, max = 1000.0))]
    #[serde(default = "Captioner::default_weight")]
    pub end_weight: f64,
    /// Samples decoded, captioned and rewarded at a time. `"auto"`: as many as fit into the free memory; 0: the whole batch.
    #[serde(default)]
    pub micro_batch: MicroBatch,
}

impl Captioner {
    pub(super) fn check(&self) -> Result<()> {
        in_range(&[
            ("captioner.weight", self.weight, f64::MAX),
            ("captioner.end_weight", self.end_weight, 1000.0),
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
            end_weight: 1.0,
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

/// How the losses of a batch's tokens become one number.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// Mean over all tokens of the batch.
    #[default]
    Mean,
    /// Sum over the tokens of a sample, mean over the samples, as the paper prints it.
    Sum,
}
