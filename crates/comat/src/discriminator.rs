//! Fidelity Preservation (section 4 of the method): a discriminator learns to distinguish the online model's latents
//! from the original model's, and the online model learns to be taken for the original.
//!
//! The discriminator is a pretrained denoising network with an adapter of its own, and a linear layer from its output
//! channels to one logit for each latent pixel. Its input is clean latents at the sampler's last timestep, with the
//! embedding of the empty prompt.

use crate::{
    finite::{self, Part},
    reward::{Gradient, LatentReward},
    share::Share,
};
use anyhow::{Context, Result, bail};
use diffusion::{
    family::Family,
    pipeline::{Pipeline, wide},
    precision,
    random::{Purpose, stream},
    resident::Resident,
};
use models::{
    lora::{Lora, Trainable},
    network::{Conditions, Network},
    weights::Weights,
};
use optim::{AdamW, Gradients};
use std::{fs, rc::Rc};
use tch::{Kind, Reduction, Tensor};

pub const HEAD_WEIGHT: &str = "head.weight";
pub const HEAD_BIAS: &str = "head.bias";

pub struct Discriminator {
    settings: config::Fidelity,
    family: Rc<dyn Family>,
    /// Whether the frozen weights are the tuned model's; the tuned model then keeps them.
    is_shared: bool,
    base: Resident<Weights>,
    /// Conditions of the empty prompt, one row.
    text: Conditions,
    time: f64,
    kind: Kind,
    /// Adapter and head.
    pub trained: Trainable,
    pub optimizer: AdamW,
    /// Updates that were skipped because their gradients were not finite.
    pub skipped: u64,
    gradients: Gradients,
}

/// The discriminator's losses on a batch (or the part that some samples add to them), and the gradient at the generated
/// latents.
pub struct Verdict {
    /// The generator's loss: BCE(D(x_0), 1), mean over samples and pixels.
    pub adversarial: f64,
    /// `d adversarial / d x_0` `[B, C, h, w]`
    pub cotangent: Tensor,
    /// The discriminator's own loss: half of BCE(D(x_0), 0) + BCE(D(x_real), 1).
    pub loss: f64,
    /// Accuracy of the discriminator: the share of pixels it classifies correctly, real and generated alike (0..1).
    pub accuracy: f64,
}

/// The discriminator as a reward of latents. It trains on the latents that it judges.
pub struct Adversary<'a> {
    pub discriminator: &'a mut Discriminator,
    /// Latents of the original model for the same prompts, `[B, C, h, w]`.
    pub real: Tensor,
    /// The result; `None` before the first call.
    pub verdict: Option<Verdict>,
}

impl LatentReward for Adversary<'_> {
    fn gradient(&mut self, latents: &Tensor, share: &Share) -> Result<Gradient> {
        let real = self.real.to_device(latents.device()).to_kind(latents.kind());
        let verdict = self.discriminator.judge_some(latents, &real, share.batch.len())?;
        let (loss, cotangent) = (verdict.adversarial, verdict.cotangent.shallow_clone());
        self.verdict = Some(verdict);
        Ok(Gradient { reward: -loss, loss, cotangent })
    }

    /// How likely the latents are to be the original model's: minus BCE(D(x_0), 1), the mean over pixels.
    fn values(&mut self, latents: &Tensor) -> Result<Vec<f64>> {
        self.discriminator.values(latents)
    }

    fn learn(&mut self, latents: &Tensor, share: &Share) -> Result<()> {
        self.gradient(latents, share).map(|_| ())
    }
}

