#![allow(clippy::expect_used, reason = "of shapes that the network itself has made")]

use super::{
    config::{Config, NORM_GROUPS},
    decoder::Decoder,
    deformable::Maps,
    encoder::{Encoder, Text, cell_centres, valid_ratios},
    parts::{Mlp, scores, sine, wide},
    swin::Backbone,
};
use crate::{
    bert,
    error::{Error, Result},
    layers::{Conv2d, GroupNorm, LayerNorm, Linear},
    transformers::check_ids,
    weights::{Layout, Scope, Weights},
};
use tch::{Device, Kind, Tensor};

/// Old buffers, and layers that detection does not use.
const IGNORED: [&str; 7] = [
    "position_ids",
    "relative_position_index",
    "token_type_ids",
    "pooler.dense.weight",
    "pooler.dense.bias",
    "swin.layernorm.weight",
    "swin.layernorm.bias",
];

/// The network without pre- and postprocessing.
pub struct Network {
    config: Config,
    backbone: Backbone,
    input_proj: Vec<(Conv2d, GroupNorm)>,
    text_backbone: bert::Encoder,
    text_projection: Linear,
    encoder: Encoder,
    level_embed: Tensor,
    enc_output: Linear,
    enc_output_norm: LayerNorm,
    encoder_box_head: Mlp,
    query_embeddings: Tensor,
    decoder: Decoder,
}

/// A batch of images and their captions.
pub struct Inputs {
    /// Normalised `[B, 3, H, W]`
    pub pixels: Tensor,
    /// Booleans `[B, H, W]`, false in the padding to the right of an image and below it; `None` without padding.
    pub pixel_mask: Option<Tensor>,
    /// Token ids `[B, L]`, int64
    pub ids: Tensor,
    /// Booleans `[B, L]`, false in the padding behind a caption
    pub tokens: Tensor,
    /// Booleans `[B, L, L]`: true for two tokens of the same phrase
    pub phrases: Tensor,
    /// Positions within the phrase `[B, L]`, int64
    pub positions: Tensor,
}

/// Output of the last layer and some intermediate results.
pub struct Outputs {
    /// Feature maps of the backbone, `[B, C, h, w]` each
    pub feature_maps: Vec<Tensor>,
    /// Image features of the encoder `[B, S, D]`
    pub vision: Tensor,
    /// Text features of the encoder `[B, L, D]`
    pub text: Tensor,
    /// Initial boxes of the decoder `[B, Q, 4]`
    pub proposals: Tensor,
    /// Score of each box with each token `[B, Q, L]`, before the sigmoid; minus infinity for padding. float32 or better
    pub logits: Tensor,
    /// Centre, width and height as shares of the image `[B, Q, 4]`, float32 or better
    pub boxes: Tensor,
}

