//! The main loop: prompts in, a LoRA out.

use crate::{
    adapter,
    batch::{Batch, Order},
    checkpoint::{self, State},
    config::Config,
    interrupt::Interrupt,
    optim::{AdamW, Gradients, learning_rate},
    prompts::{self, Prompt},
    run::{Run, StepReport},
    session::Session,
};
use anyhow::{Result, bail};
use indicatif::ProgressBar;
use models::lora::Trainable;

/// How a run ended.
#[derive(Debug, PartialEq)]
pub enum Ended {
    Finished,
    /// By Ctrl-C, after this many steps; they are saved.
    Stopped(u64),
}

pub struct Trainer {
    pub session: Session,
    pub prompts: Vec<Prompt>,
    pub adapter: Trainable,
    pub optimizer: AdamW,
    /// Steps done.
    pub step: u64,
}

impl Trainer {
    /// Opens everything a run needs: anew, or from a checkpoint (`latest`, or its folder).
    pub fn open(config: Config, resume: Option<&str>, bar: ProgressBar) -> Result<(Self, Run)> {
        let prompts = prompts::read(&config.prompts.train)?;
        let found = resume.map(|which| checkpoint::find(&config.output.join("checkpoints"), which)).transpose()?;
        let session = Session::open(config)?;
        let (weights, kind, device) = (&session.pipeline.unet_weights, session.latent_kind(), session.pipeline.device);
        let (adapter, optimizer, step) = match &found {
            None => {
                let adapter = adapter::start(&session)?.trainable(kind, device);
                let optimizer = AdamW::new(session.config.optimizer.clone(), &adapter);
                (adapter, optimizer, 0)
            }
            Some(path) => {
                let c = checkpoint::load(path, weights, &session.config, kind, device)?;
                c.state.check(session.config.seed, &digest(&prompts), path)?;
                (c.adapter, c.optimizer, c.state.step)
            }
        };
        let run = Run::open(&session.config, &prompts, found.is_some(), bar)?;
        Ok((Self { session, prompts, adapter, optimizer, step }, run))
    }

    /// Trains to the end, or to Ctrl-C.
    pub fn run(&mut self, run: &mut Run, interrupt: &Interrupt) -> Result<Ended> {
        let config = self.session.config.clone();
        let mut order = Order::new(config.seed, self.prompts.len())?;
        run.start(self)?;
        while self.step < config.train.steps {
            let report = self.step(&config, &mut order, run)?;
            self.step += 1;
            run.log(self, &report)?;
            let stop = interrupt.is_set();
            if stop || self.step == config.train.steps || due(config.checkpoints.every, self.step) {
                self.save(run)?;
            }
            if stop && self.step < config.train.steps {
                return Ok(Ended::Stopped(self.step));
            }
            run.watch(self, interrupt)?;
        }
        run.finish(self)?;
        Ok(Ended::Finished)
    }

    /// One optimiser step.
    fn step(&mut self, config: &Config, order: &mut Order, run: &Run) -> Result<StepReport> {
        let mut gradients = Gradients::zeros(&self.adapter);
        let mut report =
            StepReport::start(&self.session, learning_rate(&config.optimizer, self.step, config.train.steps));
        for part in 0..config.train.accumulation {
            let batch = Batch::new(config, order, &self.prompts, self.step, part)?;
            let prompts: Vec<&str> = batch.prompts.iter().map(String::as_str).collect();
            let draws = batch.draws(&self.session)?;
            let outcome = self.session.iterate(&self.adapter, &prompts, draws, &mut gradients, || run.tick())?;
            report.add(&outcome, config.train.accumulation);
        }
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
        self.optimizer.step(&mut self.adapter, &gradients, report.learning_rate);
        Ok(report)
    }

    fn save(&self, run: &mut Run) -> Result<()> {
        let config = &self.session.config;
        let state = State {
            step: self.step,
            seed: config.seed,
            prompts: digest(&self.prompts),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let keep = config.checkpoints.keep;
        let path = checkpoint::save(&run.checkpoints(), &state, &self.adapter, &self.optimizer, config, keep)?;
        run.saved(&path, self.step)
    }
}

/// Whether something that happens every so many steps (0: never) happens after this one.
pub fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// Tells prompt files apart.
pub fn digest(prompts: &[Prompt]) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    prompts.iter().for_each(|p| hasher.update(format!("{}\n", p.text)));
    hasher.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}
