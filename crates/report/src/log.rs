//! Reads the events and the configuration of a run from its folder.

use anyhow::{Context, Result};
use models::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// One optimiser step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub step: u64,
    pub caption_loss: f64,
    pub grad_norm: f64,
    pub seconds: f64,
    /// In bytes, if the device reports it.
    pub peak_memory: Option<u64>,
    /// Everything else in the line, such as the values of other losses.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

impl Step {
    /// A value that not every run has.
    pub fn other(&self, key: &str) -> Option<f64> {
        self.others.get(key).and_then(Value::as_f64)
    }
}

/// The loss on held-out prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    pub step: u64,
    pub caption_loss: f64,
    pub standard_error: f64,
    pub prompts: usize,
    /// Loss of each prompt, if the log has them.
    #[serde(default)]
    pub losses: Vec<f64>,
    /// Mean metrics of the judge, if there was one. The first metric decides which round is the best.
    #[serde(default)]
    pub judge: Map<String, Value>,
    /// Everything else in the line, such as other rewards.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

impl Validation {
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.judge.get(name).and_then(Value::as_f64)
    }

    /// A value that not every run has.
    pub fn other(&self, key: &str) -> Option<f64> {
        self.others.get(key).and_then(Value::as_f64)
    }
}

/// Contents of `events.jsonl` and `config.toml`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    /// Steps in order, each once.
    pub steps: Vec<Step>,
    pub validations: Vec<Validation>,
    /// Steps whose update was skipped because something was not finite.
    pub skipped: BTreeSet<u64>,
    /// Number of trained weights.
    pub trainable: Option<u64>,
    /// Whether the run has come to its end.
    pub finished: bool,
    /// Line numbers (from 1) that are not whole events, because the run was killed or is writing at this moment.
    pub damaged: Vec<usize>,
    /// Keys such as `train.steps`, and values, in the order of the file.
    pub settings: Vec<(String, String)>,
}

impl Log {
    pub fn read(run: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = run.join(name);
            let text = fs::read_to_string(&path).map_err(Error::io(&path));
            text.with_context(|| format!("{} is not the folder of a run", run.display()))
        };
        let table: toml::Table =
            text("config.toml")?.parse().with_context(|| run.join("config.toml").display().to_string())?;
        let mut log = Self::parse(&text("events.jsonl")?);
        flatten("", &table, &mut log.settings);
        Ok(log)
    }

    /// Parses `events.jsonl`. If the run was resumed from an earlier step, events of later steps from before the
    /// resumption are left out. A line that a killed run left unfinished is skipped.
    pub(super) fn parse(text: &str) -> Self {
        let (mut log, mut steps, mut validations) = (Self::default(), BTreeMap::new(), BTreeMap::new());
        for (number, line) in text.lines().enumerate() {
            let understood = serde_json::from_str::<Value>(line).ok().and_then(|event| {
                match event["event"].as_str() {
                    Some("start") => {
                        (log.trainable, log.finished) = (event["trainable"].as_u64(), false);
                        if let Some(from) = event["step"].as_u64() {
                            steps.retain(|step, _| *step <= from);
                            validations.retain(|step, _| *step <= from);
                            log.skipped.retain(|step| *step <= from);
                        }
                    }
                    Some("finished") => log.finished = true,
                    Some("skipped") => log.skipped.extend(event["step"].as_u64()),
                    Some("step") => {
                        let step: Step = serde_json::from_value(event).ok()?;
                        steps.insert(step.step, step);
                    }
                    Some("validation") => {
                        let validation: Validation = serde_json::from_value(event).ok()?;
                        validations.insert(validation.step, validation);
                    }
                    _ => {}
                }
                Some(())
            });
            if understood.is_none() {
                log.damaged.push(number + 1);
            }
        }
        (log.steps, log.validations) = (steps.into_values().collect(), validations.into_values().collect());
        log
    }

    /// The validations under the conditions of the newest one (prompts, captioner, sampling), which can be compared.
    pub fn comparable(&self) -> impl DoubleEndedIterator<Item = &Validation> {
        let conditions = |v: &Validation| v.others.get("conditions").cloned();
        let newest = self.validations.last().map(conditions);
        self.validations.iter().filter(move |v| Some(conditions(v)) == newest)
    }

    /// The value of a setting such as `model.path`.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    pub fn seconds(&self) -> f64 {
        self.steps.iter().map(|s| s.seconds).sum()
    }

    /// Mean seconds of a step; `None` before the first step.
    pub fn seconds_a_step(&self) -> Option<f64> {
        (!self.steps.is_empty()).then(|| self.seconds() / self.steps.len() as f64)
    }

    pub fn peak_memory(&self) -> Option<u64> {
        self.steps.iter().filter_map(|s| s.peak_memory).max()
    }
}

