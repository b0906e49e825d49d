use super::above_zero;
use ::ranks::Backend;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Several processes that train together.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ranks {
    /// Seconds that a rank waits for the others, before the run is given up. A process that ends is noticed at once; this is for
    /// one that hangs, and for a network that does. Rank 0 draws samples and writes checkpoints while the others wait.
    pub timeout: f64,
    /// How gradients travel.
    pub backend: Backend,
}

impl Default for Ranks {
    fn default() -> Self {
        Self { timeout: 1800.0, backend: Backend::Auto }
    }
}

impl Ranks {
    /// Seconds; more are a slip of the finger.
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
