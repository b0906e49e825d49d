//! Ctrl-C, as a flag that long work checks where it can stop cleanly.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A stop flag, shared by the signal handler and the work. A new one is not set.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

/// The work was stopped by the user.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Interrupted;

impl Interrupt {
    /// Asks the work to stop; returns whether that had been asked before.
    pub fn set(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error if the work was asked to stop; for work that has nothing to finish first.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() { Err(Interrupted) } else { Ok(()) }
    }
}
