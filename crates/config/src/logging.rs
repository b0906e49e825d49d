//! `[logging]`: what a run writes about itself beside `events.jsonl`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// Event files for TensorBoard, in `tensorboard/` in the run's folder.
    pub tensorboard: bool,
    /// Steps between two lines about the run where no progress bar is seen; 0: as time goes by, after 10 seconds at first, at last every
    /// minute.
    pub every: u64,
}

impl Default for Logging {
    fn default() -> Self {
        Self { tensorboard: true, every: 0 }
    }
}
