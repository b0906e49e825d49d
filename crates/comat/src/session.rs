//! A run's frozen parts, opened: the pipeline, the captioner, the sampler; and one training iteration over them.

use crate::{
    config::{Config, Size},
    denoiser::Denoiser,
    loss::caption::{Caption, CaptionLoss, Crop},
    optim::Gradients,
    pipeline::Pipeline,
    replay::{Replay, chunks},
    text::GuidedText,
    trajectory,
};
use anyhow::{Context, Result, bail};
use models::{
    lora::{Lora, Trainable},
    schedule::Sampler,
    unet::UNet,
};
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

pub struct Session {
    pub config: Config,
    pub pipeline: Pipeline,
    pub captioner: CaptionLoss,
    pub sampler: Sampler,
    pub size: Size,
    /// Channels, height and width of the latents.
    pub latent_shape: [i64; 3],
}

/// The random part of an iteration.
pub struct Draws<'a> {
    /// x_T `[B, C, h, w]`
    pub start: Tensor,
    /// Noise of a step `[B, C, h, w]`; asked for in order.
    pub noise: Box<dyn FnMut(usize) -> Result<Tensor> + 'a>,
    pub tracked: BTreeSet<usize>,
    pub crops: Vec<Crop>,
}

/// What an iteration leaves besides gradients.
pub struct Outcome {
    /// x_0 `[B, C, h, w]`
    pub latents: Tensor,
    /// `[B, 3, H, W]` in 0..1, not clamped
    pub images: Tensor,
    pub caption_loss: f64,
}

impl Session {
    pub fn open(config: Config) -> Result<Self> {
        let (kind, device) = (config.model.dtype.kind(), config.model.device.device()?);
        let pipeline = Pipeline::open(&config.model.path, kind, device)?;
        let captioner = CaptionLoss::open(&config.captioner, kind, device)?;
        let size = config.sampling.size.unwrap_or(pipeline.native_size());
        let latent_shape = pipeline.latent_shape(size)?;
        let s = &config.sampling;
        let sampler = pipeline.schedule.sampler(s.sampler, s.steps, s.eta)?;
        if config.replay.tracked > sampler.len() {
            bail!("replay.tracked is {}, more than the {} steps of the sampler", config.replay.tracked, sampler.len());
        }
        Ok(Self { config, pipeline, captioner, sampler, size, latent_shape })
    }

    /// One iteration: adds `dL/d adapter`, times `weight`, to the gradients.
    pub fn iterate(
        &mut self,
        adapter: &Trainable,
        prompts: &[&str],
        draws: Draws,
        gradients: &mut Gradients,
        each: impl FnMut() -> Result<()>,
    ) -> Result<Outcome> {
        let text = self.text(prompts)?;
        let Draws { start, noise, tracked, crops } = draws;

        let merged = self.merged(&adapter.lora)?;
        let trajectory = trajectory::walk(&self.denoiser(&merged), &self.sampler, start, &text, &tracked, noise, each)?;
        drop(merged);

        let images = self.decode(&trajectory.latents)?;
        let Caption { loss, cotangent } = self.captioner.with_cotangent(&images, prompts, &crops)?;
        let cotangent = self.decode_cotangent(&trajectory.latents, &cotangent)?;

        let branched = self.pipeline.unet(&self.pipeline.unet_weights.with_adapter(&adapter.lora)?)?;
        let parameters = adapter.lora.parameters();
        let replay = Replay {
            denoiser: &self.denoiser(&branched),
            sampler: &self.sampler,
            text: &text,
            mode: self.config.replay.mode,
            micro_batch: self.config.replay.micro_batch,
            leaves: &parameters.iter().map(|(_, matrix)| *matrix).collect::<Vec<_>>(),
        };
        replay.run(&trajectory, cotangent, gradients)?;
        Ok(Outcome { latents: trajectory.latents, images, caption_loss: loss })
    }

    /// Images from noise, with an adapter merged in or without one; `[B, 3, H, W]` in 0..1, not clamped.
    pub fn draw(
        &mut self,
        unet: &UNet,
        prompts: &[&str],
        start: Tensor,
        noise: impl FnMut(usize) -> Result<Tensor>,
        each: impl FnMut() -> Result<()>,
    ) -> Result<Tensor> {
        let text = self.text(prompts)?;
        let denoiser = self.denoiser(unet);
        let walked = trajectory::walk(&denoiser, &self.sampler, start, &text, &BTreeSet::new(), noise, each)?;
        self.decode(&walked.latents)
    }

    /// The UNet as it samples: the adapter added to the weights.
    pub fn merged(&self, lora: &Lora) -> models::Result<UNet> {
        self.pipeline.unet(&self.pipeline.unet_weights.merged(lora)?)
    }

    pub fn denoiser<'a>(&self, unet: &'a UNet) -> Denoiser<'a> {
        Denoiser { unet, guidance: self.config.sampling.guidance(), kind: self.pipeline.kind }
    }

    pub fn text(&mut self, prompts: &[&str]) -> Result<GuidedText> {
        let negative = &self.config.sampling.negative_prompt;
        let negative = (!negative.is_empty()).then_some(negative.as_str());
        let guided = self.config.sampling.guidance().is_on();
        self.pipeline.text.guided(prompts, negative, guided, (self.size.height, self.size.width))
    }

    /// Latents are sampled in float32 whatever the networks run in, or in float64.
    pub fn latent_kind(&self) -> Kind {
        if self.pipeline.kind == Kind::Double { Kind::Double } else { Kind::Float }
    }

    /// Images `[B, 3, H, W]` in 0..1, not clamped, without a graph.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let pieces = chunks(latents.size()[0], self.config.captioner.micro_batch)
            .map(|(start, length)| self.decode_piece(&latents.narrow(0, start, length)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&pieces, 0))
    }

    /// From `dL/d images` to `dL/d latents`: decodes again, with a graph, a few samples at a time.
    fn decode_cotangent(&self, latents: &Tensor, cotangent: &Tensor) -> Result<Tensor> {
        let mut pieces = vec![];
        for (start, length) in chunks(latents.size()[0], self.config.captioner.micro_batch) {
            let latents = latents.narrow(0, start, length).detach().set_requires_grad(true);
            let images = self.decode_piece(&latents)?;
            let grads = torch_ext::vjp(&[&images], &[&latents], &[&cotangent.narrow(0, start, length)])?;
            pieces.push(
                grads.into_iter().next().flatten().context("the decoder's image does not depend on its latents")?,
            );
        }
        Ok(Tensor::cat(&pieces, 0))
    }

    fn decode_piece(&self, latents: &Tensor) -> Result<Tensor> {
        Ok(self.pipeline.vae.decode(latents)? / 2.0 + 0.5)
    }
}
