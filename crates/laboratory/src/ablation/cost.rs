//! The cost of a training and of an image.

use anyhow::Result;
use models::Error;
use serde::Serialize;
use serde_json::Value;
use std::{fs, path::Path};

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Passes of the UNet in the training, and for an image that is kept ([`crate::baselines::training`]).
    pub training: f64,
    pub drawing: f64,
    /// Of CoMat's runs.
    pub steps: Option<OfSteps>,
}

/// Medians over the steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OfSteps {
    pub seconds: f64,
    /// Time of the whole step, in units of its own trajectory: more reliable than seconds on a machine that is busy
    /// with other work.
    pub trajectories: f64,
    /// Peak memory in bytes; `None` where the system does not report it.
    pub peak_memory: Option<f64>,
}

impl OfSteps {
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join("events.jsonl");
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let steps: Vec<Value> = lines.filter(|line| line["event"] == "step").collect();
        let all = |of: &dyn Fn(&Value) -> Option<f64>| steps.iter().filter_map(of).collect::<Vec<_>>();
        let of_trajectory =
            |step: &Value| Some(step["seconds"].as_f64()? / step["seconds_trajectory"].as_f64().filter(|s| *s > 0.0)?);
        Ok(Self {
            seconds: median(all(&|step| step["seconds"].as_f64())).unwrap_or(f64::NAN),
            trajectories: median(all(&of_trajectory)).unwrap_or(f64::NAN),
            peak_memory: median(all(&|step| step["peak_memory"].as_f64())),
        })
    }
}

/// `None` if there are no values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn steps_are_read_from_the_log() {
        let run = tempfile::tempdir().unwrap();
        let step = |seconds: f64, peak: &str| {
            format!("{{\"event\":\"step\",\"seconds\":{seconds},\"seconds_trajectory\":0.5,\"peak_memory\":{peak}}}\n")
        };
        let text =
            format!("{{\"event\":\"start\"}}\n{}{}{}{{\"ev", step(1.0, "10"), step(3.0, "30"), step(2.0, "null"));
        fs::write(run.path().join("events.jsonl"), text).unwrap();
        let cost = OfSteps::read(run.path()).unwrap();
        assert_eq!(cost, OfSteps { seconds: 2.0, trajectories: 4.0, peak_memory: Some(20.0) });
    }
}
