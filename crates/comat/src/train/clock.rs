//! Where an iteration's time goes.

use std::time::Instant;

/// Seconds that the parts of an iteration took. (A GPU works on while the clock is read, so there a part may be counted
/// to the next one.)
#[derive(Debug, Clone, Copy, Default)]
pub struct Legs {
    pub trajectory: f64,
    /// Decoder and captioner, both ways
    pub caption: f64,
    /// The discriminator, both ways
    pub fidelity: f64,
    /// Finding the objects of the attention losses
    pub segment: f64,
    pub replay: f64,
}

pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the last time.
    pub fn lap(&mut self) -> f64 {
        let before = std::mem::replace(&mut self.0, Instant::now());
        (self.0 - before).as_secs_f64()
    }
}
