use crate::{
    bert,
    config::Json,
    error::Result,
    layers::Activation,
    transformers::{activation, all_positive, positive},
};
use std::path::Path;

/// Settings from a transformers `GroundingDinoConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub backbone: BackboneConfig,
    pub text: bert::Config,
    pub d_model: i64,
    /// Maximum number of boxes in an image.
    pub num_queries: i64,
    pub num_feature_levels: usize,
    /// Maximum length of a caption in tokens.
    pub max_text_len: usize,
    /// Temperature of the sine embedding of image positions.
    pub temperature: f64,
    pub norm_eps: f64,
    pub encoder: LayersConfig,
    pub decoder: LayersConfig,
    /// Whether all layers of the decoder share one box head.
    pub box_head_is_shared: bool,
}

/// Settings of the encoder's or the decoder's layers.
#[derive(Debug, Clone, PartialEq)]
pub struct LayersConfig {
    pub layers: usize,
    pub heads: i64,
    pub ffn_dim: i64,
    /// Sampling points of deformable attention, for each head and level.
    pub points: i64,
}

/// A Swin transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneConfig {
    pub patch_size: i64,
    pub embed_dim: i64,
    /// Layers of each stage.
    pub depths: Vec<i64>,
    /// Attention heads of each stage.
    pub num_heads: Vec<i64>,
    pub window_size: i64,
    pub mlp_ratio: f64,
    pub activation: Activation,
    pub norm_eps: f64,
    /// The stages whose output is used, counted from 1.
    pub out_indices: Vec<usize>,
}

/// Groups of the group norm after each feature map; a constant in upstream's code.
pub const NORM_GROUPS: i64 = 32;

/// Limit on the window size: a window's attention map has the square of its area in values. Published networks have 7
/// and 12.
const LARGEST_WINDOW: i64 = 32;

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let json = Json::read(path)?;
        let model: String = json.get("model_type")?;
        if model != "grounding-dino" {
            return Err(json.error("model_type", &format!("is {model}; a detector's is grounding-dino")));
        }
        let backbone = BackboneConfig::read(&json.section("backbone_config")?)?;
        let text = bert::Config::read(&json.section("text_config")?)?;
        let d_model = positive(&json, "d_model", Some(256))?;
        if d_model % NORM_GROUPS != 0 {
            return Err(json.error("d_model", &format!("is {d_model}, which is no multiple of {NORM_GROUPS}")));
        }
        let encoder = LayersConfig::read(&json, "encoder", d_model)?;
        // Fusion layer and text enhancer have half the heads and half the width.
        if encoder.heads % 2 != 0 || encoder.ffn_dim % encoder.heads != 0 {
            let message =
                format!("is {}; it must be even and divide encoder_ffn_dim {}", encoder.heads, encoder.ffn_dim);
            return Err(json.error("encoder_attention_heads", &message));
        }
        let config = Self {
            num_queries: positive(&json, "num_queries", Some(900))?,
            num_feature_levels: positive(&json, "num_feature_levels", Some(4))? as usize,
            max_text_len: positive(&json, "max_text_len", Some(256))? as usize,
            temperature: json.get_or("positional_embedding_temperature", 20.0)?,
            norm_eps: json.get_or("layer_norm_eps", 1e-5)?,
            encoder,
            decoder: LayersConfig::read(&json, "decoder", d_model)?,
            box_head_is_shared: json.get_or("decoder_bbox_embed_share", true)?,
            backbone,
            text,
            d_model,
        };
        let maps = config.backbone.out_indices.len();
        if config.num_feature_levels < maps {
            let message = format!("is {}, but the backbone gives {maps} feature maps", config.num_feature_levels);
            return Err(json.error("num_feature_levels", &message));
        }
        json.only("activation_function", "relu")?;
        json.only("embedding_init_target", true)?;
        json.only("position_embedding_type", "sine")?;
        json.only("query_dim", 4)?;
        json.only("two_stage", true)?;
        json.only("two_stage_bbox_embed_share", false)?;
        json.only("backbone", serde_json::Value::Null)?;
        json.only("use_timm_backbone", false)?;
        json.only("backbone_kwargs", serde_json::json!({}))?;
        json.base_keys()?;
        // For training only, or about the kernel that upstream may use.
        json.ignore(&["activation_dropout", "auxiliary_loss", "disable_custom_kernels", "focal_alpha", "init_std"]);
        json.ignore(&["bbox_cost", "bbox_loss_coefficient", "class_cost", "giou_cost", "giou_loss_coefficient"]);
        json.ignore(&["fusion_dropout", "fusion_droppath", "text_enhancer_dropout"]);
        json.ignore(&["use_pretrained_backbone"]);
        json.finish()?;
        Ok(config)
    }
}

