//! What a single file says about the noise schedule of its UNet: in tensors without a value and in metadata, as
//! ComfyUI, sd-scripts and the model specification of Stability AI write them.

use super::{Family, scheduler};
use crate::{
    config::Json,
    error::{Error, Result},
    schedule::{Forced, NoiseSchedule, Prediction},
    tensors::Tensors,
    text,
};
use std::{collections::HashMap, path::Path};
use tch::Tensor;

/// Metadata keys that name a prediction type; the first one present counts.
const PREDICTION: [&str; 5] =
    ["modelspec.prediction_type", "modelspec.predict_key", "prediction_type", "ss_prediction_type", "parameterization"];
/// Metadata keys that say whether the UNet predicts velocity.
const VELOCITY: [&str; 3] = ["v_pred", "ss_v_parameterization", "v_parameterization"];
/// Stands for the original program's configuration if that does not name its prediction type.
const UNSTATED: &str = "LatentDiffusion";
/// Names of tensors, and of boolean metadata.
const ZERO_SNR: [&str; 9] = [
    "ztsnr",
    "zsnr",
    "zero_snr",
    "zero_terminal_snr",
    "ss_zero_terminal_snr",
    "rescale_betas_zero_snr",
    "modelspec.ztsnr",
    "modelspec.zero_snr",
    "modelspec.zero_terminal_snr",
];

/// What a file says about its model: prediction type and noise of the UNet, layer of the text encoder, size of the
/// latents.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statements {
    prediction: Option<Prediction>,
    /// A prediction type that we do not implement, as key and value.
    unknown: Option<(String, String)>,
    zero_snr: bool,
    /// The model is an SD2 and the file says neither its prediction type nor its image size, so velocity prediction is
    /// assumed.
    guessed: bool,
    /// The layer of SD1's text encoder used in training, counted from the end.
    pub clip_skip: Option<usize>,
    sample_size: Option<i64>,
    /// What an SD2 predicts by its weights, if the file says nothing of it.
    by_weights: Option<Prediction>,
}

impl Statements {
    /// # Errors
    /// If the network has other noise than DDPM's.
    pub fn read(all: &Tensors, metadata: &HashMap<String, String>, origin: &Path) -> Result<Self> {
        let other = |key: &str| {
            let what = "is of a network with EDM's or another noise (CosXL, Playground 2.5, flow matching), which cannot be used";
            Error::file(origin, format!("{key} {what}"))
        };
        if let Some(key) = all.keys().find(|key| key.starts_with("edm_")) {
            return Err(other(&format!("the tensor {key}")));
        }
        let architecture = metadata.get("modelspec.architecture").map(|a| a.to_lowercase()).unwrap_or_default();
        if ["edm", "cosxl", "playground", "flow"].iter().any(|name| architecture.contains(name)) {
            return Err(other(&format!("modelspec.architecture = {architecture}")));
        }
        let mut said = Self::default();
        let named = PREDICTION.iter().find_map(|key| Some((*key, metadata.get(*key)?.trim())));
        match named.filter(|(_, value)| !value.is_empty() && *value != "None") {
            Some((key, value)) => match value.parse() {
                Ok(prediction) => said.prediction = Some(prediction),
                Err(_) => said.unknown = Some((key.to_owned(), value.to_owned())),
            },
            None if VELOCITY.iter().any(|key| metadata.get(*key).is_some_and(|v| yes(v))) => {
                said.prediction = Some(Prediction::VPrediction);
            }
            // sd-scripts' sd_v2_v
            None if metadata.get("ss_base_model_version").is_some_and(|version| version.trim().ends_with("_v")) => {
                said.prediction = Some(Prediction::VPrediction);
            }
            // stable-diffusion-v2-768-v
            None if architecture.ends_with("-v") => said.prediction = Some(Prediction::VPrediction),
            // what of the above says that it is not velocity
            None if VELOCITY.iter().any(|key| metadata.contains_key(*key)) => {
                said.prediction = Some(Prediction::Epsilon);
            }
            None if metadata.get("ss_base_model_version").is_some_and(|version| version.trim() == "sd_v2") => {
                said.prediction = Some(Prediction::Epsilon);
            }
            None => said.prediction = metadata.contains_key(UNSTATED).then_some(Prediction::Epsilon),
        }
        if all.contains_key("v_pred") {
            if said.prediction == Some(Prediction::Epsilon) {
                tracing::warn!(
                    "{}: the tensor v_pred says velocity, the metadata epsilon; taken as velocity (model.prediction_type and \
                     --prediction-type say otherwise)",
                    origin.display()
                );
            }
            (said.prediction, said.unknown) = (Some(Prediction::VPrediction), None);
        }
        let marked = ZERO_SNR.iter().any(|key| all.contains_key(*key) || metadata.get(*key).is_some_and(|v| yes(v)));
        let velocity = said.prediction == Some(Prediction::VPrediction);
        said.zero_snr = marked || (velocity && all.get("alphas_cumprod").is_some_and(ends_in_noise));
        let layer = metadata.get("modelspec.encoder_layer").and_then(|layer| layer.trim().parse().ok());
        said.clip_skip = layer.filter(|layer| *layer > 1);
        said.sample_size = side(metadata, &architecture, origin).map(|side| side / 8);
        said.by_weights = by_weights(all);
        Ok(said)
    }

