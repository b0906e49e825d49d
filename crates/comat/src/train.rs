//! The main loop: prompts in, a LoRA out. [`Trainer::run`] goes through the steps, [`Trainer::step`] is one of them, and
//! [`iterate`] is what the paper is about.

mod clock;
mod setup;

use crate::{
    attention::Counts,
    batch::{Batch, Order, Share},
    config::Config,
    discriminator::{Discriminator, Verdict},
    ema::Ema,
    interrupt::Interrupt,
    latents,
    loss::caption::{Caption, Crop},
    mixed::Mixed,
    optim::{AdamW, Gradients, learning_rate},
    prompts::Prompt,
    ranks::World,
    replay::{AttentionLosses, Concentration, Replay},
    run::{Run, StepReport},
    session::Session,
    trajectory,
};
use anyhow::{Result, bail};
use clock::Clock;
use models::lora::Trainable;
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

pub use clock::{Leg, Legs, under_way};
pub use setup::{digest, due};

/// How a run ended.
#[derive(Debug, PartialEq)]
pub enum Ended {
    Finished,
    /// By Ctrl-C, after this many steps; they are saved.
    Stopped(u64),
}

pub struct Trainer {
    pub world: World,
    pub session: Session,
    pub prompts: Vec<Prompt>,
    pub adapter: Trainable,
    pub optimizer: AdamW,
    pub fidelity: Option<Fidelity>,
    pub mixed: Option<Mixed>,
    pub ema: Option<Ema>,
    /// Steps done.
    pub step: u64,
    /// Settings that are not those of the checkpoint that this run goes on from.
    pub changed: Vec<String>,
}

/// What Fidelity Preservation needs.
pub struct Fidelity {
    pub discriminator: Discriminator,
    /// Of the original model, for every prompt that the run comes to.
    pub real: latents::Store,
}

impl Trainer {
    /// Trains to the end, or to Ctrl-C.
    pub fn run(&mut self, run: &mut Run, interrupt: &Interrupt) -> Result<Ended> {
        let config = self.session.config.clone();
        let mut order = Order::new(config.seed, self.prompts.len())?;
        run.start(self)?;
        while self.step < config.train.steps {
            let report = self.step(&config, &mut order, run, interrupt)?;
            self.step += 1;
            run.log(self, &report)?;
            let stop = report.stop;
            if stop || self.step == config.train.steps || due(config.checkpoints.every, self.step) {
                self.save(run)?;
            }
            if stop && self.step < config.train.steps {
                return Ok(Ended::Stopped(self.step));
            }
            if run.watch(self, interrupt)? {
                self.save(run)?;
                break;
            }
        }
        run.finish(self)?;
        Ok(Ended::Finished)
    }

    /// One optimiser step.
    fn step(&mut self, config: &Config, order: &mut Order, run: &Run, interrupt: &Interrupt) -> Result<StepReport> {
        let mut gradients = Gradients::zeros(&self.adapter);
        let mut report =
            StepReport::start(&self.session, learning_rate(&config.optimizer, self.step, config.train.steps));
        for part in 0..config.train.accumulation {
            let batch = Batch::new(config, order, &self.prompts, self.step, part, &self.world)?;
            let share = batch.share();
            if share.prompts().is_empty() {
                continue; // more ranks than samples
            }
            let draws = batch.draws(&self.session)?;
            let real = self.fidelity.as_ref().map(|fidelity| fidelity.real.of(share.prompts())).transpose()?;
            let adversary = self.fidelity.as_mut().map(|fidelity| &mut fidelity.discriminator).zip(real);
            let each = || run.tick();
            let outcome = iterate(&mut self.session, &self.adapter, &share, draws, adversary, &mut gradients, each)?;
            report.add(&outcome, config.train.accumulation);
        }
        if let Some(mixed) = &mut self.mixed {
            for part in 0..config.train.accumulation {
                let batch = mixed.batch(config, self.step, part, &self.world)?;
                let share = batch.share();
                if share.prompts().is_empty() {
                    continue;
                }
                let draws = mixed.draws(&self.session, config, self.step, &batch)?;
                let each = || run.tick();
                let outcome = iterate(&mut self.session, &self.adapter, &share, draws, None, &mut gradients, each)?;
                report.add_mixed(&outcome, config.train.accumulation);
            }
        }
        let mut buffers = vec![&mut gradients.flat];
        buffers.extend(self.fidelity.as_mut().map(|fidelity| fidelity.discriminator.gradient_buffer()));
        report.add_up(&self.world, &mut buffers, interrupt)?;
        gradients.scale(1.0 / config.train.accumulation as f64);
        report.grad_norm = gradients.clip(config.optimizer.max_grad_norm);
        if !report.is_finite() {
            bail!(
                "step {}: the loss is {} and the gradient norm {}; this step was not taken, the checkpoints are untouched. \
                 Try a lower optimizer.learning_rate, or model.dtype = \"float32\"",
                self.step + 1,
                report.caption_loss,
                report.grad_norm
            );
        }
        self.optimizer.step(&mut self.adapter.flat, &gradients.flat, report.learning_rate);
        if let Some(ema) = &mut self.ema {
            ema.update(&self.adapter.flat, self.step + 1);
        }
        if let Some(fidelity) = &mut self.fidelity {
            fidelity.discriminator.update(config.train.accumulation);
        }
        Ok(report)
    }
}

