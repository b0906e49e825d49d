//! The denoising network of Stable Diffusion 1.x, 2.x and XL.
//!
//! Paper: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022); Podell et al., "SDXL"
//! (2023). Weights and names: diffusers `UNet2DConditionModel`.

mod blocks;
mod config;
mod transformer;

use crate::{
    error::{Error, Result},
    layers::{Conv2d, GroupNorm, sinusoidal},
    network::{Conditions, Network, Projected, Recorder},
    weights::{Layout, Scope, Weights},
};
use blocks::{BlockInputs, DownBlock, MidBlock, TimeEmbedding, UpBlock};
use tch::{Kind, Tensor};

pub use config::{Config, Level, TextTime};

impl Config {
    fn time_width(&self) -> i64 {
        4 * self.levels[0].channels
    }
}

/// SDXL's additional conditions: the pooled embedding of the second encoder, `[B, P]`.
pub const POOLED: &str = "pooled";
/// SDXL's additional conditions: original height and width, crop top and left, target height and width; `[B, 6]`.
pub const TIME_IDS: &str = "time_ids";

pub struct UNet {
    config: Config,
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    add_embedding: Option<TimeEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet {
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        weights.build(&[], |root| Self::at(root, config.clone()))
    }

    /// Tensor shapes of a UNet with this configuration.
    pub fn layout(config: &Config) -> Layout {
        let absent = |key: &str| ["to_q.bias", "to_k.bias", "to_v.bias"].iter().any(|end| key.ends_with(end));
        Weights::layout(&absent, |root| Self::at(root, config.clone()))
    }

    fn at(root: Scope, config: Config) -> Self {
        let (first, levels) = (config.levels[0].channels, config.levels.len());
        let width = config.time_width();
        Self {
            conv_in: Conv2d::same(&root / "conv_in", config.in_channels, first),
            time_embedding: TimeEmbedding::new(&root / "time_embedding", first, width),
            add_embedding: config
                .text_time
                .as_ref()
                .map(|t| TimeEmbedding::new(&root / "add_embedding", t.input_width, width)),
            down_blocks: (0..levels).map(|i| DownBlock::new(&root / "down_blocks" / i, &config, i)).collect(),
            mid_block: config.mid_block.then(|| MidBlock::new(&root / "mid_block", &config)),
            up_blocks: (0..levels).map(|i| UpBlock::new(&root / "up_blocks" / i, &config, levels - 1 - i)).collect(),
            conv_norm_out: GroupNorm::new(&root / "conv_norm_out", first, config.norm_groups, config.norm_eps),
            conv_out: Conv2d::same(&root / "conv_out", first, config.out_channels),
            config,
        }
    }

    fn run(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        conditions: &Conditions,
        recorder: Option<&Recorder>,
        projected: Option<&Projected>,
    ) -> Result<Tensor> {
        let context = self.check(latents, timesteps, conditions)?;
        let kind = latents.kind();
        let time = self.embed(timesteps, conditions, kind)?.silu();
        let given = BlockInputs { time: &time, context: &context.to_kind(kind), projected, recorder };
        let mut x = self.conv_in.forward(latents);
        let mut skips = vec![x.shallow_clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &given, &mut skips);
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(&x, &given);
        }
        for block in &self.up_blocks {
            x = block.forward(x, &given, &mut skips);
        }
        Ok(self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)))
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    fn embed(&self, timesteps: &Tensor, conditions: &Conditions, kind: Kind) -> Result<Tensor> {
        let c = &self.config;
        let sinusoids = |values: &Tensor, width| sinusoidal(values, width, c.cos_first, c.freq_shift).to_kind(kind);
        let time = self.time_embedding.forward(&sinusoids(timesteps, c.levels[0].channels));
        match (&self.add_embedding, &c.text_time, added(conditions)) {
            (Some(embedding), Some(config), Some((pooled, time_ids))) => {
                let (rows, count) = time_ids.size2()?;
                let ids = sinusoids(&time_ids.flatten(0, 1), config.time_width).view([rows, count * config.time_width]);
                Ok(time + embedding.forward(&Tensor::cat(&[pooled.to_kind(kind), ids], -1)))
            }
            _ => Ok(time),
        }
    }

    /// Checks everything that would otherwise cause an error inside libtorch. Returns the text's hidden states.
    fn check<'a>(&self, latents: &Tensor, timesteps: &Tensor, conditions: &'a Conditions) -> Result<&'a Tensor> {
        let c = &self.config;
        let size = latents.size();
        let fail = |what: String| Err(Error::Input(format!("UNet: {what}")));
        let [rows, channels, height, width] = size[..] else {
            return fail(format!("latents {size:?} are not [B, C, h, w]"));
        };
        if channels != c.in_channels {
            return fail(format!("latents have {channels} channels, in_channels is {}", c.in_channels));
        }
        let least = 1 << c.halvings();
        if height < least || width < least {
            return fail(format!(
                "latents of {height}x{width} are too small: {} levels need at least {least}x{least}",
                c.levels.len()
            ));
        }
        if timesteps.size() != [rows] {
            return fail(format!("{rows} latents but timesteps {:?}", timesteps.size()));
        }
        let Some(context) = conditions.context() else { return fail("the conditions have no text".into()) };
        let size = context.size();
        if size.len() != 3 || size[0] != rows || size[2] != c.cross_attention_dim {
            return fail(format!(
                "text {size:?} does not fit [{rows}, L, cross_attention_dim {}]",
                c.cross_attention_dim
            ));
        }
        match (&c.text_time, added(conditions)) {
            (Some(t), Some((pooled, time_ids))) => {
                let width = pooled.size()[1] + time_ids.size()[1] * t.time_width;
                if width != t.input_width {
                    return fail(format!("pooled text and sizes are {width} wide, the model takes {}", t.input_width));
                }
                Ok(context)
            }
            (Some(_), None) => fail("this model also needs pooled text and sizes (SDXL)".into()),
            (None, Some(_)) => {
                fail("this model takes no pooled text; is it an SDXL text encoder with another UNet?".into())
            }
            (None, None) => Ok(context),
        }
    }
}

impl Network for UNet {
    fn predict(
        &self,
        latents: &Tensor,
        times: &Tensor,
        conditions: &Conditions,
        recorder: Option<&Recorder>,
    ) -> Result<Tensor> {
        self.run(latents, times, conditions, recorder, None)
    }

    /// Computes keys and values of the text only once.
    fn predict_again(
        &self,
        latents: &Tensor,
        times: &Tensor,
        conditions: &Conditions,
        projected: &Projected,
    ) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        projected.rewind();
        self.run(latents, times, conditions, None, Some(projected))
    }
}

/// Pooled text and sizes, if both are present.
fn added(conditions: &Conditions) -> Option<(&Tensor, &Tensor)> {
    conditions.get(POOLED).zip(conditions.get(TIME_IDS))
}
