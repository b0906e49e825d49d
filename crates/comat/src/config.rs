//! `run.toml`: everything that a run depends on.

mod location;
mod logging;
mod memory;
mod parse;
mod ranks;
mod values;

use crate::{
    pipeline::{Pipeline, Precision, is_single_file},
    replay, tracked,
};
use anyhow::{Context, Result, bail};
use hub::{Layout, Progress};
use models::guidance::Guidance;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub use location::{HubOf, Location};
pub use logging::Logging;
pub use memory::Memory;
pub use models::schedule::SamplerKind;
pub use parse::read;
pub use ranks::{Backend, Ranks};
pub use values::{Dtype, Size, Where};

/// A whole run. Paths are relative to the folder that the program is started in.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The run's own folder; made when it does not exist.
    pub output: PathBuf,
    #[serde(default)]
    pub seed: u64,
    pub model: Model,
    pub captioner: Captioner,
    pub prompts: Prompts,
    #[serde(default)]
    pub sampling: Sampling,
    #[serde(default)]
    pub replay: Replay,
    /// Attribute Concentration; absent: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    /// Fidelity Preservation; absent: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// Mixed latents; absent: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixed: Option<Mixed>,
    #[serde(default)]
    pub lora: Lora,
    #[serde(default)]
    pub optimizer: Optimizer,
    #[serde(default)]
    pub train: Train,
    #[serde(default)]
    pub checkpoints: Checkpoints,
    #[serde(default)]
    pub samples: Samples,
    #[serde(default)]
    pub validation: Validation,
    #[serde(default, skip_serializing_if = "Ranks::is_default")]
    pub ranks: Ranks,
    #[serde(default)]
    pub memory: Memory,
    #[serde(default)]
    pub logging: Logging,
}

/// Where a model in a single file has its tokenizer from, unless another one is named.
const TOKENIZER: &str = "openai/clip-vit-large-patch14";

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
    /// Of the frozen networks. The adapter, the latents and the losses are in float32.
    #[serde(default)]
    pub dtype: Dtype,
    /// Of the autoencoder. Absent: `dtype`, or float32 where its configuration says that it overflows in float16 (SDXL's own).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_dtype: Option<Dtype>,
    /// Whether float32 products on a GPU may round their factors to 10 bits (TF32): faster, and as good as float16.
    #[serde(default)]
    pub tf32: bool,
    #[serde(default)]
    pub device: Where,
}

impl Model {
    pub fn precision(&self) -> Precision {
        Precision { networks: self.dtype.kind(), vae: self.vae_dtype.map(Dtype::kind) }
    }

    /// After [`Config::fetch`], if it is named by an id.
    pub fn open(&self) -> Result<Pipeline> {
        let (variant, tokenizer) = (self.variant.as_deref(), self.tokenizer.as_deref());
        Pipeline::open_at(&self.path, variant, tokenizer, self.precision(), self.device.device()?)
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
    /// Of the caption loss, beside the other losses.
    #[serde(default = "Captioner::default_weight")]
    pub weight: f64,
    /// Samples decoded and captioned at a time; 0: the whole batch.
    #[serde(default)]
    pub micro_batch: usize,
}

impl Captioner {
    /// The captioner of a folder, with everything else as it is by default.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path: path.into(),
            prefix: Self::default_prefix(),
            reduction: Reduction::default(),
            weight: 1.0,
            micro_batch: 0,
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

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// `.txt` or `.jsonl`
    pub train: PathBuf,
    /// Held out: the caption loss is measured on them now and then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
}

/// How a training image comes about.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    pub sampler: SamplerKind,
    pub steps: usize,
    /// DDIM only: 0 is deterministic.
    pub eta: f64,
    pub guidance_scale: f64,
    pub guidance_rescale: f64,
    pub negative_prompt: String,
    /// Width and height in pixels; absent: what the model was trained for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            sampler: SamplerKind::Ddpm,
            steps: 50,
            eta: 0.0,
            guidance_scale: 7.5,
            guidance_rescale: 0.0,
            negative_prompt: String::new(),
            size: None,
        }
    }
}

impl Sampling {
    /// Refuses values that no sampler can have.
    pub fn check(&self) -> Result<()> {
        above_zero(&[("sampling.steps", self.steps as f64)])?;
        in_range(&[
            ("sampling.guidance_scale", self.guidance_scale, f64::MAX),
            ("sampling.guidance_rescale", self.guidance_rescale, 1.0),
            ("sampling.eta", self.eta, 1.0),
        ])
    }