/// One iteration, section 1 of the method: adds `dL/d adapter` to the gradients. Of a share of a batch, it is the share's part
/// of the batch's losses and gradients. `adversary`: the discriminator and the original model's latents of these prompts.
pub fn iterate(
    session: &mut Session,
    adapter: &Trainable,
    share: &Share,
    draws: Draws,
    adversary: Option<(&mut Discriminator, Tensor)>,
    gradients: &mut Gradients,
    each: impl FnMut() -> Result<()>,
) -> Result<Outcome> {
    let Draws { start, first, weight, noise, tracked, attention, crops } = draws;
    let (prompts, batch) = (share.prompts(), share.batch.len());
    let sampler = session.sampler.from(first);
    let mut clock = Clock::start(session.pipeline.device, "trajectory");
    let text = session.text(prompts)?;

    let merged = session.merged(&adapter.lora)?;
    let denoiser = session.denoiser(&merged);
    let walked = trajectory::walk(denoiser.conditioned_on(&text), &sampler, start, &tracked, noise, each)?;
    drop(merged);
    let trajectory = clock.lap("decode");

    let images = session.decode(&walked.latents)?;
    let mut decode = clock.lap("caption");
    let Caption { loss, smoothed, cotangent } = session.captioner.with_cotangent(&images, share, &crops)?;
    let caption = clock.lap("decode");
    let image_gradient = cotangent;
    let mut cotangent =
        session.decode_cotangent(&walked.latents, &(&image_gradient * session.config.captioner.weight * weight))?;
    decode += clock.lap("fidelity");

    let verdict = match adversary {
        Some((discriminator, real)) => {
            let real = real.to_device(cotangent.device()).to_kind(cotangent.kind());
            Some(discriminator.judge_some(&walked.latents, &real, batch)?)
        }
        None => None,
    };
    let mut pulls = Pulls { caption: mean_norm(&cotangent, batch), adversarial: None };
    if let (Some(verdict), Some(config)) = (&verdict, &session.config.fidelity) {
        let adversarial = &verdict.cotangent * config.weight;
        pulls.adversarial = Some(mean_norm(&adversarial, batch));
        cotangent += adversarial;
    }
    let fidelity = clock.lap("segment");

    let (targets, counts) = match &mut session.attention {
        Some(losses) if !attention.is_empty() => losses.targets(&images, prompts, session.pipeline.text.tokenizer())?,
        _ => Default::default(),
    };
    let segment = clock.lap("replay");

    let branched = session.branched(&adapter.lora)?;
    let replay = Replay {
        denoiser: &session.denoiser(&branched),
        sampler: &sampler,
        text: &text,
        mode: session.config.replay.mode,
        max_cotangent: session.config.replay.max_cotangent,
        micro_batch: session.config.replay.micro_batch,
        batch,
        leaves: &adapter.lora.matrices(),
        attention: session.attention.as_ref().map(|a| Concentration {
            config: &a.config,
            steps: attention,
            targets: &targets,
        }),
    };
    let attention_losses = replay.run(&walked, cotangent, gradients)?;
    let legs = Legs { trajectory, decode, caption, fidelity, segment, replay: clock.end() };
    Ok(Outcome {
        latents: walked.latents,
        images,
        image_gradient,
        caption_loss: loss,
        smoothed_loss: smoothed,
        verdict,
        pulls,
        attention_losses,
        counts,
        legs,
    })
}

/// The norm of a sample's cotangent, in the mean over the batch.
fn mean_norm(cotangent: &Tensor, batch: usize) -> f64 {
    cotangent.flatten(1, -1).norm_scalaropt_dim(2.0, [1], false).sum(Kind::Double).double_value(&[]) / batch as f64
}

/// The random part of an iteration.
pub struct Draws<'a> {
    /// x_T `[B, C, h, w]`, or x_t before the step `first`
    pub start: Tensor,
    /// The sampler's step to begin with; steps are counted from it.
    pub first: usize,
    /// Of the caption loss.
    pub weight: f64,
    /// Noise of a step `[B, C, h, w]`; asked for in order.
    pub noise: Box<dyn FnMut(usize) -> Result<Tensor> + 'a>,
    pub tracked: BTreeSet<usize>,
    /// Those of the tracked steps that have attention losses.
    pub attention: BTreeSet<usize>,
    pub crops: Vec<Crop>,
}

/// How strongly each loss, weighted, pulls at x_0: the norm of a sample's cotangent there, in the mean.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pulls {
    pub caption: f64,
    pub adversarial: Option<f64>,
}

/// What an iteration leaves besides gradients. Of a share, losses and other means are its part of those of the batch.
pub struct Outcome {
    /// x_0 `[B, C, h, w]`
    pub latents: Tensor,
    /// `[B, 3, H, W]` in 0..1, not clamped
    pub images: Tensor,
    /// Of the caption loss `[B, 3, H, W]`
    pub image_gradient: Tensor,
    pub caption_loss: f64,
    /// The caption loss with smoothed labels, which the gradients are of.
    pub smoothed_loss: f64,
    pub verdict: Option<Verdict>,
    pub pulls: Pulls,
    pub attention_losses: AttentionLosses,
    pub counts: Counts,
    pub legs: Legs,
}

impl Outcome {
    /// What the gradients are of: all losses, weighted. (With a limit on cotangents they are not quite.)
    pub fn loss(&self, config: &Config) -> f64 {
        let AttentionLosses { token, pixel } = self.attention_losses;
        let attention = config.attention.as_ref().map_or(0.0, |a| a.token_weight * token + a.pixel_weight * pixel);
        let weight = config.fidelity.as_ref().map_or(0.0, |fidelity| fidelity.weight);
        let adversarial = self.verdict.as_ref().map_or(0.0, |verdict| weight * verdict.adversarial);
        config.captioner.weight * self.smoothed_loss + attention + adversarial
    }
}
