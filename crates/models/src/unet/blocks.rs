#![allow(clippy::expect_used, reason = "of shapes that the network itself has made")]

use super::{
    Config,
    transformer::{Context, SpatialTransformer},
};
use crate::{
    layers::{Conv2d, Linear},
    network::{Place, Projected, Recorder, Tap},
    resnet::{ResnetBlock, upsample},
    weights::Scope,
};
use tch::Tensor;

/// Inputs of every block besides the latents.
pub struct BlockInputs<'a> {
    /// Embedded timestep `[B, E]`, with the SiLU that every residual block would apply first.
    pub time: &'a Tensor,
    /// Hidden states of the text, `[B, L, D]`.
    pub context: &'a Tensor,
    /// Keys and values of the text, if they are cached between passes.
    pub projected: Option<&'a Projected>,
    /// Records the cross-attention maps, if present.
    pub recorder: Option<&'a Recorder>,
}

impl<'a> BlockInputs<'a> {
    fn text(&self) -> Context<'a> {
        Context { tokens: self.context, projected: self.projected }
    }

    fn tap(&self, place: Place) -> Option<Tap<'a>> {
        self.recorder.map(|recorder| recorder.tap(place))
    }
}

/// A residual block and the attention that may follow it.
struct Layer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
}

impl Layer {
    fn forward(&self, x: &Tensor, given: &BlockInputs, tap: Option<Tap>) -> Tensor {
        let x = self.resnet.forward(x, Some(given.time));
        match &self.attention {
            Some(attention) => attention.forward(&x, given.text(), tap),
            None => x,
        }
    }
}

fn layer(at: &Scope, i: usize, config: &Config, level: usize, inputs: i64, attention: bool) -> Layer {
    let l = &config.levels[level];
    let norm = (config.norm_groups, config.norm_eps);
    let resnet = ResnetBlock::new(at / "resnets" / i, inputs, l.channels, Some(config.time_width()), norm);
    let transformer = || SpatialTransformer::new(at / "attentions" / i, config, l.channels, l.heads, l.depth);
    Layer { resnet, attention: attention.then(transformer) }
}

pub struct DownBlock {
    layers: Vec<Layer>,
    downsampler: Option<Conv2d>,
}

impl DownBlock {
    pub fn new(at: Scope, config: &Config, level: usize) -> Self {
        let l = &config.levels[level];
        let below = if level == 0 { l.channels } else { config.levels[level - 1].channels };
        let inputs = |i| if i == 0 { below } else { l.channels };
        let downsampler = (level + 1 < config.levels.len()).then(|| {
            Conv2d::new(&at / "downsamplers" / 0 / "conv", l.channels, l.channels, 3, 2, config.downsample_padding)
        });
        let layers = (0..config.layers_per_block).map(|i| layer(&at, i, config, level, inputs(i), l.down_attention));
        Self { layers: layers.collect(), downsampler }
    }

    /// Runs the block and keeps the skips for the up path.
    pub fn forward(&self, mut x: Tensor, given: &BlockInputs, skips: &mut Vec<Tensor>) -> Tensor {
        for layer in &self.layers {
            x = layer.forward(&x, given, None);
            skips.push(x.shallow_clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x);
            skips.push(x.shallow_clone());
        }
        x
    }
}

pub struct MidBlock {
    first: Layer,
    second: ResnetBlock,
}

impl MidBlock {
    pub fn new(at: Scope, config: &Config) -> Self {
        let level = config.levels.len() - 1;
        let channels = config.levels[level].channels;
        let norm = (config.norm_groups, config.norm_eps);
        Self {
            first: layer(&at, 0, config, level, channels, true),
            second: ResnetBlock::new(&at / "resnets" / 1, channels, channels, Some(config.time_width()), norm),
        }
    }

    pub fn forward(&self, x: &Tensor, given: &BlockInputs) -> Tensor {
        self.second.forward(&self.first.forward(x, given, given.tap(Place::Mid)), Some(given.time))
    }
}

pub struct UpBlock {
    layers: Vec<Layer>,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    pub fn new(at: Scope, config: &Config, level: usize) -> Self {
        let l = &config.levels[level];
        let deepest = config.levels.len() - 1;
        let from_below = config.levels[(level + 1).min(deepest)].channels;
        let above = config.levels[level.saturating_sub(1)].channels;
        let last = config.layers_per_block; // one layer more than in the down path
        let inputs = |i| {
            let hidden = if i == 0 { from_below } else { l.channels };
            let skip = if i == last { above } else { l.channels };
            hidden + skip
        };
        let layers = (0..=last).map(|i| layer(&at, i, config, level, inputs(i), l.up_attention)).collect();
        let upsampler = (level > 0).then(|| Conv2d::same(&at / "upsamplers" / 0 / "conv", l.channels, l.channels));
        Self { layers, upsampler }
    }

    /// Takes its skips from the end of the list, and upsamples to the size of the next skip. So sizes that were rounded
    /// when halved are restored.
    pub fn forward(&self, mut x: Tensor, given: &BlockInputs, skips: &mut Vec<Tensor>) -> Tensor {
        for layer in &self.layers {
            let skip = skips.pop().expect("a skip for every layer on the way up");
            x = layer.forward(&Tensor::cat(&[x, skip], 1), given, given.tap(Place::Up));
        }
        match (&self.upsampler, skips.last()) {
            (Some(conv), Some(next)) => conv.forward(&upsample(&x, next.size()[2], next.size()[3])),
            _ => x,
        }
    }
}

/// The two layers that turn a sinusoidal encoding into an embedding.
pub struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimeEmbedding {
    pub fn new(at: Scope, inputs: i64, width: i64) -> Self {
        Self {
            linear_1: Linear::new(&at / "linear_1", inputs, width),
            linear_2: Linear::new(&at / "linear_2", width, width),
        }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.linear_2.forward(&self.linear_1.forward(x).silu())
    }
}