    /// The statements that matter for a family. SD2 comes as two models that the weights do not tell apart: for images
    /// of 512 pixels, which predicts noise, and of 768 pixels, which predicts velocity. A file that says nothing is
    /// taken as the second.
    pub fn of(self, family: Family) -> Self {
        match family {
            Family::Sd1 => Self { sample_size: None, by_weights: None, ..self },
            Family::Sdxl => Self { sample_size: None, by_weights: None, clip_skip: None, ..self },
            Family::Sd2 => {
                let by_size = self.sample_size.map(|size| match size {
                    ..96 => Prediction::Epsilon,
                    _ => Prediction::VPrediction,
                });
                let said = self.prediction.or(by_size);
                let by_weights = self.by_weights.filter(|_| said.is_none() && self.unknown.is_none());
                let known = said.or(by_weights);
                let prediction = known.or(self.unknown.is_none().then_some(Prediction::VPrediction));
                let by_prediction = if prediction == Some(Prediction::Epsilon) { 64 } else { 96 };
                let sample_size = Some(self.sample_size.unwrap_or(by_prediction));
                let guessed = known.is_none() && self.unknown.is_none();
                // the encoder already lacks its last layer
                Self { prediction, sample_size, guessed, by_weights, clip_skip: None, ..self }
            }
        }
    }

    /// Latent side of the images that SD2 was trained on. If the file does not say, it follows from the prediction
    /// type.
    pub fn sample_size(&self, forced: Forced) -> Option<i64> {
        let base = self.guessed && forced.prediction == Some(Prediction::Epsilon);
        if base { Some(64) } else { self.sample_size }
    }

    /// Noise schedule of the published models, with the file's prediction type and zero SNR. `forced` overrides both.
    ///
    /// # Errors
    /// The file has an unknown prediction type and `forced` has none.
    pub fn schedule(&self, forced: Forced, origin: &Path) -> Result<NoiseSchedule> {
        if let (Some((key, value)), None) = (&self.unknown, forced.prediction) {
            let what = "a prediction that is not known here; model.prediction_type and --prediction-type say epsilon, v_prediction or sample";
            return Err(Error::file(origin, format!("{key} = {value} is {what}")));
        }
        if self.guessed && forced.prediction.is_none() {
            tracing::warn!(
                "{}: is a Stable Diffusion 2.x file that does not say what it predicts; taken as the model of 768 pixels, which \
                 predicts velocity. If images are noise, set model.prediction_type (--prediction-type) to epsilon",
                origin.display()
            );
        }
        if let (Some(prediction), None) = (self.by_weights, forced.prediction) {
            tracing::info!("{}: does not say what it predicts; by its weights {}", origin.display(), prediction.name());
        }
        let prediction = forced.prediction.or(self.prediction).unwrap_or(Prediction::Epsilon);
        let zero_snr = forced.zero_snr.unwrap_or(self.zero_snr);
        if zero_snr && forced.zero_snr.is_none() && prediction == Prediction::Epsilon {
            let what = "says that the last step is noise alone (ztsnr, zero_terminal_snr), but not that the model predicts velocity, \
                        which it then must; set model.prediction_type (--prediction-type) to v_prediction, or, if images are \
                        noise with it, model.rescale_betas_zero_snr (--rescale-betas-zero-snr) to false";
            return Err(Error::file(origin, what));
        }
        if self.prediction == Some(Prediction::VPrediction) || zero_snr {
            let snr = if zero_snr { ", with noise alone at the last step" } else { "" };
            tracing::info!("{}: {} prediction{snr}", origin.display(), prediction.name());
        }
        NoiseSchedule::of(&Json::of(&scheduler(prediction, zero_snr), origin)?, forced)
    }
}

