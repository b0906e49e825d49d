use super::{config::TextConfig, encoder::Encoder};
use crate::{
    error::{Error, Result},
    layers::{LayerNorm, Linear},
    transformers::check_ids,
    weights::{Layout, Scope, Weights},
};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Output of the encoder for prompts. SD1 and SD2 use `last_hidden_state`; SDXL uses `penultimate` of both its encoders
/// and `text_embeds` of the second.
pub struct Encoded {
    /// After the final norm `[B, L, D]`
    pub last_hidden_state: Tensor,
    /// Input of the last layer, without the final norm `[B, L, D]`
    pub penultimate: Tensor,
    /// `last_hidden_state` at the end token `[B, D]`
    pub pooled: Tensor,
    /// `pooled` after the projection `[B, P]`, if the checkpoint has one
    pub text_embeds: Option<Tensor>,
}

pub struct TextEncoder {
    config: TextConfig,
    token_embedding: Tensor,
    position_embedding: Tensor,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
}

impl TextEncoder {
    /// Reads `config.json` and `model.safetensors` from the folder.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        Self::open_variant(folder, None, kind, device)
    }

    /// As [`TextEncoder::open`], but prefers the weights of that variant if there are any.
    pub fn open_variant(folder: &Path, variant: Option<&str>, kind: Kind, device: Device) -> Result<Self> {
        let config = TextConfig::read(&folder.join("config.json"))?;
        Self::new(&config, &Weights::open_variant(folder, "model", variant, kind, device)?)
    }

    pub fn new(config: &TextConfig, weights: &Weights) -> Result<Self> {
        weights.build(&["position_ids"], |root| Self::alone(root, config.clone()))
    }

    /// Tensor shapes of an encoder with this configuration, without a projection.
    pub fn layout(config: &TextConfig) -> Layout {
        let absent = |key: &str| key == "embeddings.token_embedding.weight" || key == "text_projection.weight";
        Weights::layout(&absent, |root| Self::alone(root, config.clone()))
    }

    /// In published files every key but the projection's has the prefix `text_model`; transformers 5 drops that prefix
    /// if there is no projection.
    fn alone(root: Scope, config: TextConfig) -> Self {
        let bare = root.has("embeddings.token_embedding.weight");
        let model = if bare { root.clone() } else { &root / "text_model" };
        let projection = root.has("text_projection.weight");
        let projection =
            projection.then(|| Linear::new(&root / "text_projection", config.hidden_size, config.projection_dim));
        Self::at(model, config, projection)
    }

    pub(super) fn at(model: Scope, config: TextConfig, text_projection: Option<Linear>) -> Self {
        let (width, embeddings) = (config.hidden_size, &model / "embeddings");
        Self {
            token_embedding: (&embeddings / "token_embedding").tensor("weight", &[config.vocab_size, width]),
            position_embedding: (&embeddings / "position_embedding")
                .tensor("weight", &[config.max_position_embeddings, width]),
            encoder: Encoder::new(&model / "encoder", &config.encoder()),
            final_layer_norm: LayerNorm::new(&model / "final_layer_norm", width, config.norm_eps),
            text_projection,
            config,
        }
    }

    /// ids `[B, L]` int64, each row with its start and end token. Attention is causal; padding is not masked.
    pub fn forward(&self, ids: &Tensor) -> Result<Encoded> {
        Ok(self.forward_to(ids, 2)?.0)
    }

    /// As [`Self::forward`], and also the output of the `nth` layer from the end after the final norm (1: the last
    /// layer), as "clip skip" uses it. `penultimate` of the first result is then that layer's output.
    pub fn forward_to(&self, ids: &Tensor, nth: usize) -> Result<(Encoded, Tensor)> {
        let c = &self.config;
        if nth < 1 || nth > self.encoder.layers() {
            let layers = self.encoder.layers();
            return Err(Error::Input(format!(
                "text encoder: clip_skip is {nth}, it must be from 1 to {layers}, its layers"
            )));
        }
        let (rows, length) = check_ids("text encoder", ids, c.vocab_size, c.max_position_embeddings)?;
        let ids = ids.to_device(self.token_embedding.device());
        let ends = self.ends(&ids)?;
        let tokens = Tensor::embedding(&self.token_embedding, &ids, -1, false, false);
        let x = tokens + self.position_embedding.narrow(0, 0, length);
        let (x, penultimate) = self.encoder.forward(x, nth);
        let last_hidden_state = self.final_layer_norm.forward(&x);
        let ends = ends.view([rows, 1, 1]).expand([rows, 1, c.hidden_size], false);
        let pooled = last_hidden_state.gather(1, &ends, false).squeeze_dim(1);
        let text_embeds = self.text_projection.as_ref().map(|projection| projection.forward(&pooled));
        let normed = self.final_layer_norm.forward(&penultimate);
        Ok((Encoded { last_hidden_state, penultimate, pooled, text_embeds }, normed))
    }

    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Position of each row's end token `[B]`.
    ///
    /// Older configurations give 2 as its id, which is wrong; then it is the largest id of the row.
    fn ends(&self, ids: &Tensor) -> Result<Tensor> {
        let end = self.config.eos_token_id;
        if end == 2 {
            return Ok(ids.argmax(1, false));
        }
        let found = ids.eq(end).to_kind(Kind::Int);
        if found.sum_dim_intlist(1, false, Kind::Int64).min().int64_value(&[]) == 0 {
            return Err(Error::Input(format!("text encoder: a prompt has no end token (eos_token_id is {end})")));
        }
        Ok(found.argmax(1, false))
    }
}
