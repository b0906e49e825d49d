//! `[ranks]`: several processes.

use ::ranks::Backend;
use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Several processes that train together.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ranks {
    /// Seconds that a rank waits for the others before the run ends with an error: for a process or a network that
    /// hangs. (A process that ends is noticed at once.) The others also wait while rank 0 draws samples and writes
    /// checkpoints, so allow for that time.
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
        let Self { timeout, .. } = self;
        match *timeout > 0.0 && *timeout <= Self::LONGEST {
            true => Ok(()),
            false => bail!("ranks.timeout is {timeout}, it must be above 0 and at most {}", Self::LONGEST),
        }
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
