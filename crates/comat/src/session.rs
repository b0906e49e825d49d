//! The opened frozen parts of a run: pipeline, captioner and sampler.

use crate::{
    attention::Attention,
    loss::{anchor::Original, caption::CaptionLoss},
    reward::{self, ImageReward, Weighted},
};
use anyhow::{Result, bail};
use config::{Config, Sampling, Size};
use diffusion::{
    conditions::GuidedText,
    denoiser::Denoiser,
    pipeline::{Pipeline, wide},
    prompts::Prompt,
    resident::Resident,
    stages::{self, Passed},
    tiles::Tiling,
    trajectory, word_maps,
};
use entities::Mode;
use models::{autoencoder::Autoencoder, guidance::Guidance, lora::Lora, network::Network, schedule::Sampler};
use std::collections::BTreeSet;
use tch::{Kind, Tensor};
use torch_ext::parallel;

pub struct Session {
    pub config: Config,
    pub pipeline: Pipeline,
    pub captioner: CaptionLoss,
    /// The rewards besides the caption loss: those of `[[reward]]`, and any that a program adds.
    pub rewards: Vec<Weighted>,
    /// `None` where the run has no attention losses.
    pub attention: Option<Attention>,
    pub sampler: Sampler,
    /// The sampler of the sample images during training.
    pub of_samples: Sampler,
    pub size: Size,
    /// Channels, height and width of the latents.
    pub latent_shape: [i64; 3],
    /// Tiling of the decoder; `None`: images are decoded whole.
    tiling: Option<Tiling>,
}

impl Session {
    /// # Errors
    /// Names what cannot be opened, and its file.
    pub fn open(config: Config) -> Result<Self> {
        let pipeline = config.model.open(config.prompts.chunks)?;
        Self::with(config, pipeline)
    }

    /// Uses a model of any family in place of the configured one. Its precision and device must be the configured ones.
    ///
    /// # Errors
    /// The same as [`Session::open`].
    pub fn with(config: Config, mut pipeline: Pipeline) -> Result<Self> {
        let (kind, device) = (config.model.dtype.kind(), pipeline.device);
        let mut captioner = CaptionLoss::open(&config.captioner, kind, device)?;
        let mut rewards = reward::open(&config, kind, device)?;
        let mut attention = match config.attention.clone() {
            Some(attention) => {
                let which = attention.segmenter.clone();
                Some(Attention::new(attention, Resident::open(move || which.open(kind, device))?))
            }
            None => None,
        };
        if config.memory.offload {
            pipeline.text.offload();
            pipeline.vae.unload();
            captioner.offload();
            rewards.iter_mut().for_each(|reward| reward.reward.offload());
            attention.iter_mut().for_each(Attention::offload);
        }
        let size = config.sampling.size.unwrap_or(pipeline.native_size());
        let latent_shape = pipeline.latent_shape(size)?;
        let of = |s: &Sampling| pipeline.noise_path.sampler(s.sampler, s.steps, s.eta);
        let (sampler, of_samples) = (of(&config.sampling)?, of(&config.samples.sampling(&config.sampling))?);
        if config.preference.is_none() && config.replay.tracked > sampler.len() {
            bail!("replay.tracked is {}, more than the {} steps of the sampler", config.replay.tracked, sampler.len());
        }
        let tiling = config.memory.tiling()?;
        Ok(Self { config, pipeline, captioner, rewards, attention, sampler, of_samples, size, latent_shape, tiling })
    }

    /// Prepares the losses for the training prompts: the entities that the prompt file names, and the wrong captions.
    pub fn take_entities(&mut self, prompts: &[Prompt]) -> Result<()> {
        if let Some(attention) = &mut self.attention {
            attention.take_explicit(prompts)?;
        }
        let mode = match &self.config.attention {
            Some(attention) if attention.entities == Mode::Tags => Mode::Tags,
            _ => Mode::Repaired,
        };
        for other in &mut self.rewards {
            other.reward.take_entities(prompts, mode)?;
        }
        self.captioner.contrast_with(prompts, mode)
    }

    /// All rewards of images, with their weights: the captioner first, then [`Session::rewards`].
    pub fn image_rewards(&self) -> impl Iterator<Item = (f64, &dyn ImageReward)> {
        let captioner: &dyn ImageReward = &self.captioner;
        let others = self.rewards.iter().map(|other| (other.weight, other.reward.as_ref()));
        std::iter::once((self.config.captioner.weight, captioner)).chain(others)
    }

    /// Images from noise with standard deviation 1, with or without an adapter; `[B, 3, H, W]` in 0..1, not clamped.
    pub fn draw(
        &mut self,
        network: &dyn Network,
        sampler: &Sampler,
        prompts: &[&str],
        noise_at_start: Tensor,
        noise: impl FnMut(usize) -> Result<Tensor>,
        each: impl FnMut() -> Result<()>,
    ) -> Result<Tensor> {
        let text = self.text(prompts)?;
        let denoiser = self.denoiser(network);
        let start = sampler.start(noise_at_start);
        let walked = trajectory::walk(denoiser.conditioned_on(&text), sampler, start, &BTreeSet::new(), noise, each)?;
        self.decode(&walked.latents)
    }

    /// Like [`Session::draw`], and also returns the attention of the whole trajectory.
    pub fn draw_watched(
        &mut self,
        network: &dyn Network,
        sampler: &Sampler,
        prompts: &[&str],
        noise_at_start: Tensor,
        noise: impl FnMut(usize) -> Result<Tensor>,
        each: impl FnMut() -> Result<()>,
    ) -> Result<(Tensor, word_maps::Sum)> {
        let text = self.text(prompts)?;
        let start = sampler.start(noise_at_start);
        let (latents, sum) = word_maps::walk(&self.denoiser(network), sampler, &text, start, noise, each)?;
        Ok((self.decode(&latents)?, sum))
    }

