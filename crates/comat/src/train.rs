//! The training loop: prompts in, a LoRA out. [`Trainer::run`] is the loop over steps, [`Trainer::step`] is one
//! optimiser step, and [`iterate`] is one iteration of the paper's method; [`preference::iterate`] takes its place where a
//! run learns from preferences.

mod observer;
mod phases;
mod report;
mod setup;

use crate::{
    attention::Counts,
    batch::{Batch, Order},
    discriminator::{Adversary, Discriminator},
    draws::Draws,
    finite::{self, MOST_SKIPPED, Part},
    loss::{anchor::Anchored, attention::Concentration, step::StepLoss},
    mixed::Mixed,
    preference,
    replay::Replay,
    reward::{AtLatents, Gradient, ImageReward, LatentReward, Seen},
    session::Session,
    share::Share,
};
use anyhow::{Result, bail};
use config::Config;
use diffusion::{prompts::Prompt, trajectory};
use models::lora::{Lora, Trainable};
use optim::{Ema, Gradients, Updater, learning_rate};
use ranks::{ProcessGroup, interrupt::Interrupt};
use std::path::PathBuf;
use tch::{Kind, Tensor};
use torch_ext::{Shared, clock::Clock};

pub use observer::Observer;
pub use phases::Phases;
pub use report::{FidelityReport, StepReport};
pub use setup::{discriminator, due, reached};

/// How a run ended.
#[derive(Debug, PartialEq)]
pub enum Ended {
    Finished,
    /// Stopped by Ctrl-C after this many steps, which are saved. An unfinished step is abandoned.
    Stopped(u64),
}

pub struct Trainer {
    pub group: ProcessGroup,
    pub session: Session,
    pub prompts: Vec<Prompt>,
    pub adapter: Trainable,
    pub optimizer: Updater,
    pub fidelity: Option<Fidelity>,
    pub mixed: Option<Mixed>,
    pub ema: Option<Ema>,
    /// Steps done, including skipped ones.
    pub step: u64,
    /// Steps skipped so far. `skipped_in_a_row`: how many of the last steps were skipped.
    pub skipped: u64,
    pub skipped_in_a_row: u64,
    /// Settings that differ from those of the checkpoint that this run resumes.
    pub changed: Vec<String>,
    /// The checkpoint that this run resumes.
    pub resumed: Option<PathBuf>,
    /// Step of the last checkpoint that this process wrote.
    saved: Option<u64>,
}

/// The parts of Fidelity Preservation.
pub struct Fidelity {
    pub discriminator: Discriminator,
    /// Latents of the original model, for every prompt that the run reaches.
    pub real: latents::Store,
}

impl Fidelity {
    /// The reward that judges the latents of a share.
    fn adversary(&mut self, share: &Share) -> Result<Adversary<'_>> {
        let real = self.real.of(share.prompts())?;
        Ok(Adversary { discriminator: &mut self.discriminator, real, verdict: None })
    }
}

impl Trainer {
    /// Trains to the end, or to Ctrl-C.
    pub fn run(&mut self, observer: &mut dyn Observer, interrupt: &Interrupt) -> Result<Ended> {
        let config = self.session.config.clone();
        let mut order = Order::of(&config, &self.prompts)?;
        let (ends, mut owed) = (observer.on_start(self)?, false);
        while self.step < config.train.steps && !ends {
            let report = self.step(&config, &mut order, observer, interrupt)?;
            if report.abandoned {
                self.save(observer)?;
                return Ok(Ended::Stopped(self.step));
            }
            self.step += 1;
            observer.on_step(self, &report)?;
            // a skipped step changes nothing; saved again and again, it would push good checkpoints out
            owed |= due(config.checkpoints.every, self.step);
            if report.stop || self.step == config.train.steps || (owed && self.skipped_in_a_row == 0) {
                self.save(observer)?;
                owed = false;
            }
            if report.stop && self.step < config.train.steps {
                return Ok(Ended::Stopped(self.step));
            }
            if observer.on_look(self)? {
                self.save(observer)?;
                break;
            }
        }
        observer.on_end(self)?;
        Ok(Ended::Finished)
    }

