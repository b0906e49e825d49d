//! Time and memory of an iteration's phases.

use std::ops::AddAssign;
use torch_ext::clock::Phase;

#[derive(Debug, Clone, Copy, Default)]
pub struct Phases {
    pub trajectory: Phase,
    /// From latents to images, forward and backward pass.
    pub decode: Phase,
    /// The captioner, forward and backward pass.
    pub caption: Phase,
    /// The rewards besides the captioner, forward and backward pass.
    pub reward: Phase,
    /// The discriminator, forward and backward pass.
    pub fidelity: Phase,
    /// Finding the objects for the attention losses.
    pub segment: Phase,
    pub replay: Phase,
}

impl Phases {
    pub fn named(&self) -> [(&'static str, Phase); 7] {
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

    /// Peak memory over all phases, in bytes.
    pub fn peak(&self) -> Option<u64> {
        self.named().iter().filter_map(|(_, phase)| phase.peak).max()
    }
}

impl AddAssign for Phases {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_adds_up_and_memory_does_not() {
        let phase = |seconds, peak| Phase { seconds, peak };
        let mut phases = Phases { replay: phase(1.0, Some(5)), ..Phases::default() };
        phases += Phases { replay: phase(2.0, Some(3)), caption: phase(1.0, None), ..Phases::default() };
        assert_eq!((phases.replay, phases.caption, phases.peak()), (phase(3.0, Some(5)), phase(1.0, None), Some(5)));
    }
}
