//! The interface of a model family, and the request that opens a model.

use crate::{conditions::PromptEncoder, resident::Resident, settings::paths::not_there};
use anyhow::Result;
use models::{
    Error,
    autoencoder::Autoencoder,
    config::Json,
    lora::Base,
    network::Network,
    schedule::{NoisePath, Prediction},
    vae,
    weights::Weights,
};
use serde::{Deserialize, Serialize};
use std::{path::Path, rc::Rc};
use tch::{Device, Kind};

/// The denoising network of a family's model, by its configuration.
pub trait Family {
    /// The network on weights derived from its own: with a LoRA added to them, or beside them.
    ///
    /// # Errors
    /// Weights that do not fit the configuration.
    fn network(&self, weights: &Weights) -> models::Result<Box<dyn Network>>;

    /// Reads the network's weights from their files.
    ///
    /// # Errors
    /// Errors of reading them.
    fn weights(&self, model: &Path, variant: Option<&str>, kind: Kind, device: Device) -> models::Result<Weights>;

    /// Fingerprints of the files in a model's folder that its latents depend on, one line each.
    ///
    /// # Errors
    /// Files that cannot be read.
    fn fingerprints(&self, model: &Path, variant: Option<&str>) -> models::Result<Vec<String>>;

    /// The base model, as named in LoRA files.
    fn base(&self) -> Base;

    /// Channels of the input latents and of the output.
    fn channels(&self) -> (i64, i64);

    /// Latent cells along the side of the images that the model was trained for.
    fn native_cells(&self) -> i64;

    /// The smallest number of latent cells along a side.
    fn least_cells(&self) -> i64;
}

/// An opened model: the parts of a pipeline.
pub struct Parts {
    pub family: Rc<dyn Family>,
    /// Weights of the denoising network.
    pub weights: Weights,
    pub vae: Resident<Box<dyn Autoencoder>>,
    pub text: Box<dyn PromptEncoder>,
    pub path: Box<dyn NoisePath>,
}

/// How a model is to be opened.
pub struct Request<'a> {
    pub variant: Option<&'a str>,
    /// The folder of a tokenizer, for a model in a single file.
    pub tokenizer: Option<&'a Path>,
    pub overrides: Overrides,
    pub precision: Precision,
    pub device: Device,
}

/// The precisions that the networks compute in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Precision {
    pub networks: Kind,
    /// `None`: the networks' precision, or float32 for an autoencoder that is known to overflow in float16.
    pub vae: Option<Kind>,
}

impl Precision {
    /// The precision of an autoencoder with that configuration.
    pub(crate) fn of_vae(self, config: &vae::Config, xl: bool) -> Kind {
        self.vae.unwrap_or(config.kind(self.networks, xl))
    }
}

impl From<Kind> for Precision {
    fn from(networks: Kind) -> Self {
        Self { networks, vae: None }
    }
}

/// Overrides how a model is read: what its files leave out or state wrongly, and longer prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_type: Option<Prediction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_betas_zero_snr: Option<bool>,
    /// The text encoders' layer that the UNet sees, counted from the end: 1 is the last one, as in SD1 and SD2; 2 is
    /// SDXL's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,
    /// The most chunks of 75 tokens that a prompt is cut into; `None`: one, as the model was trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<usize>,
}

impl Overrides {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrList {
    One(String),
    List(Vec<String>),
}

/// The model's class, as its folder states it, and its `model_index.json`.
pub(super) fn class(path: &Path) -> Result<(String, Json)> {
    let index = path.join("model_index.json");
    if !index.exists() {
        return Err(not_a_model_folder(path));
    }
    let index = Json::read(&index)?;
    // of a community pipeline: its file and its class
    let class = match index.get("_class_name")? {
        OneOrList::One(class) => Some(class),
        OneOrList::List(parts) => parts.into_iter().next_back(),
    };
    Ok((class.ok_or_else(|| index.error("_class_name", "is empty"))?, index))
}

pub(super) fn unknown(index: &Json, class: &str) -> Error {
    index.error("_class_name", &format!("is {class}; only Stable Diffusion 1.x, 2.x and XL are supported"))
}

/// Whether a model is one file rather than a folder.
pub fn is_single_file(path: &Path) -> bool {
    let ends = ["safetensors", "sft"];
    path.is_file() && path.extension().is_some_and(|end| ends.iter().any(|known| end.eq_ignore_ascii_case(known)))
}

/// An error that says what else the path may be, for inputs that people often try.
fn not_a_model_folder(path: &Path) -> anyhow::Error {
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default().to_lowercase();
    if path.is_file() && ["ckpt", "pt", "pth", "bin", "gguf"].contains(&end.as_str()) {
        return match models::tensors::read(path) {
            Ok(_) => Error::file(path, "is a safetensors file; let its name end in .safetensors").into(),
            Err(what) => what.into(),
        };
    }
    let message = if is_single_file(path) {
        "is a single file; model.path, and --model of generate and attention, can be one, with a tokenizer named by model.tokenizer or --tokenizer"
    } else if !path.exists() {
        not_there(path)
    } else if path.is_file() {
        "is a file; a model is a folder in diffusers layout, or one .safetensors file"
    } else if path.join("config.json").exists() {
        "holds a single network; a model is the folder above, with model_index.json, unet/, vae/, text_encoder/ and tokenizer/"
    } else {
        "has no model_index.json; a model is a folder in diffusers layout"
    };
    Error::file(path, message).into()
}
