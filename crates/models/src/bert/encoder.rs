use super::{Attention, Config, FeedForward};
use crate::{layers::LayerNorm, weights::Scope};
use tch::Tensor;

/// BERT as an encoder. The attention mask is given for every pair of tokens.
pub struct Encoder {
    word_embeddings: Tensor,
    position_embeddings: Tensor,
    /// Embedding of token type 0; a single text has no second type.
    token_type: Tensor,
    norm: LayerNorm,
    layers: Vec<(Attention, FeedForward)>,
}

impl Encoder {
    pub fn new(at: Scope, config: &Config) -> Self {
        let (width, eps, embeddings) = (config.hidden_size, config.norm_eps, &at / "embeddings");
        let table = |name: &str, rows: i64| (&embeddings / name).tensor("weight", &[rows, width]);
        let layer = |at: Scope| {
            let attention = Attention::new(&at / "attention", width, width, config.heads, eps);
            (attention, FeedForward::new(&at, width, config.intermediate_size, config.activation, eps))
        };
        Self {
            word_embeddings: table("word_embeddings", config.vocab_size),
            position_embeddings: table("position_embeddings", config.max_position_embeddings),
            token_type: table("token_type_embeddings", config.type_vocab_size).get(0),
            norm: LayerNorm::new(&embeddings / "LayerNorm", width, eps),
            layers: (0..config.layers).map(|i| layer(&at / "encoder" / "layer" / i)).collect(),
        }
    }

    /// ids and positions `[B, L]`; scores `[B, 1, L, L]` are added to the attention scores → `[B, L, D]`
    pub fn forward(&self, ids: &Tensor, positions: &Tensor, scores: &Tensor) -> Tensor {
        let look_up = |table: &Tensor, indices: &Tensor| Tensor::embedding(table, indices, -1, false, false);
        let words = look_up(&self.word_embeddings, ids) + &self.token_type;
        let mut x = self.norm.forward(&(words + look_up(&self.position_embeddings, positions)));
        for (attention, feed_forward) in &self.layers {
            x = feed_forward.forward(&attention.forward(&x, &x, Some(scores)));
        }
        x
    }
}
