//! Opens a run, new or from a checkpoint, and saves it.

use super::{Fidelity, Observer, Trainer};
use crate::{
    adapter,
    batch::{self, Order},
    checkpoint::{self, Parts, State},
    discriminator::Discriminator,
    mixed::Mixed,
    session::Session,
};
use anyhow::{Result, bail};
use config::Config;
use diffusion::prompts::{self, Prompt};
use indicatif::ProgressBar;
use optim::{Ema, StateMut, Stateful, Updater};
use ranks::{ProcessGroup, interrupt::Interrupt};
use std::path::Path;
use tch::Tensor;

impl Trainer {
    /// Opens a new run or a checkpoint (`latest`, or its folder). [`Trainer::complete`] does the rest, once the run's
    /// folder is claimed.
    ///
    /// # Errors
    /// Names what cannot be opened, and its file.
    pub fn open(config: Config, resume: Option<&str>, group: ProcessGroup) -> Result<Self> {
        let prompts = prompts::read(&config.prompts.train)?;
        let samples = config.train.batch_size * config.train.accumulation;
        if group.leads() && samples < group.size {
            tracing::warn!(
                "{} of {} ranks have nothing to do: a step has {samples} samples (train.batch_size times train.accumulation)",
                group.size - samples,
                group.size
            );
        }
        let found = match resume {
            Some(which) if group.leads() => checkpoint::find(&config.output.join("checkpoints"), which)?,
            _ => None, // the other ranks get it from rank 0
        };
        let mut session = Session::open(config)?;
        session.take_entities(&prompts)?;
        Order::of(&session.config, &prompts)?;
        let (weights, kind, device) = (&session.pipeline.weights, session.latent_kind(), session.pipeline.device);
        let mut changed = vec![];
        let (adapter, optimizer, progress) = match &found {
            None => {
                let adapter = adapter::start(&session)?.trainable(kind, device);
                let optimizer = Updater::new(&session.config.optimizer, &adapter.flat);
                (adapter, optimizer, Progress::default())
            }
            Some(path) => {
                let c = checkpoint::load(path, weights, &session.config, kind, device)?;
                c.state.check(session.config.seed, &batch::digest(&session.config, &prompts), path)?;
                changed = config::changed_settings(&path.join("config.toml"), &session.config)?;
                let State { step, skipped, skipped_in_a_row, .. } = c.state;
                (c.adapter, c.optimizer, Progress { step, skipped, skipped_in_a_row })
            }
        };
        let mixed = Mixed::open(&session)?;
        if let Some(mixed) = &mixed {
            mixed.look_at_some(&session)?;
        }
        let Progress { step, skipped, skipped_in_a_row } = progress;
        Ok(Self {
            group,
            session,
            prompts,
            adapter,
            optimizer,
            fidelity: None,
            mixed,
            ema: None,
            step,
            skipped,
            skipped_in_a_row,
            changed,
            resumed: found,
            saved: None,
        })
    }

    /// Adds what is created in the run's folder (the original model's latents for the discriminator, the running
    /// average) and copies everything that is learned from rank 0 to the other ranks.
    ///
    /// # Errors
    /// A checkpoint that lacks something; latents of another model.
    pub fn complete(&mut self, bar: &ProgressBar, interrupt: &Interrupt) -> Result<()> {
        let Self { session, prompts, group, .. } = self;
        group.barrier()?;
        self.fidelity = fidelity(session, prompts, self.resumed.as_deref(), bar, interrupt, group)?;
        let decay = self.session.config.train.ema;
        self.ema = (decay > 0.0).then(|| Ema::new(decay, &self.adapter));
        if let (Some(ema), Some(path)) = (&mut self.ema, &self.resumed) {
            checkpoint::load_ema(path, &self.session.pipeline.weights, &self.adapter, ema)?;
        }
        self.take_from_first()
    }

