//! Rewards. [`crate::train::iterate`] adds up their gradients at the images ([`ImageReward`]) and at the latents
//! ([`LatentReward`]), each with a weight of its own.
//!
//! The caption loss is the first reward ([`crate::loss::caption`]); `[[reward]]` in the configuration adds others. A
//! reward that is a function of one image and its prompt needs only that function ([`PerImage`]); others implement
//! [`ImageReward`]. docs/extending.md has an example.

mod certainty;
mod clip;

use crate::{
    finite::{self, Part},
    loss::caption::CaptionLoss,
    share::Share,
};
use anyhow::{Context, Result, ensure};
use config::{Config, RewardKind};
use diffusion::{precision, prompts::Prompt, resident::Resident};
use entities::Mode;
use tch::{Device, Kind, Tensor};

/// Rates images for their prompts; more is better. `images` are `[B, 3, H, W]` in 0..1, not clamped.
pub trait ImageReward {
    /// A name of one word, for logs and reports.
    fn name(&self) -> &str;

    /// The reward of each image with its prompt, each on its own, without gradient.
    ///
    /// # Errors
    /// Images or prompts that it cannot use; errors of opening its networks.
    fn values(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<f64>>;

    /// Loss and reward of the images of a share, and the loss's cotangent at the images. The result does not depend on
    /// the size of micro-batches or shares.
    ///
    /// # Errors
    /// [`finite::NotFinite`], and the same as [`ImageReward::values`].
    fn gradient(&self, seen: &Seen) -> Result<Gradient>;

    /// For rewards that look at single words: the training prompts, of which some name their entities, and how the entities of
    /// others are found.
    ///
    /// # Errors
    /// Entities that are not in their prompt.
    fn take_entities(&mut self, _prompts: &[Prompt], _mode: Mode) -> Result<()> {
        Ok(())
    }

    /// From now on, its networks are in memory only while they are in use.
    fn offload(&mut self);
}

/// Rates latents before they are decoded. It may train while it does so, as the discriminator does.
pub trait LatentReward {
    /// Loss and reward of the latents `x_0`, `[B, C, h, w]`, of a share, and the loss's cotangent at them, as in
    /// [`ImageReward::gradient`].
    ///
    /// # Errors
    /// [`finite::NotFinite`]; latents that it cannot use; errors of opening its networks.
    fn gradient(&mut self, latents: &Tensor, share: &Share) -> Result<Gradient>;

    /// The reward of each of these latents, each on its own, without gradient, as preferences use it.
    ///
    /// # Errors
    /// The same as [`LatentReward::gradient`].
    fn values(&mut self, latents: &Tensor) -> Result<Vec<f64>>;

    /// With preferences, which do not ask for a gradient: trains on latents of a share, if the reward trains at all.
    ///
    /// # Errors
    /// The same as [`LatentReward::gradient`].
    fn learn(&mut self, latents: &Tensor, share: &Share) -> Result<()>;
}

/// The latent rewards of an iteration, with their weights.
pub type AtLatents<'a> = Vec<(f64, &'a mut dyn LatentReward)>;

/// Offset from the top and from the left, in pixels.
pub type Crop = (i64, i64);

/// The inputs of the rewards of an iteration.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub images: &'a Tensor,
    /// The prompts of the images, and those of the whole batch.
    pub share: &'a Share<'a>,
    /// Offset of each image's crop, for rewards that use one.
    pub crops: &'a [Crop],
}

/// What the images or latents of a share add to a batch's loss.
#[derive(Debug)]
pub struct Gradient {
    /// Part of the batch's mean reward. This is what is logged.
    pub reward: f64,
    /// Part of the batch's loss: minus the reward, unless the reward defines it otherwise (smoothed labels).
    pub loss: f64,
    /// `d loss / d images` `[B, 3, H, W]`, or `d loss / d x_0` `[B, C, h, w]`
    pub cotangent: Tensor,
}

/// A reward and its weight among the losses.
pub struct Weighted {
    pub weight: f64,
    pub reward: Box<dyn ImageReward>,
}

/// A reward of each image with its prompt, alone: a network, and a differentiable function of it. The loss is minus the mean over the
/// batch. Micro-batches, half precision and offloading are seen to.
/// ```
/// # use {comat::reward::{ImageReward, PerImage}, diffusion::resident::Resident, tch::{Device, Kind, Tensor}};
/// fn redness(_network: &(), images: &Tensor, _prompts: &[&str]) -> anyhow::Result<Tensor> {
///     Ok(images.select(1, 0).mean_dim([1i64, 2].as_slice(), false, None::<Kind>))
/// }
/// let reward = PerImage::new("red", Resident::open(|| Ok(()))?, redness, Kind::Float);
/// assert_eq!(reward.values(&Tensor::ones([1, 3, 8, 8], (Kind::Float, Device::Cpu)), &["a red dog"])?, [1.0]);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct PerImage<N> {
    name: String,
    network: Resident<N>,
    reward: Function<N>,
    /// The precision that the network computes in.
    kind: Kind,
    micro_batch: usize,
}

