//! CLIP's text encoder: what Stable Diffusion reads prompts with.
//!
//! Paper: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). Weights and
//! names: transformers `CLIPTextModel` and `CLIPTextModelWithProjection`.

use crate::{
    config::Json,
    error::{Error, Result},
    layers::{Activation, LayerNorm, Linear, attention},
    transformers::{self, check_ids, positive},
    weights::{Layout, Scope, Weights},
};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// What a transformers `CLIPTextConfig` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    /// Width of the projected embedding, where the checkpoint has a projection.
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
        json.only("model_type", "clip_text_model")?;
        let hidden_size = positive(&json, "hidden_size", Some(512))?;
        let config = Self {
            vocab_size: positive(&json, "vocab_size", Some(49408))?,
            hidden_size,
            intermediate_size: positive(&json, "intermediate_size", Some(2048))?,
            projection_dim: positive(&json, "projection_dim", Some(512))?,
            layers: positive(&json, "num_hidden_layers", Some(12))? as usize,
            heads: transformers::heads(&json, hidden_size, 8)?,
            max_position_embeddings: positive(&json, "max_position_embeddings", Some(77))?,
            activation: transformers::activation(&json, "quick_gelu")?,
            norm_eps: json.get_or("layer_norm_eps", 1e-5)?,
            eos_token_id: json.get_or("eos_token_id", 49407)?,
        };
        json.ignore(transformers::UNUSED_KEYS);
        json.ignore(&["tie_word_embeddings"]);
        json.finish()?;
        Ok(config)
    }
}

/// What the encoder makes of a prompt. SD1 and SD2 take `last_hidden_state`, SDXL `penultimate` of both its encoders and
/// `text_embeds` of the second.
pub struct Encoded {
    /// After the final norm `[B, L, D]`
    pub last_hidden_state: Tensor,
    /// Input of the last layer, without the final norm `[B, L, D]`
    pub penultimate: Tensor,
    /// `last_hidden_state` at the end token `[B, D]`
    pub pooled: Tensor,
    /// `pooled` through the projection `[B, P]`, where the checkpoint has one
    pub text_embeds: Option<Tensor>,
}

pub struct TextEncoder {
    config: Config,
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
}

impl TextEncoder {
    /// Reads `config.json` and `model.safetensors` from the folder.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let config = Config::read(&folder.join("config.json"))?;
        Self::new(&config, &Weights::open(folder, "model", kind, device)?)
    }

    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        weights.build(&["position_ids"], |root| Self::at(root, config.clone()))
    }

    /// What an encoder of that configuration is made of; without a projection.
    pub fn layout(config: &Config) -> Layout {
        let absent = |key: &str| key == "embeddings.token_embedding.weight" || key == "text_projection.weight";
        Weights::layout(&absent, |root| Self::at(root, config.clone()))
    }

    /// Published files have everything but the projection below `text_model`; transformers 5 leaves that prefix out
    /// where there is no projection.
    fn at(root: Scope, config: Config) -> Self {
        let bare = root.has("embeddings.token_embedding.weight");
        let model = if bare { root.clone() } else { &root / "text_model" };
        let (width, embeddings) = (config.hidden_size, &model / "embeddings");
        let projection = root.has("text_projection.weight");
        Self {
            token_embedding: (&embeddings / "token_embedding").tensor("weight", &[config.vocab_size, width]),
            position_embedding: (&embeddings / "position_embedding")
                .tensor("weight", &[config.max_position_embeddings, width]),
            layers: (0..config.layers).map(|i| Layer::new(&model / "encoder" / "layers" / i, &config)).collect(),
            final_layer_norm: LayerNorm::new(&model / "final_layer_norm", width, config.norm_eps),
            text_projection: projection.then(|| Linear::new(&root / "text_projection", width, config.projection_dim)),
            config,
        }
    }

    /// ids `[B, L]` int64, each row with its start and end token. A token sees those before it; padding is not masked.
    pub fn forward(&self, ids: &Tensor) -> Result<Encoded> {
        let c = &self.config;
        let (rows, length) = check_ids("text encoder", ids, c.vocab_size, c.max_position_embeddings)?;
        let ids = ids.to_device(self.token_embedding.device());
        let ends = self.ends(&ids)?;
        let tokens = Tensor::embedding(&self.token_embedding, &ids, -1, false, false);
        let mut x = tokens + self.position_embedding.narrow(0, 0, length);
        let mut penultimate = x.shallow_clone();
        for layer in &self.layers {
            penultimate = x;
            x = layer.forward(&penultimate);
        }
        let last_hidden_state = self.final_layer_norm.forward(&x);
        let ends = ends.view([rows, 1, 1]).expand([rows, 1, c.hidden_size], false);
        let pooled = last_hidden_state.gather(1, &ends, false).squeeze_dim(1);
        let text_embeds = self.text_projection.as_ref().map(|projection| projection.forward(&pooled));
        Ok(Encoded { last_hidden_state, penultimate, pooled, text_embeds })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Position of each row's end token `[B]`.
    ///
    /// Older configurations say that its id is 2, which it never was; there it is the largest id of the row.
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

/// Self-attention and a feed-forward network, each behind its norm.
struct Layer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
}

impl Layer {
    fn new(at: Scope, config: &Config) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            layer_norm1: LayerNorm::new(&at / "layer_norm1", width, config.norm_eps),
            self_attn: SelfAttention::new(&at / "self_attn", width, config.heads),
            layer_norm2: LayerNorm::new(&at / "layer_norm2", width, config.norm_eps),
            fc1: Linear::new(&at / "mlp" / "fc1", width, inner),
            activation: config.activation,
            fc2: Linear::new(&at / "mlp" / "fc2", inner, width),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x = x + self.self_attn.forward(&self.layer_norm1.forward(x));
        let hidden = self.activation.forward(&self.fc1.forward(&self.layer_norm2.forward(&x)));
        &x + self.fc2.forward(&hidden)
    }
}

struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: i64,
}

impl SelfAttention {
    fn new(at: Scope, width: i64, heads: i64) -> Self {
        let linear = |name: &str| Linear::new(&at / name, width, width);
        Self {
            q_proj: linear("q_proj"),
            k_proj: linear("k_proj"),
            v_proj: linear("v_proj"),
            out_proj: linear("out_proj"),
            heads,
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let (q, k, v) = (self.q_proj.forward(x), self.k_proj.forward(x), self.v_proj.forward(x));
        self.out_proj.forward(&attention(&q, &k, &v, self.heads, None, true))
    }
}
