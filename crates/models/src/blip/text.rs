use super::config::TextConfig;
use crate::{
    bert::{Attention, FeedForward},
    layers::{Activation, LayerNorm, Linear},
    weights::Scope,
};
use tch::Tensor;

/// BERT (Devlin et al. 2019) as a decoder: causal, with a cross-attention to the image in every layer.
pub struct TextDecoder {
    word_embeddings: Tensor,
    position_embeddings: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    transform: Linear,
    activation: Activation,
    transform_norm: LayerNorm,
    decoder: Linear,
}

impl TextDecoder {
    pub fn new(at: Scope, config: &TextConfig) -> Self {
        let (width, words) = (config.hidden_size, config.vocab_size);
        let (bert, head) = (&at / "bert", &at / "cls" / "predictions");
        let embeddings = &bert / "embeddings";
        let word_embeddings = (&embeddings / "word_embeddings").tensor("weight", &[words, width]);
        Self {
            decoder: output_layer(&head, &word_embeddings, config),
            word_embeddings,
            position_embeddings: (&embeddings / "position_embeddings")
                .tensor("weight", &[config.max_position_embeddings, width]),
            norm: LayerNorm::new(&embeddings / "LayerNorm", width, config.norm_eps),
            layers: (0..config.layers).map(|i| Layer::new(&bert / "encoder" / "layer" / i, config)).collect(),
            transform: Linear::new(&head / "transform" / "dense", width, width),
            activation: config.activation,
            transform_norm: LayerNorm::new(&head / "transform" / "LayerNorm", width, config.norm_eps),
        }
    }

    /// ids `[B, L]`, mask `[B, L]` of booleans (true: a token), image `[B, N, D]` → logits `[B, L, V]`
    ///
    /// The first token of every row must not be masked, or its softmax would be over nothing.
    pub fn forward(&self, ids: &Tensor, mask: &Tensor, image: &Tensor) -> Tensor {
        let length = ids.size()[1];
        let words = Tensor::embedding(&self.word_embeddings, ids, -1, false, false);
        let mut x = self.norm.forward(&(words + self.position_embeddings.narrow(0, 0, length)));
        let visible = mask.new_ones([length, length], (mask.kind(), mask.device())).tril(0);
        let visible = visible.logical_and(&mask.unsqueeze(1).unsqueeze(1)); // [B, 1, L, L]
        let scores = x.new_zeros(visible.size(), (x.kind(), x.device()));
        let scores = scores.masked_fill(&visible.logical_not(), f64::NEG_INFINITY);
        for layer in &self.layers {
            x = layer.forward(&x, &scores, image);
        }
        let hidden = self.activation.forward(&self.transform.forward(&x));
        self.decoder.forward(&self.transform_norm.forward(&hidden))
    }
}

/// The matrix and the bias have two names each in a checkpoint, and files hold one of them or both.
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

/// Self-attention, cross-attention and a feed-forward network, each before its norm.
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

    fn forward(&self, x: &Tensor, scores: &Tensor, image: &Tensor) -> Tensor {
        let x = self.attention.forward(x, x, Some(scores));
        self.feed_forward.forward(&self.crossattention.forward(&x, image, None))
    }
}
