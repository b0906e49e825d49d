//! Reads the noise schedule that a diffusers `scheduler_config.json` describes.

use super::{NoiseSchedule, Prediction, SamplerKind, classes};
use crate::{
    config::{Json, inform_once},
    error::Result,
};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Settings that override a scheduler's file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forced {
    /// The rules of the pipelines of SD1 and SD2, which override the file: `steps_offset` is 1, and nothing is clipped.
    pub by_pipeline: bool,
    pub prediction: Option<Prediction>,
    pub zero_snr: Option<bool>,
}

impl Forced {
    /// The overrides of a model's pipeline: SDXL, or SD1 and SD2.
    pub fn by_pipeline_of(xl: bool) -> Self {
        Self { by_pipeline: !xl, ..Self::default() }
    }
}

impl NoiseSchedule {
    /// # Errors
    /// A class with other noise than DDPM's; a setting that makes replay impossible.
    pub fn read(path: &Path, forced: Forced) -> Result<Self> {
        Self::of(&Json::read(path)?, forced)
    }

    /// Like [`NoiseSchedule::read`], from JSON in memory.
    pub fn of(json: &Json, forced: Forced) -> Result<Self> {
        let name: String = json.get_or("_class_name", "DDPMScheduler".into())?;
        let Some(class) = classes::class(&name) else {
            let what = "is not known to have DDPM's noise; models of EDM, flow matching, consistency or Cascade cannot be used";
            return Err(json.error("_class_name", &format!("{name} {what}")));
        };
        let saved_with = match name.as_str() {
            "DDPMScheduler" => Some(SamplerKind::Ddpm),
            "DDIMScheduler" => Some(SamplerKind::Ddim),
            "EulerDiscreteScheduler" => Some(SamplerKind::Euler),
            "EulerAncestralDiscreteScheduler" => Some(SamplerKind::EulerA),
            _ => None,
        };
        let (mut alphas_cumprod, cosine) = signal(json, &class)?;
        let zero_snr = forced.zero_snr.unwrap_or(json.truth_or("rescale_betas_zero_snr", false)?);
        if zero_snr {
            rescale_to_zero_snr(&mut alphas_cumprod);
        }
        json.only("predict_epsilon", true)?; // in old files, before prediction_type
        let in_file = match forced.prediction {
            Some(_) => None,
            None => match json.maybe::<String>("prediction_type")? {
                Some(text) => {
                    let unknown = |_| json.error("prediction_type", &format!("has the unsupported value \"{text}\""));
                    Some(text.parse().map_err(unknown)?)
                }
                None => None,
            },
        };
        json.ignore(&["prediction_type"]);
        let prediction = forced.prediction.or(in_file).unwrap_or(Prediction::Epsilon);
        if zero_snr && prediction == Prediction::Epsilon {
            let what = "leaves no signal at the last step; it needs prediction_type v_prediction or sample (model.prediction_type)";
            return Err(json.error("rescale_betas_zero_snr", what));
        }
        let mut steps_offset = json.get_or("steps_offset", 0)?;
        if forced.by_pipeline && steps_offset != 1 {
            tracing::info!(
                "{}: steps_offset {steps_offset} is taken as 1, as diffusers' StableDiffusionPipeline does",
                json.path().display()
            );
            steps_offset = 1;
        }
        refuse_what_is_not_linear(json, class.clip_sample, forced)?;
        json.ignore(classes::OWN_KEYS);
        for said in classes::chosen(json) {
            inform_once(format!("{}: {said}", json.path().display()));
        }
        let schedule = Self {
            alphas_cumprod: alphas_cumprod.into_iter().map(f64::from).collect(),
            prediction,
            spacing: json.maybe("timestep_spacing")?,
            steps_offset,
            set_alpha_to_one: json.truth_or("set_alpha_to_one", true)?,
            cuts_times: cosine,
            saved_with,
            without_ddpm: other_variance(json)?,
        };
        json.finish()?;
        Ok(schedule)
    }
}

