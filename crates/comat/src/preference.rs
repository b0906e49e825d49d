//! Learning from the model's own images, after DiffusionNFT (Zheng et al. 2025): of several images of a prompt the
//! best become likelier, and the worst less likely. Rewards and decoder need no gradient, so the cost of a step does
//! not depend on theirs.
//!
//! The policy, the running average of the adapter, draws the images. Of an image with noise, let y be what a network
//! should predict, v what the adapter in training predicts, w what the policy does, o what the original model does. Loss:
//!
//! `(r ‖(1 - beta) w + beta v - y‖² + (1 - r) ‖(1 + beta) w - beta v - y‖² + anchor ‖v - o‖²) / ‖w - y‖²`
//!
//! with r from 0 for the worst image of a prompt to 1 for its best, evenly by rank: better images pull the prediction to
//! y, worse ones push it away from there, and neither by more than `‖w - y‖ / beta`. By rank, since then it does not
//! matter in which unit a reward is measured; divided, since then every timestep counts alike. Where v = w = o, it is 1.

use crate::{
    batch,
    finite::{self, Part},
    reward::AtLatents,
    session::Session,
    share::Share,
    train::Phases,
};
use anyhow::Result;
use config::Preference;
use diffusion::{
    conditions::GuidedText,
    precision,
    random::{Purpose, stream},
    trajectory,
};
use models::{
    lora::{Lora, Trainable},
    network::{Conditions, Network},
    schedule::{NoisePath, blend},
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

/// Means over the batch's prompts.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub loss: f64,
    /// Weighted reward of the best candidate less that of the worst.
    pub gap: f64,
    /// With an anchor: `‖v - o‖² / ‖w - y‖²`.
    pub distance: f64,
}

/// One iteration, for a share of a batch whose samples have these places in the step: adds `dL/d adapter` to the gradients.
/// `each` is called after every denoising step and every comparison; its error ends the iteration.
///
/// # Errors
/// [`finite::NotFinite`], among others. The gradients are then incomplete.
pub fn iterate(
    session: &mut Session,
    settings: &Preference,
    (adapter, policy): (&Trainable, &Lora),
    (share, step, places): (&Share, u64, &[u64]),
    mut at_latents: AtLatents,
    gradients: &mut Gradients,
    mut each: impl FnMut() -> Result<()>,
) -> Result<Preferred> {
    let mut out = Preferred { rewards: vec![0.0; session.rewards.len()], ..Preferred::default() };
    let policy = session.frozen(policy)?;
    let samples = Samples { share, step, places, policy: policy.as_ref() };
    let drawn = draw(session, settings, &samples, &mut at_latents, &mut out, &mut each)?;
    learn(session, settings, &samples, (adapter, &drawn), gradients, &mut out, each)?;
    Ok(out)
}

/// The samples of an iteration.
pub struct Samples<'a> {
    pub share: &'a Share<'a>,
    pub step: u64,
    /// Of each sample, in the step.
    pub places: &'a [u64],
    pub policy: &'a dyn Network,
}

