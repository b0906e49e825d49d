use super::encoder::Shape;
use crate::{
    config::Json,
    error::Result,
    layers::Activation,
    transformers::{activation, heads, positive},
};
use serde_json::Value;
use std::path::Path;

pub use crate::vision::VisionConfig;

/// Settings from a transformers `CLIPConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub text: TextConfig,
    pub vision: VisionConfig,
    /// Width of the shared embedding of images and texts. (The towers' own `projection_dim` is not read, as upstream.)
    pub projection_dim: i64,
}

/// Settings from a transformers `CLIPTextConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    /// Width of the projected embedding, if the checkpoint of a text encoder has a projection.
    pub projection_dim: i64,
    pub layers: usize,
    pub heads: i64,
    pub max_position_embeddings: i64,
    pub activation: Activation,
    pub norm_eps: f64,
    pub eos_token_id: i64,
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let json = Json::read(path)?;
        json.only("model_type", "clip")?;
        let config = Self {
            text: TextConfig::of(&tower(&json, "text_config")?)?,
            vision: VisionConfig::of_clip(&tower(&json, "vision_config")?)?,
            projection_dim: positive(&json, "projection_dim", Some(512))?,
        };
        json.base_keys()?;
        json.ignore(&["logit_scale_init_value"]);
        json.finish()?;
        Ok(config)
    }
}

/// Some published files describe a tower a second time, in `text_config_dict` and `vision_config_dict`. If that is
/// there, upstream uses it instead of the first, with the defaults for missing keys.
fn tower(json: &Json, key: &str) -> Result<Json> {
    let again = format!("{key}_dict");
    json.ignore(&[key]);
    let key = if json.maybe::<Value>(&again)?.is_some() { again } else { key.to_owned() };
    json.section(&key)
}

impl TextConfig {
    /// Reads the `config.json` of a text encoder.
    pub fn read(path: &Path) -> Result<Self> {
        Self::of(&Json::read(path)?)
    }

    fn of(json: &Json) -> Result<Self> {
        json.only("model_type", "clip_text_model")?;
        let hidden_size = positive(json, "hidden_size", Some(512))?;
        let config = Self {
            vocab_size: positive(json, "vocab_size", Some(49408))?,
            hidden_size,
            intermediate_size: positive(json, "intermediate_size", Some(2048))?,
            projection_dim: positive(json, "projection_dim", Some(512))?,
            layers: positive(json, "num_hidden_layers", Some(12))? as usize,
            heads: heads(json, hidden_size, 8)?,
            max_position_embeddings: positive(json, "max_position_embeddings", Some(77))?,
            activation: activation(json, "quick_gelu")?,
            norm_eps: json.get_or("layer_norm_eps", 1e-5)?,
            eos_token_id: end_token(json)?,
        };
        json.only("use_attention_mask", false)?; // true: diffusers hides the padding from the text encoder
        finish(json)?;
        Ok(config)
    }

    pub(super) fn encoder(&self) -> Shape {
        Shape {
            width: self.hidden_size,
            inner: self.intermediate_size,
            layers: self.layers,
            heads: self.heads,
            activation: self.activation,
            norm_eps: self.norm_eps,
            causal: true,
        }
    }
}

impl VisionConfig {
    fn of_clip(json: &Json) -> Result<Self> {
        json.only("model_type", "clip_vision_model")?;
        let config = Self::sizes(json, 224, 32, "quick_gelu")?;
        json.only("num_channels", 3)?;
        json.ignore(&["projection_dim"]);
        finish(json)?;
        Ok(config)
    }

    pub(super) fn encoder(&self) -> Shape {
        Shape {
            width: self.hidden_size,
            inner: self.intermediate_size,
            layers: self.layers,
            heads: self.heads,
            activation: self.activation,
            norm_eps: self.norm_eps,
            causal: false,
        }
    }
}

/// One id; a list with one is also allowed.
fn end_token(json: &Json) -> Result<i64> {
    let key = "eos_token_id";
    match json.maybe::<Value>(key)? {
        Some(Value::Array(ids)) => match &ids[..] {
            [id] => id.as_i64().ok_or_else(|| json.error(key, &format!("holds {id}, which is no token id"))),
            _ => Err(json.error(key, &format!("is {}; only one id is supported", Value::from(ids)))),
        },
        _ => json.get_or(key, 49407),
    }
}

/// Other keys in old files of both towers.
fn finish(json: &Json) -> Result<()> {
    json.base_keys()?;
    json.finish()
}
