//! Paper: Song et al., "MPNet: Masked and Permuted Pre-training for Language Understanding" (2020). The relative
//! positions in its attention are T5's (Raffel et al. 2020).

use crate::{
    bert::FeedForward,
    config::Json,
    error::Result,
    layers::{Activation, LayerNorm, Linear, attention},
    transformers::{activation, heads, positive},
    weights::Scope,
};
use tch::{Kind, Tensor};

/// The id of padding. Upstream has it in its code, and counts positions from the next number.
const PAD: i64 = 1;
/// Distances from here on share a bucket.
const FAR: f64 = 128.0;

/// The settings of a transformers `MPNetConfig`.
pub struct Config {
    pub vocab_size: i64,
    pub hidden_size: i64,
    intermediate_size: i64,
    layers: usize,
    heads: i64,
    max_position_embeddings: i64,
    buckets: i64,
    activation: Activation,
    norm_eps: f64,
}

impl Config {
    pub fn read(json: &Json) -> Result<Self> {
        let hidden_size = positive(json, "hidden_size", Some(768))?;
        let config = Self {
            vocab_size: positive(json, "vocab_size", Some(30527))?,
            hidden_size,
            intermediate_size: positive(json, "intermediate_size", Some(3072))?,
            layers: positive(json, "num_hidden_layers", Some(12))? as usize,
            heads: heads(json, hidden_size, 12)?,
            max_position_embeddings: positive(json, "max_position_embeddings", Some(512))?,
            buckets: 32,
            activation: activation(json, "gelu")?,
            norm_eps: json.get_or("layer_norm_eps", 1e-12)?,
        };
        if config.longest() < 2 {
            return Err(json.error("max_position_embeddings", "leaves no space for the start and end tokens"));
        }
        json.only("model_type", "mpnet")?;
        json.only("relative_attention_num_buckets", config.buckets)?; // upstream always computes with 32
        json.base_keys()?;
        json.finish()?;
        Ok(config)
    }

    /// Maximum number of tokens of a text.
    pub fn longest(&self) -> i64 {
        self.max_position_embeddings - PAD - 1
    }
}

/// BERT with relative positions: attention depends on the distance of two tokens.
pub struct Mpnet {
    word_embeddings: Tensor,
    position_embeddings: Tensor,
    norm: LayerNorm,
    /// A score for each bucket of distances and each head.
    relative_attention_bias: Tensor,
    layers: Vec<(Attention, FeedForward)>,
}

impl Mpnet {
    pub fn new(at: Scope, config: &Config) -> Self {
        let (width, eps) = (config.hidden_size, config.norm_eps);
        let (embeddings, encoder) = (&at / "embeddings", &at / "encoder");
        let table = |name: &str, rows: i64| (&embeddings / name).tensor("weight", &[rows, width]);
        let layer = |at: Scope| {
            let attention = Attention::new(&at / "attention", config);
            (attention, FeedForward::new(&at, width, config.intermediate_size, config.activation, eps))
        };
        Self {
            word_embeddings: table("word_embeddings", config.vocab_size),
            position_embeddings: table("position_embeddings", config.max_position_embeddings),
            norm: LayerNorm::new(&embeddings / "LayerNorm", width, eps),
            relative_attention_bias: (&encoder / "relative_attention_bias")
                .tensor("weight", &[config.buckets, config.heads]),
            layers: (0..config.layers).map(|i| layer(&encoder / "layer" / i)).collect(),
        }
    }

    /// ids `[B, L]`; scores `[B, 1, 1, L]`, added to the attention's scores → `[B, L, D]`
    pub fn forward(&self, ids: &Tensor, scores: &Tensor) -> Tensor {
        let look_up = |table: &Tensor, indices: &Tensor| Tensor::embedding(table, indices, -1, false, false);
        // Padding has its own position, whatever comes before it.
        let tokens = ids.ne(PAD).to_kind(Kind::Int64);
        let positions = tokens.cumsum(1, Kind::Int64) * &tokens + PAD;
        let embedded = look_up(&self.word_embeddings, ids) + look_up(&self.position_embeddings, &positions);
        let mut x = self.norm.forward(&embedded);
        let scores = scores + self.of_distances(ids.size()[1]);
        for (attention, feed_forward) in &self.layers {
            x = feed_forward.forward(&attention.forward(&x, &scores));
        }
        x
    }

    /// The bias of the attention scores for the distance of two tokens, `[1, heads, L, L]`.
    fn of_distances(&self, length: i64) -> Tensor {
        let buckets = self.relative_attention_bias.size()[0];
        let indices: Vec<i64> =
            (0..length).flat_map(|query| (0..length).map(move |key| bucket(key - query, buckets))).collect();
        let indices = Tensor::from_slice(&indices).to_device(self.relative_attention_bias.device());
        let bias = Tensor::embedding(&self.relative_attention_bias, &indices.view([length, length]), -1, false, false);
        bias.permute([2, 0, 1]).unsqueeze(0)
    }
}

/// The bucket of a distance. Half of the buckets are for tokens ahead; of each half, half are for single distances, and
/// the rest grow logarithmically.
fn bucket(distance: i64, buckets: i64) -> i64 {
    let half = buckets / 2;
    let (single, ahead, away) = (half / 2, if distance > 0 { half } else { 0 }, distance.abs());
    if away < single {
        return ahead + away;
    }
    let grown = ((away as f32 / single as f32).ln() / (FAR / single as f64).ln() as f32) * (half - single) as f32;
    ahead + (single + grown as i64).min(half - 1)
}

/// Self-attention, and the norm of its sum with its input; like BERT's, with other names.
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm: LayerNorm,
    heads: i64,
}

impl Attention {
    fn new(at: Scope, config: &Config) -> Self {
        let width = config.hidden_size;
        let linear = |name: &str| Linear::new(&at / "attn" / name, width, width);
        Self {
            q: linear("q"),
            k: linear("k"),
            v: linear("v"),
            o: linear("o"),
            norm: LayerNorm::new(&at / "LayerNorm", width, config.norm_eps),
            heads: config.heads,
        }
    }

    fn forward(&self, x: &Tensor, scores: &Tensor) -> Tensor {
        let (q, k, v) = (self.q.forward(x), self.k.forward(x), self.v.forward(x));
        self.norm.forward(&(self.o.forward(&attention(&q, &k, &v, self.heads, Some(scores), false)) + x))
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_of_distances() {
        let of = |distance| bucket(distance, 32);
        assert_eq!([0, -1, -7, 1, 7].map(of), [0, 1, 7, 17, 23]);
        assert_eq!([-8, -11, -12, -16, -127, -128, -500].map(of), [8, 8, 9, 10, 15, 15, 15]);
        let starts = [8, 12, 16, 23, 32, 46, 64, 91]; // upstream's values, in its single precision
        for (bucket, start) in (24..).zip(starts) {
            assert_eq!((of(start - 1), of(start)), (bucket - 1, bucket), "from {start} on");
        }
        assert_eq!(of(511), 31);
    }
}
