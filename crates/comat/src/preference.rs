//! Preference optimisation (Diffusion-DPO, Wallace et al. 2024) on the images of the model in training: of several
//! images of a prompt, the one with the highest reward is preferred to the one with the lowest.
//!
//! With `e(x)` the squared error of a network's prediction for an image with noise, and `e_ref` that of the original
//! model, the loss of a pair is `-log sigmoid(beta/2 ((e_ref(best) - e(best)) - (e_ref(worst) - e(worst))))`. Both images
//! have the same noise. Rewards and decoder need no gradient, so the cost of a step does not depend on theirs.

use crate::{
    batch,
    finite::{self, Part},
    session::Session,
    share::Share,
    train::Phases,
};
use anyhow::{Context, Result};
use config::Preference;
use diffusion::{
    conditions::GuidedText,
    precision,
    random::{Purpose, stream},
    trajectory,
};
use models::{
    lora::Trainable,
    network::{Conditions, Network},
    schedule::NoisePath,
};
use optim::Gradients;
use std::{collections::BTreeSet, iter};
use tch::{Kind, Tensor};
use torch_ext::{Shared, clock::Clock, parallel};

/// The results of an iteration besides gradients. For a share, all but the phases are its part of the batch's.
#[derive(Debug, Default)]
pub struct Preferred {
    /// Mean over all candidates.
    pub caption_loss: f64,
    /// The other rewards, means over all candidates.
    pub rewards: Vec<f64>,
    pub figures: Figures,
    pub phases: Phases,
}

/// Means over the batch's pairs.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub loss: f64,
    /// Weighted reward of the best candidate less that of the worst.
    pub gap: f64,
    /// Share of the comparisons in which the model prefers the better image more than the original model does.
    pub accuracy: f64,
}

/// One iteration: adds `dL/d adapter` to the gradients, for a share of a batch whose samples have these places in the
/// step. `each` is called after every denoising step and after every comparison; its error ends the iteration.
///
/// # Errors
/// [`finite::NotFinite`], among others. The gradients are then incomplete.
pub fn iterate(
    session: &mut Session,
    settings: &Preference,
    adapter: &Trainable,
    share: &Share,
    sample: (u64, &[u64]),
    gradients: &mut Gradients,
    mut each: impl FnMut() -> Result<()>,
) -> Result<Preferred> {
    let text = session.text(share.prompts())?;
    let mut out = Preferred { rewards: vec![0.0; session.rewards.len()], ..Preferred::default() };
    let pairs = draw(session, settings.candidates, adapter, share, &text, sample, &mut out, &mut each)?;
    let mut clock = Clock::start(session.pipeline.device, "replay");
    let comparison = Comparison {
        tuned: session.branched(&adapter.lora)?,
        base: session.pipeline.network(&session.pipeline.weights)?,
        kind: session.pipeline.kind,
        path: session.pipeline.noise_path.as_ref(),
        strength: settings.beta / 2.0,
        scale: 1.0 / (share.batch.len() * settings.draws) as f64,
        leaves: Shared::all(&adapter.lora.matrices()),
    };
    let streams = sample.1.iter().map(|place| stream(session.config.seed, Purpose::Preference, sample.0, *place));
    let mut streams = streams.collect::<Result<Vec<_>, _>>()?;
    let (mut sums, mut values): (Vec<Gradients>, Vec<Tensor>) = (vec![], vec![]);
    let [low, high] = comparison.times(settings.timesteps);
    for _ in 0..settings.draws {
        let times = streams.iter_mut().map(|s| s.below(low, high)).collect::<Result<Vec<_>, _>>()?;
        let noise = streams.iter_mut().map(|s| s.randn(&session.latent_shape)).collect::<Result<Vec<_>, _>>()?;
        let noise = Tensor::stack(&noise, 0).to_device(session.pipeline.device).to_kind(session.latent_kind());
        let (most, device) = (session.config.replay.micro_batch.samples(), session.pipeline.device);
        for rows in parallel::groups(times.len() as i64, most, device) {
            sums.resize_with(rows.len() - 1, || gradients.zeros_like());
            let piece = |((start, length), sum)| {
                let cut = |all: &Tensor| all.narrow(0, start, length);
                let (images, text) = ([cut(&pairs.best), cut(&pairs.worst)], text.narrow(start, length).cond);
                Piece { images, noise: cut(&noise), times: &times[start as usize..][..length as usize], text, sum }
            };
            let given = rows.into_iter().zip(iter::once(&mut *gradients).chain(&mut sums)).map(piece).collect();
            values
                .extend(parallel::map(given, |piece| comparison.run(piece))?.into_iter().collect::<Result<Vec<_>>>()?);
            sums.iter_mut().for_each(|other| gradients.take(other));
            each()?;
        }
    }
    let values = Tensor::stack(&values, 0).sum_dim_intlist(0, false, Kind::Double);
    (out.figures.loss, out.figures.accuracy) = (values.double_value(&[0]), values.double_value(&[1]));
    finite::check_value(Part::Gradients, out.figures.loss)?;
    out.phases.replay = clock.end();
    Ok(out)
}

