#![allow(clippy::expect_used, reason = "of shapes that the network itself has made")]

use super::{
    config::DecoderConfig,
    vision::{NORM_EPS, over_channels},
};
use crate::{
    layers::{LayerNorm, Linear, attention},
    weights::Scope,
};
use tch::{Kind, Tensor};

/// Computes masks and their scores from the embeddings of an image and of boxes.
pub struct MaskDecoder {
    iou_token: Tensor,
    mask_tokens: Tensor,
    transformer: TwoWayTransformer,
    upscale_conv1: Upscale,
    upscale_layer_norm: LayerNorm,
    upscale_conv2: Upscale,
    output_hypernetworks_mlps: Vec<Mlp>,
    iou_prediction_head: Mlp,
}

/// Masks `[N, M, h, w]` as logits, at a quarter of the image's size, and the decoder's own estimate `[N, M]` of the
/// intersection over union of each; float32 or float64.
///
/// The first mask is for an unambiguous prompt; the others are three interpretations of an ambiguous one.
pub struct Decoded {
    pub masks: Tensor,
    pub iou: Tensor,
}

impl MaskDecoder {
    pub fn new(at: Scope, config: &DecoderConfig) -> Self {
        let (width, masks) = (config.hidden_size, config.multimask_outputs + 1);
        let mlps = &at / "output_hypernetworks_mlps";
        Self {
            iou_token: (&at / "iou_token").tensor("weight", &[1, width]),
            mask_tokens: (&at / "mask_tokens").tensor("weight", &[masks, width]),
            transformer: TwoWayTransformer::new(&at / "transformer", config),
            upscale_conv1: Upscale::new(&at / "upscale_conv1", width, width / 4),
            upscale_layer_norm: LayerNorm::new(&at / "upscale_layer_norm", width / 4, NORM_EPS),
            upscale_conv2: Upscale::new(&at / "upscale_conv2", width / 4, width / 8),
            output_hypernetworks_mlps: (0..masks).map(|i| Mlp::new(&mlps / i, width, width, width / 8, 3)).collect(),
            iou_prediction_head: Mlp::new(
                &at / "iou_prediction_head",
                width,
                config.iou_width,
                masks,
                config.iou_layers,
            ),
        }
    }

    /// image `[1, D, h, w]`, `places`: positional encodings `[1, h w, D]` of its patches, boxes `[N, 2, D]`
    pub fn forward(&self, image: &Tensor, places: &Tensor, boxes: &Tensor) -> Decoded {
        let (_, channels, height, width) = image.size4().expect("[1, D, h, w]");
        let (count, masks) = (boxes.size()[0], self.mask_tokens.size()[0]);
        let own = Tensor::cat(&[&self.iou_token, &self.mask_tokens], 0).unsqueeze(0).expand([count, -1, -1], false);
        let tokens = Tensor::cat(&[&own, boxes], 1);
        let image = image.flatten(2, 3).transpose(1, 2).expand([count, -1, -1], false);
        let (tokens, image) = self.transformer.forward(&tokens, &image, places);

        let image = image.transpose(1, 2).reshape([count, channels, height, width]);
        let image = over_channels(&self.upscale_layer_norm, &self.upscale_conv1.forward(&image)).gelu("none");
        let image = self.upscale_conv2.forward(&image).gelu("none");
        let weights: Vec<Tensor> = self
            .output_hypernetworks_mlps
            .iter()
            .zip(1..)
            .map(|(mlp, token)| mlp.forward(&tokens.select(1, token)))
            .collect();
        // The mask is where this sum is above 0. Half precision would make its outline rough.
        let wide = |x: &Tensor| if x.kind() == Kind::Double { x.shallow_clone() } else { x.to_kind(Kind::Float) };
        let logits = wide(&Tensor::stack(&weights, 1)).matmul(&wide(&image).flatten(2, 3));
        Decoded {
            masks: logits.view([count, masks, 4 * height, 4 * width]),
            iou: wide(&self.iou_prediction_head.forward(&tokens.select(1, 0))),
        }
    }
}

/// Tokens attend to the image and the image to the tokens, in turn.
struct TwoWayTransformer {
    layers: Vec<Block>,
    final_attn_token_to_image: Attention,
    layer_norm_final_attn: LayerNorm,
}

impl TwoWayTransformer {
    fn new(at: Scope, config: &DecoderConfig) -> Self {
        Self {
            layers: (0..config.layers).map(|i| Block::new(&at / "layers" / i, config, i == 0)).collect(),
            final_attn_token_to_image: Attention::new(
                &at / "final_attn_token_to_image",
                config,
                config.downsample_rate,
            ),
            layer_norm_final_attn: LayerNorm::new(&at / "layer_norm_final_attn", config.hidden_size, 1e-5),
        }
    }