impl Network {
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        weights.build(&IGNORED, |root| Self::at(root, config))
    }

    /// Tensor shapes of a network with this configuration, every tensor under its first name.
    pub fn layout(config: &Config) -> Layout {
        let shared = config.box_head_is_shared;
        let absent = |key: &str| {
            let other_layer = key.starts_with("bbox_embed.") && !key.starts_with("bbox_embed.0.") && shared;
            other_layer || key.starts_with("model.decoder.bbox_embed.") || key.ends_with("reduction.bias")
        };
        Weights::layout(&absent, |root| Self::at(root, config))
    }

    fn at(root: Scope, config: &Config) -> Self {
        let (at, width) = (&root / "model", config.d_model);
        Self {
            backbone: Backbone::new(&at / "backbone" / "conv_encoder" / "model", &config.backbone),
            input_proj: input_projections(&at / "input_proj_vision", config),
            text_backbone: bert::Encoder::new(&at / "text_backbone", &config.text),
            text_projection: Linear::new(&at / "text_projection", config.text.hidden_size, width),
            encoder: Encoder::new(&at / "encoder", config),
            level_embed: at.tensor("level_embed", &[config.num_feature_levels as i64, width]),
            enc_output: Linear::new(&at / "enc_output", width, width),
            enc_output_norm: LayerNorm::new(&at / "enc_output_norm", width, config.norm_eps),
            encoder_box_head: Mlp::new(&at / "encoder_output_bbox_embed", &[width, width, width, 4]),
            query_embeddings: (&at / "query_position_embeddings").tensor("weight", &[config.num_queries, width]),
            decoder: Decoder::new(&root, config),
            config: config.clone(),
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Precision and device of the computation.
    pub fn options(&self) -> (Kind, Device) {
        self.backbone.options()
    }

    pub fn forward(&self, inputs: &Inputs) -> Result<Outputs> {
        self.check(inputs)?;
        let (kind, device) = self.options();
        let on_device = |x: &Tensor| x.to_device(device);

        let pixels = on_device(&inputs.pixels).to_kind(kind);
        let pixel_mask = inputs.pixel_mask.as_ref().map(|mask| on_device(mask).to_kind(Kind::Bool));
        let feature_maps = self.backbone.forward(&pixels);
        let (maps, positions, valid) = self.flatten(&feature_maps, &pixel_mask);

        let (tokens, phrases) = (on_device(&inputs.tokens), on_device(&inputs.phrases));
        let places = on_device(&inputs.positions);
        let words = self.text_backbone.forward(&on_device(&inputs.ids), &places, &scores(&phrases.unsqueeze(1), kind));
        let text = Text::new(self.text_projection.forward(&words), &tokens, &phrases, &places);

        let centres = cell_centres(&maps.sizes, &valid);
        let (maps, text) = self.encoder.forward(maps, &positions, &centres, text);
        let proposals = self.propose(&maps, &valid, &text);
        let queries = self.query_embeddings.narrow(0, 0, proposals.size()[1]);
        let queries = queries.unsqueeze(0).expand([pixels.size()[0], -1, -1], false);
        let (features, boxes) = self.decoder.forward(&queries, &proposals, &maps, &valid, &text);
        let logits = similarity(&features, &text);
        Ok(Outputs { feature_maps, vision: maps.features, text: text.features, proposals, logits, boxes })
    }

    /// All feature maps in the model's width as one sequence; their positions `[B, S, D]`; the share of each that is
    /// not padding.
    fn flatten(&self, feature_maps: &[Tensor], pixel_mask: &Option<Tensor>) -> (Maps, Tensor, Tensor) {
        let (kind, _) = self.options();
        let (mut features, mut positions, mut masks, mut sizes) = (vec![], vec![], vec![], vec![]);
        let mut map: Option<Tensor> = None;
        for (level, (conv, norm)) in self.input_proj.iter().enumerate() {
            // After the last feature map come smaller ones, each made from the one before.
            let from = match (feature_maps.get(level), &map) {
                (Some(feature_map), _) => feature_map,
                (None, Some(map)) if level > feature_maps.len() => map,
                _ => &feature_maps[feature_maps.len() - 1],
            };
            let x = norm.forward(&conv.forward(from));
            let (batch, _, height, width) = x.size4().expect("[B, D, h, w]");
            let mask = match pixel_mask {
                Some(mask) => shrink(mask, (height, width)),
                None => Tensor::ones([batch, height, width], (Kind::Bool, x.device())),
            };
            let places = self.positions(&mask).to_kind(kind) + self.level_embed.get(level as i64);
            positions.push(places.flatten(1, 2));
            features.push(x.flatten(2, 3).transpose(1, 2));
            masks.push(mask);
            sizes.push((height, width));
            map = Some(x);
        }
        let padding = pixel_mask
            .as_ref()
            .map(|_| Tensor::cat(&masks.iter().map(|mask| mask.flatten(1, 2)).collect::<Vec<_>>(), 1).logical_not());
        let valid = valid_ratios(&masks, wide(kind));
        (Maps { features: Tensor::cat(&features, 1), padding, sizes }, Tensor::cat(&positions, 1), valid)
    }

    /// Sine embedding of each cell's position, as a share of the image. `[B, h, w]` → `[B, h, w, D]`, float32
    fn positions(&self, mask: &Tensor) -> Tensor {
        let along = |axis: i64| {
            // of whole numbers, since on CUDA a sum of floats depends on their order
            let count = mask.cumsum(axis, Kind::Int64).to_kind(Kind::Float);
            let share = &count / (count.slice(axis, -1, None, 1) + 1e-6);
            sine(&share, self.config.d_model / 2, self.config.temperature)
        };
        Tensor::cat(&[along(1), along(2)], -1)
    }

    /// Initial boxes of the decoder `[B, Q, 4]`: around the cells with the highest scores for any token.
    fn propose(&self, maps: &Maps, valid: &Tensor, text: &Text) -> Tensor {
        let (proposals, good) = cell_boxes(&maps.sizes, valid, maps.padding.as_ref());
        let features = maps.features.masked_fill(&good.logical_not(), 0.0);
        let features = self.enc_output_norm.forward(&self.enc_output.forward(&features));
        let fit = similarity(&features, text).amax(-1, false);
        let boxes = self.encoder_box_head.forward(&features).to_kind(proposals.kind()) + proposals;
        // A very small image has fewer cells than there are queries.
        let count = self.config.num_queries.min(fit.size()[1]);
        let (_, best) = fit.topk(count, 1, true, true);
        boxes.gather(1, &best.unsqueeze(-1).expand([-1, -1, 4], false), false).sigmoid()
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        let fail = |what: String| Err(Error::Input(format!("detector: {what}")));
        let size = inputs.pixels.size();
        let [batch, 3, height, width] = size[..] else {
            return fail(format!("image {size:?} is not [B, 3, H, W]"));
        };
        if batch < 1 || height < 1 || width < 1 || !inputs.pixels.is_floating_point() {
            return fail(format!("image {size:?} of {:?} is empty or holds no numbers", inputs.pixels.kind()));
        }
        let (rows, length) =
            check_ids("detector", &inputs.ids, self.config.text.vocab_size, self.config.max_text_len as i64)?;
        if rows != batch {
            return fail(format!("{rows} captions for {batch} images"));
        }
        let shapes = [
            ("tokens", inputs.tokens.size() == [batch, length]),
            ("phrases", inputs.phrases.size() == [batch, length, length]),
            ("positions", inputs.positions.size() == [batch, length]),
            ("pixel_mask", inputs.pixel_mask.as_ref().is_none_or(|mask| mask.size() == [batch, height, width])),
        ];
        if let Some((name, _)) = shapes.iter().find(|(_, fits)| !fits) {
            return fail(format!("the shape of {name} does not fit images {size:?} with captions of {length} tokens"));
        }
        let (first, last) = (inputs.positions.min().int64_value(&[]), inputs.positions.max().int64_value(&[]));
        let places = self.config.text.max_position_embeddings;
        if first < 0 || last >= places {
            return fail(format!("a phrase of {} tokens, but max_position_embeddings is {places}", last + 1));
        }
        Ok(())
    }
}

/// 1×1 convolutions of the backbone's maps, then 3×3 ones with stride 2 for the additional levels.
fn input_projections(at: Scope, config: &Config) -> Vec<(Conv2d, GroupNorm)> {
    let widths: Vec<i64> = config.backbone.out_indices.iter().map(|index| config.backbone.width(index - 1)).collect();
    let project = |level: usize| {
        let (at, width) = (&at / level, config.d_model);
        let conv = match widths.get(level) {
            Some(&inputs) => Conv2d::new(&at / 0, inputs, width, 1, 1, 0),
            None => {
                let inputs = if level == widths.len() { widths[level - 1] } else { width };
                Conv2d::new(&at / 0, inputs, width, 3, 2, 1)
            }
        };
        (conv, GroupNorm::new(&at / 1, width, NORM_GROUPS, 1e-5))
    };
    (0..config.num_feature_levels).map(project).collect()
}

/// The mask at the size of a feature map, by the nearest pixel. `[B, H, W]` → `[B, h, w]`
fn shrink(mask: &Tensor, (height, width): (i64, i64)) -> Tensor {
    let small = mask.unsqueeze(0).to_kind(Kind::Float).upsample_nearest2d([height, width], None, None);
    small.squeeze_dim(0).to_kind(Kind::Bool)
}

/// A box (x, y, width, height) around the centre of every cell, as logits `[B, S, 4]`. Width and height are
/// 0.05·2^level of the image. Also whether each box is valid, `[B, S, 1]`: all four values in 0.01..0.99, and the cell
/// not in the padding. The logits of invalid boxes are infinite.
fn cell_boxes(sizes: &[(i64, i64)], valid: &Tensor, padding: Option<&Tensor>) -> (Tensor, Tensor) {
    let (batch, options) = (valid.size()[0], (valid.kind(), valid.device()));
    let boxes = (0..).zip(sizes).map(|(level, &(height, width))| {
        let along = |length: i64, axis: i64| {
            // In cells; rounding gives back the exact size without padding.
            let image = (valid.select(1, level).narrow(1, axis, 1) * length).round();
            (Tensor::arange(length, options) + 0.5).unsqueeze(0) / image // [B, length]
        };
        let shape = [batch, height, width];
        let x = along(width, 0).unsqueeze(1).expand(shape, false);
        let y = along(height, 1).unsqueeze(2).expand(shape, false);
        let side = Tensor::full(shape, 0.05 * 2f64.powi(level as i32), options);
        Tensor::stack(&[&x, &y, &side, &side], -1).reshape([batch, height * width, 4])
    });
    let boxes = Tensor::cat(&boxes.collect::<Vec<_>>(), 1);
    let mut good = boxes.gt(0.01).logical_and(&boxes.lt(0.99)).all_dim(-1, true);
    if let Some(padding) = padding {
        good = good.logical_and(&padding.unsqueeze(-1).logical_not());
    }
    let boxes = boxes.logit(None).masked_fill(&good.logical_not(), f64::INFINITY);
    (boxes, good)
}

/// features `[B, N, D]` → score with each token `[B, N, L]`, float32 or better; minus infinity for padding
fn similarity(features: &Tensor, text: &Text) -> Tensor {
    let kind = wide(features.kind());
    let product = features.to_kind(kind).matmul(&text.features.to_kind(kind).transpose(1, 2));
    product + text.tokens.squeeze_dim(1).to_kind(kind)
}