/// The second half of an iteration: adds `dL/d adapter` for images that were drawn.
pub fn learn(
    session: &Session,
    settings: &Preference,
    &Samples { share, step, places, policy }: &Samples,
    (adapter, Drawn { text, candidates }): (&Trainable, &Drawn),
    gradients: &mut Gradients,
    out: &mut Preferred,
    mut each: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut clock = Clock::start(session.pipeline.device, "replay");
    let comparison = Comparison {
        tuned: session.branched(&adapter.lora)?,
        policy,
        original: (settings.anchor > 0.0).then(|| session.pipeline.network(&session.pipeline.weights)).transpose()?,
        anchor: settings.anchor,
        kind: session.pipeline.kind,
        path: session.pipeline.noise_path.as_ref(),
        beta: settings.beta,
        scale: 1.0 / (share.batch.len() * candidates.len() * settings.draws) as f64,
        leaves: Shared::all(&adapter.lora.matrices()),
    };
    let streams = places.iter().map(|place| stream(session.config.seed, Purpose::Preference, step, *place));
    let mut streams = streams.collect::<Result<Vec<_>, _>>()?;
    let (mut sums, mut values): (Vec<Gradients>, Vec<Tensor>) = (vec![], vec![]);
    let [low, high] = settings.range(comparison.path.length());
    for _ in 0..settings.draws {
        let times = streams.iter_mut().map(|s| s.below(low, high)).collect::<Result<Vec<_>, _>>()?;
        let noise = streams.iter_mut().map(|s| s.randn(&session.latent_shape)).collect::<Result<Vec<_>, _>>()?;
        let noise = Tensor::stack(&noise, 0).to_device(session.pipeline.device).to_kind(session.latent_kind());
        let (most, device) = (session.config.replay.micro_batch.samples(), session.pipeline.device);
        for candidate in candidates {
            for rows in parallel::groups(times.len() as i64, most, device) {
                sums.resize_with(rows.len() - 1, || gradients.zeros_like());
                let piece = |((start, length), sum)| {
                    let (from, text) = (start as usize, text.narrow(start, length).cond);
                    let images = candidate.latents.narrow(0, start, length);
                    let (noise, ranks) = (noise.narrow(0, start, length), &candidate.ranks[from..][..length as usize]);
                    Piece { images, ranks, noise, times: &times[from..][..length as usize], text, sum }
                };
                let given = rows.into_iter().zip(iter::once(&mut *gradients).chain(&mut sums)).map(piece).collect();
                let losses = parallel::map(given, |piece| comparison.run(piece))?;
                values.extend(losses.into_iter().collect::<Result<Vec<_>>>()?);
                sums.iter_mut().for_each(|other| gradients.take(other));
                each()?;
            }
        }
    }
    let values = Tensor::stack(&values, 0).sum_dim_intlist(0, false, Kind::Double);
    (out.figures.loss, out.figures.distance) = (values.double_value(&[0]), values.double_value(&[1]));
    finite::check_value(Part::Gradients, out.figures.loss)?;
    out.phases.replay += clock.end();
    Ok(())
}

/// Images of each prompt that are compared, as [`draw`] returns them.
pub struct Drawn {
    text: GuidedText,
    candidates: Vec<Candidate>,
}

/// An image of each prompt.
struct Candidate {
    /// `[B, C, h, w]`
    latents: Tensor,
    /// `[B]`
    rewards: Vec<f64>,
    /// From 0 for a prompt's worst candidate to 1 for its best, `[B]`.
    ranks: Vec<f64>,
}

/// The first half of an iteration: draws the candidates, one of each prompt at a time, ranks them, and keeps those that are
/// compared.
pub fn draw(
    session: &mut Session,
    settings: &Preference,
    &Samples { share, step, places, policy }: &Samples,
    at_latents: &mut AtLatents,
    out: &mut Preferred,
    mut each: impl FnMut() -> Result<()>,
) -> Result<Drawn> {
    let (prompts, count) = (share.prompts(), settings.candidates);
    let text = session.text(prompts)?;
    let denoiser = session.denoiser(policy);
    let mut predict = denoiser.conditioned_on(&text);
    let mut candidates = vec![];
    for candidate in 0..count as u64 {
        let mut clock = Clock::start(session.pipeline.device, "trajectory");
        let own: Vec<u64> = places.iter().map(|place| place * count as u64 + candidate).collect();
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
            let mean = values.iter().sum::<f64>() / (share.batch.len() * count) as f64;
            total.iter_mut().zip(&values).for_each(|(total, value)| *total += weight * value);
            match i.checked_sub(1) {
                None => {
                    out.caption_loss -= mean;
                    out.phases.caption += clock.lap("reward");
                }
                Some(other) => out.rewards[other] += mean,
            }
        }
        out.phases.reward += clock.lap("fidelity");
        for (weight, reward) in at_latents.iter_mut() {
            let values = reward.values(&latents)?;
            total.iter_mut().zip(&values).for_each(|(total, value)| *total += *weight * value);
            if candidate == 0 {
                reward.learn(&latents, share)?; // the candidates of a prompt are equally good samples of the policy
            }
        }
        out.phases.fidelity += clock.end();
        finite::check_value(Part::Reward, total.iter().sum())?;
        candidates.push(Candidate { latents, rewards: total, ranks: vec![] });
    }
    drop(predict);
    rank(&mut candidates);
    out.figures.gap = gaps(&candidates).sum::<f64>() / share.batch.len() as f64;
    if settings.compared < count {
        candidates = extremes(&candidates, settings.compared);
    }
    Ok(Drawn { text, candidates })
}

