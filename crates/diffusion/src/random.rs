//! Random numbers. Every use has a stream of its own, named by its purpose. So results do not depend on how a batch is
//! cut, on the number of processes, or on where a run was resumed.

use anyhow::{Context, Result};
use models::schedule::Sampler;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, TchError, Tensor};
use torch_ext::Generator;

/// The purpose of a stream of random numbers.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// Down matrices of a new adapter; index: the layer.
    Adapter,
    /// Initial latents and step noise of a training sample; index: the sample's position in the step.
    Trajectory,
    /// The same for held-out prompts; index: the prompt.
    Validation,
    /// The captioner's crop; index: the sample's position in the step.
    Crop,
    /// Which denoising steps are tracked.
    Tracked,
    /// Which of the tracked steps have attention losses.
    Attention,
    /// Which of the tracked steps have the anchor loss.
    Anchor,
    /// Timesteps and noise at which a prompt's images are compared; index: the sample's position in the step.
    Preference,
    /// The order of the prompts; step: the epoch.
    Order,
    /// The sampler step at which images enter, and their noise; index: the sample's position in the step.
    Mixed,
    /// Down matrices of the discriminator's adapter, and its head; index: the layer.
    Discriminator,
}

/// The stream of a purpose at a step, for a sample, layer or prompt.
pub fn stream(seed: u64, purpose: Purpose, step: u64, index: u64) -> Result<Generator, TchError> {
    let digest = Sha256::digest(format!("{seed} {purpose:?} {step} {index}"));
    let seed = digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte));
    Generator::seeded(seed)
}

/// The initial noise `[B, C, h, w]`, with standard deviation 1, and a function that returns the noise of the steps, in
/// order; every sample has its own stream. `shape`: that of a sample, `[C, h, w]`. The noise of all steps is drawn when
/// the first one asks for it, and copied to the device at once: a copy in every step would wait for the step before it.
pub fn noise(
    sampler: &Sampler,
    mut streams: Vec<Generator>,
    shape: [i64; 3],
    (kind, device): (Kind, Device),
) -> Result<(Tensor, impl FnMut(usize) -> Result<Tensor> + use<>)> {
    let stochastic = sampler.draws();
    let start = draw(&mut streams, &shape, 1)?.to_device(device).to_kind(kind).get(0);
    let mut ready = vec![];
    let next = move |_| -> Result<Tensor> {
        if ready.is_empty() {
            ready = draw(&mut streams, &shape, stochastic.max(1))?.to_device(device).to_kind(kind).unbind(0);
            ready.reverse(); // `pop` takes the last one
        }
        ready.pop().context("there is noise for every step")
    };
    Ok((start, next))
}

/// The next random numbers `[times, B, C, h, w]` of each stream; the same numbers as drawn one at a time.
fn draw(streams: &mut [Generator], shape: &[i64], times: usize) -> Result<Tensor> {
    let one = |streams: &mut [Generator]| -> Result<Tensor> {
        let rows = streams.iter_mut().map(|s| Ok(s.randn(shape)?)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&rows, 0))
    };
    let all = (0..times).map(|_| one(streams)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::stack(&all, 0))
}

/// A permutation of `0..n`.
pub fn permutation(mut draws: Generator, n: usize) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, draws.below(0, i as i64 + 1)? as usize);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_apart_and_repeat() {
        let draw = |seed, purpose, step, index| {
            Vec::<f32>::try_from(stream(seed, purpose, step, index).unwrap().randn(&[4]).unwrap()).unwrap()
        };
        let one = draw(1, Purpose::Trajectory, 2, 3);
        assert_eq!(one, draw(1, Purpose::Trajectory, 2, 3));
        for other in [
            (2, Purpose::Trajectory, 2, 3),
            (1, Purpose::Crop, 2, 3),
            (1, Purpose::Trajectory, 3, 3),
            (1, Purpose::Trajectory, 2, 4),
        ] {
            assert_ne!(one, draw(other.0, other.1, other.2, other.3));
        }
    }

    #[test]
    fn draws_at_once_are_those_one_at_a_time() {
        let streams = || -> Vec<Generator> { [3, 4].map(|seed| Generator::seeded(seed).unwrap()).into() };
        let (mut at_once, mut each) = (streams(), streams());
        let all = draw(&mut at_once, &[4, 3, 2], 3).unwrap();
        assert_eq!(all.size(), [3, 2, 4, 3, 2]);
        for step in 0..3 {
            assert_eq!(all.get(step), draw(&mut each, &[4, 3, 2], 1).unwrap().get(0));
        }
        assert_eq!(draw(&mut at_once, &[5], 1).unwrap(), draw(&mut each, &[5], 1).unwrap(), "as far along");
    }

    #[test]
    fn permutations_hold_everything() {
        let mut order = permutation(stream(0, Purpose::Order, 0, 0).unwrap(), 100).unwrap();
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
