//! The folder of a run: log, progress, samples, validation, adapter files.

pub mod folder;
mod journal;
mod lines;
mod lock;
pub mod samples;
mod validation;

use anyhow::{Context, Result};
use comat::{
    checkpoint,
    train::{Observer, StepReport, Trainer, due},
};
use config::Config;
use diffusion::prompts::{self, Prompt};
use indicatif::{ProgressBar, ProgressStyle};
use journal::{Journal, Reported};
use lines::Lines;
pub use lines::duration;
use lock::Lock;
use models::{
    lora::{self, Lora},
    text::counted,
    write_text,
};
use ranks::{
    ProcessGroup,
    interrupt::{Interrupt, Interrupted},
};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use torch_ext::memory;
use validation::{Validation, mean};

/// Opens a run, new or from a checkpoint, and claims its folder. [`Trainer::run`] does the rest, with the [`Run`] as
/// its observer. `bar` shows the progress; `interrupt` stops the run.
///
/// # Errors
/// Names what cannot be opened or written; a folder that holds another run.
pub fn open(
    config: Config,
    resume: Option<&str>,
    bar: ProgressBar,
    interrupt: &Interrupt,
    group: ProcessGroup,
) -> Result<(Trainer, Run)> {
    let mut trainer = Trainer::open(config, resume, group)?;
    let run = Run::open(&trainer, resume, bar.clone(), interrupt)?;
    trainer.complete(&bar, interrupt)?;
    bar.set_length(trainer.session.config.train.steps);
    Ok((trainer, run))
}

/// Digest of all that held-out images and what is said of them depend on besides the LoRA: only rounds with the same one
/// can be compared. `model`: its fingerprint.
fn conditions(config: &Config, prompts: &[Prompt], model: &str) -> Result<String> {
    let Config { captioner, sampling, rewards, validation, preference, .. } = config;
    let captioner = (captioner.path.typed(), &captioner.prefix, captioner.reduction, captioner.end_weight);
    let rewards: Vec<_> = rewards.iter().map(|reward| reward.path.typed()).collect();
    let of = (model, captioner, rewards, &validation.judge, preference.is_some());
    let text = format!("{of:?} {} {}", toml::to_string(sampling)?, prompts::digest(prompts));
    Ok(models::digest(text.as_bytes()))
}

/// `None` if the work was ended by Ctrl-C.
fn unless_stopped<T>(work: Result<T>) -> Result<Option<T>> {
    match work {
        Err(error) if error.is::<Interrupted>() => Ok(None),
        work => work.map(Some),
    }
}

pub struct Run {
    folder: PathBuf,
    journal: Journal,
    bar: ProgressBar,
    lines: Lines,
    validation: Validation,
    samples: Vec<String>,
    /// Step and caption loss of every held-out prompt, for all measurements since the run began.
    pub measured: Vec<(u64, Vec<f64>)>,
    interrupt: Interrupt,
    _lock: Lock,
}

impl Run {
    /// Prepares the run's folder. A folder that already holds a run is only resumed, never overwritten. Ranks other
    /// than the first write nothing, and only take part in measurements.
    ///
    /// # Errors
    /// A folder that holds a run, or cannot be written to; held-out prompts or a judge that cannot be read.
    pub fn open(trainer: &Trainer, resume: Option<&str>, bar: ProgressBar, interrupt: &Interrupt) -> Result<Self> {
        let Trainer { session, prompts: training, group, .. } = trainer;
        let config = &session.config;
        let judge = match &config.validation.judge {
            Some(which) => Some(which.open(session.pipeline.kind, session.pipeline.device)?),
            None => None,
        };
        let (folder, leads) = (config.output.clone(), group.leads());
        if leads {
            folder::check(&folder, resume)?;
        }
        let validation = match &config.prompts.validation {
            Some(path) => prompts::read_held_out(path, training)?,
            None => vec![],
        };
        let validation: Vec<Prompt> = match config.validation.count {
            0 => validation,
            count => validation.into_iter().take(count).collect(),
        };
        let of = conditions(config, &validation, &session.pipeline.fingerprint_of_images()?)?;
        let samples = if !leads {
            vec![]
        } else {
            let named = config.samples.prompts.read()?;
            let source = if validation.is_empty() { training } else { &validation };
            let first = || source.iter().take(config.samples.count).map(|p| p.text.clone()).collect();
            if named.is_empty() { first() } else { named }
        };
        let lock = if leads { Lock::take(&folder)? } else { Lock::none() };
        if leads {
            write_text(&folder.join("config.toml"), &toml::to_string(config)?).context("writing the run's folder")?;
        }
        let style = ProgressStyle::with_template(
            "{prefix} {wide_bar} {pos}/{len} · {msg} · {elapsed_precise} · ETA {eta_precise}",
        )?;
        bar.set_style(style);
        bar.set_prefix("train");
        bar.set_length(config.train.steps);
        let journal =
            if leads { Journal::open(&folder, config.logging.words()?.as_deref())? } else { Journal::nowhere() };
        if leads && resume.is_some() {
            // left by a run that was killed while it wrote or removed something
            models::remove_partial(&folder)?;
            let current = trainer.resumed.as_deref().unwrap_or(&folder);
            checkpoint::tidy(&folder.join("checkpoints"), config.checkpoints.keep, current)?;
        }
        Ok(Self {
            journal,
            validation: Validation::open(&folder, validation, judge, of, leads)?,
            folder,
            lines: Lines::new(config, &bar, leads),
            bar,
            samples,
            measured: vec![],
            interrupt: interrupt.clone(),
            _lock: lock,
        })
    }

