//! The autoencoder between images and latents.
//!
//! Paper: Rombach et al. (2022), section 3.1. Weights and names: diffusers `AutoencoderKL`.

use crate::{
    autoencoder::Autoencoder,
    config::Json,
    error::{Error, Result},
    inert_keys,
    layers::{Conv2d, GroupNorm, Linear, attention},
    resnet::{ResnetBlock, upsample},
    transformers::{all_positive, positive},
    weights::{Layout, Scope, Weights},
};
use std::path::Path;
use tch::{Device, Kind, Tensor};

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub in_channels: i64,
    pub out_channels: i64,
    pub latent_channels: i64,
    /// Channels from the highest resolution to the lowest.
    pub channels: Vec<i64>,
    pub layers_per_block: usize,
    pub norm_groups: i64,
    pub mid_attention: bool,
    /// Latents are multiplied by this after encoding, and divided by it before decoding.
    pub scaling_factor: f64,
    /// Whether the network overflows in float16 and must run in float32; `None` if the file does not say.
    pub force_upcast: Option<bool>,
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let json = Json::read(path)?;
        json.only("_class_name", "AutoencoderKL")?;
        let channels: Vec<i64> = json.get("block_out_channels")?;
        all_positive(&json, "block_out_channels", &channels)?;
        let groups = positive(&json, "norm_num_groups", Some(32))?;
        if channels.iter().any(|c| c % groups != 0) {
            return Err(
                json.error("block_out_channels", &format!("{channels:?} cannot be normalised in {groups} groups"))
            );
        }
        for (key, block) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            let types: Vec<String> = json.get(key)?;
            if types.len() != channels.len() || types.iter().any(|t| t != block) {
                return Err(json.error(key, &format!("is {types:?}; only {block} is supported, one for each level")));
            }
        }
        let config = Self {
            in_channels: positive(&json, "in_channels", Some(3))?,
            out_channels: positive(&json, "out_channels", Some(3))?,
            latent_channels: positive(&json, "latent_channels", Some(4))?,
            channels,
            layers_per_block: positive(&json, "layers_per_block", Some(1))? as usize,
            norm_groups: groups,
            mid_attention: json.get_or("mid_block_add_attention", true)?,
            scaling_factor: json.get_or("scaling_factor", 0.18215)?,
            force_upcast: json.maybe("force_upcast")?,
        };
        if json.maybe::<String>("act_fn")?.as_deref() != Some("swish") {
            json.only("act_fn", "silu")?; // of which swish is another name
        }
        json.only("latents_mean", serde_json::Value::Null)?;
        json.only("latents_std", serde_json::Value::Null)?;
        json.only("shift_factor", 0.0)?;
        json.only("use_quant_conv", true)?;
        json.only("use_post_quant_conv", true)?;
        json.ignore(&["sample_size"]);
        json.ignore(inert_keys::AVERAGE);
        json.finish()?;
        Ok(config)
    }

    /// Image pixels per latent pixel, along each side.
    pub fn downscale(&self) -> i64 {
        1 << (self.channels.len() - 1)
    }

    /// The precision of this network if the other networks use `kind`: a network that overflows in float16 runs in
    /// float32. If the file does not say whether it overflows, SDXL's does (diffusers checks it in no other pipeline).
    pub fn kind(&self, kind: Kind, xl: bool) -> Kind {
        if self.force_upcast.unwrap_or(xl) && kind == Kind::Half { Kind::Float } else { kind }
    }

    fn norm(&self) -> (i64, f64) {
        (self.norm_groups, 1e-6)
    }
}

pub struct AutoencoderKl {
    config: Config,
    encoder: Encoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    decoder: Decoder,
    kind: Kind,
}