/// `ᾱ_t`, computed in float32 by the same operations as upstream, so that the coefficients are equal; and whether the
/// file names the cosine schedule.
fn signal(json: &Json, class: &classes::Class) -> Result<(Vec<f32>, bool)> {
    let train_steps: usize = json.get_or("num_train_timesteps", 1000)?;
    let start = json.get_or("beta_start", class.beta_start)?;
    let end = json.get_or("beta_end", class.beta_end)?;
    const MOST: usize = 1 << 20;
    if !(1..=MOST).contains(&train_steps) {
        return Err(json.error("num_train_timesteps", &format!("is {train_steps}, it must be from 1 to {MOST}")));
    }
    let ramp = |from: f64, to: f64| Tensor::linspace(from, to, train_steps as i64, (Kind::Float, Device::Cpu));
    let kind: String = json.get_or("beta_schedule", class.beta_schedule.into())?;
    let betas = match (json.maybe::<Vec<f32>>("trained_betas")?, kind.as_str()) {
        (Some(betas), _) if betas.len() != train_steps || betas.iter().any(|b| !(*b > 0.0 && *b < 1.0)) => {
            let what = format!("must be {train_steps} numbers (num_train_timesteps) between 0 and 1");
            return Err(json.error("trained_betas", &what));
        }
        (Some(betas), _) => Tensor::from_slice(&betas),
        (None, COSINE) => Tensor::from_slice(&cosine_betas(train_steps)),
        _ if !(start > 0.0 && start <= end && end < 1.0) => {
            return Err(json.error("beta_start", "and beta_end must lie between 0 and 1"));
        }
        (None, "linear") => ramp(start, end),
        (None, "scaled_linear") => ramp(start.sqrt(), end.sqrt()).square(),
        (None, other) => {
            let what = format!("is {other}; linear, scaled_linear and {COSINE} are supported");
            return Err(json.error("beta_schedule", &what));
        }
    };
    Ok((Vec::<f32>::try_from((-betas + 1.0).cumprod(0, Kind::Float))?, kind == COSINE))
}

const COSINE: &str = "squaredcos_cap_v2";

/// Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (2021), equation 17: `ᾱ` falls as a squared
/// cosine, and no step removes more than 0.999 of the signal.
fn cosine_betas(steps: usize) -> Vec<f32> {
    const OFFSET: f64 = 0.008;
    let signal = |step: usize| {
        let time = step as f64 / steps as f64;
        ((time + OFFSET) / (1.0 + OFFSET) * std::f64::consts::FRAC_PI_2).cos().powi(2)
    };
    (0..steps).map(|step| (1.0 - signal(step + 1) / signal(step)).min(0.999) as f32).collect()
}

/// Lin et al. 2023, algorithm 1: shifts and scales `sqrt(ᾱ)` so that the last value is 0 and the first is unchanged.
fn rescale_to_zero_snr(alphas_cumprod: &mut [f32]) {
    let (first, last) = (alphas_cumprod[0].sqrt(), alphas_cumprod[alphas_cumprod.len() - 1].sqrt());
    for alpha in alphas_cumprod {
        *alpha = ((alpha.sqrt() - last) * first / (first - last)).powi(2);
    }
}

/// What is to be said of a variance that DDPM's sampler here does not draw. The other samplers do not use it.
fn other_variance(json: &Json) -> Result<Option<String>> {
    Ok(match json.maybe::<String>("variance_type")?.as_deref() {
        None | Some("fixed_small" | "fixed_small_log") => None,
        Some(other) => {
            let what = format!(
                "is {other}; only fixed_small is supported by the sampler ddpm (set it to that, or take another sampler)"
            );
            Some(json.error("variance_type", &what).to_string())
        }
    })
}

/// Refuses steps that are not a linear function of latents and output, because they cannot be replayed; and keys that
/// mean other noise than DDPM's.
fn refuse_what_is_not_linear(json: &Json, clips_unless_told: bool, forced: Forced) -> Result<()> {
    json.only("thresholding", false)?;
    json.only("use_flow_sigmas", false)?;
    json.only("use_dynamic_shifting", false)?;
    json.only("timestep_type", "discrete")?; // continuous: noise levels as in EDM
    if !json.truth_or("clip_sample", clips_unless_told)? {
        return Ok(());
    }
    if !forced.by_pipeline {
        let what = "is true, or absent where its class clips; clipping is not linear, so it cannot be replayed (set it to false)";
        return Err(json.error("clip_sample", what));
    }
    tracing::info!(
        "{}: clip_sample is taken as false, as diffusers' StableDiffusionPipeline does",
        json.path().display()
    );
    Ok(())
}
