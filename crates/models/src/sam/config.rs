use crate::{
    config::Json,
    error::Result,
    layers::Activation,
    transformers::{activation, heads, positive},
};
use std::path::Path;

/// The settings of a transformers `SamConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vision: VisionConfig,
    pub decoder: DecoderConfig,
}

#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Side of the (square) image in pixels.
    pub image_size: i64,
    pub patch_size: i64,
    pub hidden_size: i64,
    pub mlp_dim: i64,
    pub layers: usize,
    pub heads: i64,
    /// Side of a window, in patches.
    pub window_size: i64,
    /// The layers that attend to the whole image instead of windows.
    pub global_layers: Vec<i64>,
    /// Channels of the image's embedding.
    pub output_channels: i64,
    pub activation: Activation,
    pub norm_eps: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    pub hidden_size: i64,
    pub mlp_dim: i64,
    pub layers: usize,
    pub heads: i64,
    /// Factor by which cross-attention is narrower than `hidden_size`.
    pub downsample_rate: i64,
    /// Number of masks for ambiguous prompts, besides the single one.
    pub multimask_outputs: i64,
    pub iou_layers: i64,
    pub iou_width: i64,
    pub norm_eps: f64,
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let json = Json::read(path)?;
        json.only("model_type", "sam")?;
        let vision = VisionConfig::read(&json.section("vision_config")?)?;
        let decoder = DecoderConfig::read(&json.section("mask_decoder_config")?, &vision)?;
        check_prompts(&json.section("prompt_encoder_config")?, &vision)?;
        json.base_keys()?;
        json.finish()?;
        Ok(Self { vision, decoder })
    }
}

impl VisionConfig {
    fn read(json: &Json) -> Result<Self> {
        let hidden_size = size(json, "hidden_size", 768)?;
        let ratio: f64 = json.get_or("mlp_ratio", 4.0)?;
        let config = Self {
            image_size: size(json, "image_size", 1024)?,
            patch_size: size(json, "patch_size", 16)?,
            hidden_size,
            mlp_dim: size(json, "mlp_dim", (hidden_size as f64 * ratio) as i64)?,
            layers: size(json, "num_hidden_layers", 12)? as usize,
            heads: heads(json, hidden_size, 12)?,
            window_size: size(json, "window_size", 14)?,
            global_layers: json.get_or("global_attn_indexes", vec![2, 5, 8, 11])?,
            output_channels: size(json, "output_channels", 256)?,
            activation: activation(json, "gelu")?,
            norm_eps: json.get_or("layer_norm_eps", 1e-6)?,
        };
        if config.image_size % config.patch_size != 0 {
            let what = format!("is {}, which does not divide image_size {}", config.patch_size, config.image_size);
            return Err(json.error("patch_size", &what));
        }
        let half: i64 = json.get_or("num_pos_feats", 128)?;
        if 2 * half != config.output_channels {
            return Err(json.error("num_pos_feats", &format!("is {half}, not half of {}", config.output_channels)));
        }
        check_type(json, "sam_vision_model")?;
        json.only("num_channels", 3)?;
        for key in ["qkv_bias", "use_abs_pos", "use_rel_pos"] {
            json.only(key, true)?;
        }
        json.base_keys()?;
        json.ignore(&["intermediate_size", "projection_dim", "scale"]); // upstream does not use them
        json.finish()?;
        Ok(config)
    }

    /// Patches along one side.
    pub fn patches(&self) -> i64 {
        self.image_size / self.patch_size
    }
}

impl DecoderConfig {
    fn read(json: &Json, vision: &VisionConfig) -> Result<Self> {
        let hidden_size = embedding_width(json, vision)?;
        let config = Self {
            hidden_size,
            mlp_dim: size(json, "mlp_dim", 2048)?,
            layers: size(json, "num_hidden_layers", 2)? as usize,
            heads: heads(json, hidden_size, 8)?,
            downsample_rate: size(json, "attention_downsample_rate", 2)?,
            multimask_outputs: size(json, "num_multimask_outputs", 3)?,
            iou_layers: size(json, "iou_head_depth", 3)?,
            iou_width: size(json, "iou_head_hidden_dim", 256)?,
            norm_eps: json.get_or("layer_norm_eps", 1e-6)?,
        };
        if hidden_size % 8 != 0 {
            return Err(json.error("hidden_size", &format!("is {hidden_size}; it must be a multiple of 8")));
        }
        if hidden_size % (config.downsample_rate * config.heads) != 0 {
            let (rate, heads) = (config.downsample_rate, config.heads);
            let what = format!("is {rate}: {heads} heads cannot share hidden_size {hidden_size} / {rate}");
            return Err(json.error("attention_downsample_rate", &what));
        }
        check_type(json, "sam_mask_decoder")?;
        json.only("hidden_act", "relu")?;
        json.base_keys()?;
        json.finish()?;
        Ok(config)
    }
}

/// The box encoder has no settings of its own: its keys must agree with those of the image encoder.
fn check_prompts(json: &Json, vision: &VisionConfig) -> Result<()> {
    embedding_width(json, vision)?;
    for (key, here, default) in [("image_size", vision.image_size, 1024), ("patch_size", vision.patch_size, 16)] {
        let value = size(json, key, default)?;
        if value != here {
            return Err(json.error(key, &format!("is {value}, but vision_config says {here}")));
        }
    }
    check_type(json, "sam_prompt_encoder")?;
    json.only("num_point_embeddings", 4)?;
    json.base_keys()?;
    json.ignore(&["image_embedding_size"]); // upstream computes it
    json.ignore(&["hidden_act", "layer_norm_eps", "mask_input_channels"]); // for masks given as prompts
    json.finish()
}

/// `hidden_size` of a part that reads the image's embedding; must equal the embedding's channels.
fn embedding_width(json: &Json, vision: &VisionConfig) -> Result<i64> {
    let width = size(json, "hidden_size", 256)?;
    if width != vision.output_channels {
        let what = format!("is {width}, but output_channels of vision_config is {}", vision.output_channels);
        return Err(json.error("hidden_size", &what));
    }
    Ok(width)
}

/// A size or a count, limited so that arithmetic cannot overflow.
fn size(json: &Json, key: &str, default: i64) -> Result<i64> {
    const MOST: i64 = 1 << 16;
    match positive(json, key, Some(default))? {
        value if value > MOST => Err(json.error(key, &format!("is {value}; it must be at most {MOST}"))),
        value => Ok(value),
    }
}

/// Checks the type of a part, which published files leave empty.
fn check_type(json: &Json, name: &str) -> Result<()> {
    match json.maybe::<String>("model_type")? {
        Some(empty) if empty.is_empty() => Ok(()),
        _ => json.only("model_type", name),
    }
}
