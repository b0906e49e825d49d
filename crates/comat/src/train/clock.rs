//! Where an iteration's time and memory go.

use std::{cell::Cell, mem, ops::AddAssign, time::Instant};
use tch::Device;
use torch_ext::memory;

/// A part of an iteration. A GPU is waited for at its end, so that its time is counted where it belongs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Leg {
    pub seconds: f64,
    /// The most memory in use at once, in bytes; `None` where the device does not tell.
    pub peak: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Legs {
    pub trajectory: Leg,
    /// From latents to images, both ways
    pub decode: Leg,
    /// The captioner, both ways
    pub caption: Leg,
    /// The rewards beside the captioner, both ways
    pub reward: Leg,
    /// The discriminator, both ways
    pub fidelity: Leg,
    /// Finding the objects of the attention losses
    pub segment: Leg,
    pub replay: Leg,
}

impl Legs {
    pub fn named(&self) -> [(&'static str, Leg); 7] {
        let Self { trajectory, decode, caption, reward, fidelity, segment, replay } = *self;
        [
            ("trajectory", trajectory),
            ("decode", decode),
            ("caption", caption),
            ("reward", reward),
            ("fidelity", fidelity),
            ("segment", segment),
            ("replay", replay),
        ]
    }

    /// Of all parts.
    pub fn peak(&self) -> Option<u64> {
        self.named().iter().filter_map(|(_, leg)| leg.peak).max()
    }
}

impl AddAssign for Leg {
    fn add_assign(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.peak = self.peak.max(other.peak);
    }
}

impl AddAssign for Legs {
    fn add_assign(&mut self, other: Self) {
        self.trajectory += other.trajectory;
        self.decode += other.decode;
        self.caption += other.caption;
        self.reward += other.reward;
        self.fidelity += other.fidelity;
        self.segment += other.segment;
        self.replay += other.replay;
    }
}

pub struct Clock {
    since: Instant,
    device: Device,
}

thread_local! {
    /// What is being computed, for whoever has to say where memory ran out.
    static UNDER_WAY: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The leg that is under way in this thread, or that an error came from.
pub fn under_way() -> Option<&'static str> {
    UNDER_WAY.get()
}

impl Clock {
    pub fn start(device: Device, leg: &'static str) -> Self {
        UNDER_WAY.set(Some(leg));
        memory::reset_peak(device);
        Self { since: Instant::now(), device }
    }

    /// What there was since the last time. Another leg begins.
    pub fn lap(&mut self, next: &'static str) -> Leg {
        let leg = self.end();
        UNDER_WAY.set(Some(next));
        leg
    }

    /// What there was since the last time. Nothing is under way any more.
    pub fn end(&mut self) -> Leg {
        if let Device::Cuda(gpu) = self.device {
            tch::Cuda::synchronize(gpu as i64);
        }
        UNDER_WAY.set(None);
        let peak = memory::peak(self.device);
        memory::reset_peak(self.device);
        let before = mem::replace(&mut self.since, Instant::now());
        Leg { seconds: (self.since - before).as_secs_f64(), peak }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_adds_up_and_memory_does_not() {
        let leg = |seconds, peak| Leg { seconds, peak };
        let mut legs = Legs { replay: leg(1.0, Some(5)), ..Legs::default() };
        legs += Legs { replay: leg(2.0, Some(3)), caption: leg(1.0, None), ..Legs::default() };
        assert_eq!((legs.replay, legs.caption, legs.peak()), (leg(3.0, Some(5)), leg(1.0, None), Some(5)));
    }

    #[test]
    fn a_leg_knows_what_it_held() {
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