impl AutoencoderKl {
    /// Reads `config.json` and `diffusion_pytorch_model.safetensors` of a folder.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        Self::open_variant(folder, None, kind, device)
    }

    /// Like [`AutoencoderKl::open`], but prefers the weights of this variant if there are any.
    pub fn open_variant(folder: &Path, variant: Option<&str>, kind: Kind, device: Device) -> Result<Self> {
        let config = Config::read(&folder.join("config.json"))?;
        let weights = Weights::open_variant(folder, "diffusion_pytorch_model", variant, kind, device)?;
        Self::new(&config, &weights, kind)
    }

    pub fn new(config: &Config, weights: &Weights, kind: Kind) -> Result<Self> {
        weights.build(&[], |root| Self::at(root, config, kind))
    }

    /// Tensor shapes of an autoencoder with this configuration.
    pub fn layout(config: &Config) -> Layout {
        Weights::layout(&|key| key.ends_with("query.weight"), |root| Self::at(root, config, Kind::Float))
    }

    fn at(root: Scope, config: &Config, kind: Kind) -> Self {
        let latents = config.latent_channels;
        Self {
            encoder: Encoder::new(&root / "encoder", config),
            quant_conv: Conv2d::new(&root / "quant_conv", 2 * latents, 2 * latents, 1, 1, 0),
            post_quant_conv: Conv2d::new(&root / "post_quant_conv", latents, latents, 1, 1, 0),
            decoder: Decoder::new(&root / "decoder", config),
            config: config.clone(),
            kind,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Autoencoder for AutoencoderKl {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn channels(&self) -> i64 {
        self.config.latent_channels
    }

    fn downscale(&self) -> i64 {
        self.config.downscale()
    }

    fn scale(&self) -> f64 {
        self.config.scaling_factor
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let size = latents.size();
        if size.len() != 4 || size[1] != self.config.latent_channels {
            return Err(Error::Input(format!(
                "VAE: latents {size:?} are not [B, {}, h, w]",
                self.config.latent_channels
            )));
        }
        let start = latents.to_kind(self.kind);
        let image = (0..self.decode_stages()).fold(start, |x, stage| self.decode_stage(stage, &x));
        Ok(image.to_kind(latents.kind()))
    }

    fn decode_stages(&self) -> usize {
        self.decoder.stages.len() + 1
    }

    fn decode_stage(&self, stage: usize, x: &Tensor) -> Tensor {
        match stage {
            0 => self.post_quant_conv.forward(&(x / self.config.scaling_factor)),
            _ => self.decoder.stages[stage - 1].forward(x),
        }
    }

    fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor)> {
        let size = image.size();
        let least = self.config.downscale();
        if size.len() != 4 || size[1] != self.config.in_channels || size[2] < least || size[3] < least {
            return Err(Error::Input(format!(
                "VAE: image {size:?} is not [B, {}, H, W] with sides of {least} or more",
                self.config.in_channels
            )));
        }
        let moments = self.quant_conv.forward(&self.encoder.forward(&image.to_kind(self.kind))).to_kind(image.kind());
        let halves = moments.chunk(2, 1);
        Ok((halves[0].shallow_clone(), halves[1].clamp(-30.0, 20.0)))
    }
}

struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(at: Scope, config: &Config) -> Self {
        let channels = &config.channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let block = |i: usize| {
            let at = &at / "down_blocks" / i;
            let above = channels[i.saturating_sub(1)];
            let resnets = resnets(&at, config, config.layers_per_block, above, channels[i]);
            let conv = || Conv2d::new(&at / "downsamplers" / 0 / "conv", channels[i], channels[i], 3, 2, 0);
            (resnets, (i + 1 < channels.len()).then(conv))
        };
        Self {
            conv_in: Conv2d::same(&at / "conv_in", config.in_channels, first),
            down_blocks: (0..channels.len()).map(block).collect(),
            mid_block: MidBlock::new(&at / "mid_block", config, last),
            conv_norm_out: GroupNorm::new(&at / "conv_norm_out", last, config.norm_groups, 1e-6),
            conv_out: Conv2d::same(&at / "conv_out", last, 2 * config.latent_channels),
        }
    }

    fn forward(&self, image: &Tensor) -> Tensor {
        let mut x = self.conv_in.forward(image);
        for (resnets, downsampler) in &self.down_blocks {
            for resnet in resnets {
                x = resnet.forward(&x, None);
            }
            if let Some(conv) = downsampler {
                x = conv.forward(&x.constant_pad_nd([0, 1, 0, 1])); // right and bottom only
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&self.mid_block.forward(&x)))
    }
}

