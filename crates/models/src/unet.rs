//! The denoising network of Stable Diffusion 1.x, 2.x and XL.
//!
//! Paper: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022); Podell et al., "SDXL"
//! (2023). Weights and names: diffusers `UNet2DConditionModel`.

mod blocks;
mod config;
mod projected;
mod recorder;
mod transformer;

use crate::{
    error::{Error, Result},
    layers::{Conv2d, GroupNorm, sinusoidal},
    weights::{Layout, Scope, Weights},
};
use blocks::{Conditions, DownBlock, MidBlock, TimeEmbedding, UpBlock};
use tch::{Kind, Tensor};

pub use config::{Config, Level, TextTime};
pub use projected::Projected;
pub use recorder::{Layer, Place, Recorder};

impl Config {
    fn time_width(&self) -> i64 {
        4 * self.levels[0].channels
    }
}

/// What the UNet is conditioned on, a row for each sample.
pub struct Text {
    /// Hidden states of the text encoder(s) `[B, L, cross_attention_dim]`
    pub context: Tensor,
    pub added: Option<Added>,
}

/// SDXL's additional conditions.
pub struct Added {
    /// Pooled embedding of the second encoder `[B, P]`
    pub pooled: Tensor,
    /// original height and width, crop top and left, target height and width `[B, 6]`
    pub time_ids: Tensor,
}

impl Text {
    /// Applies a function to every tensor: cutting, stacking and moving keep the parts together.
    pub fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        let added = self.added.as_ref().map(|a| Added { pooled: f(&a.pooled), time_ids: f(&a.time_ids) });
        Self { context: f(&self.context), added }
    }

    /// Rows of all parts, one part after the other.
    pub fn cat(parts: &[&Text]) -> Self {
        let cat = |pick: &dyn Fn(&Text) -> Option<Tensor>| {
            let picked: Option<Vec<Tensor>> = parts.iter().map(|p| pick(p)).collect();
            picked.map(|p| Tensor::cat(&p, 0))
        };
        let context = Tensor::cat(&parts.iter().map(|p| &p.context).collect::<Vec<_>>(), 0);
        let pooled = cat(&|p| p.added.as_ref().map(|a| a.pooled.shallow_clone()));
        let time_ids = cat(&|p| p.added.as_ref().map(|a| a.time_ids.shallow_clone()));
        let added = pooled.zip(time_ids).map(|(pooled, time_ids)| Added { pooled, time_ids });
        Self { context, added }
    }

    pub fn narrow(&self, start: i64, length: i64) -> Self {
        self.map(|t| t.narrow(0, start, length))
    }

    pub fn rows(&self) -> i64 {
        self.context.size()[0]
    }
}

pub struct UNet {
    config: Config,
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    add_embedding: Option<TimeEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet {
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        weights.build(&[], |root| Self::at(root, config.clone()))
    }

    /// What a UNet of that configuration is made of.
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
            mid_block: MidBlock::new(&root / "mid_block", &config),
            up_blocks: (0..levels).map(|i| UpBlock::new(&root / "up_blocks" / i, &config, levels - 1 - i)).collect(),
            conv_norm_out: GroupNorm::new(&root / "conv_norm_out", first, config.norm_groups, config.norm_eps),
            conv_out: Conv2d::same(&root / "conv_out", first, config.out_channels),
            config,
        }
    }

    /// The model's output (noise or velocity) for noisy latents.
    ///
    /// latents `[B, in_channels, h, w]`, timesteps `[B]` (in training steps, 0..1000) → `[B, out_channels, h, w]`
    pub fn forward(&self, latents: &Tensor, timesteps: &Tensor, text: &Text) -> Result<Tensor> {
        self.watched(latents, timesteps, text, None)
    }

    /// As [`UNet::forward`], without gradients: one of many passes with the same text, whose keys and values are computed once.
    pub fn again(&self, latents: &Tensor, timesteps: &Tensor, text: &Text, projected: &Projected) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        projected.rewind();
        self.run(latents, timesteps, text, None, Some(projected))
    }

    /// As [`UNet::forward`]; the recorder gets the cross-attention maps of the middle and of the way up.
    pub fn watched(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        text: &Text,
        recorder: Option<&Recorder>,
    ) -> Result<Tensor> {
        self.run(latents, timesteps, text, recorder, None)
    }

    fn run(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        text: &Text,
        recorder: Option<&Recorder>,
        projected: Option<&Projected>,
    ) -> Result<Tensor> {
        self.check(latents, timesteps, text)?;
        let kind = latents.kind();
        let time = self.embed(timesteps, text, kind)?.silu();
        let given = Conditions { time: &time, context: &text.context.to_kind(kind), projected, recorder };
        let mut x = self.conv_in.forward(latents);
        let mut skips = vec![x.shallow_clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &given, &mut skips);
        }
        x = self.mid_block.forward(&x, &given);
        for block in &self.up_blocks {
            x = block.forward(x, &given, &mut skips);
        }
        Ok(self.conv_out.forward(&self.conv_norm_out.forward(&x).silu()))
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    fn embed(&self, timesteps: &Tensor, text: &Text, kind: Kind) -> Result<Tensor> {
        let c = &self.config;
        let sinusoids = |values: &Tensor, width| sinusoidal(values, width, c.cos_first, c.freq_shift).to_kind(kind);
        let time = self.time_embedding.forward(&sinusoids(timesteps, c.levels[0].channels));
        match (&self.add_embedding, &c.text_time, &text.added) {
            (Some(embedding), Some(config), Some(added)) => {
                let (rows, count) = added.time_ids.size2()?;
                let ids =
                    sinusoids(&added.time_ids.flatten(0, 1), config.time_width).view([rows, count * config.time_width]);
                Ok(time + embedding.forward(&Tensor::cat(&[added.pooled.to_kind(kind), ids], -1)))
            }
            _ => Ok(time),
        }
    }

    /// Everything that libtorch would otherwise complain about from deep inside.
    fn check(&self, latents: &Tensor, timesteps: &Tensor, text: &Text) -> Result<()> {
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
        let context = text.context.size();
        if context.len() != 3 || context[0] != rows || context[2] != c.cross_attention_dim {
            return fail(format!(
                "text {context:?} does not fit [{rows}, L, cross_attention_dim {}]",
                c.cross_attention_dim
            ));
        }
        match (&c.text_time, &text.added) {
            (Some(t), Some(added)) => {
                let width = added.pooled.size()[1] + added.time_ids.size()[1] * t.time_width;
                if width != t.input_width {
                    return fail(format!("pooled text and sizes are {width} wide, the model takes {}", t.input_width));
                }
                Ok(())
            }
            (Some(_), None) => fail("this model also needs pooled text and sizes (SDXL)".into()),
            (None, Some(_)) => {
                fail("this model takes no pooled text; is it an SDXL text encoder with another UNet?".into())
            }
            (None, None) => Ok(()),
        }
    }
}
