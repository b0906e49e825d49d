//! Selects the prompts of each step and draws its random numbers.

use crate::{
    draws::{Draws, Noise},
    loss::caption::CaptionLoss,
    session::Session,
    share::Share,
    tracked,
};
use anyhow::Result;
use config::Config;
use diffusion::{
    prompts::Prompt,
    random::{self, Purpose, permutation, stream},
};
use models::schedule::Sampler;
use ranks::ProcessGroup;
use std::{collections::BTreeSet, ops::Range};
use tch::Tensor;
use torch_ext::Generator;

/// The order of the prompts. It is new in every epoch and depends only on the seed.
pub struct Order {
    seed: u64,
    epoch: u64,
    order: Vec<usize>,
}

impl Order {
    pub fn new(seed: u64, prompts: usize) -> Result<Self> {
        Ok(Self { seed, epoch: 0, order: permutation(stream(seed, Purpose::Order, 0, 0)?, prompts)? })
    }

    /// Indices of the prompts that the first `samples` samples of a run use.
    pub fn reached(seed: u64, prompts: usize, samples: u64) -> Result<BTreeSet<usize>> {
        let first = Self::new(seed, prompts)?.order;
        Ok(first.into_iter().take(usize::try_from(samples).unwrap_or(usize::MAX)).collect())
    }

    /// Index of the prompt of the n-th sample of the run.
    pub fn prompt(&mut self, n: u64) -> Result<usize> {
        let length = self.order.len() as u64;
        if n / length != self.epoch {
            self.epoch = n / length;
            self.order = permutation(stream(self.seed, Purpose::Order, self.epoch, 0)?, self.order.len())?;
        }
        Ok(self.order[(n % length) as usize])
    }
}

/// The samples of one trajectory, the `part`-th of a step: the prompts of all ranks, and which of them belong to this
/// rank.
pub struct Batch {
    step: u64,
    /// Positions of this rank's samples in the step.
    pub places: Vec<u64>,
    prompts: Vec<String>,
    mine: Range<usize>,
}

impl Batch {
    pub fn new(
        config: &Config,
        order: &mut Order,
        prompts: &[Prompt],
        step: u64,
        part: usize,
        group: &ProcessGroup,
    ) -> Result<Self> {
        let (size, parts) = (config.train.batch_size, config.train.accumulation);
        let first = step * (size * parts) as u64;
        let prompt = |place| Ok(prompts[order.prompt(first + place)?].text.clone());
        Self::of(step, part..parts, size, group, prompt)
    }

    /// The first of the remaining `parts` of a step, each of `size` samples. `prompt` returns the prompt at a position
    /// of the step.
    pub fn of(
        step: u64,
        parts: Range<usize>,
        size: usize,
        group: &ProcessGroup,
        prompt: impl FnMut(u64) -> Result<String>,
    ) -> Result<Self> {
        // all samples of the step are shared out, so that with accumulation a rank gets whole parts
        let (share, part) = (group.share(parts.end * size), parts.start * size..(parts.start + 1) * size);
        let inside = |place: usize| place.clamp(part.start, part.end);
        let mine = inside(share.start)..inside(share.end);
        Ok(Self {
            step,
            places: mine.clone().map(|place| place as u64).collect(),
            mine: mine.start - part.start..mine.end - part.start,
            prompts: part.map(|place| place as u64).map(prompt).collect::<Result<_>>()?,
        })
    }

    pub fn share(&self) -> Share<'_> {
        Share { batch: self.prompts.iter().map(String::as_str).collect(), mine: self.mine.clone() }
    }

    pub fn draws(&self, session: &Session) -> Result<Draws<'static>> {
        let (config, step) = (&session.config, self.step);
        let (start, noise) = noise(session, Purpose::Trajectory, step, &self.places)?;
        let size = session.size;
        let crop = |place: &u64| CaptionLoss::draw_crop(config.seed, step, *place, size.height, size.width);
        let tracked = tracked_steps(session, step)?;
        Ok(Draws {
            start: session.sampler.start(start),
            noise,
            first: 0,
            weight: 1.0,
            rewards: true,
            attention: attention_steps(session, step, &tracked)?,
            anchor: anchor_steps(session, step, &tracked)?,
            tracked,
            crops: self.places.iter().map(crop).collect::<Result<_>>()?,
        })
    }
}

