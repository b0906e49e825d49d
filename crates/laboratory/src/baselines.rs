//! Other ways to follow the same captioner, for comparison at equal compute: fine-tuning on the model's own images,
//! weighted by reward (GORS, Huang et al. 2023), and preferences between them (Diffusion-DPO, Wallace et al. 2023).
//! Both draw images of the training prompts with the base model, let the captioner judge them, and train a LoRA with the
//! denoising loss. DRaFT (Clark et al. 2023) needs nothing here: it is `replay.policy = "last"`. What the LoRA could
//! learn at all is seen by teaching it renders with true captions.

mod own_images;
mod passes;

use crate::pretrain::data::{self, Stream};
use anyhow::Result;
use comat::{adapter, session::Session};
use config::Config;
use diffusion::{conditions::GuidedText, precision, prompts};
use indicatif::ProgressBar;
use models::{lora::Lora, network::Network, schedule::blend};
use optim::{Gradients, Updater, learning_rate};
use own_images::OwnImages;
use rand::Rng;
use ranks::interrupt::Interrupt;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tch::{Kind, Tensor};

pub use passes::{drawing, training};

/// A training on the model's own images. `learning_rate` and the rest of `[optimizer]` are those of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    pub kind: Rule,
    /// Number of training prompts that are drawn, or of renders.
    pub prompts: usize,
    /// Images of each of them; of renders 1.
    pub of: usize,
    pub steps: u64,
    /// Images of a step, or pairs of images.
    pub batch: usize,
    /// DPO: how closely the model is held to the base model, as `beta_dpo` in the authors' script.
    #[serde(default)]
    pub beta: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The better half of all images, each weighted by the captioner's probability of a token of its prompt.
    RewardWeighted,
    /// Of each prompt the image whose prompt is likeliest, against the one whose prompt is least likely.
    Dpo,
    /// Renders of scenes of the training split, each with a true caption: what no prompt and no judge can teach, so it is
    /// the mark that the other methods are measured against.
    TrueCaptions,
}

/// What a training has made.
pub struct Tuned {
    pub lora: Lora,
    /// The loss of each step.
    pub losses: Vec<f64>,
}

/// One image in ten is trained without its prompt, so that guidance goes on to work (Ho and Salimans 2022).
const WITHOUT_PROMPT: f64 = 0.1;

impl Baseline {
    /// Why it cannot be trained, if so.
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            Self { prompts: 0, .. } | Self { of: 0, .. } | Self { batch: 0, .. } => {
                Some("prompts, of and batch are 1 or more")
            }
            Self { kind: Rule::Dpo, of: 1, .. } => Some("dpo compares images of a prompt: of is 2 or more"),
            Self { kind: Rule::Dpo, beta, .. } if *beta <= 0.0 => Some("dpo needs a beta above 0"),
            Self { kind: Rule::TrueCaptions, of: 2.., .. } => {
                Some("a render of true-captions is one of its kind: of is 1")
            }
            Self { kind: Rule::RewardWeighted | Rule::TrueCaptions, beta, .. } if *beta != 0.0 => {
                Some("beta belongs to dpo")
            }
            _ => None,
        }
    }

    /// A name for the images that it trains on, which depends on everything that they and their rewards depend on:
    /// baselines of a plan that draw the same ones share them.
    ///
    /// # Errors
    /// Settings that cannot be written as TOML.
    pub fn images(&self, config: &Config) -> Result<String> {
        let Self { prompts, of, .. } = self;
        let Config { model, captioner, prompts: from, sampling, seed, .. } = config;
        if self.kind == Rule::TrueCaptions {
            let digest = models::digest(toml::to_string(model)?.as_bytes());
            return Ok(format!("renders-{prompts}-seed{seed}-{digest}.safetensors"));
        }
        let settings =
            [toml::to_string(model)?, toml::to_string(captioner)?, toml::to_string(from)?, toml::to_string(sampling)?];
        let digest = models::digest(settings.concat().as_bytes());
        Ok(format!("{prompts}x{of}-guidance{}-seed{seed}-{digest}.safetensors", sampling.guidance_scale))
    }

    /// Trains a LoRA. The images are read from the file `images`, or drawn and written there.
    ///
    /// # Errors
    /// Those of opening the models and of sampling; Ctrl-C, after which the training begins anew.
    pub fn train(&self, config: &Config, images: &Path, bar: &ProgressBar, interrupt: &Interrupt) -> Result<Tuned> {
        let mut session = Session::open(config.clone())?;
        if !images.exists() {
            let made = if self.kind == Rule::TrueCaptions {
                OwnImages::render(&session, self.prompts, bar, interrupt)?
            } else {
                let prompts = prompts::read(&config.prompts.train)?;
                OwnImages::draw(&mut session, &prompts, (self.prompts, self.of), bar, interrupt)?
            };
            made.write(images)?;
        }
        self.fine_tune(&mut session, &OwnImages::read(images)?, bar, interrupt)
    }

    fn fine_tune(
        &self,
        session: &mut Session,
        images: &OwnImages,
        bar: &ProgressBar,
        interrupt: &Interrupt,
    ) -> Result<Tuned> {
        let config = session.config.clone();
        let (kind, device) = (session.latent_kind(), session.pipeline.device);
        let mut adapter = adapter::start(session)?.trainable(kind, device);
        let mut optimizer = Updater::new(&config.optimizer, &adapter.flat);
        let base = session.pipeline.network(&session.pipeline.weights)?;
        let all = || (0..images.prompts()).collect();
        let shown = if self.kind == Rule::TrueCaptions { all() } else { images.better_half() };
        bar.reset();
        bar.set_length(self.steps);
        bar.set_message("training");
        let mut losses = vec![];
        for step in 0..self.steps {
            interrupt.check()?;
            let tuned = session.branched(&adapter.lora)?;
            let mut rng = data::rng(config.seed, Stream::Step, step);
            let mut draw = Draw { session, images, rng: &mut rng };
            let loss = match self.kind {
                Rule::RewardWeighted | Rule::TrueCaptions => draw.weighted_loss(self.batch, &shown, tuned.as_ref()),
                Rule::Dpo => draw.preference_loss(self.batch, self.beta, tuned.as_ref(), base.as_ref()),
            }?;
            let ones = loss.ones_like();
            let of_matrices = precision::vjp(session.pipeline.kind, &[&loss], &adapter.lora.matrices(), &[&ones])?;
            let mut gradients = Gradients::zeros(&adapter);
            gradients.add(&of_matrices)?;
            gradients.clip(config.optimizer.max_grad_norm);
            let rate = learning_rate(&config.optimizer, step, self.steps);
            optimizer.step(&mut adapter.flat, &gradients.flat, rate)?;
            losses.push(loss.double_value(&[]));
            bar.inc(1);
        }
        bar.set_message("");
        Ok(Tuned { lora: adapter.lora, losses })
    }
}

