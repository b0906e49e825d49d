//! Noise schedules and the samplers that walk them, as lists of linear steps.
//!
//! Every sampler here is linear in the latents and the model's output: `x' = a x + b e + sigma z`. That is what makes
//! the replay of a trajectory exact, so the coefficients are all that a sampler is.
//!
//! Papers: Ho et al., "Denoising Diffusion Probabilistic Models" (2020); Song et al., "Denoising Diffusion Implicit
//! Models" (2021); Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2023). Conventions:
//! diffusers `DDPMScheduler`, `DDIMScheduler`.

use crate::{
    config::Json,
    error::{Error, Result},
};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};
use tch::{Device, Kind, Tensor};

/// What the UNet predicts.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    Epsilon,
    VPrediction,
}

/// How the sampling steps are spread over the training steps.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplerKind {
    /// Stochastic, with the small variance of the paper's equation 7.
    Ddpm,
    /// Deterministic for eta = 0.
    Ddim,
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Ddpm => "ddpm",
            Self::Ddim => "ddim",
        })
    }
}

impl std::str::FromStr for SamplerKind {
    type Err = String;
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "ddpm" => Ok(Self::Ddpm),
            "ddim" => Ok(Self::Ddim),
            _ => Err(format!("unknown sampler `{name}`; there are ddpm and ddim")),
        }
    }
}

/// The noise that a model was trained with, and how its steps are counted.
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    /// The share of signal left after each training step, `ᾱ_t`.
    alphas_cumprod: Vec<f64>,
    pub prediction: Prediction,
    pub spacing: Spacing,
    pub steps_offset: i64,
    /// DDIM's last step goes to the clean image rather than to training step 0.
    pub set_alpha_to_one: bool,
    /// The sampler that the folder was saved with, where we have it.
    pub saved_with: Option<SamplerKind>,
}