    /// One optimiser step. It is abandoned when a rank is asked to stop before it has computed its part. Nothing has
    /// changed then, and the step can be run again later, since random numbers depend only on seed and step. It is
    /// skipped when something is not finite.
    fn step(
        &mut self,
        config: &Config,
        order: &mut Order,
        observer: &dyn Observer,
        interrupt: &Interrupt,
    ) -> Result<StepReport> {
        let mut gradients = Gradients::zeros(&self.adapter);
        let mut report =
            StepReport::start(&self.session, learning_rate(&config.optimizer, self.step, config.train.steps));
        let computed = self.compute(config, order, observer, interrupt, &mut gradients, &mut report);
        report.note(computed)?;
        let mut buffers = vec![&mut gradients.flat];
        buffers.extend(self.fidelity.as_mut().map(|fidelity| fidelity.discriminator.gradient_buffer()));
        report.add_up(&self.group, &mut buffers, interrupt)?; // from here on all ranks have the same values
        if report.abandoned {
            return Ok(report);
        }
        gradients.scale(1.0 / config.train.accumulation as f64);
        report.grad_norm = gradients.clip(config.optimizer.max_grad_norm);
        report.check_finite();
        match report.not_finite {
            Some(part) => self.skip(part)?,
            None => self.update(config, &gradients, &mut report)?,
        }
        Ok(report)
    }

    /// This rank's part of a step: what it adds to the gradients and to the report.
    fn compute(
        &mut self,
        config: &Config,
        order: &mut Order,
        observer: &dyn Observer,
        interrupt: &Interrupt,
        gradients: &mut Gradients,
        report: &mut StepReport,
    ) -> Result<()> {
        let each = || {
            observer.on_tick();
            Ok(interrupt.check()?)
        };
        each()?;
        for part in 0..config.train.accumulation {
            let batch = Batch::new(config, order, &self.prompts, self.step, part, &self.group)?;
            let share = batch.share();
            if share.prompts().is_empty() {
                continue; // more ranks than samples
            }
            let policy = self.lora();
            let mut adversary = self.fidelity.as_mut().map(|fidelity| fidelity.adversary(&share)).transpose()?;
            let weight = config.fidelity.as_ref().map_or(0.0, |fidelity| fidelity.weight);
            let at_latents = adversary.iter_mut().map(|reward| (weight, reward as &mut dyn LatentReward)).collect();
            if let Some(preference) = &config.preference {
                let samples = (&share, self.step, batch.places.as_slice());
                let (session, adapters) = (&mut self.session, (&self.adapter, &policy));
                let done = preference::iterate(session, preference, adapters, samples, at_latents, gradients, each)?;
                report.add_preferred(&done, config.train.accumulation);
            } else {
                let draws = batch.draws(&self.session)?;
                let outcome = iterate(&mut self.session, &self.adapter, &share, draws, at_latents, gradients, each)?;
                report.add(&outcome, config.train.accumulation);
            }
            if let Some(verdict) = adversary.and_then(|adversary| adversary.verdict) {
                report.add_verdict(&verdict, config.train.accumulation);
            }
        }
        let Some(mixed) = &mut self.mixed else { return Ok(()) };
        for part in 0..config.train.accumulation {
            let batch = mixed.batch(&self.session, self.step, part, &self.group)?;
            let share = batch.share();
            if share.prompts().is_empty() {
                continue;
            }
            let draws = mixed.draws(&self.session, self.step, &batch)?;
            let outcome = iterate(&mut self.session, &self.adapter, &share, draws, vec![], gradients, each)?;
            report.add_mixed(&outcome, config.train.accumulation);
        }
        Ok(())
    }

    /// The LoRA that the run is for, detached: with `[preference]` the running average, which draws; else the adapter.
    pub fn lora(&self) -> Lora {
        let average = self.ema.as_ref().filter(|_| self.session.config.preference.is_some());
        self.adapter.lora_of(average.map_or(&self.adapter.flat, |ema| &ema.flat))
    }

    /// Updates the weights with the step's gradients.
    fn update(&mut self, config: &Config, gradients: &Gradients, report: &mut StepReport) -> Result<()> {
        self.skipped_in_a_row = 0;
        self.optimizer.step(&mut self.adapter.flat, &gradients.flat, report.learning_rate)?;
        report.distance = self.optimizer.distance();
        if let Some(ema) = &mut self.ema {
            ema.update(&self.adapter.flat, self.step + 1);
        }
        if let Some(Fidelity { discriminator, .. }) = &mut self.fidelity {
            let norm = discriminator.update(config.train.accumulation)?;
            report.discriminator_updated(norm, discriminator.skipped);
        }
        Ok(())
    }

