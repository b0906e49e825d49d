//! Noise schedules, and samplers as lists of linear steps.
//!
//! Every sampler here is linear in the latents and the model's output: `x' = a x + b e + sigma z`. So the replay of a
//! trajectory is exact, and a sampler is fully given by its coefficients. Second-order samplers also use the latents
//! and the output of the step before, linearly; they draw images but cannot be used in training.
//!
//! Papers: Ho et al., "Denoising Diffusion Probabilistic Models" (2020); Song et al., "Denoising Diffusion Implicit
//! Models" (2021); Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2023). The papers of the
//! other samplers are named in `schedule/sigmas.rs`. Conventions: diffusers `DDPMScheduler`, `DDIMScheduler`.

mod classes;
mod kind;
mod reading;
mod sampler;
mod sigmas;

use crate::{
    config::inform_once,
    error::{Error, Result},
};
use serde::{Deserialize, Serialize};
use tch::Tensor;

pub use kind::SamplerKind;
pub use reading::Forced;
pub use sampler::{Sampler, Step, Walk};

/// The path between noise and image that a model was trained for, in steps that are linear in latents and model output.
pub trait NoisePath: Sync {
    /// The steps from noise to image. `eta` (DDIM only): 0 is deterministic, 1 adds as much noise as DDPM.
    ///
    /// # Errors
    /// If the path does not support this sampler or this number of steps.
    fn sampler(&self, kind: SamplerKind, steps: usize, eta: f64) -> Result<Sampler>;

    /// The factors `[c, d]` of the latents at a time: `x_t = c x_0 + d noise`.
    fn mix(&self, time: f64) -> [f64; 2];

    /// What the network predicts at a time, as factors of clean image and noise: `target = c x_0 + d noise`.
    fn target(&self, time: f64) -> [f64; 2];

    /// Number of training steps; times are below it.
    fn length(&self) -> usize;

    /// The schedule, if this is a diffusion path; for code that needs diffusion.
    fn diffusion(&self) -> Option<&NoiseSchedule> {
        None
    }
}

/// `c x + d noise`, with the factors `[c, d]` that `of` has at each sample's time, such as [`NoisePath::mix`] or
/// [`NoisePath::target`]. Both tensors `[B, C, h, w]`, and one time of each of the B samples.
pub fn blend(x: &Tensor, noise: &Tensor, times: &[i64], of: &dyn Fn(f64) -> [f64; 2]) -> Tensor {
    let factor = |which: usize| {
        let values: Vec<f64> = times.iter().map(|time| of(*time as f64)[which]).collect();
        Tensor::from_slice(&values).to_device(x.device()).to_kind(x.kind()).view([-1, 1, 1, 1])
    };
    x * factor(0) + noise * factor(1)
}

impl NoisePath for NoiseSchedule {
    fn sampler(&self, kind: SamplerKind, steps: usize, eta: f64) -> Result<Sampler> {
        let spacing = self.spacing.unwrap_or(kind.spacing());
        if (kind, spacing) == (SamplerKind::Ddim, Spacing::Linspace) {
            inform_once(
                "timestep_spacing is linspace: a step of DDIM goes to where the next one starts. In diffusers it goes further \
                 (its issue 12633), so images differ from those drawn there"
                    .into(),
            );
        }
        match kind {
            SamplerKind::Ddpm => match &self.without_ddpm {
                Some(why) => Err(Error::Input(why.clone())),
                None => self.ddpm(steps, spacing),
            },
            SamplerKind::Ddim => self.ddim(steps, eta, spacing),
            SamplerKind::Euler => self.euler(steps, spacing),
            SamplerKind::EulerA => self.euler_ancestral(steps, spacing),
            SamplerKind::Dpmpp2m => self.dpmpp_2m(steps, spacing, false),
            SamplerKind::Dpmpp2mKarras => self.dpmpp_2m(steps, spacing, true),
        }
    }