    /// The network for sampling: with the adapter, without gradient (see [`models::weights::Weights::with_frozen`]).
    pub fn frozen(&self, lora: &Lora) -> models::Result<Box<dyn Network>> {
        self.pipeline.network(&self.pipeline.weights.with_frozen(lora)?)
    }

    /// The network for training: the adapter beside the weights, with gradient.
    pub fn branched(&self, lora: &Lora) -> models::Result<Box<dyn Network>> {
        self.pipeline.network(&self.pipeline.weights.with_adapter(lora)?)
    }

    pub fn denoiser<'a>(&self, network: &'a dyn Network) -> Denoiser<'a> {
        Denoiser { network, guidance: self.config.sampling.guidance(), kind: self.pipeline.kind }
    }

    pub fn text(&mut self, prompts: &[&str]) -> Result<GuidedText> {
        let negative = &self.config.sampling.negative_prompt;
        let negative = (!negative.is_empty()).then_some(negative.as_str());
        let guided = self.config.sampling.guidance().is_on();
        self.pipeline.text.guided(prompts, negative, guided, (self.size.height, self.size.width))
    }

    /// The original model for the anchor loss at these steps: its network, and the prompts' conditions for its
    /// guidance.
    pub fn anchor(&mut self, prompts: &[&str], steps: &BTreeSet<usize>) -> Result<Option<Original>> {
        let Some(config) = self.config.anchor.clone().filter(|_| !steps.is_empty()) else { return Ok(None) };
        let sampling = &self.config.sampling;
        let scale = config.guidance_scale.unwrap_or(sampling.guidance_scale);
        let guidance = Guidance { scale, ..sampling.guidance() };
        let negative = &sampling.negative_prompt;
        let negative = (!negative.is_empty()).then_some(negative.as_str());
        let size = (self.size.height, self.size.width);
        let text = self.pipeline.text.guided(prompts, negative, guidance.is_on(), size)?;
        let network = self.pipeline.network(&self.pipeline.weights)?;
        Ok(Some(Original { network, text, guidance, kind: self.pipeline.kind, weight: config.weight }))
    }

    /// Latents are sampled in float32 whatever precision the networks run in, or in float64.
    pub fn latent_kind(&self) -> Kind {
        wide(self.pipeline.kind)
    }

    /// Images `[B, 3, H, W]` in 0..1, not clamped, without a graph.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.pipeline.vae.with(|vae| {
            let pieces = config::pieces(latents.size()[0], self.config.captioner.micro_batch.samples())
                .map(|(start, length)| self.decode_piece(vae.as_ref(), &latents.narrow(0, start, length)))
                .collect::<Result<Vec<_>>>()?;
            Ok(Tensor::cat(&pieces, 0))
        })
    }

    /// The scaled latents of images `[B, 3, H, W]` in 0..1: the mean of the encoder's distribution.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let images = images.to_device(self.pipeline.device).to_kind(self.latent_kind());
        self.pipeline.vae.with(|vae| Ok(vae.latents(&(images * 2.0 - 1.0))?))
    }

    /// Like [`Session::decode`], and also returns what `memory.keep_decoder` keeps for the backward pass.
    pub fn decode_there(&self, latents: &Tensor) -> Result<(Tensor, Option<Passed>)> {
        if !self.config.keeps_decoder(latents.size()[0] as usize) {
            return Ok((self.decode(latents)?, None));
        }
        self.pipeline.vae.with(|vae| {
            let (image, passed) = Passed::through(vae.as_ref(), latents)?;
            Ok((image / 2.0 + 0.5, Some(passed)))
        })
    }

    /// From `dL/d images` to `dL/d latents`: through what the forward pass kept, or by decoding again, a few samples at
    /// a time.
    pub fn decode_cotangent(&self, latents: &Tensor, passed: Option<Passed>, cotangent: &Tensor) -> Result<Tensor> {
        self.pipeline.vae.with(|vae| {
            let vae = vae.as_ref();
            // images are the decoder's output / 2 + 0.5
            if let Some(passed) = passed {
                return passed.vjp(vae, &(cotangent / 2.0));
            }
            let vjp = |latents: &Tensor, cotangent: Tensor| stages::decoder_vjp(vae, latents, &cotangent);
            let mut pieces = vec![];
            for (start, length) in config::pieces(latents.size()[0], self.config.captioner.micro_batch.samples()) {
                let cotangent = cotangent.narrow(0, start, length) / 2.0;
                let latents = latents.narrow(0, start, length);
                pieces.push(match self.tiling {
                    Some(tiling) => tiling.vjp(&latents, &cotangent, vae.downscale(), vjp)?,
                    None => vjp(&latents, cotangent)?,
                });
            }
            Ok(Tensor::cat(&pieces, 0))
        })
    }

    fn decode_piece(&self, vae: &dyn Autoencoder, latents: &Tensor) -> Result<Tensor> {
        let decode = |latents: &Tensor| parallel::over_rows(latents, |latents| Ok(vae.decode(latents)?));
        let image = match self.tiling {
            Some(tiling) => tiling.decode(latents, vae.downscale(), decode)?,
            None => decode(latents)?,
        };
        Ok(image / 2.0 + 0.5)
    }
}
