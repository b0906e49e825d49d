//! Selects the prompts of each step and draws its random numbers.

use crate::{
    draws::{Draws, Noise},
    loss::caption::CaptionLoss,
    session::Session,
    share::Share,
    tracked,
};
use anyhow::{Context, Result};
use config::Config;
use diffusion::{
    prompts::{self, Prompt},
    random::{self, Purpose, permutation, stream},
};
use models::schedule::Sampler;
use ranks::ProcessGroup;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};
use tch::Tensor;
use torch_ext::Generator;

/// The order of the prompts. It is new in every epoch and depends only on the seed.
pub struct Order {
    seed: u64,
    /// They take turns.
    groups: Vec<Group>,
}

/// Prompts in an order of their own.
struct Group {
    epoch: u64,
    order: Vec<usize>,
}

impl Order {
    pub fn new(seed: u64, prompts: usize) -> Result<Self> {
        Self::of_groups(seed, vec![(0..prompts).collect()])
    }

    /// The order of a run's prompts: of all, or by `prompts.balance`.
    ///
    /// # Errors
    /// A prompt without that field.
    pub fn of(config: &Config, prompts: &[Prompt]) -> Result<Self> {
        let Some(field) = &config.prompts.balance else { return Self::new(config.seed, prompts.len()) };
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let value = prompt.extra.get(field).filter(|value| !value.is_null());
            let value = value.with_context(|| {
                format!(
                    "prompts.balance: {} has a prompt without {field}: {}",
                    config.prompts.train.display(),
                    prompt.text
                )
            })?;
            groups.entry(value.to_string()).or_default().push(i);
        }
        Self::of_groups(config.seed, groups.into_values().collect())
    }

    fn of_groups(seed: u64, groups: Vec<Vec<usize>>) -> Result<Self> {
        let groups = groups.into_iter().map(|order| Group { epoch: 0, order }).collect();
        let mut order = Self { seed, groups };
        (0..order.groups.len()).try_for_each(|group| order.shuffle(group, 0))?;
        Ok(order)
    }

    fn shuffle(&mut self, group: usize, epoch: u64) -> Result<()> {
        let Group { order, .. } = &self.groups[group];
        let mut sorted = order.clone();
        sorted.sort_unstable();
        let permuted = permutation(stream(self.seed, Purpose::Order, epoch, group as u64)?, sorted.len())?;
        self.groups[group] = Group { epoch, order: permuted.into_iter().map(|i| sorted[i]).collect() };
        Ok(())
    }

    /// The first so many samples have different prompts.
    pub fn distinct(&self) -> usize {
        self.groups.len() * self.groups.iter().map(|group| group.order.len()).min().unwrap_or(0)
    }

    /// Indices of the prompts that the first `samples` samples of a run use.
    pub fn reached(mut self, samples: u64) -> Result<BTreeSet<usize>> {
        let all: usize = self.groups.iter().map(|group| group.order.len()).sum();
        let mut reached = BTreeSet::new();
        for n in 0..samples {
            if reached.len() == all {
                break;
            }
            reached.insert(self.prompt(n)?);
        }
        Ok(reached)
    }

    /// Index of the prompt of the n-th sample of the run.
    pub fn prompt(&mut self, n: u64) -> Result<usize> {
        let (group, n) = ((n % self.groups.len() as u64) as usize, n / self.groups.len() as u64);
        let length = self.groups[group].order.len() as u64;
        if n / length != self.groups[group].epoch {
            self.shuffle(group, n / length)?;
        }
        Ok(self.groups[group].order[(n % length) as usize])
    }
}

/// Identifies the order of a run's prompts, besides its seed.
pub fn digest(config: &Config, prompts: &[Prompt]) -> String {
    let texts = prompts::digest(prompts);
    let Some(field) = &config.prompts.balance else { return texts };
    let values: String = prompts.iter().map(|prompt| format!("{:?}\n", prompt.extra.get(field))).collect();
    models::digest(format!("{texts}\n{values}").as_bytes())
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
        for (sizes, samples) in [(vec![7], 0), (vec![7], 3), (vec![7], 7), (vec![7], 20), (vec![1], 2), (vec![2, 9], 7)]
        {
            let order = || groups(&sizes);
            let mut walked = order();
            let seen: BTreeSet<usize> = (0..samples).map(|n| walked.prompt(n).unwrap()).collect();
            assert_eq!(order().reached(samples).unwrap(), seen, "{sizes:?} {samples}");
        }
    }

    /// Groups of these sizes, with the prompts in turn.
    fn groups(sizes: &[usize]) -> Order {
        let mut next = 0..;
        Order::of_groups(5, sizes.iter().map(|size| next.by_ref().take(*size).collect()).collect()).unwrap()
    }

    #[test]
    fn groups_take_turns_and_each_has_epochs_of_its_own() {
        let mut order = groups(&[2, 5, 3]);
        assert_eq!(order.distinct(), 6);
        let all: Vec<usize> = (0..90).map(|n| order.prompt(n).unwrap()).collect();
        let of = |group: usize| all.iter().skip(group).step_by(3).copied().collect::<Vec<_>>();
        for (group, prompts) in [(0, 0..2), (1, 2..7), (2, 7..10)] {
            let (drawn, mut orders) = (of(group), BTreeSet::new());
            for epoch in drawn.chunks(prompts.len()) {
                assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>(), prompts.clone().collect(), "{group}");
                orders.insert(epoch.to_vec());
            }
            assert!(orders.len() > 1, "always the same order");
        }
        assert_eq!(order.prompt(4).unwrap(), all[4], "a sample that was before");
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