impl Discriminator {
    /// A new discriminator for a tuned model. `size`: height and width in pixels; `time`: the sampler's last timestep.
    pub fn new(
        settings: &config::Fidelity,
        targets: &[String],
        tuned: &mut Pipeline,
        size: (i64, i64),
        time: f64,
        seed: u64,
    ) -> Result<Self> {
        let (kind, device) = (tuned.kind, tuned.device);
        let channels = tuned.family.channels().1;
        let mut other = match &settings.model {
            Some(path) if fs::canonicalize(path).ok() != fs::canonicalize(&tuned.path).ok() => {
                Some(Pipeline::open(path, kind, device).context("fidelity.model")?)
            }
            _ => None,
        };
        let pipeline = other.as_mut().unwrap_or(tuned);
        if pipeline.family.channels().0 != channels {
            bail!(
                "fidelity.model: {} takes latents of {} channels, those of the tuned model have {channels}",
                pipeline.path.display(),
                pipeline.family.channels().0
            );
        }
        let text = pipeline.text.guided(&[""], None, false, size)?.cond;
        let base = pipeline.weights.shallow_clone();
        let place = pipeline.path.clone();
        let draws = |index: usize| stream(seed, Purpose::Discriminator, 0, index as u64);
        let draw = |layer: usize, shape: &[i64]| Ok(draws(layer)?.randn(shape)?);
        let lora = Lora::fresh(&base, targets, settings.rank, settings.rank as f64, draw)?;
        let trained = lora.trainable_with(head(draws(usize::MAX)?, channels)?, wide(kind), device);
        let optimizer = AdamW::new(settings.optimizer(), &trained.flat);
        let (family, reopened) = (pipeline.family.clone(), pipeline.family.clone());
        Ok(Self {
            gradients: Gradients::zeros(&trained),
            settings: settings.clone(),
            family,
            is_shared: other.is_none(),
            base: Resident::of(base, move || Ok(reopened.weights(&place, None, kind, device)?)),
            text,
            time,
            kind,
            trained,
            optimizer,
            skipped: 0,
        })
    }

    /// Unloads the frozen weights whenever they are not in use, unless they are the tuned model's.
    pub fn offload(&mut self) {
        if !self.is_shared {
            self.base.unload();
        }
    }

    /// Judges generated latents against real ones, both `[B, C, h, w]`, and adds to the discriminator's gradients. The
    /// generated half runs once: both losses are differentiated on one graph.
    ///
    /// # Errors
    /// [`finite::NotFinite`] where a loss is not finite.
    pub fn judge(&mut self, generated: &Tensor, real: &Tensor) -> Result<Verdict> {
        self.judge_some(generated, real, generated.size()[0] as usize)
    }

    /// Like [`Self::judge`], for some samples of a batch of `batch` samples: returns and adds their part of the losses
    /// and gradients.
    pub fn judge_some(&mut self, generated: &Tensor, real: &Tensor, batch: usize) -> Result<Verdict> {
        let branched = |base: &Weights| Ok(self.family.network(&base.with_adapter(&self.trained.lora)?)?);
        let network = self.base.with(branched)?;
        let leaves: Vec<&Tensor> = self.trained.parameters().into_iter().map(|(_, leaf)| leaf).collect();
        let kind = self.trained.flat.kind();
        let (given, generated, real) = (generated.kind(), generated.to_kind(kind), real.to_kind(kind));
        let size = generated.size();
        let pixels = (batch as i64 * size[2] * size[3]) as f64;
        let (mut adversarial, mut loss, mut right) = (0.0, 0.0, 0.0);
        let mut cotangents = vec![];
        for (start, length) in config::pieces(size[0], self.settings.micro_batch.samples()) {
            {
                let piece = generated.narrow(0, start, length).detach().set_requires_grad(true);
                let logits = self.logits(network.as_ref(), &piece)?;
                let (pass, told) = (surprise(&logits, true) / pixels, surprise(&logits, false) / (2.0 * pixels));
                let values = [&pass, &told].map(|value| value.double_value(&[]));
                values.into_iter().try_for_each(|value| finite::check_value(Part::Discriminator, value))?;
                let back = precision::vjp_and_keep(self.kind, &[&pass], &[&piece], &[&pass.ones_like()])?;
                cotangents
                    .push(back.into_iter().next().flatten().context("the discriminator's logits depend on its input")?);
                self.gradients.add(&precision::vjp(self.kind, &[&told], &leaves, &[&told.ones_like()])?)?;
                adversarial += values[0];
                loss += values[1];
                right += logits.lt(0.0).sum(Kind::Double).double_value(&[]);
            } // its graph is freed before the next one is built
            let logits = self.logits(network.as_ref(), &real.narrow(0, start, length).detach())?;
            let told = surprise(&logits, true) / (2.0 * pixels);
            let value = told.double_value(&[]);
            finite::check_value(Part::Discriminator, value)?;
            self.gradients.add(&precision::vjp(self.kind, &[&told], &leaves, &[&told.ones_like()])?)?;
            loss += value;
            right += logits.gt(0.0).sum(Kind::Double).double_value(&[]);
        }
        let accuracy = right / (2.0 * pixels);
        Ok(Verdict { adversarial, cotangent: Tensor::cat(&cotangents, 0).to_kind(given), loss, accuracy })
    }