/// Of each prompt's candidates the worst and the best, half of `count` each.
fn extremes(candidates: &[Candidate], count: usize) -> Vec<Candidate> {
    let sorted = |row: usize| {
        let mut order: Vec<&Candidate> = candidates.iter().collect();
        order.sort_by(|a, b| a.rewards[row].total_cmp(&b.rewards[row]));
        order
    };
    let rows: Vec<_> = (0..candidates[0].rewards.len()).map(sorted).collect();
    let of_place = |place: usize| {
        let of = || rows.iter().enumerate().map(|(row, order)| (row, order[place]));
        let latents: Vec<Tensor> = of().map(|(row, one)| one.latents.narrow(0, row as i64, 1)).collect();
        Candidate {
            latents: Tensor::cat(&latents, 0),
            rewards: of().map(|(row, one)| one.rewards[row]).collect(),
            ranks: of().map(|(row, one)| one.ranks[row]).collect(),
        }
    };
    (0..count / 2).chain(candidates.len() - count / 2..candidates.len()).map(of_place).collect()
}

/// Ranks each prompt's candidates; equal rewards have equal ranks.
fn rank(candidates: &mut [Candidate]) {
    let others = (candidates.len() - 1) as f64;
    let all: Vec<Vec<f64>> = candidates.iter().map(|one| one.rewards.clone()).collect();
    for one in candidates {
        let rank = |(row, reward): (usize, &f64)| {
            let count = |is: fn(&f64, &f64) -> bool| all.iter().filter(|of| is(&of[row], reward)).count() as f64;
            (count(|a, b| a < b) + (count(|a, b| a == b) - 1.0) / 2.0) / others
        };
        one.ranks = one.rewards.iter().enumerate().map(rank).collect();
    }
}

/// Of each prompt, reward of the best candidate less that of the worst.
fn gaps(candidates: &[Candidate]) -> impl Iterator<Item = f64> {
    let prompts = candidates.first().map_or(0, |one| one.rewards.len());
    (0..prompts).map(|row| {
        let of = || candidates.iter().map(|one| one.rewards[row]);
        of().fold(f64::NEG_INFINITY, f64::max) - of().fold(f64::INFINITY, f64::min)
    })
}

/// Some of a candidate's images `[b, C, h, w]`, their ranks, noise and timesteps.
struct Piece<'a> {
    images: Tensor,
    ranks: &'a [f64],
    noise: Tensor,
    times: &'a [i64],
    text: Conditions,
    /// What their gradients are added to.
    sum: &'a mut Gradients,
}

/// What a comparison needs besides its images.
struct Comparison<'a> {
    tuned: Box<dyn Network>,
    policy: &'a dyn Network,
    original: Option<Box<dyn Network>>,
    anchor: f64,
    kind: Kind,
    path: &'a dyn NoisePath,
    beta: f64,
    /// Weight of a comparison in the batch's mean.
    scale: f64,
    leaves: Vec<Shared>,
}