/// The prediction type in the original program's configuration beside a file: `NAME.yaml`, where A1111 looks for it.
/// Returned as a metadata key and its value.
pub fn said_beside(path: &Path) -> Option<(String, String)> {
    let text = text::read(&path.with_extension("yaml")).ok()?;
    let said = text::lines(&text).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        let value = value.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        let said = match (key.trim(), value.rsplit('.').next().unwrap_or_default()) {
            ("parameterization", value) => value,
            ("target", "VScaling") => "v",
            ("target", "EpsScaling") => "epsilon",
            ("target", other @ ("EDMScaling" | "VScalingWithEDMcNoise")) => other,
            _ => return None,
        };
        Some(("parameterization".to_owned(), said.to_owned()))
    });
    said.or(text.contains(UNSTATED).then(|| (UNSTATED.to_owned(), String::new())))
}

/// Side in pixels of the images that SD2 was trained on, from metadata, or else from the file's name, as the published files
/// have it.
fn side(metadata: &HashMap<String, String>, architecture: &str, origin: &Path) -> Option<i64> {
    let resolution = metadata.get("modelspec.resolution").or(metadata.get("ss_resolution"));
    if let Some(said) = side_in(architecture).or(resolution.and_then(|text| side_in(text))) {
        return Some(said);
    }
    let name = origin.file_stem().filter(|_| resolution.is_none())?.to_string_lossy().to_lowercase();
    side_in(&name)
}

/// 768 or 512 as a number of its own, as in `v2-1_512-ema`, `768v` and `512x512`; not as digits of a hash or of a number of steps.
fn side_in(text: &str) -> Option<i64> {
    let of = |side: &str, number: i64| {
        let is_alone = |(at, _): (usize, &str)| {
            let before = text[..at].chars().next_back();
            let after = text[at + side.len()..].chars().next();
            !before.is_some_and(|c| c.is_alphanumeric() && c != 'x')
                && !after.is_some_and(|c| c.is_alphanumeric() && !matches!(c, 'x' | 'v' | 'p'))
        };
        text.match_indices(side).any(is_alone).then_some(number)
    };
    of("768", 768).or(of("512", 512))
}

/// What SD2 predicts, by the rule of ComfyUI: velocity if the deviation of one bias is above 0.09. (Not tried here on published
/// weights.) `None`: the file has no such layer.
fn by_weights(all: &Tensors) -> Option<Prediction> {
    let bias = all.get("model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias")?;
    let wide = bias.to_kind(tch::Kind::Float);
    (bias.is_floating_point() && bias.numel() > 1).then(|| match wide.std(false).double_value(&[]) {
        deviation if deviation > 0.09 => Prediction::VPrediction,
        _ => Prediction::Epsilon,
    })
}

fn yes(value: &str) -> bool {
    !matches!(value.trim().to_lowercase().as_str(), "false" | "0" | "no" | "none" | "off")
}

/// Whether the file's own `ᾱ` is zero at the last step; that of the published models is 0.0047.
fn ends_in_noise(alphas_cumprod: &Tensor) -> bool {
    let count = alphas_cumprod.numel() as i64;
    count > 0 && alphas_cumprod.is_floating_point() && {
        let last = alphas_cumprod.flatten(0, -1).double_value(&[count - 1]);
        last < 1e-5
    }
}
