//! Arguments that several verbs have, and parsers of numbers.

use crate::share;
use clap::Args as Group;
use config::SamplerKind;
use diffusion::{
    pipeline::{Overrides, Precision},
    settings::{Dtype, Location, Sampling, Scaled, Where},
};
use images::Size;
use models::schedule::Prediction;
use ranks::{Terms, interrupt::Interrupt};
use std::{
    num::{IntErrorKind, ParseIntError},
    time::Duration,
};

/// A model, and a LoRA for it
#[derive(Group)]
pub struct Source {
    /// Model folder in diffusers layout, one .safetensors file, or an id of the hub: OWNER/NAME, OWNER/NAME@REVISION
    #[arg(long, value_name = "DIR|ID", value_parser = share::model)]
    pub model: Location,
    /// Variant of the weight files, such as fp16, where it exists
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// For a model in a single file: folder with CLIP's tokenizer, or an id [default: openai/clip-vit-large-patch14]
    #[arg(long, value_name = "DIR|ID")]
    pub tokenizer: Option<Location>,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    /// LoRA with its strength (1 when absent): a file, a folder with one, or OWNER/NAME[:FILE] of the hub; can be given
    /// several times
    #[arg(long, value_name = "FILE|DIR|ID[:SCALE]")]
    pub lora: Vec<Scaled>,
    /// Strength of all LoRAs, times that of each
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = strength, allow_negative_numbers = true, requires = "lora")]
    pub lora_scale: f64,
}

/// How a model is read, where that is not as its files say
#[derive(Group, Clone, Copy)]
pub struct OverrideArgs {
    /// What the UNet predicts, where the files do not say or say wrongly: epsilon, v_prediction or sample
    #[arg(long, value_name = "NAME")]
    pub prediction_type: Option<Prediction>,
    /// Zero terminal SNR (the last timestep is pure noise), where the files do not say or say wrongly
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub rescale_betas_zero_snr: Option<bool>,
    /// Which of the text encoders' layers the UNet sees, from the end: 1 is the last [default: 1 for SD1 and SD2, 2 for SDXL]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub clip_skip: Option<usize>,
    /// Cut prompts of more than 75 tokens into up to N chunks of 75, as A1111, ComfyUI and sd-scripts do; 1 drops the rest [default: 1]
    #[arg(long, value_name = "N", value_parser = chunks)]
    pub chunks: Option<usize>,
}

fn chunks(text: &str) -> Result<usize, String> {
    from_one_to(config::Prompts::MOST_CHUNKS, text)
}

impl From<OverrideArgs> for Overrides {
    fn from(args: OverrideArgs) -> Self {
        let OverrideArgs { prediction_type, rescale_betas_zero_snr, clip_skip, chunks } = args;
        Self { prediction_type, rescale_betas_zero_snr, clip_skip, chunks: chunks.filter(|n| *n > 1) }
    }
}

/// How images are drawn
#[derive(Group, Clone)]
pub struct SamplingArgs {
    /// Sampling steps
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    pub steps: usize,
    /// ddim, ddpm, euler, euler_a, dpm++_2m or dpm++_2m_karras
    #[arg(long, value_name = "NAME", default_value = "ddim")]
    pub sampler: SamplerKind,
    /// Noise of the ddim sampler: 0 (none) to 1
    #[arg(long, default_value_t = 0.0)]
    pub eta: f64,
    /// Classifier-free guidance; 1 and below are none
    #[arg(long, value_name = "SCALE", default_value_t = 7.5)]
    pub guidance_scale: f64,
    /// Rescale guided images to the contrast of unguided ones (0 to 1), against over-exposure
    #[arg(long, value_name = "PHI", default_value_t = 0.0)]
    pub guidance_rescale: f64,
    /// What the images should not show
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative_prompt: String,
    /// WIDTHxHEIGHT in pixels, or one number for a square; the model's own size when absent
    #[arg(long)]
    pub size: Option<Size>,
}

impl SamplingArgs {
    pub fn checked(self) -> anyhow::Result<Sampling> {
        let sampling = Sampling {
            sampler: self.sampler,
            steps: self.steps,
            eta: self.eta,
            guidance_scale: self.guidance_scale,
            guidance_rescale: self.guidance_rescale,
            negative_prompt: self.negative_prompt,
            size: self.size,
        };
        sampling.check()?;
        for (setting, why) in sampling.without_effect() {
            tracing::warn!("no effect: --{} ({why})", setting.replace('_', "-"));
        }
        Ok(sampling)
    }
}

/// Where and how to compute
#[derive(Group)]
pub struct Engine {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: Where,
    /// float32, float16, bfloat16 or float64
    #[arg(long, default_value = "float32")]
    pub dtype: Dtype,
    /// Precision of the VAE [default: --dtype; float32 where it is known to overflow in float16]
    #[arg(long, value_name = "DTYPE")]
    pub vae_dtype: Option<Dtype>,
}

impl Engine {
    pub fn precision(&self) -> Precision {
        Precision { networks: self.dtype.kind(), vae: self.vae_dtype.map(Dtype::kind) }
    }
}

/// Work that several processes share
#[derive(Group)]
pub struct Ranks {
    /// Share the work among N processes on this machine, one GPU each; over machines: torchrun or srun (docs/parallel.md)
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub processes: Option<usize>,
}

/// Work that several processes share, of a verb without a configuration
#[derive(Group)]
pub struct TimedRanks {
    #[command(flatten)]
    pub ranks: Ranks,
    /// Seconds that processes wait for each other before they give up; must be longer than the longest download
    #[arg(long, value_name = "SECONDS", default_value_t = config::Ranks::default().timeout, value_parser = timeout)]
    pub ranks_timeout: f64,
}

impl TimedRanks {
    /// `hint`: what remains of work that was given up, and how to continue.
    pub fn terms(&self, hint: &'static str, interrupt: &Interrupt) -> Terms {
        Terms {
            timeout: Duration::from_secs_f64(self.ranks_timeout),
            setting: "--ranks-timeout",
            hint,
            interrupt: Some(interrupt.clone()),
        }
    }
}

fn timeout(text: &str) -> Result<f64, String> {
    let most = config::Ranks::LONGEST;
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= most => Ok(seconds),
        Ok(_) => Err(format!("must be above 0 and at most {most}")),
        Err(_) => Err("must be a number".into()),
    }
}

pub fn from_one_to(most: usize, text: &str) -> Result<usize, String> {
    at_least_one(text).and_then(|n| if n <= most { Ok(n) } else { Err(format!("must be at most {most}")) })
}

pub fn strength(text: &str) -> Result<f64, String> {
    diffusion::settings::strength(text.parse().map_err(|_| "must be a number")?)
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(whole(1, &e)),
    }
}

/// Why a text is not a whole number from `least` on.
pub fn whole(least: usize, error: &ParseIntError) -> String {
    match error.kind() {
        IntErrorKind::PosOverflow => "is too large".into(),
        _ => format!("must be a whole number, {least} or more"),
    }
}

pub fn unit_interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1".into()),
    }
}