impl Comparison<'_> {
    /// Adds the gradient of some images; returns their part of loss and distance, `[2]`.
    fn run(&self, Piece { images, ranks, noise, times, text, sum }: Piece) -> Result<Tensor> {
        let (device, kind, beta) = (images.device(), images.kind(), self.beta);
        let row = |values: &[f64]| Tensor::from_slice(values).to_device(device).to_kind(kind);
        let noisy = blend(&images, &noise, times, &|time| self.path.mix(time)).to_kind(self.kind);
        let target = blend(&images, &noise, times, &|time| self.path.target(time));
        let times = Tensor::from_slice(times).to_device(device).to_kind(Kind::Float);
        let predict =
            |network: &dyn Network| Ok::<_, anyhow::Error>(network.predict(&noisy, &times, &text, None)?.to_kind(kind));
        let size = |of: Tensor| of.square().mean_dim([1, 2, 3].as_slice(), false, kind);
        let before = tch::no_grad(|| predict(self.policy))?;
        let original = self.original.as_deref().map(|network| tch::no_grad(|| predict(network))).transpose()?;
        let after = predict(self.tuned.as_ref())?;
        let distance = original.map_or(Tensor::zeros_like(&row(ranks)), |original| size(&after - original));
        let (wrong, moved) = (&before - target, (after - before) * beta);
        let better = row(ranks);
        let worse = better.ones_like() - &better;
        let pulled: Tensor = better * size(&wrong + &moved) + worse * size(&wrong - &moved);
        let unit = size(wrong) / self.scale;
        let [pulled, distance] = [pulled, distance].map(|of| (of / &unit).sum(kind));
        let loss = pulled + &distance * self.anchor;
        let leaves: Vec<&Tensor> = self.leaves.iter().map(|leaf| &**leaf).collect();
        sum.add(&precision::vjp(self.kind, &[&loss], &leaves, &[&loss.ones_like()])?)?;
        Ok(Tensor::stack(&[&loss, &distance], 0).detach().to_kind(Kind::Double))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates with these rewards of two prompts; the latents are the candidates' numbers, and 10 more for the second prompt.
    fn candidates(rewards: &[[f64; 2]]) -> Vec<Candidate> {
        let one = |(i, rewards): (usize, &[f64; 2])| Candidate {
            latents: Tensor::from_slice(&[i as f64, i as f64 + 10.0]).view([2, 1, 1, 1]),
            rewards: rewards.to_vec(),
            ranks: vec![],
        };
        let mut all: Vec<Candidate> = rewards.iter().enumerate().map(one).collect();
        rank(&mut all);
        all
    }

    fn ranks(candidates: &[Candidate], row: usize) -> Vec<f64> {
        candidates.iter().map(|one| one.ranks[row]).collect()
    }

    #[test]
    fn equal_rewards_have_equal_ranks() {
        let all = candidates(&[[-1.0, 2.0], [-3.0, 2.0], [-1.0, 2.0], [5.0, 2.0], [-2.0, 2.0]]);
        assert_eq!(ranks(&all, 0), [0.625, 0.0, 0.625, 1.0, 0.25]);
        assert_eq!(ranks(&all, 1), [0.5; 5], "nothing to learn");
        assert_eq!(gaps(&all).collect::<Vec<_>>(), [8.0, 0.0]);
    }

    #[test]
    fn extremes_are_those_of_each_prompt() {
        let all = candidates(&[[1.0, 4.0], [4.0, 3.0], [2.0, 2.0], [5.0, 1.0], [3.0, 5.0]]);
        let of = |count| {
            let kept = extremes(&all, count);
            let latents = |row| kept.iter().map(|one| one.latents.double_value(&[row, 0, 0, 0])).collect::<Vec<_>>();
            let rewards = |row: usize| kept.iter().map(|one| one.rewards[row]).collect::<Vec<_>>();
            ([latents(0), latents(1)], [rewards(0), rewards(1)], [ranks(&kept, 0), ranks(&kept, 1)])
        };
        assert_eq!(
            of(2),
            ([vec![0.0, 3.0], vec![13.0, 14.0]], [vec![1.0, 5.0], vec![1.0, 5.0]], [vec![0.0, 1.0], vec![0.0, 1.0]])
        );
        assert_eq!(of(4).0, [[0.0, 2.0, 1.0, 3.0], [13.0, 12.0, 10.0, 14.0]]);
        assert_eq!(of(4).2[0], [0.0, 0.25, 0.75, 1.0]);
    }
}
