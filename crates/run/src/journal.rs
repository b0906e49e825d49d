//! Logs the events of a run: for programs (`events.jsonl`) and for TensorBoard.

use anyhow::Result;
use models::Error;
use runlog::{events::Events, pipe::Pipe, tensorboard::Writer};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

/// Which of samples and validation were done after a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reported {
    pub measured: bool,
    pub drawn: bool,
}

impl Reported {
    /// Reads it from the log in a run's folder, from the last time that the run reached this step.
    pub fn read(folder: &Path, step: u64) -> Result<Self> {
        let mut looked = Self::default();
        for (_, event) in events(folder)?.into_iter().filter(|(at, _)| *at == step) {
            match event["event"].as_str() {
                Some("step" | "skipped") => looked = Self::default(),
                Some("validation") => looked.measured = true,
                Some("samples") => looked.drawn = true,
                _ => {}
            }
        }
        Ok(looked)
    }
}

/// Caption losses of every held-out prompt by step, from a run's log up to a step. Measurements of an abandoned branch
/// are left out, and those under other conditions ([`super::Validation::of`]).
pub fn measured(folder: &Path, until: u64, conditions: &str) -> Result<Vec<(u64, Vec<f64>)>> {
    let mut measured = BTreeMap::new();
    for (step, event) in events(folder)? {
        match event["event"].as_str() {
            Some("start") => measured.retain(|before, _| *before <= step),
            Some("validation") if event["conditions"] == conditions => {
                let losses = event["losses"].as_array().into_iter().flatten().filter_map(Value::as_f64);
                measured.insert(step, losses.collect::<Vec<f64>>());
            }
            _ => {}
        }
    }
    Ok(measured.into_iter().filter(|(step, _)| *step <= until).collect())
}

/// The events of a run's log that have a step, with their steps; empty if there is no log. A last line that is
/// incomplete because the run was killed is left out.
fn events(folder: &Path) -> Result<Vec<(u64, Value)>> {
    let path = folder.join("events.jsonl");
    if !path.exists() {
        return Ok(vec![]);
    }
    let text = fs::read(&path).map_err(Error::io(&path))?;
    let lines = String::from_utf8_lossy(&text);
    let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(events.filter_map(|event| Some((event["step"].as_u64()?, event))).collect())
}

pub struct Journal {
    events: Events,
    /// `None` before the run has begun, and if TensorBoard files are off.
    tensorboard: Option<Writer>,
    /// `None` where `logging.command` names no program.
    pipe: Option<Pipe>,
}

impl Journal {
    /// Opens the log in a run's folder. `command`: the words of `logging.command`, which is started.
    pub fn open(folder: &Path, command: Option<&[String]>) -> Result<Self> {
        let pipe = command.map(|words| Pipe::start(words, folder)).transpose()?;
        Ok(Self { events: Events::open(&folder.join("events.jsonl"))?, tensorboard: None, pipe })
    }

    /// A journal that writes nothing, for ranks other than the first.
    pub fn nowhere() -> Self {
        Self { events: Events::nowhere(), tensorboard: None, pipe: None }
    }

    /// Starts an event file that continues after `done` steps.
    pub fn begin_tensorboard(&mut self, folder: &Path, done: u64) -> Result<()> {
        let first = if done == 0 { 0 } else { done + 1 };
        self.tensorboard = Some(Writer::create(&folder.join("tensorboard"), first)?);
        Ok(())
    }

    /// Writes an event, named by its key `event`. TensorBoard gets the numbers of steps and validations.
    pub fn write(&mut self, event: Value) -> Result<()> {
        if let (Some(tensorboard), Some(step)) = (&mut self.tensorboard, event["step"].as_u64()) {
            tensorboard.scalars(step, &scalars(&event))?;
        }
        if let Some(pipe) = &mut self.pipe {
            pipe.write(format!("{event}\n"));
        }
        self.events.write(event)
    }

    /// Writes an image that was sampled after `step` steps.
    pub fn image(&mut self, step: u64, tag: &str, size: (usize, usize), png: &Path) -> Result<()> {
        match &mut self.tensorboard {
            Some(tensorboard) => tensorboard.image(step, tag, size, fs::read(png).map_err(Error::io(png))?),
            None => Ok(()),
        }
    }
}

/// The numbers of an event, in groups: losses and similar, time, memory, held-out prompts.
fn scalars(event: &Value) -> Vec<(String, f64)> {
    let Some(fields) = event.as_object() else { return vec![] };
    let tagged = |tag: String, value: &Value| Some((tag, value.as_f64()?));
    match event["event"].as_str() {
        Some("step") => {
            let group = |key: &str| match key {
                key if key.starts_with("seconds") => "time",
                key if key.starts_with("peak") => "memory",
                _ => "train",
            };
            let fields = fields.iter().filter(|(key, _)| *key != "step");
            fields.filter_map(|(key, value)| tagged(format!("{}/{key}", group(key)), value)).collect()
        }
        Some("validation") => {
            let fields = fields.iter().filter(|(key, _)| !["step", "prompts"].contains(&key.as_str()));
            let mut all: Vec<_> =
                fields.filter_map(|(key, value)| tagged(format!("validation/{key}"), value)).collect();
            let judge = event["judge"].as_object().into_iter().flatten();
            all.extend(judge.filter_map(|(key, value)| tagged(format!("judge/{key}"), value)));
            all
        }
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let looked = |lines: &str| {
            fs::write(folder.path().join("events.jsonl"), lines).unwrap();
            let Reported { measured, drawn } = Reported::read(folder.path(), 2).unwrap();
            (measured, drawn)
        };
        let of = |event: &str, step: u64| format!("{}\n", json!({ "event": event, "step": step }));
        let all = of("step", 2) + &of("checkpoint", 2) + &of("validation", 2) + &of("samples", 2);
        assert_eq!(looked(""), (false, false));
        assert_eq!(looked(&all), (true, true));
        assert_eq!(looked(&(of("skipped", 2) + &of("validation", 2) + &of("samples", 1))), (true, false));
        assert_eq!(looked(&(all.clone() + &of("start", 1) + &of("step", 2) + "{\"event\": \"valid")), (false, false));
    }

    #[test]
    fn numbers_of_events() {
        let step = json!({ "event": "step", "step": 3, "caption_loss": 1.5, "seconds": 2.0, "peak_decode": 7, "peak_memory": null });
        let tags = [("train/caption_loss", 1.5), ("time/seconds", 2.0), ("memory/peak_decode", 7.0)];
        assert_eq!(scalars(&step), tags.map(|(tag, value)| (tag.to_owned(), value)));
        let validation = json!({
            "event": "validation", "step": 3, "caption_loss": 1.5, "prompts": 2, "losses": [1, 2], "judge": { "clean": 0.5 },
        });
        let tags = [("validation/caption_loss", 1.5), ("judge/clean", 0.5)];
        assert_eq!(scalars(&validation), tags.map(|(tag, value)| (tag.to_owned(), value)));
        assert_eq!(scalars(&json!({ "event": "checkpoint", "step": 3 })), []);
    }
}
