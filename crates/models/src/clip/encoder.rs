use crate::{
    layers::{Activation, LayerNorm, Linear, attention},
    weights::Scope,
};
use tch::Tensor;

/// The transformer of a tower; causal for texts, not for images.
pub struct Encoder {
    layers: Vec<Layer>,
}

pub struct Shape {
    pub width: i64,
    /// Width of the feed-forward networks.
    pub inner: i64,
    pub layers: usize,
    pub heads: i64,
    pub activation: Activation,
    pub norm_eps: f64,
    pub causal: bool,
}

impl Encoder {
    pub fn new(at: Scope, shape: &Shape) -> Self {
        Self { layers: (0..shape.layers).map(|i| Layer::new(&at / "layers" / i, shape)).collect() }
    }

    /// `[B, N, D]` → outputs of the last layer and of the `nth` from the end (1: the last one again), `[B, N, D]` each
    pub fn forward(&self, mut x: Tensor, nth: usize) -> (Tensor, Tensor) {
        let left = (self.layers.len() + 1).saturating_sub(nth);
        let mut early = x.shallow_clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x);
            if i + 1 == left {
                early = x.shallow_clone();
            }
        }
        (x, early)
    }

    pub fn layers(&self) -> usize {
        self.layers.len()
    }
}

/// Self-attention and a feed-forward network, each after a norm.
struct Layer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
}

impl Layer {
    fn new(at: Scope, shape: &Shape) -> Self {
        Self {
            layer_norm1: LayerNorm::new(&at / "layer_norm1", shape.width, shape.norm_eps),
            self_attn: SelfAttention::new(&at / "self_attn", shape),
            layer_norm2: LayerNorm::new(&at / "layer_norm2", shape.width, shape.norm_eps),
            fc1: Linear::new(&at / "mlp" / "fc1", shape.width, shape.inner),
            activation: shape.activation,
            fc2: Linear::new(&at / "mlp" / "fc2", shape.inner, shape.width),
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
    causal: bool,
}

impl SelfAttention {
    fn new(at: Scope, shape: &Shape) -> Self {
        let linear = |name: &str| Linear::new(&at / name, shape.width, shape.width);
        Self {
            q_proj: linear("q_proj"),
            k_proj: linear("k_proj"),
            v_proj: linear("v_proj"),
            out_proj: linear("out_proj"),
            heads: shape.heads,
            causal: shape.causal,
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let (q, k, v) = (self.q_proj.forward(x), self.k_proj.forward(x), self.v_proj.forward(x));
        self.out_proj.forward(&attention(&q, &k, &v, self.heads, None, self.causal))
    }
}