/// `(network, images [b, 3, H, W], b prompts)` to rewards `[b]`, each of its own image and prompt only.
pub type Function<N> = fn(&N, &Tensor, &[&str]) -> Result<Tensor>;

impl<N: 'static> PerImage<N> {
    /// `kind`: the precision that the network computes in.
    pub fn new(name: &str, network: Resident<N>, reward: Function<N>, kind: Kind) -> Self {
        Self { name: name.into(), network, reward, kind, micro_batch: 0 }
    }

    /// Uses micro-batches of this many images; 0: all at once.
    pub fn in_micro_batches(mut self, images: usize) -> Self {
        self.micro_batch = images;
        self
    }

    /// Rewards `[b]` of some of the images, by an open network.
    fn of(&self, network: &N, images: &Tensor, prompts: &[&str]) -> Result<Tensor> {
        let rewards = (self.reward)(network, images, prompts).with_context(|| format!("reward {}", self.name))?;
        let (found, rows) = (rewards.size(), images.size()[0]);
        ensure!(found == [rows], "reward {}: {found:?} values for {rows} images; it must give [{rows}]", self.name);
        Ok(rewards)
    }

    fn check(&self, images: &Tensor, prompts: &[&str]) -> Result<()> {
        let (images, prompts) = (images.size().first().copied().unwrap_or(0), prompts.len());
        ensure!(images == prompts as i64, "reward {}: {images} images for {prompts} prompts", self.name);
        Ok(())
    }
}

impl<N: 'static> ImageReward for PerImage<N> {
    fn name(&self) -> &str {
        &self.name
    }

    fn values(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        self.check(images, prompts)?;
        self.network.with(|network| {
            let mut values = vec![];
            for (start, length) in config::pieces(images.size()[0], self.micro_batch) {
                let prompts = &prompts[start as usize..(start + length) as usize];
                let rewards = self.of(network, &images.narrow(0, start, length), prompts)?;
                values.extend(Vec::<f64>::try_from(rewards.to_kind(Kind::Double))?);
            }
            Ok(values)
        })
    }

    fn gradient(&self, seen: &Seen) -> Result<Gradient> {
        let (prompts, batch) = (seen.share.prompts(), seen.share.batch.len().max(1) as f64);
        self.check(seen.images, prompts)?;
        self.network.with(|network| {
            let (mut sum, mut cotangents) = (0.0, vec![]);
            for (start, length) in config::pieces(seen.images.size()[0], self.micro_batch) {
                let images = seen.images.narrow(0, start, length).detach().set_requires_grad(true);
                let prompts = &prompts[start as usize..(start + length) as usize];
                let reward = self.of(network, &images, prompts)?.sum(None::<Kind>);
                let value = reward.double_value(&[]);
                finite::check_value(Part::Reward, value)?;
                sum += value;
                let none = || format!("reward {}: it does not depend on the image", self.name);
                ensure!(reward.requires_grad(), none());
                let back = precision::vjp(self.kind, &[&reward], &[&images], &[&reward.ones_like()])?;
                cotangents.push(back.into_iter().next().flatten().with_context(none)?);
            }
            let reward = sum / batch;
            Ok(Gradient { reward, loss: -reward, cotangent: Tensor::cat(&cotangents, 0) * (-1.0 / batch) })
        })
    }

    fn offload(&mut self) {
        self.network.unload();
    }
}

/// Opens the rewards of `[[reward]]`, in the run's precision and on its device.
///
/// # Errors
/// Names what cannot be opened, and its file.
pub fn open(config: &Config, kind: Kind, device: Device) -> Result<Vec<Weighted>> {
    let micro_batch = config.captioner.micro_batch.samples();
    let one = |reward: &config::Reward| -> Result<Weighted> {
        let name = reward.name();
        let captioner = || config::Captioner { path: reward.path.clone(), contrast: 0.0, ..config.captioner.clone() };
        let opened: Box<dyn ImageReward> = match reward.kind {
            RewardKind::Captioner => Box::new(CaptionLoss::open(&captioner(), kind, device)?.called(name)),
            RewardKind::Certainty => Box::new(certainty::open(name, captioner(), &reward.words, kind, device)?),
            RewardKind::Clip => Box::new(clip::open(name, &reward.path, kind, device)?.in_micro_batches(micro_batch)),
        };
        Ok(Weighted { weight: reward.weight, reward: opened })
    };
    config.rewards.iter().map(|reward| one(reward).with_context(|| format!("reward {}", reward.name()))).collect()
}
