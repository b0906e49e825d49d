//! Progress messages of a run: at first the plan, after two steps the time per step, and then, if no progress bar is
//! visible, a line at intervals.

use comat::train::{StepReport, Trainer};
use config::Config;
use indicatif::ProgressBar;
use models::text::counted;
use std::time::{Duration, Instant};

/// Time between the first two lines, and longest time between any two, where `logging.every` is not set.
const SOON: Duration = Duration::from_secs(10);
const LATE: Duration = Duration::from_secs(60);

pub struct Lines {
    /// Steps between two lines; 0: intervals of time.
    every: u64,
    last: u64,
    /// Whether this rank logs, and whether lines replace the progress bar.
    leads: bool,
    wanted: bool,
    /// Steps of this process, and seconds per step, as a mean over the last steps.
    steps: u64,
    seconds: f64,
    told: Instant,
    pause: Duration,
}

impl Lines {
    pub fn new(config: &Config, bar: &ProgressBar, leads: bool) -> Self {
        let (every, last, wanted) = (config.logging.every, config.train.steps, leads && bar.is_hidden());
        Self { every, last, leads, wanted, steps: 0, seconds: 0.0, told: Instant::now(), pause: SOON }
    }

    /// Logs the plan of the run.
    pub fn start(&mut self, trainer: &Trainer, samples: usize, held_out: usize) {
        if !self.leads || trainer.step >= self.last {
            return;
        }
        let config = &trainer.session.config;
        let mut begins = vec![];
        if trainer.step == 0 && held_out > 0 {
            begins.push(format!("the caption loss on {}", counted(held_out, "held-out prompt")));
        }
        if trainer.step == 0 && samples > 0 {
            begins.push(counted(samples, "sample image"));
        }
        let first = if begins.is_empty() { String::new() } else { format!("; first {}", begins.join(" and ")) };
        let checkpoint = match config.checkpoints.every {
            0 => "a checkpoint at the end".into(),
            1 => "a checkpoint every step".into(),
            every => format!("a checkpoint every {every} steps"),
        };
        let of_sample = match &config.preference {
            None => format!("{} of them replayed", config.replay.tracked),
            Some(p) if p.compared < p.candidates => {
                format!("{}, {} of them compared", counted(p.candidates, "image"), p.compared)
            }
            Some(p) => format!("{} compared", counted(p.candidates, "image")),
        };
        tracing::info!(
            "training: steps {} to {} of {} each ({}, {of_sample}) on {}{first}; {checkpoint}, in {}",
            trainer.step + 1,
            self.last,
            counted(config.train.batch_size * config.train.accumulation, "sample"),
            counted(trainer.session.sampler.len(), "sampling step"),
            diffusion::settings::Where::from(trainer.session.pipeline.device),
            config.output.display()
        );
        self.told = Instant::now();
    }

    /// Records a step, and logs a line where one is due. Returns the text that a bar shows beside its own numbers.
    pub fn step(&mut self, step: u64, report: &StepReport, seconds: f64, memory: Option<u64>) -> String {
        self.steps += 1;
        // the first step opens files and libraries, so its time is not typical
        let share = if self.steps <= 2 { 1.0 } else { 0.1_f64.max(1.0 / (self.steps - 1) as f64) };
        self.seconds += share * (seconds - self.seconds);
        let memory = memory.map_or(String::new(), |bytes| format!(" · {:.1} GB", bytes as f64 / 1e9));
        let rewards: String = report.rewards.iter().map(|(name, reward)| format!(" · {name} {reward:.3}")).collect();
        let figures = format!("loss {:.3}{rewards} · {} a step{memory}", report.caption_loss, each(self.seconds));
        let left = duration(self.seconds * self.last.saturating_sub(step) as f64);
        if self.steps == 2 && step < self.last && self.leads {
            tracing::info!(
                "a step takes {}; the {} some {left}, without samples and validation",
                each(self.seconds),
                counted((self.last - step) as usize, "other")
            );
        }
        let line = format!("step {step}/{} · {figures} · {left} left", self.last);
        if self.wanted && self.is_due(step) {
            tracing::info!("{line}");
        } else if self.leads {
            tracing::debug!("{line}");
        }
        figures
    }

    fn is_due(&mut self, step: u64) -> bool {
        let due = match self.every {
            0 => self.told.elapsed() >= self.pause || step == self.last,
            every => step.is_multiple_of(every) || step == self.last,
        };
        if due {
            (self.told, self.pause) = (Instant::now(), (self.pause * 2).min(LATE));
        }
        due
    }
}

/// Seconds per step, to three digits.
fn each(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        1.0..10.0 => format!("{seconds:.2} s"),
        10.0..100.0 => format!("{seconds:.1} s"),
        _ => duration(seconds),
    }
}

/// A duration for people: `45 s`, `3 min 20 s`, `2 h 5 min`, `3 days 4 h`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86400);
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{minutes} min {} s", whole % 60),
        3600..86400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_say_them() {
        assert_eq!([45.2, 200.0, 7500.0, 273600.0].map(duration), ["45 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"]);
        assert_eq!([0.0312, 1.4, 75.0, 200.0].map(each), ["31 ms", "1.40 s", "75.0 s", "3 min 20 s"]);
    }

    #[test]
    fn lines_by_steps_and_by_time() {
        let lines = |every, pause| Lines {
            every,
            last: 7,
            leads: true,
            wanted: true,
            steps: 0,
            seconds: 0.0,
            told: Instant::now(),
            pause: Duration::from_secs(pause),
        };
        let due = |mut lines: Lines| (1..=7).filter(|step| lines.is_due(*step)).collect::<Vec<_>>();
        assert_eq!(due(lines(3, 0)), [3, 6, 7]);
        assert_eq!(due(lines(0, 100)), [7]);
        assert_eq!(due(lines(0, 0)), [1, 2, 3, 4, 5, 6, 7]);
    }
}