/// What a step's random choices are made from.
struct Draw<'a, R> {
    session: &'a mut Session,
    images: &'a OwnImages,
    rng: &'a mut R,
}

/// Noisy latents of a step `[B, C, h, w]`, what a network should predict of them, timesteps `[B]` and prompts.
struct Noisy {
    latents: Tensor,
    target: Tensor,
    timesteps: Tensor,
    text: GuidedText,
}

impl<R: Rng> Draw<'_, R> {
    /// The denoising loss of some of the images `shown`, each weighted by its reward.
    fn weighted_loss(&mut self, batch: usize, shown: &[usize], tuned: &dyn Network) -> Result<Tensor> {
        let chosen: Vec<usize> = (0..batch).map(|_| shown[self.rng.random_range(0..shown.len())]).collect();
        let weights: Vec<f32> = chosen.iter().map(|i| self.images.probability(*i) as f32).collect();
        let error = self.noisy(&chosen, 1, WITHOUT_PROMPT)?.error(tuned)?;
        Ok((&error * Tensor::from_slice(&weights).to_device(error.device())).mean(Kind::Float))
    }

    /// `-log sigmoid(beta/2 ((e_ref - e)(best) - (e_ref - e)(worst)))` with squared errors e of the tuned and of the base model; both
    /// images of a pair have the same timestep and noise.
    fn preference_loss(&mut self, pairs: usize, beta: f64, tuned: &dyn Network, base: &dyn Network) -> Result<Tensor> {
        let prompts = (0..pairs).map(|_| self.rng.random_range(0..self.images.prompts()));
        let (best, worst): (Vec<usize>, Vec<usize>) = prompts.map(|prompt| self.images.best_and_worst(prompt)).unzip();
        let noisy = self.noisy(&[best, worst].concat(), 2, 0.0)?;
        let better = tch::no_grad(|| noisy.error(base))? - noisy.error(tuned)?;
        let pairs = better.chunk(2, 0);
        Ok(-((&pairs[0] - &pairs[1]) * (beta / 2.0)).log_sigmoid().mean(Kind::Float))
    }

    /// The images, in `groups` of equal size; images at the same place in their groups have the same timestep and noise.
    fn noisy(&mut self, chosen: &[usize], groups: usize, without_prompt: f64) -> Result<Noisy> {
        let Self { session, images, rng } = self;
        let device = session.pipeline.device;
        let rows: Vec<i64> = chosen.iter().map(|i| *i as i64).collect();
        let clean = images.latents.index_select(0, &Tensor::from_slice(&rows)).to_device(device);
        let each = chosen.len() / groups;
        let path = session.pipeline.noise_path.as_ref();
        let timesteps: Vec<i64> = (0..each).map(|_| rng.random_range(0..path.length() as i64)).collect();
        let mut shape = clean.size();
        shape[0] = each as i64;
        let noise = torch_ext::Generator::seeded(rng.random())?.randn(&shape)?.to_kind(clean.kind()).to_device(device);
        let noise = noise.repeat([groups as i64, 1, 1, 1]);
        let timesteps = timesteps.repeat(groups);
        let latents = blend(&clean, &noise, &timesteps, &|time| path.mix(time));
        let target = blend(&clean, &noise, &timesteps, &|time| path.target(time));
        let timesteps = Tensor::from_slice(&timesteps).to_device(device);
        let prompts: Vec<&str> =
            chosen.iter().map(|i| if rng.random_bool(without_prompt) { "" } else { images.prompt(*i) }).collect();
        let size = (session.size.height, session.size.width);
        let text = session.pipeline.text.guided(&prompts, None, false, size)?;
        Ok(Noisy { latents, target, timesteps, text })
    }
}

impl Noisy {
    /// The squared error of a network's prediction, mean over an image's latents, `[B]`.
    fn error(&self, network: &dyn Network) -> Result<Tensor> {
        let predicted = network.predict(&self.latents, &self.timesteps, &self.text.cond, None)?;
        Ok((predicted - &self.target).square().mean_dim([1, 2, 3].as_slice(), false, Kind::Float))
    }
}
