//! The training loop that all parts of the stack share.

use super::parameters::Parameters;
use anyhow::{Context, Result, bail};
use config::{Optimizer, RateSchedule};
use indicatif::ProgressBar;
use models::{Error, tensors};
use optim::{AdamW, learning_rate};
use ranks::interrupt::Interrupt;
use serde_json::json;
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};
use tch::{Kind, Tensor};

/// What is trained, and for how many steps.
#[derive(Debug, Clone)]
pub struct Course {
    pub name: &'static str,
    /// Steps of each cycle; the learning rate restarts with each (Loshchilov and Hutter 2017).
    pub cycles: Vec<u64>,
    pub learning_rate: f64,
    pub seed: u64,
    /// Decay of the running average; the averaged weights are the result.
    pub average: f64,
    /// Other settings that must be the same to resume from a saved state.
    pub about: String,
}

/// Cycles of these lengths, up to `steps`; the last one takes the rest.
pub fn cycles(mut steps: u64, first: &[u64]) -> Vec<u64> {
    let mut cycles = vec![];
    for length in first {
        if steps <= *length {
            break;
        }
        cycles.push(*length);
        steps -= length;
    }
    cycles.push(steps);
    cycles
}

/// Progress bar and Ctrl-C.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    pub bar: &'a ProgressBar,
    pub interrupt: &'a Interrupt,
}

/// The output files: a state to resume from, and losses, one line each.
pub struct Files {
    pub state: PathBuf,
    pub log: PathBuf,
}

const WARMUP: u64 = 200;
const CLIP: f64 = 1.0;
const LOG_EVERY: u64 = 50;
const SAVE_EVERY: Duration = Duration::from_secs(180);

impl Course {
    /// Runs all steps, from where a stopped training ended. `loss(step)` has a graph to the parameters and comes with
    /// named parts for the log.
    pub fn run(
        &self,
        parameters: &mut Parameters,
        files: &Files,
        watch: &Watch,
        mut loss: impl FnMut(u64, &Parameters) -> Result<Losses>,
    ) -> Result<()> {
        let config = Optimizer::default();
        let steps = self.steps();
        let mut adamw = AdamW::new(config, &parameters.flat);
        let folder = files.state.parent().context("a state file has a folder")?;
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let first = self.restore(parameters, &mut adamw, files)?;
        let mut log = files.open_log(first)?;
        watch.bar.set_length(steps);
        watch.bar.set_position(first);
        let (mut sums, mut saved, started) = (Sums::default(), Instant::now(), Instant::now());
        for step in first..steps {
            let losses = loss(step, parameters)?;
            let mut gradient = parameters.gradient(&losses.total)?;
            let norm = gradient.norm();
            let done = step + 1;
            let log_now = done % LOG_EVERY == 0 || done == steps;
            let stop = watch.interrupt.is_set();
            let save_now = stop || done == steps || saved.elapsed() > SAVE_EVERY;
            // reading a number from a GPU in each step would make it wait for the CPU
            if (log_now || save_now || !norm.device().is_cuda()) && norm.isfinite().int64_value(&[]) == 0 {
                let (norm, state) = (norm.double_value(&[]), files.state.display());
                bail!("{}: step {done}: the gradient is {norm}; {state} is untouched", self.name);
            }
            let _ = gradient.g_mul_(&(norm.reciprocal() * CLIP).clamp_max(1.0));
            adamw.step(&mut parameters.flat, &gradient, self.learning_rate_at(step))?;
            parameters.follow(self.average.min((1.0 + step as f64) / (10.0 + step as f64)));
            sums.add(&losses);
            watch.bar.inc(1);
            if log_now {
                let line = sums.take(done, started.elapsed());
                watch.bar.set_message(format!("loss {:.4}", line["loss"].as_f64().unwrap_or(f64::NAN)));
                writeln!(log, "{line}").map_err(Error::io(&files.log))?;
            }
            if save_now {
                self.save(parameters, &adamw, done, files)?;
                saved = Instant::now();
            }
            watch.interrupt.check()?;
        }
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.cycles.iter().sum()
    }

