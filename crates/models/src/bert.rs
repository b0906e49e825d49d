//! BERT: reads the texts of Grounding DINO and of sentence embeddings; BLIP's text model is made of its layers.
//!
//! Paper: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (2019).
//! Weights and names: transformers `BertModel`.

mod config;
mod encoder;

use crate::{
    layers::{Activation, LayerNorm, Linear, attention},
    weights::Scope,
};
use tch::Tensor;

pub use config::Config;
pub use encoder::Encoder;

/// Attention with a residual connection, then a norm.
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Output,
    heads: i64,
}

impl Attention {
    pub fn new(at: Scope, width: i64, context_width: i64, heads: i64, norm_eps: f64) -> Self {
        Self {
            query: Linear::new(&at / "self" / "query", width, width),
            key: Linear::new(&at / "self" / "key", context_width, width),
            value: Linear::new(&at / "self" / "value", context_width, width),
            output: Output::new(&at / "output", width, width, norm_eps),
            heads,
        }
    }

    /// x `[B, N, D]`, context `[B, M, C]`; `scores` is added to the attention scores.
    pub fn forward(&self, x: &Tensor, context: &Tensor, scores: Option<&Tensor>) -> Tensor {
        let (q, k, v) = (self.query.forward(x), self.key.forward(context), self.value.forward(context));
        self.output.forward(&attention(&q, &k, &v, self.heads, scores, false), x)
    }
}

/// Two linear layers with a residual connection, then a norm.
pub struct FeedForward {
    intermediate: Linear,
    activation: Activation,
    output: Output,
}

impl FeedForward {
    /// `at`: the scope of the layer, which contains both linear layers.
    pub fn new(at: &Scope, width: i64, inner: i64, activation: Activation, norm_eps: f64) -> Self {
        Self {
            intermediate: Linear::new(at / "intermediate" / "dense", width, inner),
            activation,
            output: Output::new(at / "output", inner, width, norm_eps),
        }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.output.forward(&self.activation.forward(&self.intermediate.forward(x)), x)
    }
}

/// The last linear layer of a branch, the residual connection with the branch's input, and the norm.
struct Output {
    dense: Linear,
    norm: LayerNorm,
}

impl Output {
    fn new(at: Scope, inputs: i64, width: i64, norm_eps: f64) -> Self {
        Self {
            dense: Linear::new(&at / "dense", inputs, width),
            norm: LayerNorm::new(&at / "LayerNorm", width, norm_eps),
        }
    }

    fn forward(&self, x: &Tensor, input: &Tensor) -> Tensor {
        self.norm.forward(&(self.dense.forward(x) + input))
    }
}
