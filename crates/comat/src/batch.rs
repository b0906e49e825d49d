//! Which prompts a step sees, and its random draws.

use crate::{
    config::Config,
    loss::caption::CaptionLoss,
    prompts::Prompt,
    random::{Purpose, permutation, stream},
    session::Session,
    tracked,
    train::Draws,
};
use anyhow::Result;
use std::collections::BTreeSet;
use tch::Tensor;
use torch_ext::Generator;

/// The prompts in an order that is new in every epoch and depends on the seed alone.
pub struct Order {
    seed: u64,
    epoch: u64,
    order: Vec<usize>,
}

impl Order {
    pub fn new(seed: u64, prompts: usize) -> Result<Self> {
        Ok(Self { seed, epoch: 0, order: permutation(stream(seed, Purpose::Order, 0, 0)?, prompts)? })
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

/// One trajectory's samples: the `part`-th of a step.
pub struct Batch {
    step: u64,
    /// Places of the samples in the step.
    places: Vec<u64>,
    pub prompts: Vec<String>,
}

impl Batch {
    pub fn new(config: &Config, order: &mut Order, prompts: &[Prompt], step: u64, part: usize) -> Result<Self> {
        let size = config.train.batch_size;
        let places: Vec<u64> = (0..size).map(|i| (part * size + i) as u64).collect();
        let first = step * (size * config.train.accumulation) as u64;
        let prompt = |place: &u64| Ok(prompts[order.prompt(first + place)?].text.clone());
        let prompts = places.iter().map(prompt).collect::<Result<_>>()?;
        Ok(Self { step, places, prompts })
    }

    pub fn draws(&self, session: &Session) -> Result<Draws<'static>> {
        let (config, step) = (&session.config, self.step);
        let (start, noise) = noise(session, Purpose::Trajectory, step, &self.places)?;
        let crop =
            |place: &u64| CaptionLoss::draw_crop(config.seed, step, *place, session.size.height, session.size.width);
        let tracked = tracked_steps(session, step)?;
        Ok(Draws {
            start,
            noise,
            first: 0,
            weight: 1.0,
            attention: attention_steps(session, step, &tracked)?,
            tracked,
            crops: self.places.iter().map(crop).collect::<Result<_>>()?,
        })
    }
}

/// The tracked steps of an optimiser step: the same for all its trajectories.
fn tracked_steps(session: &Session, step: u64) -> Result<BTreeSet<usize>> {
    let replay = &session.config.replay;
    let mut draws = stream(session.config.seed, Purpose::Tracked, step, 0)?;
    tracked::steps(replay.policy, session.sampler.len(), replay.tracked, |n| Ok(draws.below(0, n as i64)? as usize))
}

/// Those of the tracked steps that have attention losses.
fn attention_steps(session: &Session, step: u64, tracked: &BTreeSet<usize>) -> Result<BTreeSet<usize>> {
    let Some(attention) = &session.config.attention else { return Ok(BTreeSet::new()) };
    let mut draws = stream(session.config.seed, Purpose::Attention, step, 0)?;
    tracked::some_of(tracked, attention.steps, |n| Ok(draws.below(0, n as i64)? as usize))
}

/// Starting latents and step noise, every sample from its own stream.
#[allow(clippy::type_complexity)]
pub fn noise(
    session: &Session,
    purpose: Purpose,
    step: u64,
    places: &[u64],
) -> Result<(Tensor, Box<dyn FnMut(usize) -> Result<Tensor>>)> {
    let streams =
        places.iter().map(|place| stream(session.config.seed, purpose, step, *place)).collect::<Result<Vec<_>>>()?;
    noise_from(session, streams)
}

/// As [`noise`], from given generators.
#[allow(clippy::type_complexity)]
pub fn noise_from(
    session: &Session,
    mut streams: Vec<Generator>,
) -> Result<(Tensor, Box<dyn FnMut(usize) -> Result<Tensor>>)> {
    let (shape, kind, device) = (session.latent_shape, session.latent_kind(), session.pipeline.device);
    let mut draw = move || -> Result<Tensor> {
        let rows = streams.iter_mut().map(|s| Ok(s.randn(&shape)?)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&rows, 0).to_device(device).to_kind(kind))
    };
    Ok((draw()?, Box::new(move |_| draw())))
}