    pub fn guidance(&self) -> Guidance {
        Guidance { scale: self.guidance_scale, rescale: self.guidance_rescale }
    }
}

/// How gradients go back through the trajectory.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    pub mode: replay::Mode,
    /// Steps that receive gradients (K).
    pub tracked: usize,
    pub policy: tracked::Policy,
    /// A sample's cotangent (of its own loss, at its latents) is scaled down to this norm before it enters a step, where it
    /// exceeds it: a few samples would else drown the others. 0: it is left as it is.
    pub max_cotangent: f64,
    /// Samples replayed at a time: less memory for smaller ones; 0: the whole batch.
    pub micro_batch: usize,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            mode: replay::Mode::Detached,
            tracked: 5,
            policy: tracked::Policy::Grid,
            max_cotangent: 0.0,
            micro_batch: 0,
        }
    }
}

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
    #[serde(default = "Attention::default_token_weight")]
    pub token_weight: f64,
    #[serde(default = "Attention::default_pixel_weight")]
    pub pixel_weight: f64,
}

impl Attention {
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

/// Fidelity Preservation: a discriminator that tells generated latents from those of the original model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fidelity {
    /// Of the adversarial loss, beside the other losses.
    pub weight: f64,
    /// Folder of the original model's latents; the missing ones are made. Absent: `latents` in the run's own folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latents: Option<PathBuf>,
    /// The seed that they are sampled from: runs with other seeds can share them.
    pub latents_seed: u64,
    /// Guidance scale that they are sampled with; absent: that of `sampling`. A run that trains without guidance can so be held
    /// to the pictures that the original model draws with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// The model whose UNet the discriminator is made of; absent: the one that is tuned, whose weights are then shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Location>,
    /// Of the discriminator's own adapter.
    pub rank: i64,
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    /// Samples judged at a time; 0: the whole batch.
    pub micro_batch: usize,
}

impl Default for Fidelity {
    fn default() -> Self {
        Self {
            weight: 1.0,
            latents: None,
            latents_seed: 0,
            guidance_scale: None,
            model: None,
            rank: 128,
            learning_rate: 2e-5,
            betas: [0.0, 0.999],
            weight_decay: 1e-2,
            max_grad_norm: 1.0,
            micro_batch: 0,
        }
    }
}

impl Fidelity {
    /// The discriminator's.
    pub fn optimizer(&self) -> Optimizer {
        Optimizer {
            learning_rate: self.learning_rate,
            betas: self.betas,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            ..Default::default()
        }
    }
}

/// Mixed latents: pictures with captions, noised and denoised, for the caption loss.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mixed {
    /// A folder of pictures with captions, a `.jsonl` of them, or WebDataset shards.
    pub pairs: PathBuf,
    /// Of their caption loss, beside that of the prompts.
    #[serde(default = "Mixed::default_weight")]
    pub weight: f64,
    /// Pictures in a step's trajectory; 0: as many as prompts.
    #[serde(default)]
    pub batch_size: usize,
    /// T1 and T2: a picture enters at one of the sampler's timesteps from the one to the other (of 1000), all alike likely.
    #[serde(default = "Mixed::default_timesteps")]
    pub timesteps: [i64; 2],
}

impl Mixed {
    fn default_weight() -> f64 {
        1.0
    }