    /// The prompts that are observed: held-out ones, and those of the samples.
    pub fn prompts(&self) -> impl Iterator<Item = &str> {
        self.validation.prompts.iter().map(|prompt| prompt.text.as_str()).chain(self.samples.iter().map(String::as_str))
    }

    /// Updates the bar; an error if the user asked to stop. Called during samples and validation.
    fn tick_unless_stopped(&self) -> Result<()> {
        self.bar.tick();
        Ok(self.interrupt.check()?)
    }

    /// Writes a LoRA in both formats, into a folder inside the run's.
    fn write_adapter(&self, trainer: &Trainer, lora: &Lora, folder: &str) -> Result<PathBuf> {
        let folder = self.folder.join(folder);
        let name = self.folder.file_name().and_then(|n| n.to_str()).unwrap_or("comat");
        let (size, base) = (trainer.session.size, trainer.session.pipeline.base());
        models::make_folder(&folder)?;
        lora::write_diffusers(lora, &folder.join("pytorch_lora_weights.safetensors"))?;
        let kohya = folder.join(format!("{name}.safetensors"));
        lora::write_kohya(lora, &kohya, base, name, (size.width, size.height))?;
        Ok(folder)
    }

    /// One line about what the run has changed on the held-out prompts.
    pub fn verdict(&self) -> Option<String> {
        let [(first, before), .., (last, after)] = &self.measured[..] else { return None };
        let differences: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        let (change, error) = mean(&differences);
        let error = if before.len() > 1 { format!(", standard error {error:.4}") } else { String::new() };
        Some(format!(
            "Caption loss on {}: {:.4} at step {first}, {:.4} at step {last}; change {change:+.4}{error}",
            counted(before.len(), "held-out prompt"),
            mean(before).0,
            mean(after).0,
        ))
    }

    /// Runs samples and validation where they are due. Returns whether the run should end here.
    fn look(&mut self, trainer: &mut Trainer, done: Reported) -> Result<bool> {
        let (step, config) = (trainer.step, &trainer.session.config);
        let (last, validate, sample) = (step == config.train.steps, config.validation.every, config.samples.every);
        if (last || due(validate, step)) && !done.measured && !trainer.group.any(self.interrupt.is_set())? {
            validation::measure(self, trainer)?;
        }
        if (last || due(sample, step)) && !done.drawn && !self.interrupt.is_set() {
            samples::draw(self, trainer)?;
        }
        let patience = trainer.session.config.validation.early_stop;
        if patience == 0 || last {
            return Ok(false);
        }
        let since = self.validation.since_best();
        let stop = trainer.group.any(since >= patience)?; // only rank 0 knows it
        if stop && trainer.group.leads() {
            tracing::warn!(
                "step {step}: the judge's metric has not improved for {since} rounds; the run ends here \
                 (validation.early_stop = {patience})"
            );
        }
        Ok(stop)
    }
}

impl Observer for Run {
    /// Measures and samples at the start of the run; after a resume, finishes what the run was stopped before. Returns
    /// whether the run should end here.
    fn on_start(&mut self, trainer: &mut Trainer) -> Result<bool> {
        let config = &trainer.session.config;
        if config.logging.tensorboard && trainer.group.leads() {
            self.journal.begin_tensorboard(&self.folder, trainer.step)?;
        }
        self.journal.write(json!({
            "event": "start",
            "step": trainer.step,
            "changed": trainer.changed,
            "version": env!("CARGO_PKG_VERSION"),
            "model": config.model.path,
            "captioner": config.captioner.path,
            "commits": config.commits(),
            "prompts": trainer.prompts.len(),
            "trainable": trainer.adapter.flat.numel(),
            "ranks": trainer.group.size,
            "backend": trainer.group.backend(),
        }))?;
        self.lines.start(trainer, self.samples.len(), self.validation.prompts.len());
        self.validation.resume_at(trainer.step);
        self.bar.set_prefix("train");
        self.bar.set_position(trainer.step);
        self.bar.reset_eta();
        self.bar.enable_steady_tick(Duration::from_millis(500));
        if trainer.step == 0 {
            validation::measure(self, trainer)?;
            samples::draw(self, trainer)?;
            return Ok(false);
        }
        if trainer.group.leads() {
            self.measured = journal::measured(&self.folder, trainer.step, self.validation.of())?;
        }
        let here =
            if trainer.group.leads() { Reported::read(&self.folder, trainer.step)? } else { Reported::default() };
        let group = &trainer.group; // only rank 0 has read the log
        let looked = Reported { measured: group.any(here.measured)?, drawn: group.any(here.drawn)? };
        self.look(trainer, looked)
    }

