use crate::{
    config::Json,
    error::Result,
    layers::Activation,
    transformers::{activation, heads, positive},
};

/// Encoder settings from a transformers `BertConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub layers: usize,
    pub heads: i64,
    pub max_position_embeddings: i64,
    pub type_vocab_size: i64,
    pub activation: Activation,
    pub norm_eps: f64,
}

impl Config {
    pub fn read(json: &Json) -> Result<Self> {
        let hidden_size = positive(json, "hidden_size", Some(768))?;
        let config = Self {
            vocab_size: positive(json, "vocab_size", Some(30522))?,
            hidden_size,
            intermediate_size: positive(json, "intermediate_size", Some(3072))?,
            layers: positive(json, "num_hidden_layers", Some(12))? as usize,
            heads: heads(json, hidden_size, 12)?,
            max_position_embeddings: positive(json, "max_position_embeddings", Some(512))?,
            type_vocab_size: positive(json, "type_vocab_size", Some(2))?,
            activation: activation(json, "gelu")?,
            norm_eps: json.get_or("layer_norm_eps", 1e-12)?,
        };
        json.only("model_type", "bert")?;
        json.only("is_decoder", false)?;
        json.only("position_embedding_type", "absolute")?;
        json.base_keys()?;
        json.ignore(&["classifier_dropout"]);
        json.finish()?;
        Ok(config)
    }
}
