//! `[ranks]`: several processes.

use super::above_zero;
use ::ranks::Backend;
use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Several processes that train together.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ranks {
    /// Seconds that a rank waits for the others before the run ends with an error: for a process or a network that hangs. (A process
    /// that ends is noticed at once.) Rank 0 draws samples and writes checkpoints meanwhile: allow for that.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1e6))]
    pub timeout: f64,
    /// How gradients go from rank to rank.
    pub backend: Backend,
}

impl Default for Ranks {
    fn default() -> Self {
        Self { timeout: 1800.0, backend: Backend::Auto }
    }
}

impl Ranks {
    /// Seconds; more are taken for a typing mistake.
    pub const LONGEST: f64 = 1e6;

    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }

    pub fn check(&self) -> Result<()> {
        above_zero(&[("ranks.timeout", self.timeout)])?;
        super::in_range(&[("ranks.timeout", self.timeout, Self::LONGEST)])
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