    /// tokens `[N, T, D]`, image `[N, P, D]` → both, updated. The initial tokens are also the tokens' positional
    /// encodings.
    fn forward(&self, tokens: &Tensor, image: &Tensor, places: &Tensor) -> (Tensor, Tensor) {
        let (mut queries, mut keys) = (tokens.shallow_clone(), image.shallow_clone());
        for layer in &self.layers {
            (queries, keys) = layer.forward(&queries, &keys, tokens, places);
        }
        let seen = self.final_attn_token_to_image.forward(&(&queries + tokens), &(&keys + places), &keys);
        (self.layer_norm_final_attn.forward(&(queries + seen)), keys)
    }
}

struct Block {
    self_attn: Attention,
    layer_norm1: LayerNorm,
    cross_attn_token_to_image: Attention,
    layer_norm2: LayerNorm,
    lin1: Linear,
    lin2: Linear,
    layer_norm3: LayerNorm,
    cross_attn_image_to_token: Attention,
    layer_norm4: LayerNorm,
    /// Whether this is the first block. Its input tokens equal their positional encodings.
    first: bool,
}

impl Block {
    fn new(at: Scope, config: &DecoderConfig, first: bool) -> Self {
        let (width, inner, rate) = (config.hidden_size, config.mlp_dim, config.downsample_rate);
        let norm = |name: &str| LayerNorm::new(&at / name, width, config.norm_eps);
        Self {
            self_attn: Attention::new(&at / "self_attn", config, 1),
            layer_norm1: norm("layer_norm1"),
            cross_attn_token_to_image: Attention::new(&at / "cross_attn_token_to_image", config, rate),
            layer_norm2: norm("layer_norm2"),
            lin1: Linear::new(&at / "mlp" / "lin1", width, inner),
            lin2: Linear::new(&at / "mlp" / "lin2", inner, width),
            layer_norm3: norm("layer_norm3"),
            cross_attn_image_to_token: Attention::new(&at / "cross_attn_image_to_token", config, rate),
            layer_norm4: norm("layer_norm4"),
            first,
        }
    }

    fn forward(&self, tokens: &Tensor, image: &Tensor, token_places: &Tensor, places: &Tensor) -> (Tensor, Tensor) {
        let tokens = if self.first {
            self.self_attn.forward(tokens, tokens, tokens)
        } else {
            let placed = tokens + token_places;
            tokens + self.self_attn.forward(&placed, &placed, tokens)
        };
        let tokens = self.layer_norm1.forward(&tokens);

        let placed_image = image + places;
        let seen = self.cross_attn_token_to_image.forward(&(&tokens + token_places), &placed_image, image);
        let tokens = self.layer_norm2.forward(&(tokens + seen));

        let hidden = self.lin2.forward(&self.lin1.forward(&tokens).relu());
        let tokens = self.layer_norm3.forward(&(tokens + hidden));

        let seen = self.cross_attn_image_to_token.forward(&placed_image, &(&tokens + token_places), &tokens);
        let image = self.layer_norm4.forward(&(image + seen));
        (tokens, image)
    }
}

struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: i64,
}

impl Attention {
    fn new(at: Scope, config: &DecoderConfig, downsample_rate: i64) -> Self {
        let (width, inner) = (config.hidden_size, config.hidden_size / downsample_rate);
        Self {
            q_proj: Linear::new(&at / "q_proj", width, inner),
            k_proj: Linear::new(&at / "k_proj", width, inner),
            v_proj: Linear::new(&at / "v_proj", width, inner),
            out_proj: Linear::new(&at / "out_proj", inner, width),
            heads: config.heads,
        }
    }

    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let (q, k, v) = (self.q_proj.forward(q), self.k_proj.forward(k), self.v_proj.forward(v));
        self.out_proj.forward(&attention(&q, &k, &v, self.heads, None, false))
    }
}

/// A transposed convolution that doubles height and width.
struct Upscale {
    weight: Tensor,
    bias: Tensor,
}

impl Upscale {
    fn new(at: Scope, inputs: i64, outputs: i64) -> Self {
        Self { weight: at.tensor("weight", &[inputs, outputs, 2, 2]), bias: at.tensor("bias", &[outputs]) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        x.conv_transpose2d(&self.weight, Some(&self.bias), [2, 2], [0, 0], [0, 0], 1, [1, 1])
    }
}

/// Linear layers with ReLU between them.
struct Mlp {
    proj_in: Linear,
    layers: Vec<Linear>,
    proj_out: Linear,
}

impl Mlp {
    /// `depth` layers, at least two: the first and the last.
    fn new(at: Scope, inputs: i64, inner: i64, outputs: i64, depth: i64) -> Self {
        Self {
            proj_in: Linear::new(&at / "proj_in", inputs, inner),
            layers: (0..depth - 2).map(|i| Linear::new(&at / "layers" / i, inner, inner)).collect(),
            proj_out: Linear::new(&at / "proj_out", inner, outputs),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let mut x = self.proj_in.forward(x).relu();
        for layer in &self.layers {
            x = layer.forward(&x).relu();
        }
        self.proj_out.forward(&x)
    }
}
