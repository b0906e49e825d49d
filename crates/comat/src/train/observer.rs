//! Observers of a training run.

use super::{StepReport, Trainer};
use anyhow::Result;
use std::path::Path;

/// An observer of training: logs, samples, validates, exports. The trainer knows nothing else about it. Every rank has
/// one and calls it in the same order, so observers may communicate with those of other ranks.
pub trait Observer {
    /// Called before the first step of this process. `true`: there is nothing left to do.
    ///
    /// # Errors
    /// An error ends the run, here and in the methods below.
    fn on_start(&mut self, trainer: &mut Trainer) -> Result<bool>;

    /// Called after every denoising step and between the phases of a step.
    fn on_tick(&self) {}

    /// Called after every step. The trainer has counted the step already.
    fn on_step(&mut self, trainer: &Trainer, report: &StepReport) -> Result<()>;

    /// Called on rank 0 after a checkpoint was written.
    fn on_checkpoint(&mut self, path: &Path, step: u64) -> Result<()>;

    /// Called after a step and its checkpoint; work that takes long belongs here. `true` ends the run.
    fn on_look(&mut self, trainer: &mut Trainer) -> Result<bool>;

    /// Called after the last step.
    fn on_end(&mut self, trainer: &mut Trainer) -> Result<()>;
}