/// Draws the candidates, one of each prompt at a time, and keeps the best and the worst.
#[allow(clippy::too_many_arguments)]
fn draw(
    session: &Session,
    candidates: usize,
    adapter: &Trainable,
    share: &Share,
    text: &GuidedText,
    (step, places): (u64, &[u64]),
    out: &mut Preferred,
    mut each: impl FnMut() -> Result<()>,
) -> Result<Pairs> {
    let prompts = share.prompts();
    let frozen = session.frozen(&adapter.lora)?;
    let denoiser = session.denoiser(frozen.as_ref());
    let mut predict = denoiser.conditioned_on(text);
    let mut pairs: Option<Pairs> = None;
    for candidate in 0..candidates as u64 {
        let mut clock = Clock::start(session.pipeline.device, "trajectory");
        let own: Vec<u64> = places.iter().map(|place| place * candidates as u64 + candidate).collect();
        let (start, noise) = batch::noise(session, Purpose::Trajectory, step, &own)?;
        let (start, none) = (session.sampler.start(start), BTreeSet::new());
        let latents = trajectory::walk(&mut predict, &session.sampler, start, &none, noise, &mut each)?.latents;
        out.phases.trajectory += clock.lap("decode");
        let images = session.decode(&latents)?;
        finite::check(&[(Part::Latents, &latents), (Part::Image, &images)])?;
        out.phases.decode += clock.lap("caption");
        let mut total = vec![0.0; prompts.len()];
        for (i, (weight, reward)) in session.image_rewards().enumerate() {
            let values = reward.values(&images, prompts)?;
            let mean = values.iter().sum::<f64>() / (share.batch.len() * candidates) as f64;
            total.iter_mut().zip(&values).for_each(|(total, value)| *total += weight * value);
            match i.checked_sub(1) {
                None => out.caption_loss -= mean,
                Some(other) => out.rewards[other] += mean,
            }
        }
        finite::check_value(Part::Reward, total.iter().sum())?;
        out.phases.caption += clock.end();
        match &mut pairs {
            None => pairs = Some(Pairs::of(latents, total)),
            Some(pairs) => pairs.take(&latents, &total),
        }
    }
    let pairs = pairs.context("there are candidates")?;
    let gaps = pairs.most.iter().zip(&pairs.least).map(|(most, least)| most - least);
    out.figures.gap = gaps.sum::<f64>() / share.batch.len() as f64;
    Ok(pairs)
}

/// The best and the worst image of each prompt so far.
struct Pairs {
    /// Latents `[B, C, h, w]`.
    best: Tensor,
    worst: Tensor,
    /// Their rewards, `[B]`.
    most: Vec<f64>,
    least: Vec<f64>,
}