/// The decoder in stages, so that a gradient can be computed one stage at a time.
struct Decoder {
    stages: Vec<Stage>,
}

enum Stage {
    Conv(Conv2d),
    Resnet(ResnetBlock),
    Attention(PixelAttention),
    /// Doubles height and width.
    Upsample(Conv2d),
    Out(GroupNorm, Conv2d),
}

impl Stage {
    fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Resnet(resnet) => resnet.forward(x, None),
            Self::Attention(attention) => attention.forward(x),
            Self::Upsample(conv) => conv.forward(&upsample(x, 2 * x.size()[2], 2 * x.size()[3])),
            Self::Out(norm, conv) => conv.forward(&norm.forward_silu(x)),
        }
    }
}

impl Decoder {
    fn new(at: Scope, config: &Config) -> Self {
        let channels: Vec<i64> = config.channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let mut stages = vec![Stage::Conv(Conv2d::same(&at / "conv_in", config.latent_channels, first))];
        let MidBlock { first: before, attention, second: behind } = MidBlock::new(&at / "mid_block", config, first);
        stages.push(Stage::Resnet(before));
        stages.extend(attention.map(Stage::Attention));
        stages.push(Stage::Resnet(behind));
        for i in 0..channels.len() {
            let at = &at / "up_blocks" / i;
            let below = channels[i.saturating_sub(1)];
            stages.extend(
                resnets(&at, config, config.layers_per_block + 1, below, channels[i]).into_iter().map(Stage::Resnet),
            );
            if i + 1 < channels.len() {
                stages.push(Stage::Upsample(Conv2d::same(&at / "upsamplers" / 0 / "conv", channels[i], channels[i])));
            }
        }
        stages.push(Stage::Out(
            GroupNorm::new(&at / "conv_norm_out", last, config.norm_groups, 1e-6),
            Conv2d::same(&at / "conv_out", last, config.out_channels),
        ));
        Self { stages }
    }
}

fn resnets(at: &Scope, config: &Config, count: usize, inputs: i64, outputs: i64) -> Vec<ResnetBlock> {
    let block = |j| {
        let inputs = if j == 0 { inputs } else { outputs };
        ResnetBlock::new(at / "resnets" / j, inputs, outputs, None, config.norm())
    };
    (0..count).map(block).collect()
}

struct MidBlock {
    first: ResnetBlock,
    attention: Option<PixelAttention>,
    second: ResnetBlock,
}

impl MidBlock {
    fn new(at: Scope, config: &Config, channels: i64) -> Self {
        let resnet = |i: usize| ResnetBlock::new(&at / "resnets" / i, channels, channels, None, config.norm());
        let attention = || PixelAttention::new(&at / "attentions" / 0, channels, config.norm());
        Self { first: resnet(0), attention: config.mid_attention.then(attention), second: resnet(1) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let mut x = self.first.forward(x, None);
        if let Some(attention) = &self.attention {
            x = attention.forward(&x);
        }
        self.second.forward(&x, None)
    }
}

/// Single-head attention between all pixels.
struct PixelAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl PixelAttention {
    fn new(at: Scope, channels: i64, (groups, eps): (i64, f64)) -> Self {
        // Files from before diffusers 0.12, including the original SD1.5, use other names here.
        let old = at.has("query.weight");
        let linear = |now: &str, then: &str| Linear::new(&at / (if old { then } else { now }), channels, channels);
        Self {
            group_norm: GroupNorm::new(&at / "group_norm", channels, groups, eps),
            to_q: linear("to_q", "query"),
            to_k: linear("to_k", "key"),
            to_v: linear("to_v", "value"),
            to_out: linear("to_out.0", "proj_attn"),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let sequence = self.group_norm.forward(x).flatten(2, 3).transpose(1, 2);
        let [q, k, v] = [&self.to_q, &self.to_k, &self.to_v].map(|l| l.forward(&sequence));
        let out = self.to_out.forward(&attention(&q, &k, &v, 1, None, false));
        x + out.transpose(1, 2).reshape(x.size())
    }
}