    /// The paper does not say; these are ours.
    fn default_timesteps() -> [i64; 2] {
        [400, 800]
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    pub rank: i64,
    /// The adapter is scaled by alpha / rank; absent: alpha = rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Names of the linear layers that are adapted, wherever they occur in the UNet.
    pub targets: Vec<String>,
    /// An adapter file to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

impl Default for Lora {
    fn default() -> Self {
        let targets = ["to_q", "to_k", "to_v", "to_out.0"].map(str::to_owned).to_vec();
        Self { rank: 128, alpha: None, targets, init: None }
    }
}

impl Lora {
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub weight_decay: f64,
    pub epsilon: f64,
    /// Gradients are scaled down to this norm when they exceed it.
    pub max_grad_norm: f64,
    pub schedule: RateSchedule,
    /// Steps over which the rate rises from 0.
    pub warmup_steps: u64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            learning_rate: 5e-5,
            betas: [0.9, 0.999],
            weight_decay: 1e-2,
            epsilon: 1e-8,
            max_grad_norm: 0.1,
            schedule: RateSchedule::Constant,
            warmup_steps: 0,
        }
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RateSchedule {
    Constant,
    /// Down to 0 at the last step, linearly.
    Linear,
    /// Down to 0 at the last step, along half a cosine.
    Cosine,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Optimiser steps.
    pub steps: u64,
    /// Samples in one trajectory. Those of a step (times `accumulation`) are shared by the ranks, whose number changes nothing.
    pub batch_size: usize,
    /// Trajectories whose gradients are averaged for one optimiser step.
    pub accumulation: usize,
    /// Decay of the adapter's running average, for example 0.99; 0: none is kept.
    pub ema: f64,
}

impl Default for Train {
    fn default() -> Self {
        Self { steps: 2000, batch_size: 4, accumulation: 1, ema: 0.0 }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Steps between two; 0: only at the end.
    pub every: u64,
    /// How many to keep; 0: all.
    pub keep: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 100, keep: 3 }
    }
}

/// Images made on the way, always from the same seeds.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Samples {
    /// Steps between two rounds; 0: only before and after.
    pub every: u64,
    /// Absent: the first `count` held-out prompts, or training prompts where none are held out.
    pub prompts: Vec<String>,
    pub count: usize,
    pub seed: u64,
    /// Also show where each word of a prompt looks, beside where it looked before the training.
    pub attention: bool,
}

impl Default for Samples {
    fn default() -> Self {
        Self { every: 100, prompts: vec![], count: 4, seed: 0, attention: false }
    }
}

/// The caption loss on held-out prompts, always from the same noise.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Validation {
    /// Steps between two measurements; 0: only before and after.
    pub every: u64,
    /// How many of the prompts to use; 0: all.
    pub count: usize,
    /// Looks at the images, too, and has no part in the losses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<Judge>,
    /// Keep the adapter of the best round, by the judge's first figure, in `best/`.
    pub keep_best: bool,
    /// Stop after so many rounds that were no better than the best; 0: never.
    pub early_stop: u64,
}

impl Default for Validation {
    fn default() -> Self {
        Self { every: 100, count: 32, judge: None, keep_best: false, early_stop: 0 }
    }
}

/// Who watches a run.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Judge {
    /// The miniature world's own.
    World,
    /// The cosine between picture and prompt; a CLIP folder in transformers layout, or an id of the hub.
    Clip { model: Location },
}

impl Config {
    /// Fetches all models that are named by an id. Everything that opens one comes after this.
    pub fn fetch(&mut self, hub: HubOf, progress: &dyn Progress) -> Result<()> {
        let (network, reader) = (Layout::Network { tokenizer: false }, Layout::Network { tokenizer: true });
        let variant = self.model.variant.as_deref();
        self.model.path.fetch(Layout::Diffusion, variant, hub, progress).context("model.path")?;
        fetch_tokenizer(&self.model.path, &mut self.model.tokenizer, hub, progress)?;
        self.captioner.path.fetch(reader, None, hub, progress).context("captioner.path")?;
        if let Some(Attention { segmenter: Segmenter::Grounded { detector, segmenter, .. }, .. }) = &mut self.attention
        {
            detector.fetch(reader, None, hub, progress).context("attention.segmenter.detector")?;
            segmenter.fetch(network, None, hub, progress).context("attention.segmenter.segmenter")?;
        }
        if let Some(model) = self.fidelity.as_mut().and_then(|fidelity| fidelity.model.as_mut()) {
            model.fetch(Layout::Diffusion, None, hub, progress).context("fidelity.model")?;
        }
        if let Some(Judge::Clip { model }) = &mut self.validation.judge {
            model.fetch(reader, None, hub, progress).context("validation.judge.model")?;
        }
        Ok(())
    }