    /// Of each of some latents `[n, C, h, w]`: minus BCE(D(x_0), 1), the mean over pixels. No gradient is added.
    fn values(&self, latents: &Tensor) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        let branched = |base: &Weights| Ok(self.family.network(&base.with_adapter(&self.trained.lora)?)?);
        let network = self.base.with(branched)?;
        let latents = latents.to_kind(self.trained.flat.kind());
        let mut values = vec![];
        for (start, length) in config::pieces(latents.size()[0], self.settings.micro_batch.samples()) {
            let logits = self.logits(network.as_ref(), &latents.narrow(0, start, length))?;
            let real = logits.log_sigmoid().mean_dim([1, 2, 3].as_slice(), false, Kind::Double);
            values.extend(Vec::<f64>::try_from(real)?);
        }
        Ok(values)
    }

    /// An optimiser step on the gradients of `batches` batches; returns the gradient norm. If it is not finite, the
    /// update is skipped.
    ///
    /// # Errors
    /// The same as [`optim::Updater::step`].
    pub fn update(&mut self, batches: usize) -> Result<f64> {
        self.gradients.scale(1.0 / batches as f64);
        let norm = self.gradients.clip(self.settings.max_grad_norm);
        if norm.is_finite() {
            self.optimizer.step(&mut self.trained.flat, &self.gradients.flat, self.settings.learning_rate)?;
        } else {
            self.skipped += 1;
        }
        self.forget();
        Ok(norm)
    }

    /// Clears the gradients accumulated since the last update.
    pub fn forget(&mut self) {
        let _ = self.gradients.flat.zero_();
    }

    /// The gradients accumulated since the last update, in the order of `Trainable::parameters`.
    pub fn gradients(&self) -> &[Tensor] {
        self.gradients.views()
    }

    /// The same gradients in one buffer, for the sum over ranks.
    pub fn gradient_buffer(&mut self) -> &mut Tensor {
        &mut self.gradients.flat
    }

    /// The network's frozen weights, without the adapter.
    ///
    /// # Errors
    /// Errors of reading the weights, where they were unloaded.
    pub fn base(&self) -> Result<Weights> {
        self.base.with(|base| Ok(base.shallow_clone()))
    }

    /// One logit for each latent pixel, `[B, h, w, 1]`; above 0 means real.
    fn logits(&self, network: &dyn Network, latents: &Tensor) -> Result<Tensor> {
        let rows = latents.size()[0];
        let timesteps = Tensor::full([rows], self.time, (Kind::Float, latents.device()));
        let text = self.text.repeat_rows(rows);
        let out = network.predict(&latents.to_kind(self.kind), &timesteps, &text, None)?.to_kind(latents.kind());
        let [(_, weight), (_, bias)] = self.trained.extra.as_slice() else { bail!("the discriminator has no head") };
        Ok(out.permute([0, 2, 3, 1]).linear(weight, Some(bias)))
    }
}

/// The sum over pixels of the binary cross-entropy with logits.
fn surprise(logits: &Tensor, real: bool) -> Tensor {
    let target = if real { logits.ones_like() } else { logits.zeros_like() };
    logits.binary_cross_entropy_with_logits::<Tensor>(&target.detach(), None, None, Reduction::Sum)
}

/// A linear layer to one output, initialised as in PyTorch: all values uniform within `±1 / sqrt(inputs)`.
fn head(mut draws: torch_ext::Generator, inputs: i64) -> Result<Vec<(String, Tensor)>> {
    const CELLS: i64 = 1 << 24;
    let bound = (inputs as f64).powf(-0.5);
    let mut values = vec![];
    for _ in 0..=inputs {
        values.push(bound * (2.0 * draws.below(0, CELLS)? as f64 / CELLS as f64 - 1.0));
    }
    let all = Tensor::from_slice(&values);
    let (weight, bias) = (all.narrow(0, 0, inputs).view([1, inputs]), all.narrow(0, inputs, 1));
    Ok(vec![(HEAD_WEIGHT.into(), weight), (HEAD_BIAS.into(), bias)])
}