    fn mix(&self, time: f64) -> [f64; 2] {
        let signal = self.signal_at(time);
        [signal.sqrt(), (1.0 - signal).sqrt()]
    }

    fn target(&self, time: f64) -> [f64; 2] {
        let [signal, noise] = self.mix(time);
        match self.prediction {
            Prediction::Epsilon => [0.0, 1.0],
            Prediction::VPrediction => [-noise, signal],
            Prediction::Sample => [1.0, 0.0],
        }
    }

    fn length(&self) -> usize {
        self.alphas_cumprod.len()
    }

    fn diffusion(&self) -> Option<&NoiseSchedule> {
        Some(self)
    }
}

/// What the UNet predicts.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    #[serde(alias = "eps")]
    Epsilon,
    /// The velocity.
    #[serde(alias = "v", alias = "velocity", alias = "v-prediction", alias = "v_pred")]
    VPrediction,
    /// The clean image.
    #[serde(alias = "x0", alias = "original_sample")]
    Sample,
}

impl Prediction {
    /// The name in diffusers' files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::VPrediction => "v_prediction",
            Self::Sample => "sample",
        }
    }
}

impl std::str::FromStr for Prediction {
    type Err = String;
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let plain = name.trim().to_ascii_lowercase().replace(['-', '_', ' '], "");
        let plain =
            ["prediction", "parameterization", "pred"].iter().find_map(|end| plain.strip_suffix(end)).unwrap_or(&plain);
        match plain {
            "epsilon" | "eps" | "noise" => Ok(Self::Epsilon),
            "v" | "velocity" => Ok(Self::VPrediction),
            "sample" | "x0" | "originalsample" => Ok(Self::Sample),
            _ => Err(format!("unknown prediction type `{name}`; there are epsilon, v_prediction and sample")),
        }
    }
}

/// How the sampling steps are distributed over the training steps.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// The noise that a model was trained with, and how its steps are counted.
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    /// The share of signal left after each training step, `ᾱ_t`.
    alphas_cumprod: Vec<f64>,
    pub prediction: Prediction,
    /// `None`: the file does not say, and each sampler uses its own default ([`SamplerKind::spacing`]).
    pub spacing: Option<Spacing>,
    pub steps_offset: i64,
    /// Whether DDIM's last step goes to the clean image and not to training step 0.
    pub set_alpha_to_one: bool,
    /// Whether times of Karras' noise levels are truncated to whole training steps and not rounded, as diffusers does
    /// for the cosine schedule.
    cuts_times: bool,
    /// The sampler that the folder was saved with, if it is one of ours.
    pub saved_with: Option<SamplerKind>,
    /// Why DDPM's sampler cannot be used: the file names another variance of its noise.
    without_ddpm: Option<String>,
}

