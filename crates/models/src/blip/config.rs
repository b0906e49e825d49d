use crate::{
    config::Json,
    error::Result,
    layers::Activation,
    transformers::{activation, heads, positive},
};
use std::path::Path;

pub use crate::vision::VisionConfig;

/// Settings of captioning and question answering from a transformers `BlipConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vision: VisionConfig,
    pub text: TextConfig,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    pub vocab_size: i64,
    pub hidden_size: i64,
    /// Width of the image's embedding, which cross-attention reads.
    pub image_width: i64,
    pub intermediate_size: i64,
    pub layers: usize,
    pub heads: i64,
    pub max_position_embeddings: i64,
    pub activation: Activation,
    pub norm_eps: f64,
    /// First token of an answer, \[DEC].
    pub bos_token_id: i64,
    /// Last token of an answer.
    pub sep_token_id: i64,
    /// Whether the output layer may share the weights of the word embedding.
    pub tied: bool,
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let json = Json::read(path)?;
        json.only("model_type", "blip")?;
        let vision = VisionConfig::of_blip(&json.section("vision_config")?)?;
        let tied = json.get_or("tie_word_embeddings", true)?;
        let text = TextConfig::read(&json.section("text_config")?, vision.hidden_size, tied)?;
        json.base_keys()?;
        // Settings of heads that are not used here. (The decoder's own label_smoothing counts.)
        json.ignore(&["image_text_hidden_size", "label_smoothing", "logit_scale_init_value", "projection_dim"]);
        json.finish()?;
        Ok(Self { vision, text })
    }
}

impl VisionConfig {
    fn of_blip(json: &Json) -> Result<Self> {
        let config = Self::sizes(json, 384, 16, "gelu")?;
        json.only("model_type", "blip_vision_model")?;
        json.only("num_channels", 3)?;
        json.base_keys()?;
        json.ignore(&["projection_dim"]);
        json.finish()?;
        Ok(config)
    }
}

impl TextConfig {
    /// `encoder_hidden_size` is not read: upstream overwrites it with the width of the vision model.
    fn read(json: &Json, image_width: i64, tied: bool) -> Result<Self> {
        let hidden_size = positive(json, "hidden_size", Some(768))?;
        let config = Self {
            vocab_size: positive(json, "vocab_size", Some(30524))?,
            hidden_size,
            image_width,
            intermediate_size: positive(json, "intermediate_size", Some(3072))?,
            layers: positive(json, "num_hidden_layers", Some(12))? as usize,
            heads: heads(json, hidden_size, 8)?,
            max_position_embeddings: positive(json, "max_position_embeddings", Some(512))?,
            activation: activation(json, "gelu")?,
            norm_eps: json.get_or("layer_norm_eps", 1e-12)?,
            bos_token_id: json.get_or("bos_token_id", 30522)?,
            sep_token_id: json.get_or("sep_token_id", 102)?,
            tied: tied && json.get_or("tie_word_embeddings", true)?,
        };
        json.only("model_type", "blip_text_model")?;
        json.only("is_decoder", true)?;
        json.only("label_smoothing", 0.0)?;
        json.only("position_embedding_type", "absolute")?;
        json.base_keys()?;
        json.ignore(&["encoder_hidden_size", "projection_dim"]);
        json.finish()?;
        Ok(config)
    }
}
