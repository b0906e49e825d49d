//! The base model of an adapter.

use super::Network;
use crate::{
    unet::{self, Level, TextTime, UNet},
    weights::Layout,
};
use std::{collections::HashMap, fmt};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    Sd1,
    Sd2,
    Sdxl,
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Sd1 => "Stable Diffusion 1.x",
            Self::Sd2 => "Stable Diffusion 2.x",
            Self::Sdxl => "Stable Diffusion XL",
        })
    }
}

impl Base {
    const ALL: [Self; 3] = [Self::Sd1, Self::Sd2, Self::Sdxl];

    /// The model's name in kohya's metadata (`ss_base_model_version`).
    pub fn version(self) -> &'static str {
        match self {
            Self::Sd1 => "sd_v1",
            Self::Sd2 => "sd_v2",
            Self::Sdxl => "sdxl_base_v1-0",
        }
    }

    /// The name of its LoRAs in ModelSpec's metadata (`modelspec.architecture`).
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Sd1 => "stable-diffusion-v1/lora",
            Self::Sd2 => "stable-diffusion-v2/lora",
            Self::Sdxl => "stable-diffusion-xl-v1-base/lora",
        }
    }

    /// Width of the text embedding in its UNet's cross-attention.
    pub fn text_width(self) -> i64 {
        match self {
            Self::Sd1 => 768,
            Self::Sd2 => 1024,
            Self::Sdxl => 2048,
        }
    }

    pub fn of_text_width(width: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|base| base.text_width() == width)
    }

    /// The base model by the metadata of a file, in kohya's or ModelSpec's terms.
    pub fn of_metadata(metadata: &HashMap<String, String>) -> Option<Self> {
        let version = metadata.get("ss_base_model_version").map_or("", String::as_str);
        let architecture = metadata.get("modelspec.architecture").map_or("", String::as_str);
        let sd2 = version.starts_with("sd_v2") || architecture.starts_with("stable-diffusion-v2");
        if version.starts_with("sdxl") || architecture.starts_with("stable-diffusion-xl") {
            Some(Self::Sdxl)
        } else if sd2 || metadata.get("ss_v2").is_some_and(|v2| v2 == "True") {
            Some(Self::Sd2)
        } else if version.starts_with("sd_v1") || architecture.starts_with("stable-diffusion-v1") {
            Some(Self::Sd1)
        } else {
            None
        }
    }

    /// Layers of the published UNet, each with the shape of its weight, by path.
    pub fn unet_layers(self) -> Layout {
        let layout = UNet::layout(&self.unet()).into_iter();
        layout.filter_map(|(key, shape)| Some((key.strip_suffix(".weight")?.to_owned(), shape))).collect()
    }

    /// As in `unet/config.json` of `stable-diffusion-v1-5`, `stable-diffusion-2-1` and `stable-diffusion-xl-base-1.0`.
    fn unet(self) -> unet::Config {
        let level = |channels, heads, depth, attention| Level {
            channels,
            heads,
            depth,
            down_attention: attention,
            up_attention: attention,
        };
        let levels = match self {
            Self::Sd1 | Self::Sd2 => {
                let heads = |sd2| if self == Self::Sd2 { sd2 } else { 8 };
                vec![
                    level(320, heads(5), 1, true),
                    level(640, heads(10), 1, true),
                    level(1280, heads(20), 1, true),
                    level(1280, heads(20), 1, false),
                ]
            }
            Self::Sdxl => vec![level(320, 5, 1, false), level(640, 10, 2, true), level(1280, 20, 10, true)],
        };
        unet::Config {
            in_channels: 4,
            out_channels: 4,
            sample_size: if self == Self::Sdxl { 128 } else { 64 },
            levels,
            layers_per_block: 2,
            mid_block: true,
            cross_attention_dim: self.text_width(),
            use_linear_projection: self != Self::Sd1,
            text_time: (self == Self::Sdxl).then_some(TextTime { time_width: 256, input_width: 2816 }),
            norm_groups: 32,
            norm_eps: 1e-5,
            cos_first: true,
            freq_shift: 0.0,
            downsample_padding: 1,
        }
    }
}

/// Width of the text embedding in a UNet's cross-attention, from the input width of the layers that read it.
pub fn text_width(network: Network, layer: &str, inputs: Option<i64>) -> Option<i64> {
    let is_text = network == Network::UNet && (layer.ends_with(".attn2.to_k") || layer.ends_with(".attn2.to_v"));
    inputs.filter(|_| is_text)
}

/// Describes a text width by the model that has it.
pub fn describe_width(width: i64) -> String {
    match Base::of_text_width(width) {
        Some(base) => format!("{width} ({base})"),
        None => width.to_string(),
    }
}