impl NoiseSchedule {
    /// The share of signal left after each training step, `ᾱ_t` for t = 0, 1, …
    pub fn signal(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    fn ddpm(&self, steps: usize, spacing: Spacing) -> Result<Sampler> {
        let times = self.whole_times(steps, spacing)?;
        let step = |(i, t): (usize, &usize)| self.ddpm_step(*t, times.get(i + 1).copied());
        Ok(Sampler::of(times.iter().enumerate().map(step).collect()))
    }

    fn ddim(&self, steps: usize, eta: f64, spacing: Spacing) -> Result<Sampler> {
        let times = self.whole_times(steps, spacing)?;
        let stride = self.alphas_cumprod.len() / steps;
        let step = |(i, t): (usize, &usize)| {
            let next = match spacing {
                // diffusers' DDIM also uses the stride for `linspace`, and so steps past the next time: diffusers issue
                // 12633
                Spacing::Linspace => times.get(i + 1).copied(),
                _ => t.checked_sub(stride),
            };
            self.ddim_step(eta, *t, next)
        };
        Ok(Sampler::of(times.iter().enumerate().map(step).collect()))
    }

    /// Times in training steps, from the noisiest; with `linspace` they may lie between two steps.
    fn times(&self, steps: usize, spacing: Spacing) -> Result<Vec<f64>> {
        let train = self.alphas_cumprod.len();
        if steps == 0 || steps > train {
            return Err(Error::Input(format!("{steps} sampling steps: must be 1 to {train}")));
        }
        let times: Vec<f64> = match spacing {
            Spacing::Leading => (0..steps)
                .rev()
                .map(|i| ((i * (train / steps)) as i64).saturating_add(self.steps_offset) as f64)
                .collect(),
            Spacing::Linspace => {
                let (last, gap) = ((train - 1) as f64, (train - 1) as f64 / (steps.max(2) - 1) as f64);
                (0..steps).rev().map(|i| if i > 0 && i + 1 == steps { last } else { i as f64 * gap }).collect()
            }
            Spacing::Trailing => {
                let gap = train as f64 / steps as f64;
                (0..steps).map(|i| (train as f64 - i as f64 * gap).round_ties_even() - 1.0).collect()
            }
        };
        self.inside(times)
    }

    /// Refuses times outside the schedule.
    fn inside(&self, times: Vec<f64>) -> Result<Vec<f64>> {
        let train = self.alphas_cumprod.len();
        match times.iter().find(|t| !(0.0..=(train - 1) as f64).contains(*t)) {
            Some(t) => {
                Err(Error::Input(format!("steps_offset {} leads to the timestep {t} of {train}", self.steps_offset)))
            }
            None => Ok(times),
        }
    }

    fn whole_times(&self, steps: usize, spacing: Spacing) -> Result<Vec<usize>> {
        Ok(self.times(steps, spacing)?.into_iter().map(|t| t.round_ties_even() as usize).collect())
    }

    /// Clean image and noise at a share of signal, each as factors of latents x and model output e.
    fn meaning(&self, signal: f64) -> [(f64, f64); 2] {
        let (signal, noise) = (signal.sqrt(), (1.0 - signal).sqrt());
        match self.prediction {
            Prediction::Epsilon => [(1.0 / signal, -noise / signal), (0.0, 1.0)],
            Prediction::VPrediction => [(signal, -noise), (noise, signal)],
            Prediction::Sample => [(0.0, 1.0), (1.0 / noise, -signal / noise)],
        }
    }

    /// The step from `t` to `next`; `None`: to the clean image.
    fn ddpm_step(&self, t: usize, next: Option<usize>) -> Step {
        let now = self.alphas_cumprod[t];
        let then = next.map_or(1.0, |next| self.alphas_cumprod[next]);
        let [clean, _] = self.meaning(now);
        let beta = 1.0 - now / then;
        let of_clean = then.sqrt() * beta / (1.0 - now);
        let of_x = (now / then).sqrt() * (1.0 - then) / (1.0 - now);
        let sigma = if t > 0 { small_variance(now, then).max(1e-20).sqrt() } else { 0.0 };
        Step::new(t as f64, of_clean * clean.0 + of_x, of_clean * clean.1, sigma)
    }

    fn ddim_step(&self, eta: f64, t: usize, next: Option<usize>) -> Step {
        let now = self.alphas_cumprod[t];
        let past_the_end = if self.set_alpha_to_one { 1.0 } else { self.alphas_cumprod[0] };
        let then = next.map_or(past_the_end, |next| self.alphas_cumprod[next]);
        let [clean, epsilon] = self.meaning(now);
        let sigma = eta * small_variance(now, then).max(0.0).sqrt();
        let direction = (1.0 - then - sigma * sigma).max(0.0).sqrt();
        let of = |clean: f64, epsilon: f64| then.sqrt() * clean + direction * epsilon;
        Step::new(t as f64, of(clean.0, epsilon.0), of(clean.1, epsilon.1), sigma)
    }
}

/// The smaller of the two possible variances of a step (Ho et al., equation 7), between two shares of signal.
fn small_variance(now: f64, then: f64) -> f64 {
    (1.0 - then) / (1.0 - now) * (1.0 - now / then)
}