impl Pairs {
    fn of(latents: Tensor, rewards: Vec<f64>) -> Self {
        Self { best: latents.copy(), worst: latents, most: rewards.clone(), least: rewards }
    }

    /// Keeps of each prompt what is better than the best, or worse than the worst.
    fn take(&mut self, latents: &Tensor, rewards: &[f64]) {
        let Self { best, worst, most, least } = self;
        for (row, reward) in rewards.iter().enumerate() {
            let keep = |kept: &Tensor| kept.get(row as i64).copy_(&latents.get(row as i64));
            if *reward > most[row] {
                most[row] = *reward;
                keep(best);
            }
            if *reward < least[row] {
                least[row] = *reward;
                keep(worst);
            }
        }
    }
}

/// Some of the pairs: the best images and the worst `[b, C, h, w]`, their noise and timesteps.
struct Piece<'a> {
    images: [Tensor; 2],
    noise: Tensor,
    times: &'a [i64],
    text: Conditions,
    /// What their gradients are added to.
    sum: &'a mut Gradients,
}

/// What a comparison needs besides its images.
struct Comparison<'a> {
    tuned: Box<dyn Network>,
    base: Box<dyn Network>,
    kind: Kind,
    path: &'a dyn NoisePath,
    /// Half of beta.
    strength: f64,
    /// Weight of a comparison in the batch's mean.
    scale: f64,
    leaves: Vec<Shared>,
}

impl Comparison<'_> {
    /// The first timestep of a range of shares of the schedule, and the one behind the last.
    fn times(&self, range: [f64; 2]) -> [i64; 2] {
        let length = self.path.length() as i64;
        let [low, high] = range.map(|share| (share * length as f64).round() as i64);
        let low = low.min(length - 1);
        [low, high.clamp(low + 1, length)]
    }

    /// Adds the gradient of some pairs; returns their part of loss and accuracy, `[2]`.
    fn run(&self, Piece { images, noise, times, text, sum }: Piece) -> Result<Tensor> {
        let [best, worst] = images.map(|image| self.gain(&image, &noise, times, &text));
        let margin = (best? - worst?) * self.strength;
        let loss = -margin.log_sigmoid().sum(margin.kind()) * self.scale;
        let leaves: Vec<&Tensor> = self.leaves.iter().map(|leaf| &**leaf).collect();
        sum.add(&precision::vjp(self.kind, &[&loss], &leaves, &[&loss.ones_like()])?)?;
        let right = margin.gt(0.0).sum(Kind::Double) * self.scale;
        Ok(Tensor::stack(&[loss.detach().to_kind(Kind::Double), right], 0))
    }

    /// By how much the tuned model predicts images better than the original one, `[b]`.
    fn gain(&self, images: &Tensor, noise: &Tensor, times: &[i64], text: &Conditions) -> Result<Tensor> {
        let by_row = |of: &dyn Fn(f64) -> f64| {
            let values: Vec<f64> = times.iter().map(|time| of(*time as f64)).collect();
            Tensor::from_slice(&values).to_device(images.device()).to_kind(images.kind()).view([-1, 1, 1, 1])
        };
        let mixed =
            |of: &dyn Fn(f64) -> [f64; 2]| images * by_row(&|time| of(time)[0]) + noise * by_row(&|time| of(time)[1]);
        let (noisy, target) = (mixed(&|time| self.path.mix(time)), mixed(&|time| self.path.target(time)));
        let times = Tensor::from_slice(times).to_device(images.device()).to_kind(Kind::Float);
        let error = |network: &dyn Network| -> Result<Tensor> {
            let predicted = network.predict(&noisy.to_kind(self.kind), &times, text, None)?.to_kind(images.kind());
            Ok((predicted - &target).square().mean_dim([1, 2, 3].as_slice(), false, images.kind()))
        };
        Ok(tch::no_grad(|| error(self.base.as_ref()))? - error(self.tuned.as_ref())?)
    }
}