impl NoiseSchedule {
    /// The share of signal left after each training step, `ᾱ_t` for t = 0, 1, …
    pub fn signal(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// Reads a diffusers `scheduler_config.json` of any class: all of them describe the same noise.
    pub fn read(path: &Path) -> Result<Self> {
        Self::of(&Json::read(path)?)
    }

    /// As [`NoiseSchedule::read`], from what lies in memory.
    pub fn of(json: &Json) -> Result<Self> {
        let class: String = json.get_or("_class_name", "DDPMScheduler".into())?;
        let saved_with = match class.as_str() {
            "DDPMScheduler" => Some(SamplerKind::Ddpm),
            "DDIMScheduler" => Some(SamplerKind::Ddim),
            _ => None,
        };
        let train_steps: usize = json.get_or("num_train_timesteps", 1000)?;
        let (start, end) = (json.get_or("beta_start", 0.0001)?, json.get_or("beta_end", 0.02)?);
        if train_steps == 0 || !(start > 0.0 && start <= end && end < 1.0) {
            return Err(
                json.error("beta_start", "and beta_end must lie between 0 and 1, with num_train_timesteps above 0")
            );
        }
        // In float32 and by the same operations as upstream, so that the coefficients are the same numbers.
        let ramp = |from: f64, to: f64| Tensor::linspace(from, to, train_steps as i64, (Kind::Float, Device::Cpu));
        let betas = match json.get_or("beta_schedule", "linear".to_string())?.as_str() {
            "linear" => ramp(start, end),
            "scaled_linear" => ramp(start.sqrt(), end.sqrt()).square(),
            other => {
                return Err(json.error("beta_schedule", &format!("is {other}; linear and scaled_linear are supported")));
            }
        };
        let mut alphas_cumprod = Vec::<f32>::try_from((-betas + 1.0).cumprod(0, Kind::Float))?;
        let zero_snr: bool = json.get_or("rescale_betas_zero_snr", false)?;
        if zero_snr {
            rescale_to_zero_snr(&mut alphas_cumprod);
        }
        let alphas_cumprod = alphas_cumprod.into_iter().map(f64::from).collect();
        let schedule = Self {
            alphas_cumprod,
            prediction: json.get_or("prediction_type", Prediction::Epsilon)?,
            spacing: json.get_or("timestep_spacing", Spacing::Leading)?,
            steps_offset: json.get_or("steps_offset", 0)?,
            set_alpha_to_one: json.get_or("set_alpha_to_one", true)?,
            saved_with,
        };
        if zero_snr && schedule.prediction == Prediction::Epsilon {
            return Err(
                json.error("rescale_betas_zero_snr", "leaves no signal at the last step; it needs v_prediction")
            );
        }
        json.only("trained_betas", serde_json::Value::Null)?;
        json.only("thresholding", false)?;
        // DDPM and DDIM clip unless told otherwise; the other classes have no such step.
        let clips = json.get_or("clip_sample", saved_with.is_some())?;
        if clips {
            return Err(json
                .error("clip_sample", "is true; clipping is not linear, so it cannot be replayed (set it to false)"));
        }
        json.only("variance_type", "fixed_small")?;
        // What is left belongs to other sampler classes.
        Ok(schedule)
    }

    /// The steps from noise to image. `eta` (DDIM only): 0 is deterministic, 1 adds as much noise as DDPM.
    pub fn sampler(&self, kind: SamplerKind, steps: usize, eta: f64) -> Result<Sampler> {
        let timesteps = self.timesteps(steps)?;
        let stride = (self.alphas_cumprod.len() / steps) as i64;
        let walk = timesteps.iter().enumerate().map(|(i, &t)| {
            let before = match kind {
                SamplerKind::Ddpm => timesteps.get(i + 1).copied().unwrap_or(-1),
                SamplerKind::Ddim => t - stride,
            };
            self.step(kind, eta, t, before)
        });
        Ok(Sampler { steps: walk.collect() })
    }

    /// In training steps, from the noisiest.
    fn timesteps(&self, steps: usize) -> Result<Vec<i64>> {
        let train = self.alphas_cumprod.len();
        if steps == 0 || steps > train {
            return Err(Error::Input(format!("{steps} sampling steps: must be 1 to {train}")));
        }
        let timesteps: Vec<i64> = match self.spacing {
            Spacing::Leading => (0..steps).rev().map(|i| (i * (train / steps)) as i64 + self.steps_offset).collect(),
            Spacing::Linspace => {
                let gap = (train - 1) as f64 / (steps.max(2) - 1) as f64;
                (0..steps).rev().map(|i| (i as f64 * gap).round_ties_even() as i64).collect()
            }
            Spacing::Trailing => {
                let gap = train as f64 / steps as f64;
                let count = (train as f64 / gap).ceil() as usize;
                (0..count).map(|i| (train as f64 - i as f64 * gap).round_ties_even() as i64 - 1).collect()
            }
        };
        match timesteps.iter().find(|&&t| t < 0 || t >= train as i64) {
            Some(t) => {
                Err(Error::Input(format!("steps_offset {} leads to the timestep {t} of {train}", self.steps_offset)))
            }
            None => Ok(timesteps),
        }
    }

    fn step(&self, kind: SamplerKind, eta: f64, t: i64, before: i64) -> Step {
        let now = self.alphas_cumprod[t as usize];
        let past_the_end = match kind {
            SamplerKind::Ddim if !self.set_alpha_to_one => self.alphas_cumprod[0],
            _ => 1.0,
        };
        let then = if before < 0 { past_the_end } else { self.alphas_cumprod[before as usize] };
        let (signal, noise) = (now.sqrt(), (1.0 - now).sqrt());
        // (of x, of e): the clean image and the noise that the model's output stands for
        let (clean, epsilon) = match self.prediction {
            Prediction::Epsilon => ((1.0 / signal, -noise / signal), (0.0, 1.0)),
            Prediction::VPrediction => ((signal, -noise), (noise, signal)),
        };
        let beta = 1.0 - now / then;
        let small_variance = (1.0 - then) / (1.0 - now) * beta;
        match kind {
            SamplerKind::Ddpm => {
                let of_clean = then.sqrt() * beta / (1.0 - now);
                let of_x = (now / then).sqrt() * (1.0 - then) / (1.0 - now);
                let sigma = if t > 0 { small_variance.max(1e-20).sqrt() } else { 0.0 };
                Step { timestep: t, a: of_clean * clean.0 + of_x, b: of_clean * clean.1, sigma }
            }
            SamplerKind::Ddim => {
                let sigma = eta * small_variance.max(0.0).sqrt();
                let direction = (1.0 - then - sigma * sigma).max(0.0).sqrt();
                Step {
                    timestep: t,
                    a: then.sqrt() * clean.0 + direction * epsilon.0,
                    b: then.sqrt() * clean.1 + direction * epsilon.1,
                    sigma,
                }
            }
        }
    }
}

/// Lin et al. 2023, algorithm 1: shifts and scales `sqrt(ᾱ)` so that the last one is 0 and the first stays.
fn rescale_to_zero_snr(alphas_cumprod: &mut [f32]) {
    let (first, last) = (alphas_cumprod[0].sqrt(), alphas_cumprod[alphas_cumprod.len() - 1].sqrt());
    for alpha in alphas_cumprod {
        *alpha = ((alpha.sqrt() - last) * first / (first - last)).powi(2);
    }
}

/// One step of a sampler: `x' = a x + b e + sigma z`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// In training steps, as the UNet takes it.
    pub timestep: i64,
    pub a: f64,
    pub b: f64,
    pub sigma: f64,
}

impl Step {
    /// latents x, model output e and noise z, all of one shape. Without z the step is taken without noise.
    pub fn apply(&self, x: &Tensor, e: &Tensor, z: Option<&Tensor>) -> Tensor {
        let next = x * self.a + e * self.b;
        match z {
            Some(z) if self.sigma != 0.0 => next + z * self.sigma,
            _ => next,
        }
    }
}

/// The whole walk from noise to image.
#[derive(Debug, Clone)]
pub struct Sampler {
    pub steps: Vec<Step>,
}

impl Sampler {
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// From a step on.
    pub fn from(&self, first: usize) -> Self {
        Self { steps: self.steps.iter().skip(first).copied().collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn is_stochastic(&self) -> bool {
        self.steps.iter().any(|s| s.sigma != 0.0)
    }
}
