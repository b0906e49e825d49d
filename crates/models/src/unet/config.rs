use crate::{
    config::Json,
    error::Result,
    inert_keys,
    transformers::{all_positive, at_least_one, at_most, positive},
};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// One value for every level, or one for all.
#[derive(Deserialize)]
#[serde(untagged)]
enum PerLevel<T> {
    One(T),
    Each(Vec<T>),
}

impl<T: Copy> PerLevel<T> {
    fn each(self, levels: usize) -> Option<Vec<T>> {
        match self {
            PerLevel::One(value) => Some(vec![value; levels]),
            PerLevel::Each(values) => (values.len() == levels).then_some(values),
        }
    }

    fn any(self, is: impl Fn(T) -> bool) -> bool {
        match self {
            PerLevel::One(value) => is(value),
            PerLevel::Each(values) => values.into_iter().any(is),
        }
    }
}

/// One resolution of the UNet.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    pub channels: i64,
    pub heads: i64,
    /// Transformer layers in each of the level's attention blocks.
    pub depth: usize,
    pub down_attention: bool,
    pub up_attention: bool,
}

/// SDXL's additional conditioning: sizes and crop as sinusoids, besides the pooled text embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct TextTime {
    pub time_width: i64,
    pub input_width: i64,
}

/// The settings of a diffusers `UNet2DConditionModel`, checked and resolved per level.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub in_channels: i64,
    pub out_channels: i64,
    /// Side of the latents, in latent pixels, that the model was trained for.
    pub sample_size: i64,
    /// The levels from the highest resolution to the lowest.
    pub levels: Vec<Level>,
    pub layers_per_block: usize,
    /// Whether there are layers between the down and the up blocks: small distilled models have none.
    pub mid_block: bool,
    pub cross_attention_dim: i64,
    pub use_linear_projection: bool,
    pub text_time: Option<TextTime>,
    pub norm_groups: i64,
    pub norm_eps: f64,
    pub cos_first: bool,
    pub freq_shift: f64,
    pub downsample_padding: i64,
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let json = Json::read(path)?;
        json.only("_class_name", "UNet2DConditionModel")?;
        let channels: Vec<i64> = json.get("block_out_channels")?;
        all_positive(&json, "block_out_channels", &channels)?;
        let count = channels.len();
        let per_level = |key: &str, values: Option<Vec<i64>>| {
            values.ok_or_else(|| json.error(key, &format!("needs one number, or one for each of the {count} levels")))
        };
        // A naming error upstream: `attention_head_dim` holds the number of heads.
        let key = if json.maybe::<PerLevel<i64>>("num_attention_heads")?.is_some() {
            "num_attention_heads"
        } else {
            "attention_head_dim"
        };
        json.ignore(&["attention_head_dim", "num_attention_heads"]);
        let heads = per_level(key, json.get_or(key, PerLevel::One(8))?.each(count))?;
        let key = "transformer_layers_per_block";
        let depths = per_level(key, json.get_or(key, PerLevel::One(1))?.each(count))?;
        let down = attention_flags(&json, "down_block_types", "CrossAttnDownBlock2D", "DownBlock2D", count)?;
        let mut up = attention_flags(&json, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D", count)?;
        up.reverse();
        for depth in &depths {
            at_most(&json, key, *depth)?;
        }
        let groups = positive(&json, "norm_num_groups", Some(32))?;
        let mut levels = vec![];
        for i in 0..count {
            let level = Level {
                channels: channels[i],
                heads: heads[i],
                depth: depths[i].max(1) as usize,
                down_attention: down[i],
                up_attention: up[i],
            };
            if level.heads < 1 || level.channels % level.heads != 0 {
                return Err(
                    json.error("attention_head_dim", &format!("{} does not divide {} channels", heads[i], channels[i]))
                );
            }
            if level.channels % groups != 0 {
                return Err(
                    json.error("norm_num_groups", &format!("{groups} does not divide {} channels", channels[i]))
                );
            }
            levels.push(level);
        }
        let text_time = match json.maybe::<String>("addition_embed_type")?.as_deref() {
            None => None,
            Some("text_time") => Some(TextTime {
                time_width: positive(&json, "addition_time_embed_dim", None)?,
                input_width: positive(&json, "projection_class_embeddings_input_dim", None)?,
            }),
            Some(other) => {
                return Err(json.error("addition_embed_type", &format!("is {other}; only text_time is supported")));
            }
        };
        let config = Self {
            in_channels: positive(&json, "in_channels", Some(4))?,
            out_channels: positive(&json, "out_channels", Some(4))?,
            sample_size: one_for_all(&json, "sample_size", Some(64))?,
            levels,
            layers_per_block: one_for_all(&json, "layers_per_block", Some(2))? as usize,
            mid_block: mid_block(&json)?,
            cross_attention_dim: one_for_all(&json, "cross_attention_dim", None)?,
            use_linear_projection: json.get_or("use_linear_projection", false)?,
            text_time,
            norm_groups: groups,
            norm_eps: json.get_or("norm_eps", 1e-5)?,
            cos_first: json.truth_or("flip_sin_to_cos", true)?,
            freq_shift: json.get_or("freq_shift", 0.0)?,
            downsample_padding: json.get_or("downsample_padding", 1)?,
        };
        if json.maybe::<String>("act_fn")?.as_deref() != Some("swish") {
            json.only("act_fn", "silu")?; // of which swish is another name
        }
        json.only("center_input_sample", false)?;
        json.only("class_embeddings_concat", false)?;
        json.only("conv_in_kernel", 3)?;
        json.only("conv_out_kernel", 3)?;
        json.only("dual_cross_attention", false)?;
        if json.maybe("only_cross_attention")?.is_some_and(|own: PerLevel<bool>| own.any(|is_only| is_only)) {
            return Err(json.error("only_cross_attention", "is true; only false is supported"));
        }
        json.only("mid_block_only_cross_attention", false)?;
        json.only("mid_block_scale_factor", 1)?;
        json.only("attention_type", "default")?;
        json.only("resnet_out_scale_factor", 1.0)?;
        json.only("resnet_skip_time_act", false)?;
        json.only("resnet_time_scale_shift", "default")?;
        json.only("time_embedding_type", "positional")?;
        for key in [
            "class_embed_type",
            "cross_attention_norm",
            "encoder_hid_dim",
            "encoder_hid_dim_type",
            "num_class_embeds",
            "reverse_transformer_layers_per_block",
            "time_cond_proj_dim",
            "time_embedding_act_fn",
            "time_embedding_dim",
            "timestep_post_act",
        ] {
            json.only(key, Value::Null)?;
        }
        // dropout: the published networks have none, and sampling never uses it. upcast_attention: fused attention accumulates in float32 anyway. The widths below belong to embeddings that
        // the keys above have ruled out.
        json.ignore(&[
            "dropout",
            "upcast_attention",
            "addition_embed_type_num_heads",
            "addition_time_embed_dim",
            "projection_class_embeddings_input_dim",
        ]);
        json.ignore(inert_keys::AVERAGE);
        json.finish()?;
        Ok(config)
    }

    /// Number of times that the latents are halved in the down path.
    pub fn halvings(&self) -> u32 {
        self.levels.len() as u32 - 1
    }
}

