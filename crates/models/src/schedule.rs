//! Noise schedules and the samplers that walk them, as lists of linear steps.
//!
//! Every sampler here is linear in the latents and the model's output: `x' = a x + b e + sigma z`. That is what makes
//! the replay of a trajectory exact, so the coefficients are all that a sampler is.
//!
//! Papers: Ho et al., "Denoising Diffusion Probabilistic Models" (2020); Song et al., "Denoising Diffusion Implicit
//! Models" (2021); Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2023). Conventions:
//! diffusers `DDPMScheduler`, `DDIMScheduler`.

mod classes;
mod reading;

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use tch::Tensor;

pub use reading::Forced;

/// What the UNet predicts.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    #[serde(alias = "eps")]
    Epsilon,
    /// The velocity.
    #[serde(alias = "v", alias = "velocity")]
    VPrediction,
}

impl Prediction {
    /// As diffusers writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::VPrediction => "v_prediction",
        }
    }
}

impl std::str::FromStr for Prediction {
    type Err = String;
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name.trim().to_ascii_lowercase().replace('-', "_").as_str() {
            "epsilon" | "eps" => Ok(Self::Epsilon),
            "v_prediction" | "v_pred" | "v" | "velocity" => Ok(Self::VPrediction),
            _ => Err(format!("unknown prediction type `{name}`; there are epsilon and v_prediction")),
        }
    }
}

/// How the sampling steps are spread over the training steps.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// The sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SamplerKind {
    /// Stochastic, with the small variance of equation 7 in the DDPM paper.
    Ddpm,
    /// Deterministic where `eta` is 0.
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

    /// The steps from noise to image. `eta` (DDIM only): 0 is deterministic, 1 adds as much noise as DDPM.
    pub fn sampler(&self, kind: SamplerKind, steps: usize, eta: f64) -> Result<Sampler> {
        let timesteps = self.timesteps(steps)?;
        let stride = (self.alphas_cumprod.len() / steps) as i64;
        let walk = timesteps.iter().enumerate().map(|(i, &t)| {
            let before = match (kind, self.spacing) {
                // diffusers' DDIM steps by the stride here too, past where the next step starts: its issue 12633
                (SamplerKind::Ddpm, _) | (_, Spacing::Linspace) => timesteps.get(i + 1).copied().unwrap_or(-1),
                (SamplerKind::Ddim, _) => t - stride,
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