/// The tracked steps of an optimiser step; all its trajectories have the same.
fn tracked_steps(session: &Session, step: u64) -> Result<BTreeSet<usize>> {
    let replay = &session.config.replay;
    tracked::steps(replay.policy, session.sampler.len(), replay.tracked, below(session, Purpose::Tracked, step)?)
}

/// The tracked steps that have attention losses.
fn attention_steps(session: &Session, step: u64, tracked: &BTreeSet<usize>) -> Result<BTreeSet<usize>> {
    let Some(attention) = &session.config.attention else { return Ok(BTreeSet::new()) };
    tracked::some_of(tracked, attention.steps, below(session, Purpose::Attention, step)?)
}

/// The tracked steps that have the anchor loss.
fn anchor_steps(session: &Session, step: u64, tracked: &BTreeSet<usize>) -> Result<BTreeSet<usize>> {
    let Some(anchor) = &session.config.anchor else { return Ok(BTreeSet::new()) };
    tracked::subset(tracked, anchor.steps, below(session, Purpose::Anchor, step)?)
}

/// Returns a function that draws numbers below a given one, from a stream of the step.
fn below(session: &Session, purpose: Purpose, step: u64) -> Result<impl FnMut(usize) -> Result<usize> + use<>> {
    let mut draws = stream(session.config.seed, purpose, step, 0)?;
    Ok(move |n| Ok(draws.below(0, n as i64)? as usize))
}

/// The initial noise and the noise of the steps. Every sample has its own random stream.
pub fn noise(session: &Session, purpose: Purpose, step: u64, places: &[u64]) -> Result<(Tensor, Noise<'static>)> {
    let streams =
        places.iter().map(|place| stream(session.config.seed, purpose, step, *place)).collect::<Result<Vec<_>, _>>()?;
    noise_from(session, &session.sampler, streams)
}

/// Like [`noise`], for any sampler and given generators.
pub fn noise_from(session: &Session, sampler: &Sampler, streams: Vec<Generator>) -> Result<(Tensor, Noise<'static>)> {
    let options = (session.latent_kind(), session.pipeline.device);
    let (start, next) = random::noise(sampler, streams, session.latent_shape, options)?;
    Ok((start, Box::new(next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process group that knows its rank and size but has no connection to the others.
    fn group(rank: usize, size: usize) -> ProcessGroup {
        let mut group = ProcessGroup::alone();
        (group.rank, group.size) = (rank, size);
        group
    }

    /// Positions of every rank's samples, part by part.
    fn shares(ranks: usize, parts: usize, size: usize) -> Vec<Vec<Vec<u64>>> {
        let of = |rank: usize, part: usize| {
            let batch = Batch::of(0, part..parts, size, &group(rank, ranks), |place| Ok(place.to_string())).unwrap();
            let named: Vec<u64> = batch.share().prompts().iter().map(|prompt| prompt.parse().unwrap()).collect();
            assert_eq!(named, batch.places);
            assert_eq!(batch.share().batch.len(), size);
            batch.places
        };
        (0..ranks).map(|rank| (0..parts).map(|part| of(rank, part)).collect()).collect()
    }

    #[test]
    fn prompts_that_a_run_reaches() {
        for (prompts, samples) in [(7, 0), (7, 3), (7, 7), (7, 20), (1, 2)] {
            let mut order = Order::new(5, prompts).unwrap();
            let seen: BTreeSet<usize> = (0..samples).map(|n| order.prompt(n).unwrap()).collect();
            assert_eq!(Order::reached(5, prompts, samples).unwrap(), seen, "{prompts} {samples}");
        }
    }

    #[test]
    fn a_step_is_shared() {
        assert_eq!(shares(1, 1, 3), [[vec![0, 1, 2]]]);
        assert_eq!(shares(2, 2, 2), [[vec![0, 1], vec![]], [vec![], vec![2, 3]]], "whole parts");
        assert_eq!(shares(3, 1, 4), [[vec![0]], [vec![1]], [vec![2, 3]]]);
        for (ranks, parts, size) in [(1, 1, 1), (3, 2, 4), (5, 2, 2), (8, 8, 4), (2, 3, 1)] {
            let all: Vec<u64> = shares(ranks, parts, size).into_iter().flatten().flatten().collect();
            assert_eq!(all, (0..(parts * size) as u64).collect::<Vec<_>>());
        }
    }
}