    /// Skips a step: it changes nothing.
    ///
    /// # Errors
    /// Too many steps in a row were skipped.
    fn skip(&mut self, part: Part) -> Result<()> {
        self.skipped += 1;
        self.skipped_in_a_row += 1;
        if let Some(fidelity) = &mut self.fidelity {
            fidelity.discriminator.forget();
        }
        let step = self.step + 1;
        if self.skipped_in_a_row < MOST_SKIPPED {
            if self.group.leads() {
                tracing::warn!("step {step} was skipped: not finite: {part} ({} skipped so far)", self.skipped);
            }
            return Ok(());
        }
        let dtype = &self.session.config.model.dtype;
        let advice = match (part, dtype.kind()) {
            (Part::Gradients, Kind::Half) => {
                "float16 cannot hold them at any scale: try model.dtype = \"bfloat16\" or \"float32\", or model.vae_dtype = \"float32\""
            }
            (_, Kind::Half | Kind::BFloat16) => "try model.dtype = \"float32\", or a lower optimizer.learning_rate",
            _ => "try a lower optimizer.learning_rate; are the weights of the networks finite?",
        };
        bail!(
            "step {step}: {MOST_SKIPPED} steps in a row were skipped, the last one since this was not finite: {part}. They changed \
             nothing, and the checkpoints are untouched; {advice}"
        )
    }
}

/// One iteration, section 1 of the method: adds `dL/d adapter` to the gradients. For a share of a batch, it adds the
/// share's part of the batch's losses and gradients. `each` is called after every denoising step,
/// after every step of the replay and between the phases; its error ends the iteration.
///
/// # Errors
/// [`finite::NotFinite`], among others. The gradients are then incomplete.
/// ```no_run
/// # use comat::{adapter, batch, draws::Draws, session::Session, share::Share, tracked, train::iterate};
/// let mut session = Session::open(config::read("run.toml".as_ref(), &[])?)?;
/// let adapter = adapter::start(&session)?.trainable(session.latent_kind(), session.pipeline.device);
/// let (start, noise) = batch::noise(&session, diffusion::random::Purpose::Trajectory, 0, &[0])?;
/// let (start, tracked) = (session.sampler.start(start), tracked::grid(session.sampler.len(), 5, 0));
/// let (attention, anchor, crops) = (Default::default(), Default::default(), vec![(0, 0)]);
/// let draws = Draws { start, first: 0, weight: 1.0, rewards: true, noise, tracked, attention, anchor, crops };
/// let (share, mut gradients) = (Share::whole(&["a red dog"]), optim::Gradients::zeros(&adapter));
/// let outcome = iterate(&mut session, &adapter, &share, draws, vec![], &mut gradients, || Ok(()))?;
/// println!("loss {:.3}, norm {:.3}", outcome.caption_loss, gradients.flat.norm().double_value(&[]));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn iterate(
    session: &mut Session,
    adapter: &Trainable,
    share: &Share,
    draws: Draws,
    at_latents: AtLatents,
    gradients: &mut Gradients,
    mut each: impl FnMut() -> Result<()>,
) -> Result<Outcome> {
    let Draws { start, first, weight, rewards, noise, tracked, attention, anchor, crops } = draws;
    let (prompts, batch) = (share.prompts(), share.batch.len());
    let sampler = session.sampler.from(first);
    let mut clock = Clock::start(session.pipeline.device, "trajectory");
    let text = session.text(prompts)?;

    let frozen = session.frozen(&adapter.lora)?;
    let denoiser = session.denoiser(frozen.as_ref());
    let walked = trajectory::walk(denoiser.conditioned_on(&text), &sampler, start, &tracked, noise, &mut each)?;
    drop(frozen);
    let trajectory = clock.lap("decode");

    let (images, passed) = session.decode_there(&walked.latents)?;
    finite::check(&[(Part::Latents, &walked.latents), (Part::Image, &images)])?;
    each()?;
    let mut decode = clock.lap("caption");
    let seen = Seen { images: &images, share, crops: &crops };
    let Gradient { reward: captioned, loss: smoothed, cotangent: image_gradient } =
        session.captioner.gradient(&seen)?;
    let caption = clock.lap("reward");
    let mut at_images = &image_gradient * session.config.captioner.weight * weight;
    let mut rewarded = Rewarded::default();
    for other in session.rewards.iter().filter(|_| rewards) {
        let Gradient { reward, loss, cotangent } = other.reward.gradient(&seen)?;
        rewarded.rewards.push(reward);
        rewarded.loss += other.weight * loss;
        at_images += cotangent * other.weight;
    }
    let reward = clock.lap("decode");
    let mut cotangent = session.decode_cotangent(&walked.latents, passed, &at_images)?;
    drop(at_images);
    decode += clock.lap("fidelity");

    let mut norms = CotangentNorms { caption: mean_norm(&cotangent, batch), adversarial: None };
    for (weight, reward) in at_latents {
        let Gradient { loss, cotangent: term, .. } = reward.gradient(&walked.latents, share)?;
        let term = term * weight;
        rewarded.loss += weight * loss;
        norms.adversarial = Some(norms.adversarial.unwrap_or(0.0) + mean_norm(&term, batch));
        cotangent += term;
    }
    finite::check_value(Part::Discriminator, norms.adversarial.unwrap_or(0.0))?;
    finite::check_value(Part::Gradients, norms.caption)?;
    each()?;
    let fidelity = clock.lap("segment");

    let (targets, counts) = match &mut session.attention {
        Some(losses) if !attention.is_empty() => losses.targets(&images, prompts, session.pipeline.text.as_ref())?,
        _ => Default::default(),
    };
    let segment = clock.lap("replay");

    let branched = session.branched(&adapter.lora)?;
    let original = session.anchor(prompts, &anchor)?;
    let anchored = original.as_ref().map(|original| original.anchor_loss(anchor));
    let micro_batch = session.config.replay.micro_batch.samples();
    let options = (session.latent_kind(), session.pipeline.device);
    let concentration = session.attention.as_ref().filter(|_| !attention.is_empty());
    let concentration =
        concentration.map(|losses| Concentration::new(&losses.config, attention, &targets, micro_batch, options));
    let mut losses: Vec<&dyn StepLoss> = vec![];
    losses.extend(concentration.iter().map(|loss| loss as &dyn StepLoss));
    losses.extend(anchored.iter().map(|loss| loss as &dyn StepLoss));
    let replay = Replay {
        denoiser: &session.denoiser(branched.as_ref()),
        sampler: &sampler,
        text: &text,
        mode: session.config.replay.mode,
        discount: session.config.replay.discount,
        unconditional: session.config.replay.unconditional,
        max_cotangent: session.config.replay.max_cotangent,
        micro_batch,
        batch,
        leaves: Shared::all(&adapter.lora.matrices()),
        losses,
    };
    let of_steps = replay.run(&walked, cotangent, gradients, each)?;
    let of_steps = |name| of_steps.get(name).copied().unwrap_or_default();
    let phases = Phases { trajectory, decode, caption, reward, fidelity, segment, replay: clock.end() };
    Ok(Outcome {
        latents: walked.latents,
        images,
        image_gradient,
        caption_loss: -captioned,
        smoothed_loss: smoothed,
        rewarded,
        norms,
        attention_losses: AttentionLosses {
            token: of_steps(Concentration::TOKEN),
            pixel: of_steps(Concentration::PIXEL),
        },
        anchor_loss: of_steps(Anchored::NAME),
        counts,
        phases,
    })
}

