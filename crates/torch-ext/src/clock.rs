//! Time and memory of the phases of a computation.

use crate::memory;
use std::{cell::Cell, mem, ops::AddAssign, time::Instant};
use tch::Device;

/// Time and memory of a phase. At its end a GPU is synchronised, so that its time counts for the right phase.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phase {
    pub seconds: f64,
    /// Peak memory in bytes; `None` where the device does not report it.
    pub peak: Option<u64>,
}

impl AddAssign for Phase {
    fn add_assign(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.peak = self.peak.max(other.peak);
    }
}

/// Measures phases that follow one another.
pub struct Clock {
    since: Instant,
    device: Device,
}

thread_local! {
    /// The current phase, for error messages when memory runs out.
    static UNDER_WAY: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The current phase of this thread, or the one that an error came from.
pub fn under_way() -> Option<&'static str> {
    UNDER_WAY.get()
}

impl Clock {
    pub fn start(device: Device, phase: &'static str) -> Self {
        UNDER_WAY.set(Some(phase));
        memory::reset_peak(device);
        Self { since: Instant::now(), device }
    }

    /// Ends the current phase and starts the phase `next`. Returns time and memory of the ended phase.
    pub fn lap(&mut self, next: &'static str) -> Phase {
        let phase = self.end();
        UNDER_WAY.set(Some(next));
        phase
    }

    /// Ends the current phase and returns its time and memory.
    pub fn end(&mut self) -> Phase {
        if let Device::Cuda(gpu) = self.device {
            tch::Cuda::synchronize(gpu as i64);
        }
        UNDER_WAY.set(None);
        let peak = memory::peak(self.device);
        memory::reset_peak(self.device);
        let before = mem::replace(&mut self.since, Instant::now());
        Phase { seconds: (self.since - before).as_secs_f64(), peak }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_knows_what_it_held() {
        let mut clock = Clock::start(Device::Cpu, "trajectory");
        let before = clock.lap("decode").peak;
        assert_eq!(under_way(), Some("decode"));
        let held = tch::Tensor::ones([32 << 20], (tch::Kind::Float, Device::Cpu));
        let during = clock.end().peak;
        assert_eq!(under_way(), None);
        drop(held);
        if let (Some(before), Some(during)) = (before, during) {
            assert!(during >= before + (100 << 20), "{before} {during}");
        }
    }
}