    /// Rises over the first steps of a cycle, then falls along half a cosine.
    fn learning_rate_at(&self, step: u64) -> f64 {
        let (mut step, mut cycle) = (step, self.cycles.first().copied().unwrap_or(0));
        for next in self.cycles.iter().skip(1) {
            if step < cycle {
                break;
            }
            (step, cycle) = (step - cycle, *next);
        }
        let config = Optimizer {
            learning_rate: self.learning_rate,
            schedule: RateSchedule::Cosine,
            warmup_steps: WARMUP.min(cycle / 10),
            ..Default::default()
        };
        learning_rate(&config, step, cycle)
    }

    fn save(&self, parameters: &Parameters, adamw: &AdamW, step: u64, files: &Files) -> Result<()> {
        let all = [
            ("values", &parameters.flat),
            ("average", &parameters.average),
            ("mean", &adamw.mean),
            ("square", &adamw.square),
        ];
        let all = all.map(|(name, t)| (name.to_owned(), t.shallow_clone())).into_iter().collect();
        let about = HashMap::from([("step".into(), step.to_string()), ("course".into(), self.describe())]);
        Ok(tensors::write(&files.state, &all, about)?)
    }

    /// The first step to run.
    fn restore(&self, parameters: &mut Parameters, adamw: &mut AdamW, files: &Files) -> Result<u64> {
        if !files.state.exists() {
            return Ok(0);
        }
        let (mut all, about) = tensors::read(&files.state)?;
        let state = files.state.display();
        // a training with fewer cycles that begins in the same way can be resumed
        let beginnings = (1..=self.cycles.len()).map(|n| Self { cycles: self.cycles[..n].to_vec(), ..self.clone() });
        if !beginnings.into_iter().any(|course| about.get("course") == Some(&course.describe())) {
            bail!("{state}: is of a course with other settings; give another --out, or remove it to begin anew");
        }
        let step = about.get("step").and_then(|s| s.parse().ok()).with_context(|| format!("{state}: has no step"))?;
        let targets = [
            ("values", &mut parameters.flat),
            ("average", &mut parameters.average),
            ("mean", &mut adamw.mean),
            ("square", &mut adamw.square),
        ];
        for (name, target) in targets {
            let saved: Tensor = all.remove(name).with_context(|| format!("{state}: there is no {name} in it"))?;
            if saved.size() != target.size() {
                bail!("{state}: {name} has {:?} values, expected {:?}", saved.size(), target.size());
            }
            tch::no_grad(|| target.copy_(&saved));
        }
        adamw.updates = step;
        Ok(step)
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }
}

impl Files {
    fn open_log(&self, first: u64) -> Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).write(true);
        if first == 0 {
            options.truncate(true)
        } else {
            options.append(true)
        };
        Ok(options.open(&self.log).map_err(Error::io(&self.log))?)
    }
}

/// A loss and its parts.
pub struct Losses {
    pub total: Tensor,
    pub parts: Vec<(&'static str, Tensor)>,
}

/// Sums of losses, on their device.
#[derive(Default)]
struct Sums {
    count: u64,
    sums: Vec<(&'static str, Tensor)>,
}

impl Sums {
    fn add(&mut self, losses: &Losses) {
        self.count += 1;
        let parts = losses.parts.iter().map(|(name, value)| (*name, value));
        for (i, (name, value)) in [("loss", &losses.total)].into_iter().chain(parts).enumerate() {
            let value = value.detach().to_kind(Kind::Double);
            match self.sums.get_mut(i) {
                Some(sum) => sum.1 += value,
                None => self.sums.push((name, value)),
            }
        }
    }

    fn take(&mut self, step: u64, elapsed: Duration) -> serde_json::Value {
        let Self { count, sums } = std::mem::take(self);
        let mut line = json!({ "step": step, "seconds": elapsed.as_secs() });
        for (name, sum) in sums {
            line[name] = json!(sum.double_value(&[]) / count.max(1) as f64);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::cycles;

    #[test]
    fn cycles_take_all_steps() {
        assert_eq!(cycles(3, &[10, 5]), [3]);
        assert_eq!(cycles(10, &[10, 5]), [10]);
        assert_eq!(cycles(12, &[10, 5]), [10, 2]);
        assert_eq!(cycles(20, &[10, 5]), [10, 5, 5]);
    }
}