/// Null is a value of its own: no mid block. An absent key means the usual one.
fn mid_block(json: &Json) -> Result<bool> {
    let key = "mid_block_type";
    json.only(key, "UNetMidBlock2DCrossAttn")?;
    Ok(!json.raw(key).is_some_and(Value::is_null))
}

/// Like [`positive`]; a list of equal values is also allowed.
fn one_for_all(json: &Json, key: &str, default: Option<i64>) -> Result<i64> {
    match json.maybe::<PerLevel<i64>>(key)? {
        None => positive(json, key, default),
        Some(PerLevel::One(value)) => at_least_one(json, key, value),
        Some(PerLevel::Each(values)) => match values[..] {
            [first, ..] if values.iter().all(|value| *value == first) => at_least_one(json, key, first),
            _ => Err(json.error(key, &format!("is {values:?}; only equal values are supported"))),
        },
    }
}

fn attention_flags(json: &Json, key: &str, with: &str, without: &str, count: usize) -> Result<Vec<bool>> {
    let types: Vec<String> = json.get(key)?;
    if types.len() != count {
        return Err(json.error(key, &format!("has {} entries, block_out_channels has {count}", types.len())));
    }
    let flag = |name: &String| match name.as_str() {
        name if name == with => Ok(true),
        name if name == without => Ok(false),
        name => Err(json.error(key, &format!("holds the unsupported block {name}"))),
    };
    types.iter().map(flag).collect()
}
