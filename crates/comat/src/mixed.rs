//! Mixed latents (section 4 of the method): real images, noised to the level of an intermediate step and denoised from
//! there with their captions. They add to the caption loss, and keep it from being fooled by things that no real image
//! looks like.

use crate::{
    batch::{Batch, Order},
    draws::Draws,
    loss::caption::CaptionLoss,
    session::Session,
    tracked,
};
use anyhow::{Context, Result, bail};
use config::Config;
use diffusion::random::{Purpose, stream};
use pairs::Pairs;
use ranks::ProcessGroup;
use std::collections::{BTreeSet, HashMap};
use tch::Tensor;

/// Pairs of images and captions, in an order of their own.
pub struct Mixed {
    pairs: Pairs,
    order: Order,
    /// Steps of the sampler whose noise level an image may be brought to.
    entries: Vec<usize>,
    /// Images of the current batch, by the index of their pair.
    images: HashMap<usize, Tensor>,
    /// Names of images that cannot be read.
    broken: BTreeSet<String>,
}

/// How many broken images a run skips at least; with many images it is one in a hundred.
const BROKEN: usize = 10;

impl Mixed {
    /// `None` where the configuration has no mixed latents.
    pub fn open(session: &Session) -> Result<Option<Self>> {
        let Some(config) = &session.config.mixed else { return Ok(None) };
        let [least, most] = config.timesteps;
        let inside = |i: &usize| (least as f64..=most as f64).contains(&session.sampler.steps[*i].time);
        let entries: Vec<usize> = (0..session.sampler.len()).filter(inside).collect();
        if entries.is_empty() {
            let all: Vec<String> = session.sampler.steps.iter().map(|step| step.time.to_string()).collect();
            bail!(
                "mixed.timesteps: the sampler has no step from {least} to {most}; its timesteps are {}",
                all.join(", ")
            );
        }
        let pairs = Pairs::open(&config.pairs)?;
        // another seed, so that the order differs from the prompts' even if there are equally many
        let order = Order::new(session.config.seed.wrapping_add(1), pairs.len())?;
        Ok(Some(Self { pairs, order, entries, images: HashMap::new(), broken: BTreeSet::new() }))
    }

    /// Reads a few images, spread over the whole set.
    ///
    /// # Errors
    /// None of them can be read.
    pub fn look_at_some(&self, session: &Session) -> Result<()> {
        const SOME: usize = 16;
        let count = self.pairs.len();
        let mut why = None;
        for pair in (0..count).step_by(count.div_ceil(SOME).max(1)) {
            match self.pairs.tensor(pair, session.size) {
                Ok(_) => return Ok(()),
                Err(error) => why = Some(error),
            }
        }
        why.map_or(Ok(()), |error| {
            Err(error.context(format!("mixed.pairs: none of {} images can be read; the last one", count.min(SOME))))
        })
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The captions of an optimiser step's `part`-th trajectory.
    ///
    /// # Errors
    /// Too many images that cannot be read.
    pub fn batch(&mut self, session: &Session, step: u64, part: usize, group: &ProcessGroup) -> Result<Batch> {
        self.images.clear();
        let config = &session.config;
        Batch::of(step, part..config.train.accumulation, batch_size(config), group, |place| {
            let pair = self.pair(session, step, place, group.leads())?;
            Ok(self.pairs.caption(pair).to_owned())
        })
    }

    /// The random inputs for this rank's images of a batch, at least one. All images enter at the same step of the
    /// sampler.
    pub fn draws(&mut self, session: &Session, step: u64, batch: &Batch) -> Result<Draws<'static>> {
        let config = &session.config;
        let Some(settings) = &config.mixed else { bail!("mixed: the configuration has none") };
        let places = &batch.places;
        let mut images = vec![];
        for place in places {
            let pair = self.pair(session, step, *place, false)?;
            images.push(self.images.get(&pair).context("an image was read for its caption")?.shallow_clone());
        }

        let mut draw = stream(config.seed, Purpose::Mixed, step, u64::MAX)?;
        let first = self.entries[draw.below(0, self.entries.len() as i64)? as usize];
        let left = session.sampler.len() - first;
        let replay = &config.replay;
        let tracked = tracked::steps(replay.policy, left, replay.tracked, |n| {
            Ok::<_, anyhow::Error>(draw.below(0, n as i64)? as usize)
        })?;

        let latents = session.encode(&Tensor::stack(&images, 0))?;
        let (noise, rest) = crate::batch::noise(session, Purpose::Mixed, step, places)?;
        let [of_image, of_noise] = session.pipeline.noise_path.mix(session.sampler.steps[first].time);
        let crop = |place: &u64| {
            CaptionLoss::draw_crop(config.seed, step, u64::MAX - place, session.size.height, session.size.width)
        };
        Ok(Draws {
            start: latents * of_image + noise * of_noise,
            noise: rest,
            first,
            weight: settings.weight,
            rewards: false,
            tracked,
            attention: BTreeSet::new(),
            anchor: BTreeSet::new(),
            crops: places.iter().map(crop).collect::<Result<_>>()?,
        })
    }

    /// The pair at a position of a step: the one in order, or the next in the set whose image can be read. All ranks
    /// and a resumed run choose the same.
    fn pair(&mut self, session: &Session, step: u64, place: u64, says: bool) -> Result<usize> {
        let config = &session.config;
        let first = self.order.prompt(step * (batch_size(config) * config.train.accumulation) as u64 + place)?;
        let count = self.pairs.len();
        for pair in (first..count).chain(0..first) {
            if self.images.contains_key(&pair) {
                return Ok(pair);
            }
            let name = self.pairs.name(pair);
            if self.broken.contains(&name) {
                continue;
            }
            match self.pairs.tensor(pair, session.size) {
                Ok(image) => {
                    self.images.insert(pair, image);
                    return Ok(pair);
                }
                Err(error) => {
                    let most = BROKEN.max(count / 100);
                    if self.broken.len() == most {
                        return Err(
                            error.context(format!("mixed.pairs: more than {most} images cannot be read; the last one"))
                        );
                    }
                    self.broken.insert(name);
                    if says {
                        tracing::warn!("{error}; it is passed over ({} of {count} pairs so far)", self.broken.len());
                    }
                }
            }
        }
        bail!("mixed.pairs: not one of the images can be read")
    }
}

fn batch_size(config: &Config) -> usize {
    match &config.mixed {
        Some(mixed) if mixed.batch_size > 0 => mixed.batch_size,
        _ => config.train.batch_size,
    }
}