    fn on_tick(&self) {
        self.bar.tick();
    }

    /// Logs the step's metrics as one event.
    fn on_step(&mut self, trainer: &Trainer, report: &StepReport) -> Result<()> {
        let seconds = report.began.elapsed().as_secs_f64();
        if let Some(part) = report.not_finite {
            self.bar.set_position(trainer.step);
            return self.journal.write(json!({
                "event": "skipped", "step": trainer.step, "not_finite": part.to_string(),
                "skipped": trainer.skipped, "seconds": seconds,
            }));
        }
        let peak = report.phases.peak().max(memory::peak(trainer.session.pipeline.device));
        let mut line = json!({
            "event": "step",
            "step": trainer.step,
            "caption_loss": report.caption_loss,
            "grad_norm": report.grad_norm,
            "learning_rate": report.learning_rate,
            "seconds": seconds,
            "caption_cotangent": report.preference.is_none().then_some(report.norms.caption),
            "peak_memory": peak,
        });
        for (name, phase) in report.phases.named() {
            let there = match name {
                "reward" => !report.rewards.is_empty(),
                "fidelity" => report.fidelity.is_some(),
                "segment" => report.attention.is_some(),
                _ => true,
            };
            if let (true, Some(line)) = (there, line.as_object_mut()) {
                line.insert(format!("seconds_{name}"), phase.seconds.into());
                line.insert(format!("peak_{name}"), phase.peak.into());
            }
        }
        if let Some(line) = line.as_object_mut() {
            line.extend(report.rewards.iter().map(|(name, reward)| (format!("reward_{name}"), (*reward).into())));
        }
        if let (Some((losses, counts)), Some(line)) = (report.attention, line.as_object_mut()) {
            line.extend([
                ("token_loss".into(), losses.token.into()),
                ("pixel_loss".into(), losses.pixel.into()),
                ("subjects".into(), counts.subjects.into()),
                ("not_found".into(), counts.not_found.into()),
                ("prompts_without_subjects".into(), counts.without.into()),
            ]);
        }
        if let (Some((seconds, adding_up)), Some(line)) = (&report.ranks, line.as_object_mut()) {
            line.insert("seconds_ranks".into(), json!(seconds));
            line.insert("seconds_adding_up".into(), json!(adding_up));
        }
        if let (Some(distance), Some(line)) = (report.distance, line.as_object_mut()) {
            line.insert("prodigy_d".into(), distance.into());
        }
        if let (Some(loss), Some(line)) = (report.anchor_loss, line.as_object_mut()) {
            line.insert("anchor_loss".into(), loss.into());
        }
        if let (Some(preference), Some(line)) = (report.preference, line.as_object_mut()) {
            line.extend([
                ("preference_loss".into(), preference.loss.into()),
                ("preference_gap".into(), preference.gap.into()),
            ]);
            if trainer.session.config.preference.as_ref().is_some_and(|p| p.anchor > 0.0) {
                line.insert("preference_distance".into(), preference.distance.into());
            }
        }
        if let (Some(loss), Some(line)) = (report.smoothed_loss, line.as_object_mut()) {
            line.insert("smoothed_loss".into(), loss.into());
        }
        if let (Some(loss), Some(line)) = (report.mixed_loss, line.as_object_mut()) {
            line.insert("mixed_loss".into(), loss.into());
        }
        if let (Some(fidelity), Some(line)) = (report.fidelity, line.as_object_mut()) {
            line.extend([
                ("adversarial_loss".into(), fidelity.adversarial.into()),
                ("discriminator_loss".into(), fidelity.discriminator.into()),
                ("discriminator_accuracy".into(), fidelity.accuracy.into()),
                ("discriminator_grad_norm".into(), fidelity.grad_norm.into()),
                ("discriminator_skipped".into(), fidelity.skipped.into()),
            ]);
            if report.preference.is_none() {
                line.insert("adversarial_cotangent".into(), report.norms.adversarial.into());
            }
        }
        self.journal.write(line)?;
        self.bar.set_message(self.lines.step(trainer.step, report, seconds, peak));
        self.bar.set_position(trainer.step);
        Ok(())
    }

    fn on_checkpoint(&mut self, path: &Path, step: u64) -> Result<()> {
        self.journal.write(json!({ "event": "checkpoint", "step": step, "path": path }))
    }

    fn on_look(&mut self, trainer: &mut Trainer) -> Result<bool> {
        self.look(trainer, Reported::default())
    }

    /// Writes the adapter in both formats, and the comparison of before and after.
    fn on_end(&mut self, trainer: &mut Trainer) -> Result<()> {
        if !trainer.group.leads() {
            return Ok(());
        }
        let folder = self.write_adapter(trainer, &trainer.lora(), "adapter")?;
        if let Some(ema) = trainer.ema.as_ref().filter(|_| trainer.session.config.preference.is_none()) {
            self.write_adapter(trainer, &ema.lora(&trainer.adapter), "adapter/ema")?;
        }
        self.journal.write(json!({ "event": "finished", "step": trainer.step, "adapter": folder }))?;
        self.bar.finish_and_clear();
        Ok(())
    }
}
