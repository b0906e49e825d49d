//! A run as its folder shows it: log, progress, samples, validation, adapter files.

mod figures;
mod journal;
pub mod samples;
mod validation;

use crate::{
    attention::Counts,
    checkpoint,
    config::Config,
    files::write_whole,
    finite::{NotFinite, Part},
    interrupt::{Interrupt, Interrupted},
    judge::Judge,
    prompts::{self, Prompt},
    ranks::World,
    replay::AttentionLosses,
    session::Session,
    train::{self, Legs, Outcome, Pulls, Trainer, due},
};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use journal::{Journal, Looked};
use models::{
    Error,
    lora::{self, Lora},
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use torch_ext::memory;
use validation::{Validation, mean};

/// What one step has to say for itself.
pub struct StepReport {
    pub caption_loss: f64,
    /// Where labels are smoothed.
    smoothed_loss: Option<f64>,
    pub grad_norm: f64,
    pub learning_rate: f64,
    attention: Option<(AttentionLosses, Counts)>,
    anchor_loss: Option<f64>,
    fidelity: Option<FidelityReport>,
    pulls: Pulls,
    mixed_loss: Option<f64>,
    legs: Legs,
    began: Instant,
    /// Seconds until each rank had computed its share, and seconds that rank 0 then spent on adding up.
    ranks: Option<(Vec<f64>, f64)>,
    /// Whether somebody has asked the run to stop.
    pub stop: bool,
    /// Whether that was before all ranks had computed their parts: the step is given up.
    pub abandoned: bool,
    /// Why the step is skipped, if it is.
    pub not_finite: Option<Part>,
}

impl StepReport {
    pub fn start(session: &Session, learning_rate: f64) -> Self {
        Self {
            caption_loss: 0.0,
            smoothed_loss: (session.config.captioner.label_smoothing > 0.0).then_some(0.0),
            grad_norm: 0.0,
            learning_rate,
            attention: session.attention.as_ref().map(|_| Default::default()),
            anchor_loss: session.config.anchor.as_ref().map(|_| 0.0),
            fidelity: session.config.fidelity.as_ref().map(|_| Default::default()),
            pulls: Pulls::default(),
            mixed_loss: session.config.mixed.as_ref().map(|_| 0.0),
            legs: Legs::default(),
            began: Instant::now(),
            ranks: None,
            stop: false,
            abandoned: false,
            not_finite: None,
        }
    }

    /// Adds one of `parts` trajectories.
    pub fn add(&mut self, outcome: &Outcome, parts: usize) {
        self.caption_loss += outcome.caption_loss / parts as f64;
        if let Some(loss) = &mut self.smoothed_loss {
            *loss += outcome.smoothed_loss / parts as f64;
        }
        if let Some((losses, counts)) = &mut self.attention {
            losses.token += outcome.attention_losses.token / parts as f64;
            losses.pixel += outcome.attention_losses.pixel / parts as f64;
            counts.add(outcome.counts);
        }
        if let Some(loss) = &mut self.anchor_loss {
            *loss += outcome.anchor_loss / parts as f64;
        }
        if let (Some(report), Some(verdict)) = (&mut self.fidelity, &outcome.verdict) {
            report.adversarial += verdict.adversarial / parts as f64;
            report.discriminator += verdict.loss / parts as f64;
            report.accuracy += verdict.accuracy / parts as f64;
        }
        self.pulls.caption += outcome.pulls.caption / parts as f64;
        if let Some(pull) = outcome.pulls.adversarial {
            self.pulls.adversarial = Some(self.pulls.adversarial.unwrap_or(0.0) + pull / parts as f64);
        }
        self.legs += outcome.legs;
    }

    /// Adds one of `parts` trajectories of pictures. Their time counts with that of the prompts.
    pub fn add_mixed(&mut self, outcome: &Outcome, parts: usize) {
        self.mixed_loss = Some(self.mixed_loss.unwrap_or(0.0) + outcome.caption_loss / parts as f64);
        self.legs += outcome.legs;
    }

    /// Takes note of why this rank's part of the step ended early, where all ranks can go on from that.
    ///
    /// # Errors
    /// Any other error.
    pub fn note(&mut self, computed: Result<()>) -> Result<()> {
        let Err(error) = computed else { return Ok(()) };
        match error.downcast_ref::<NotFinite>() {
            Some(NotFinite(part)) => self.not_finite = Some(*part),
            None if error.is::<Interrupted>() => self.abandoned = true,
            None => return Err(error),
        }
        Ok(())
    }

    /// In what was added up over the ranks, which is the same on all of them.
    pub fn look_for_what_is_not_finite(&mut self) {
        let fidelity = self.fidelity.unwrap_or_default();
        let figures = [
            (Part::CaptionLoss, self.caption_loss),
            (Part::CaptionLoss, self.mixed_loss.unwrap_or(0.0)),
            (Part::Gradients, self.anchor_loss.unwrap_or(0.0)),
            (Part::Discriminator, fidelity.adversarial),
            (Part::Discriminator, fidelity.discriminator),
            (Part::Gradients, self.grad_norm),
        ];
        let first = figures.into_iter().find(|(_, figure)| !figure.is_finite()).map(|(part, _)| part);
        self.not_finite = self.not_finite.or(first);
    }

    /// The norm of the discriminator's gradient, and how many of its updates were skipped so far.
    pub fn discriminator_updated(&mut self, norm: f64, skipped: u64) {
        if let Some(fidelity) = &mut self.fidelity {
            (fidelity.grad_norm, fidelity.skipped) = (norm, skipped);
        }
    }
}

/// `None` for work that Ctrl-C has ended.
fn unless_stopped<T>(work: Result<T>) -> Result<Option<T>> {
    match work {
        Err(error) if error.is::<Interrupted>() => Ok(None),
        work => work.map(Some),
    }
}

/// Means over the step's trajectories.
#[derive(Default, Clone, Copy)]
struct FidelityReport {
    adversarial: f64,
    discriminator: f64,
    accuracy: f64,
    grad_norm: f64,
    skipped: u64,
}

pub struct Run {
    folder: PathBuf,
    journal: Journal,
    bar: ProgressBar,
    validation: Validation,
    samples: Vec<String>,
    /// Step and caption loss of every held-out prompt, as measured in this sitting.
    pub measured: Vec<(u64, Vec<f64>)>,
    /// Step of the last checkpoint that was written in this sitting.
    pub newest: Option<u64>,
}

impl Run {
    /// Makes the run's folder ready. A folder that already holds a run is only taken up again, never overwritten. Ranks other than
    /// the first write nothing, and only help with what is measured.
    pub fn open(
        config: &Config,
        training: &[Prompt],
        judge: Option<Box<dyn Judge>>,
        resumes: bool,
        bar: ProgressBar,
        world: &World,
    ) -> Result<Self> {
        let (folder, leads) = (config.output.clone(), world.leads());
        // an empty log is that of a run which was stopped before its first step
        let begun = fs::metadata(folder.join("events.jsonl")).is_ok_and(|log| log.len() > 0);
        if leads && !resumes && begun {
            let way_out = match checkpoint::steps(&folder.join("checkpoints"))?.last() {
                Some(_) => "go on with it by --resume",
                None => "it has no checkpoint to go on from: delete it",
            };
            bail!("{} already holds a run; {way_out}, or choose another folder (--set output=DIR)", folder.display());
        }
        let validation = match &config.prompts.validation {
            Some(path) => prompts::read(path)?,
            None => vec![],
        };
        let validation: Vec<Prompt> = match config.validation.count {
            0 => validation,
            count => validation.into_iter().take(count).collect(),
        };
        let of = format!("{} {:?}", train::digest(&validation), config.validation.judge);
        let samples = if !leads {
            vec![]
        } else if config.samples.prompts.is_empty() {
            let source = if validation.is_empty() { training } else { &validation };
            source.iter().take(config.samples.count).map(|p| p.text.clone()).collect()
        } else {
            config.samples.prompts.clone()
        };
        if leads {
            fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            write_whole(&folder.join("config.toml"), &toml::to_string(config)?).context("writing the run's folder")?;
        }
        let style = ProgressStyle::with_template(
            "{prefix} {wide_bar} {pos}/{len} · {msg} · {elapsed_precise} · ETA {eta_precise}",
        )?;
        bar.set_style(style);
        bar.set_prefix("train");
        bar.set_length(config.train.steps);
        Ok(Self {
            journal: if leads { Journal::open(&folder)? } else { Journal::nowhere() },
            validation: Validation::open(&folder, validation, judge, of, leads)?,
            folder,
            bar,
            samples,
            measured: vec![],
            newest: None,
        })
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    /// Measures and draws what the run starts from; of a run that goes on, what it was stopped before. Returns whether it had better
    /// end here.
    pub fn start(&mut self, trainer: &mut Trainer, interrupt: &Interrupt) -> Result<bool> {
        let config = &trainer.session.config;
        if config.logging.tensorboard && trainer.world.leads() {
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
            "ranks": trainer.world.size,
            "backend": trainer.world.backend(),
        }))?;
        self.validation.resume_at(trainer.step);
        self.bar.set_position(trainer.step);
        self.bar.reset_eta();
        self.bar.enable_steady_tick(Duration::from_millis(500));
        if trainer.step == 0 {
            validation::measure(self, trainer, interrupt)?;
            samples::draw(self, trainer, interrupt)?;
            return Ok(false);
        }
        let here = if trainer.world.leads() { Looked::read(&self.folder, trainer.step)? } else { Looked::default() };
        let world = &trainer.world; // only rank 0 has looked into the log
        let looked = Looked { measured: world.any(here.measured)?, drawn: world.any(here.drawn)? };
        let ends = self.look(trainer, interrupt, looked)?;
        Ok(ends && !looked.measured)
    }

    /// Called after every denoising step, and now and then in between.
    pub fn tick(&self) -> Result<()> {
        self.bar.tick();
        Ok(())
    }

    /// The same, where Ctrl-C ends the work at once.
    pub fn tick_unless_stopped(&self, interrupt: &Interrupt) -> Result<()> {
        self.tick()?;
        Ok(interrupt.check()?)
    }

    pub fn log(&mut self, trainer: &Trainer, report: &StepReport) -> Result<()> {
        let seconds = report.began.elapsed().as_secs_f64();
        if let Some(part) = report.not_finite {
            self.bar.set_position(trainer.step);
            return self.journal.write(json!({
                "event": "skipped", "step": trainer.step, "not_finite": part.to_string(),
                "skipped": trainer.skipped, "seconds": seconds,
            }));
        }
        let mut line = json!({
            "event": "step",
            "step": trainer.step,
            "caption_loss": report.caption_loss,
            "grad_norm": report.grad_norm,
            "learning_rate": report.learning_rate,
            "seconds": seconds,
            "caption_cotangent": report.pulls.caption,
            "peak_memory": report.legs.peak().max(memory::peak(trainer.session.pipeline.device)),
        });
        for (name, leg) in report.legs.named() {
            let there = match name {
                "fidelity" => report.fidelity.is_some(),
                "segment" => report.attention.is_some(),
                _ => true,
            };
            if let (true, Some(line)) = (there, line.as_object_mut()) {
                line.insert(format!("seconds_{name}"), leg.seconds.into());
                line.insert(format!("peak_{name}"), leg.peak.into());
            }
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
        if let (Some(loss), Some(line)) = (report.anchor_loss, line.as_object_mut()) {
            line.insert("anchor_loss".into(), loss.into());
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
                ("adversarial_cotangent".into(), report.pulls.adversarial.into()),
            ]);
        }
        self.journal.write(line)?;
        self.bar.set_message(format!("loss {:.3} · {:.2} it/s", report.caption_loss, 1.0 / seconds));
        self.bar.set_position(trainer.step);
        Ok(())
    }

    pub fn saved(&mut self, path: &Path, step: u64) -> Result<()> {
        self.newest = Some(step);
        self.journal.write(json!({ "event": "checkpoint", "step": step, "path": path }))
    }

    /// Samples and validation, where they are due. Returns whether the run had better end here.
    pub fn watch(&mut self, trainer: &mut Trainer, interrupt: &Interrupt) -> Result<bool> {
        self.look(trainer, interrupt, Looked::default())
    }

    /// The same, but for what was done already.
    fn look(&mut self, trainer: &mut Trainer, interrupt: &Interrupt, done: Looked) -> Result<bool> {
        let (step, config) = (trainer.step, &trainer.session.config);
        let (last, validate, sample) = (step == config.train.steps, config.validation.every, config.samples.every);
        if (last || due(validate, step)) && !done.measured && !trainer.world.any(interrupt.is_set())? {
            validation::measure(self, trainer, interrupt)?;
        }
        if (last || due(sample, step)) && !done.drawn && !interrupt.is_set() {
            samples::draw(self, trainer, interrupt)?;
        }
        let patience = trainer.session.config.validation.early_stop;
        if patience == 0 || last {
            return Ok(false);
        }
        let stop = trainer.world.any(self.validation.since_best() >= patience)?; // only rank 0 knows
        if stop && trainer.world.leads() {
            tracing::warn!("step {step}: the judge's figure was not better for {patience} rounds; the run ends here");
        }
        Ok(stop)
    }

    /// Writes the adapter in both spellings, and the comparison of before and after.
    pub fn finish(&mut self, trainer: &mut Trainer) -> Result<()> {
        if !trainer.world.leads() {
            return Ok(());
        }
        let folder = self.write_adapter(trainer, &trainer.adapter.lora, "adapter")?;
        if let Some(ema) = &trainer.ema {
            self.write_adapter(trainer, &ema.lora(&trainer.adapter), "adapter/ema")?;
        }
        self.journal.write(json!({ "event": "finished", "step": trainer.step, "adapter": folder }))?;
        self.bar.finish();
        Ok(())
    }

    /// A LoRA in both spellings, into a folder of the run.
    fn write_adapter(&self, trainer: &Trainer, lora: &Lora, folder: &str) -> Result<PathBuf> {
        let folder = self.folder.join(folder);
        let name = self.folder.file_name().and_then(|n| n.to_str()).unwrap_or("comat");
        let (size, base) = (trainer.session.size, trainer.session.pipeline.base);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        lora::write_diffusers(lora, &folder.join("pytorch_lora_weights.safetensors"))?;
        let kohya = folder.join(format!("{name}.safetensors"));
        lora::write_kohya(lora, &kohya, base, name, (size.width, size.height))?;
        Ok(folder)
    }

    /// What this sitting has changed on the held-out prompts, in a line.
    pub fn verdict(&self) -> Option<String> {
        let [(first, before), .., (last, after)] = &self.measured[..] else { return None };
        let differences: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        let (change, error) = mean(&differences);
        Some(format!(
            "Caption loss on {} held-out prompts: {:.4} at step {first}, {:.4} at step {last}; change {change:+.4}, standard error {error:.4}",
            before.len(),
            mean(before).0,
            mean(after).0,
        ))
    }
}