/// The norm of a sample's cotangent, mean over the batch.
fn mean_norm(cotangent: &Tensor, batch: usize) -> f64 {
    cotangent.flatten(1, -1).norm_scalaropt_dim(2.0, [1], false).sum(Kind::Double).double_value(&[]) / batch as f64
}

/// Gradient norms at x_0: the norm of a sample's cotangent there, weighted, mean over the batch. `caption`: of all
/// losses on images; `adversarial`: of all losses on latents.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CotangentNorms {
    pub caption: f64,
    pub adversarial: Option<f64>,
}

/// Values of the rewards besides the caption loss, where they are used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rewarded {
    /// In the order of [`Session::rewards`], not weighted.
    pub rewards: Vec<f64>,
    /// Weighted sum of their losses and of the losses of the latent rewards.
    pub loss: f64,
}

/// Values of the attention losses, summed over their steps, not weighted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AttentionLosses {
    pub token: f64,
    pub pixel: f64,
}

/// The results of an iteration besides gradients. For a share, losses and other means are its part of the batch's.
pub struct Outcome {
    /// x_0 `[B, C, h, w]`
    pub latents: Tensor,
    /// `[B, 3, H, W]` in 0..1, not clamped.
    pub images: Tensor,
    /// Gradient of the caption loss at the images, `[B, 3, H, W]`.
    pub image_gradient: Tensor,
    pub caption_loss: f64,
    /// The caption loss with smoothed labels. The gradients are those of this loss.
    pub smoothed_loss: f64,
    pub rewarded: Rewarded,
    pub norms: CotangentNorms,
    pub attention_losses: AttentionLosses,
    /// Squared distance to the original model, not weighted.
    pub anchor_loss: f64,
    pub counts: Counts,
    pub phases: Phases,
}

impl Outcome {
    /// The total weighted loss that the gradients belong to. (With a limit on cotangents this is only approximately
    /// true.)
    pub fn loss(&self, config: &Config) -> f64 {
        let AttentionLosses { token, pixel } = self.attention_losses;
        let attention = config.attention.as_ref().map_or(0.0, |a| a.token_weight * token + a.pixel_weight * pixel);
        let anchor = config.anchor.as_ref().map_or(0.0, |anchor| anchor.weight * self.anchor_loss);
        config.captioner.weight * self.smoothed_loss + self.rewarded.loss + attention + anchor
    }
}
