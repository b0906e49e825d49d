//! Mixed latents (section 4 of the method): real pictures, noised to somewhere on the way and denoised from there with their
//! captions. They add to the caption loss, and keep it from being fooled by what no picture looks like.

use crate::{
    batch::{Batch, Order},
    loss::caption::CaptionLoss,
    session::Session,
    tracked,
    train::Draws,
};
use anyhow::{Result, bail};
use config::Config;
use diffusion::random::{Purpose, stream};
use pairs::Pairs;
use ranks::World;
use std::collections::BTreeSet;
use tch::Tensor;

/// Pairs of pictures and captions, in an order of their own.
pub struct Mixed {
    pairs: Pairs,
    order: Order,
    /// Steps of the sampler at whose noise a picture may enter.
    entries: Vec<usize>,
}

impl Mixed {
    /// `None` where the configuration has none.
    pub fn open(session: &Session) -> Result<Option<Self>> {
        let Some(config) = &session.config.mixed else { return Ok(None) };
        let [least, most] = config.timesteps;
        let inside = |i: &usize| (least..=most).contains(&session.sampler.steps[*i].timestep);
        let entries: Vec<usize> = (0..session.sampler.len()).filter(inside).collect();
        if entries.is_empty() {
            let all: Vec<String> = session.sampler.steps.iter().map(|step| step.timestep.to_string()).collect();
            bail!(
                "mixed.timesteps: the sampler has no step from {least} to {most}; its timesteps are {}",
                all.join(", ")
            );
        }
        let pairs = Pairs::open(&config.pairs)?;
        // not the order of the prompts, should there be as many
        let order = Order::new(session.config.seed.wrapping_add(1), pairs.len())?;
        Ok(Some(Self { pairs, order, entries }))
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The captions of an optimiser step's `part`-th trajectory.
    pub fn batch(&mut self, config: &Config, step: u64, part: usize, world: &World) -> Result<Batch> {
        Batch::of(step, part..config.train.accumulation, batch_size(config), world, |place| {
            let pair = self.pair(config, step, place)?;
            Ok(self.pairs.caption(pair).to_owned())
        })
    }

    /// The draws of this rank's pictures of a batch, at least one. All enter at one step of the sampler.
    pub fn draws(&mut self, session: &Session, config: &Config, step: u64, batch: &Batch) -> Result<Draws<'static>> {
        let Some(settings) = &config.mixed else { bail!("mixed: the configuration has none") };
        let places = &batch.places;
        let chosen = places.iter().map(|place| self.pair(config, step, *place)).collect::<Result<Vec<_>>>()?;
        let images = chosen.iter().map(|i| self.pairs.tensor(*i, session.size)).collect::<Result<Vec<_>>>()?;

        let mut draw = stream(config.seed, Purpose::Mixed, step, u64::MAX)?;
        let first = self.entries[draw.below(0, self.entries.len() as i64)? as usize];
        let left = session.sampler.len() - first;
        let replay = &config.replay;
        let tracked = tracked::steps(replay.policy, left, replay.tracked, |n| {
            Ok::<_, anyhow::Error>(draw.below(0, n as i64)? as usize)
        })?;

        let latents = session.encode(&Tensor::stack(&images, 0))?;
        let (noise, rest) = crate::batch::noise(session, Purpose::Mixed, step, places)?;
        let signal = session.pipeline.schedule.signal()[session.sampler.steps[first].timestep as usize];
        let crop = |place: &u64| {
            CaptionLoss::draw_crop(config.seed, step, u64::MAX - place, session.size.height, session.size.width)
        };
        Ok(Draws {
            start: latents * signal.sqrt() + noise * (1.0 - signal).sqrt(),
            noise: rest,
            first,
            weight: settings.weight,
            tracked,
            attention: BTreeSet::new(),
            anchor: BTreeSet::new(),
            crops: places.iter().map(crop).collect::<Result<_>>()?,
        })
    }

    /// Which pair has a place in a step.
    fn pair(&mut self, config: &Config, step: u64, place: u64) -> Result<usize> {
        self.order.prompt(step * (batch_size(config) * config.train.accumulation) as u64 + place)
    }
}

fn batch_size(config: &Config) -> usize {
    match &config.mixed {
        Some(mixed) if mixed.batch_size > 0 => mixed.batch_size,
        _ => config.train.batch_size,
    }
}
