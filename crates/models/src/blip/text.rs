use super::config::TextConfig;
use crate::{
    bert::{Attention, FeedForward},
    layers::{Activation, LayerNorm, Linear},
    weights::Scope,
};
use tch::Tensor;
use torch_ext::Shared;

/// BERT (Devlin et al. 2019) with cross-attention in every layer: to the image, or to a question.
pub struct TextModel {
    word_embeddings: Shared,
    position_embeddings: Shared,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl TextModel {
    pub fn new(at: Scope, config: &TextConfig) -> Self {
        let (width, embeddings) = (config.hidden_size, &at / "embeddings");
        let table = |name: &str, rows: i64| (&embeddings / name).tensor("weight", &[rows, width]).into();
        Self {
            word_embeddings: table("word_embeddings", config.vocab_size),
            position_embeddings: table("position_embeddings", config.max_position_embeddings),
            norm: LayerNorm::new(&embeddings / "LayerNorm", width, config.norm_eps),
            layers: (0..config.layers).map(|i| Layer::new(&at / "encoder" / "layer" / i, config)).collect(),
        }
    }

    /// Runs the model as an encoder, without a causal mask: ids `[B, L]`, mask `[B, L]` of booleans (true: a token),
    /// image `[B, N, C]` → `[B, L, D]`
    pub fn encode(&self, ids: &Tensor, mask: &Tensor, image: &Tensor) -> Tensor {
        self.forward(ids, &over_heads(mask), image, None)
    }

    /// `visible`: attention mask of booleans that broadcast to `[B, heads, L, L]`. `in_context`: the same for the
    /// context `[B, M, C]`; without it, all of the context is visible.
    ///
    /// Every token must see at least one token, or its softmax would have no terms.
    fn forward(&self, ids: &Tensor, visible: &Tensor, context: &Tensor, in_context: Option<&Tensor>) -> Tensor {
        let words = Tensor::embedding(&self.word_embeddings, ids, -1, false, false);
        let mut x = self.norm.forward(&(words + self.position_embeddings.narrow(0, 0, ids.size()[1])));
        let scores = |visible: &Tensor| {
            let zeros = x.new_zeros(visible.size(), (x.kind(), x.device()));
            zeros.masked_fill(&visible.logical_not(), f64::NEG_INFINITY)
        };
        let (own, cross) = (scores(visible), in_context.map(scores));
        for layer in &self.layers {
            x = layer.forward(&x, &own, context, cross.as_ref());
        }
        x
    }
}

/// The same model as a decoder: causal, with logits of the next token.
pub struct TextDecoder {
    bert: TextModel,
    transform: Linear,
    activation: Activation,
    transform_norm: LayerNorm,
    decoder: Linear,
}

impl TextDecoder {
    pub fn new(at: Scope, config: &TextConfig) -> Self {
        let (width, head) = (config.hidden_size, &at / "cls" / "predictions");
        let bert = TextModel::new(&at / "bert", config);
        Self {
            decoder: output_layer(&head, &bert.word_embeddings, config),
            bert,
            transform: Linear::new(&head / "transform" / "dense", width, width),
            activation: config.activation,
            transform_norm: LayerNorm::new(&head / "transform" / "LayerNorm", width, config.norm_eps),
        }
    }

    /// ids `[B, L]`, mask `[B, L]` of booleans (true: a token), context `[B, M, C]`, `in_context` `[B, M]` of booleans
    /// if not all of the context counts → logits `[B, L, V]`
    ///
    /// The first token of every row must not be masked.
    pub fn forward(&self, ids: &Tensor, mask: &Tensor, context: &Tensor, in_context: Option<&Tensor>) -> Tensor {
        let length = ids.size()[1];
        let visible = mask.new_ones([length, length], (mask.kind(), mask.device())).tril(0);
        let visible = visible.logical_and(&over_heads(mask)); // [B, 1, L, L]
        let x = self.bert.forward(ids, &visible, context, in_context.map(over_heads).as_ref());
        let hidden = self.activation.forward(&self.transform.forward(&x));
        self.decoder.forward(&self.transform_norm.forward(&hidden))
    }
}

/// `[B, L]` → `[B, 1, 1, L]`
fn over_heads(mask: &Tensor) -> Tensor {
    mask.unsqueeze(1).unsqueeze(1)
}

/// Weight and bias have two names each in a checkpoint; files hold one name or both.
fn output_layer(head: &Scope, word_embeddings: &Tensor, config: &TextConfig) -> Linear {
    let (words, width, decoder) = (config.vocab_size, config.hidden_size, head / "decoder");
    let weight = match decoder.optional("weight", &[words, width]) {
        None if config.tied => word_embeddings.shallow_clone(),
        None => decoder.tensor("weight", &[words, width]),
        Some(weight) => weight,
    };
    let bias = head.optional("bias", &[words]);
    let bias = decoder.optional("bias", &[words]).or(bias).unwrap_or_else(|| head.tensor("bias", &[words]));
    Linear::tied(weight, Some(bias))
}

/// Self-attention, cross-attention and a feed-forward network, each followed by a norm.
struct Layer {
    attention: Attention,
    crossattention: Attention,
    feed_forward: FeedForward,
}

impl Layer {
    fn new(at: Scope, config: &TextConfig) -> Self {
        let (width, heads, eps) = (config.hidden_size, config.heads, config.norm_eps);
        Self {
            attention: Attention::new(&at / "attention", width, width, heads, eps),
            crossattention: Attention::new(&at / "crossattention", width, config.image_width, heads, eps),
            feed_forward: FeedForward::new(&at, width, config.intermediate_size, config.activation, eps),
        }
    }

    fn forward(&self, x: &Tensor, own: &Tensor, context: &Tensor, cross: Option<&Tensor>) -> Tensor {
        let x = self.attention.forward(x, x, Some(own));
        self.feed_forward.forward(&self.crossattention.forward(&x, context, cross))
    }
}
