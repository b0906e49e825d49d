//! Who looks on while a trainer trains.

use super::{StepReport, Trainer};
use anyhow::Result;
use std::path::Path;

/// Looks on: logs, samples, validates, exports. A trainer knows nothing else of it. Every rank has one, and calls it in the same order, so
/// that an observer may exchange something with the others.
pub trait Observer {
    /// Before the first step of this process. `true`: there is nothing left to do.
    ///
    /// # Errors
    /// They end the run, here and below.
    fn on_start(&mut self, trainer: &mut Trainer) -> Result<bool>;

    /// After every denoising step, and between the phases of a step.
    fn on_tick(&self) {}

    /// After every step. The trainer has counted it already.
    fn on_step(&mut self, trainer: &Trainer, report: &StepReport) -> Result<()>;

    /// After a checkpoint was written, by rank 0.
    fn on_checkpoint(&mut self, path: &Path, step: u64) -> Result<()>;

    /// After a step and its checkpoint: the place for what takes long. `true` ends the run here.
    fn on_look(&mut self, trainer: &mut Trainer) -> Result<bool>;

    /// After the last step.
    fn on_end(&mut self, trainer: &mut Trainer) -> Result<()>;
}