    /// Refuses values that no run can have.
    pub fn check(&self) -> Result<()> {
        self.sampling.check()?;
        self.ranks.check()?;
        self.memory.tiling()?;
        above_zero(&[
            ("replay.tracked", self.replay.tracked as f64),
            ("lora.rank", self.lora.rank as f64),
            ("lora.alpha", self.lora.alpha()),
            ("train.batch_size", self.train.batch_size as f64),
            ("train.accumulation", self.train.accumulation as f64),
            ("optimizer.learning_rate", self.optimizer.learning_rate),
            ("optimizer.epsilon", self.optimizer.epsilon),
            ("optimizer.max_grad_norm", self.optimizer.max_grad_norm),
        ])?;
        in_range(&[
            ("replay.max_cotangent", self.replay.max_cotangent, f64::MAX),
            ("captioner.weight", self.captioner.weight, f64::MAX),
            ("optimizer.betas[0]", self.optimizer.betas[0], 1.0 - 1e-12),
            ("optimizer.betas[1]", self.optimizer.betas[1], 1.0 - 1e-12),
            ("optimizer.weight_decay", self.optimizer.weight_decay, f64::MAX),
            ("train.batch_size", self.train.batch_size as f64, 1e6),
            ("train.accumulation", self.train.accumulation as f64, 1e6),
            ("train.ema", self.train.ema, 1.0 - 1e-12),
        ])?;
        if self.replay.tracked > self.sampling.steps {
            bail!("replay.tracked is {}, more than the {} sampling steps", self.replay.tracked, self.sampling.steps);
        }
        if let Some(attention) = &self.attention {
            above_zero(&[("attention.steps", attention.steps as f64)])?;
            in_range(&[
                ("attention.token_weight", attention.token_weight, f64::MAX),
                ("attention.pixel_weight", attention.pixel_weight, f64::MAX),
            ])?;
            if let Segmenter::Grounded { box_threshold, text_threshold, .. } = attention.segmenter {
                in_range(&[
                    ("attention.segmenter.box_threshold", box_threshold, 1.0),
                    ("attention.segmenter.text_threshold", text_threshold, 1.0),
                ])?;
            }
        }
        let watch = &self.validation;
        if watch.judge.is_none() && (watch.keep_best || watch.early_stop > 0) {
            bail!("validation.keep_best and validation.early_stop go by a judge; name one in validation.judge");
        }
        if watch.judge.is_some() && self.prompts.validation.is_none() {
            bail!("validation.judge looks at pictures of held-out prompts; name their file in prompts.validation");
        }
        if let Some(mixed) = &self.mixed {
            in_range(&[("mixed.weight", mixed.weight, f64::MAX), ("mixed.batch_size", mixed.batch_size as f64, 1e6)])?;
        }
        if let Some(fidelity) = &self.fidelity {
            above_zero(&[
                ("fidelity.rank", fidelity.rank as f64),
                ("fidelity.learning_rate", fidelity.learning_rate),
                ("fidelity.max_grad_norm", fidelity.max_grad_norm),
            ])?;
            in_range(&[
                ("fidelity.weight", fidelity.weight, f64::MAX),
                ("fidelity.guidance_scale", fidelity.guidance_scale.unwrap_or(0.0), f64::MAX),
                ("fidelity.betas[0]", fidelity.betas[0], 1.0 - 1e-12),
                ("fidelity.betas[1]", fidelity.betas[1], 1.0 - 1e-12),
                ("fidelity.weight_decay", fidelity.weight_decay, f64::MAX),
            ])?;
        }
        if self.lora.targets.is_empty() {
            bail!("lora.targets is empty: nothing would be trained");
        }
        Ok(())
    }
}

/// Fetches the tokenizer that a model in a single file needs.
pub fn fetch_tokenizer(
    model: &Path,
    tokenizer: &mut Option<Location>,
    hub: HubOf,
    progress: &dyn Progress,
) -> Result<()> {
    if !is_single_file(model) {
        return Ok(());
    }
    tokenizer
        .get_or_insert_with(|| PathBuf::from(TOKENIZER).into())
        .fetch(Layout::Tokenizer, None, hub, progress)
        .with_context(|| {
            format!(
                "{} is a single file, which has no tokenizer (model.tokenizer and --tokenizer name a folder with one)",
                model.display()
            )
        })
}

fn above_zero(values: &[(&str, f64)]) -> Result<()> {
    match values.iter().find(|(_, value)| value.is_nan() || *value <= 0.0) {
        Some((key, value)) => bail!("{key} is {value}, it must be above 0"),
        None => Ok(()),
    }
}

/// From 0 to a most.
fn in_range(values: &[(&str, f64, f64)]) -> Result<()> {
    match values.iter().find(|(_, value, most)| !(0.0..=*most).contains(value)) {
        Some((key, value, most)) if *most < f64::MAX => bail!("{key} is {value}, it must be from 0 to {most:.0}"),
        Some((key, value, _)) => bail!("{key} is {value}, it must be a finite number, not below 0"),
        None => Ok(()),
    }
}