    /// Copies everything that is learned from rank 0.
    fn take_from_first(&mut self) -> Result<()> {
        let group = &self.group;
        if group.is_alone() {
            return Ok(());
        }
        let mut values = vec![&mut self.adapter.flat];
        let mut numbers = vec![&mut self.step, &mut self.skipped, &mut self.skipped_in_a_row];
        let mut optimizers = vec![self.optimizer.state_mut()];
        if let Some(Fidelity { discriminator, .. }) = &mut self.fidelity {
            values.push(&mut discriminator.trained.flat);
            numbers.push(&mut discriminator.skipped);
            optimizers.push(discriminator.optimizer.state_mut());
        }
        values.extend(self.ema.as_mut().map(|ema| &mut ema.flat));
        let mut fractions = vec![];
        for StateMut { tensors, numbers: of_optimizer, updates } in optimizers {
            values.extend(tensors.into_iter().map(|(_, tensor)| tensor));
            fractions.extend(of_optimizer.into_iter().map(|(_, number)| number));
            numbers.push(updates);
        }
        values.into_iter().try_for_each(|tensor| group.copy_of_first(tensor))?;
        for number in numbers {
            let mut value = Tensor::from(*number as i64);
            group.copy_of_first(&mut value)?;
            *number = value.int64_value(&[]) as u64;
        }
        for number in fractions {
            let mut value = Tensor::from(*number);
            group.copy_of_first(&mut value)?;
            *number = value.double_value(&[]);
        }
        Ok(())
    }

    /// Rank 0 saves a checkpoint; other ranks do nothing. If this process has already saved this step, nothing is
    /// written.
    pub(super) fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if self.saved == Some(self.step) {
            return Ok(());
        }
        if self.adapter.flat.isfinite().all().int64_value(&[]) == 0 {
            bail!(
                "step {}: the LoRA's weights are not finite any more, so they are not saved; earlier checkpoints are untouched. Try a lower \
                 optimizer.learning_rate",
                self.step
            );
        }
        if !self.group.leads() {
            return Ok(());
        }
        let config = &self.session.config;
        let state = State {
            step: self.step,
            skipped: self.skipped,
            skipped_in_a_row: self.skipped_in_a_row,
            seed: config.seed,
            prompts: batch::digest(&self.session.config, &self.prompts),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let discriminator = self.fidelity.as_ref().map(|fidelity| &fidelity.discriminator);
        let parts = Parts { adapter: &self.adapter, optimizer: &self.optimizer, discriminator, ema: self.ema.as_ref() };
        let path = checkpoint::save(&config.output.join("checkpoints"), &state, &parts, config)?;
        self.saved = Some(self.step);
        observer.on_checkpoint(&path, self.step)
    }
}

/// Progress of a run.
#[derive(Default)]
struct Progress {
    step: u64,
    skipped: u64,
    skipped_in_a_row: u64,
}

/// A new discriminator, if the run has one.
pub fn discriminator(session: &mut Session) -> Result<Option<Discriminator>> {
    let config = session.config.clone();
    let Some(settings) = &config.fidelity else { return Ok(None) };
    let time = session.sampler.steps.last().map_or(0.0, |step| step.time);
    let size = (session.size.height, session.size.width);
    let mut discriminator =
        Discriminator::new(settings, &config.lora.targets, &mut session.pipeline, size, time, config.seed)?;
    if config.memory.offload {
        discriminator.offload();
    }
    Ok(Some(discriminator))
}

/// The discriminator, new or from the checkpoint, and the original model's latents; missing latents are generated.
fn fidelity(
    session: &mut Session,
    prompts: &[Prompt],
    checkpoint: Option<&Path>,
    bar: &ProgressBar,
    interrupt: &Interrupt,
    group: &ProcessGroup,
) -> Result<Option<Fidelity>> {
    let Some(mut discriminator) = discriminator(session)? else { return Ok(None) };
    let config = session.config.clone();
    if let Some(path) = checkpoint {
        checkpoint::load_discriminator(path, &mut discriminator)?;
    }
    let real = latents::complete(&config, &mut session.pipeline, &reached(&config, prompts)?, bar, interrupt, group)?;
    Ok(Some(Fidelity { discriminator, real }))
}

/// The prompts that the run's steps reach.
pub fn reached<'a>(config: &Config, prompts: &'a [Prompt]) -> Result<Vec<&'a str>> {
    let reached = Order::of(config, prompts)?.reached(config.train.samples())?;
    Ok(reached.into_iter().map(|i| prompts[i].text.as_str()).collect())
}

/// Whether something that happens every `every` steps (0: never) happens after this step.
pub fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
