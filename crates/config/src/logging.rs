//! `[logging]`: what a run writes about itself beside `events.jsonl`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// Event files for TensorBoard, in `tensorboard/` in the run's folder.
    pub tensorboard: bool,
}

impl Default for Logging {
    fn default() -> Self {
        Self { tensorboard: true }
    }
}