fn flatten(prefix: &str, table: &toml::Table, settings: &mut Vec<(String, String)>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(table) => flatten(&format!("{prefix}{key}."), table, settings),
            toml::Value::String(text) => settings.push((format!("{prefix}{key}"), text.clone())),
            value => settings.push((format!("{prefix}{key}"), value.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let error = format!("{:#}", Log::read(folder.path()).unwrap_err());
        assert!(error.contains("is not the folder of a run") && error.contains("config.toml"), "{error}");
        write("config.toml", "output = \"runs/a\"\n[train]\nsteps = 3\n[samples]\nprompts = [\"a\"]\n");
        write(
            "events.jsonl",
            r#"{"event":"start","step":0,"trainable":70}
{"event":"validation","step":0,"caption_loss":2.5,"standard_error":0.1,"prompts":2,"losses":[2.0,3.0],"judge":{"clean":0.5}}
{"event":"step","step":1,"caption_loss":2.0,"grad_norm":0.5,"learning_rate":0.1,"seconds":1.5,"peak_memory":null}
{"event":"skipped","step":3,"not_finite":"image","skipped":1,"seconds":1.0}
{"event":"step","step":2,"caption_loss":9.0,"grad_norm":0.5,"learning_rate":0.1,"seconds":1.5,"peak_memory":5}
{"event":"step","step":2,"caption_loss":1.0,"grad_norm":0.4,"learning_rate":0.1,"seconds":1.0,"peak_memory":4,"token_loss":3.5}
{"event":"step","st
{"event":"something new"}
"#,
        );
        let log = Log::read(folder.path()).unwrap();
        let losses: Vec<(u64, f64)> = log.steps.iter().map(|s| (s.step, s.caption_loss)).collect();
        assert_eq!(losses, [(1, 2.0), (2, 1.0)]);
        assert_eq!(
            (log.validations.len(), log.trainable, log.peak_memory(), log.seconds()),
            (1, Some(70), Some(4), 2.5)
        );
        assert_eq!((log.steps[1].other("token_loss"), log.steps[0].other("token_loss")), (Some(3.5), None));
        assert_eq!((log.validations[0].metric("clean"), &log.validations[0].losses[..]), (Some(0.5), &[2.0, 3.0][..]));
        assert_eq!((log.finished, &log.damaged[..]), (false, &[7][..]));
        assert_eq!(log.skipped, BTreeSet::from([3]));
        assert!(Log::parse("{\"event\":\"finished\"}").finished);
        assert!(!Log::parse("{\"event\":\"finished\"}\n{\"event\":\"start\"}").finished, "it goes on");
        // resumed from step 1, and stopped before step 2
        let again =
            fs::read_to_string(folder.path().join("events.jsonl")).unwrap() + "{\"event\":\"start\",\"step\":1}\n";
        let numbers = |log: &Log| log.steps.iter().map(|s| s.step).collect::<Vec<_>>();
        assert_eq!((numbers(&Log::parse(&again)), Log::parse(&again).validations.len()), (vec![1], 1));
        assert_eq!(numbers(&Log::parse(&(again + "{\"event\":\"start\",\"step\":0}"))), [] as [u64; 0]);
        assert_eq!(log.setting("train.steps"), Some("3"));
        assert_eq!(log.setting("output"), Some("runs/a"));
        assert_eq!(log.setting("samples.prompts"), Some("[\"a\"]"));
    }
}