impl LayersConfig {
    /// `part`: encoder or decoder
    fn read(json: &Json, part: &str, d_model: i64) -> Result<Self> {
        let key = format!("{part}_attention_heads");
        let heads = positive(json, &key, Some(8))?;
        if d_model % heads != 0 {
            return Err(json.error(&key, &format!("is {heads}, which does not divide d_model {d_model}")));
        }
        Ok(Self {
            layers: positive(json, &format!("{part}_layers"), Some(6))? as usize,
            heads,
            ffn_dim: positive(json, &format!("{part}_ffn_dim"), Some(2048))?,
            points: positive(json, &format!("{part}_n_points"), Some(4))?,
        })
    }
}

impl BackboneConfig {
    fn read(json: &Json) -> Result<Self> {
        let depths: Vec<i64> = json.get_or("depths", vec![2, 2, 6, 2])?;
        let num_heads: Vec<i64> = json.get_or("num_heads", vec![3, 6, 12, 24])?;
        let embed_dim = positive(json, "embed_dim", Some(96))?;
        all_positive(json, "depths", &depths)?;
        let divides = |(stage, &heads): (usize, &i64)| heads >= 1 && (embed_dim << stage) % heads == 0;
        if num_heads.len() != depths.len() || !num_heads.iter().enumerate().all(divides) {
            let message =
                format!("is {num_heads:?}; there must be one for each of {} stages, and divide", depths.len());
            return Err(json.error("num_heads", &format!("{message} its width ({embed_dim} and doubling)")));
        }
        let config = Self {
            patch_size: positive(json, "patch_size", Some(4))?,
            embed_dim,
            out_indices: out_indices(json, depths.len())?,
            depths,
            num_heads,
            window_size: positive(json, "window_size", Some(7))?,
            mlp_ratio: json.get_or("mlp_ratio", 4.0)?,
            activation: activation(json, "gelu")?,
            norm_eps: json.get_or("layer_norm_eps", 1e-5)?,
        };
        if config.mlp_width(embed_dim) < 1 {
            return Err(json.error("mlp_ratio", &format!("is {}, which leaves no width", config.mlp_ratio)));
        }
        if config.window_size > LARGEST_WINDOW {
            let message = format!("is {}; at most {LARGEST_WINDOW} is supported", config.window_size);
            return Err(json.error("window_size", &message));
        }
        json.only("model_type", "swin")?;
        json.only("num_channels", 3)?;
        json.only("use_absolute_embeddings", false)?;
        json.base_keys()?;
        // Derived from other keys, for training, or for uses other than as a backbone.
        json.ignore(&["drop_path_rate", "encoder_stride", "hidden_size", "image_size", "num_layers"]);
        json.ignore(&["path_norm", "qkv_bias", "stage_names"]);
        json.finish()?;
        Ok(config)
    }

    /// Channels of a stage; stages count from 0.
    pub fn width(&self, stage: usize) -> i64 {
        self.embed_dim << stage
    }

    /// Inner width of the feed-forward network in a layer of that width.
    pub fn mlp_width(&self, width: i64) -> i64 {
        (self.mlp_ratio * width as f64) as i64
    }
}

/// Reads `out_indices`, or `out_features` with the same meaning: stem, stage1, …
fn out_indices(json: &Json, stages: usize) -> Result<Vec<usize>> {
    let features: Option<Vec<String>> = json.maybe("out_features")?;
    let by_name = features.as_ref().map(|names| {
        let number = |name: &String| name.strip_prefix("stage").and_then(|number| number.parse().ok()).unwrap_or(0);
        names.iter().map(number).collect::<Vec<usize>>()
    });
    let indices: Option<Vec<usize>> = json.maybe("out_indices")?;
    if let (Some(by_name), Some(indices)) = (&by_name, &indices)
        && by_name != indices
    {
        return Err(json
            .error("out_indices", &format!("is {indices:?}, but out_features is {:?}", features.unwrap_or_default())));
    }
    let indices = indices.or(by_name).unwrap_or_else(|| vec![stages]);
    let ascending = indices.windows(2).all(|pair| pair[0] < pair[1]);
    if indices.is_empty() || !ascending || !indices.iter().all(|index| (1..=stages).contains(index)) {
        let message = format!("is {indices:?}; only stages in their order, 1 to {stages}, are supported");
        return Err(json.error("out_indices", &message));
    }
    Ok(indices)
}
