//! Concept Matching (section 2 of the method): the negative log-likelihood of the prompt, given the image, by a frozen
//! captioner.

use crate::{
    finite::{self, Part},
    reward::{Crop, Gradient, ImageReward, Seen},
    share::Share,
};
use anyhow::{Context, Result};
pub use captioners::jitter;
use captioners::{Blip, Contrast, Likelihood, Nll, nll_of_crops as nll_by};
use config::{self, Reduction};
use diffusion::{
    precision,
    prompts::Prompt,
    random::{Purpose, stream},
    resident::Resident,
};
use models::blip::Captioner;
use std::ops::Range;
use tch::{Device, Kind, Tensor};
use torch_ext::parallel;

/// `-log p` of prompts, given images, by a captioner.
/// ```no_run
/// # use {comat::loss::caption::CaptionLoss, tch::{Device, Kind, Tensor}};
/// let settings = config::Captioner::at("weights/world/blip".into());
/// let captioner = CaptionLoss::open(&settings, Kind::Float, Device::Cpu)?;
/// let images = Tensor::rand([1, 3, 64, 64], (Kind::Float, Device::Cpu)); // 0..1
/// println!("{:.3} by token", captioner.losses(&images, &["a red circle"])?[0]);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct CaptionLoss {
    captioner: Resident<Box<dyn Likelihood>>,
    config: config::Captioner,
    /// As a reward.
    name: String,
    /// Wrong captions; empty if `captioner.contrast` is not used.
    contrast: Contrast,
}

/// The caption loss of a batch of images, or the part that some of its images add.
pub struct Caption {
    /// Mean over all tokens of the batch, or mean over samples of the sum over tokens, as configured.
    pub loss: f64,
    /// The same with smoothed labels, as configured. The cotangent is the gradient of this loss.
    pub smoothed: f64,
    /// `dL/d image` `[B, 3, H, W]`
    pub cotangent: Tensor,
}

impl CaptionLoss {
    pub fn open(config: &config::Captioner, kind: Kind, device: Device) -> Result<Self> {
        let of = config.clone();
        let open =
            move || captioners::open(&of, kind, device).with_context(|| format!("captioner {}", of.path.display()));
        Ok(Self::with(Resident::open(open)?, config))
    }

    /// Uses a BLIP that is already in memory. Tokenizer and preprocessing are read from the configured folder.
    pub fn new(captioner: Captioner, config: &config::Captioner, device: Device) -> Result<Self> {
        let (of, kind) = (config.clone(), captioner.kind());
        let captioner: Box<dyn Likelihood> = Box::new(Blip::new(captioner, config)?);
        Ok(Self::with(Resident::of(captioner, move || captioners::open(&of, kind, device)), config))
    }

    fn with(captioner: Resident<Box<dyn Likelihood>>, config: &config::Captioner) -> Self {
        Self { captioner, config: config.clone(), name: "caption".into(), contrast: Contrast::default() }
    }

    /// Has another name as a reward.
    pub fn called(self, name: &str) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Draws the crop of a training sample.
    pub fn draw_crop(seed: u64, step: u64, sample: u64, height: i64, width: i64) -> Result<Crop> {
        let most = jitter(height, width);
        let mut draws = stream(seed, Purpose::Crop, step, sample)?;
        Ok((draws.below(0, most + 1)?, draws.below(0, most + 1)?))
    }

    /// Loss, and its cotangent at the images `[B, 3, H, W]` (0..1, not clamped) of a share. It works in micro-batches,
    /// weighted so that their size does not change the result.
    pub fn with_cotangent(&self, images: &Tensor, share: &Share, crops: &[Crop]) -> Result<Caption> {
        self.captioner.with(|captioner| {
            let captioner = captioner.as_ref();
            let parts = self.parts(captioner, images, share.prompts(), crops)?;
            let count = self.count(captioner, &share.batch)?;
            let mean = |of: fn(&Piece) -> f64| parts.iter().map(of).sum::<f64>() / count;
            let (loss, smoothed) = (mean(|p| p.nll), mean(|p| p.smoothed));
            let mut cotangent = joined(parts) * (1.0 / count);
            if self.config.contrast > 0.0 {
                self.away_from_wrong(captioner, images, share, crops, &mut cotangent)?;
            }
            Ok(Caption { loss, smoothed, cotangent })
        })
    }

    /// Finds the wrong captions of these prompts; `captioner.contrast` makes them less likely.
    pub fn contrast_with(&mut self, prompts: &[Prompt], mode: entities::Mode) -> Result<()> {
        if self.config.contrast > 0.0 {
            self.contrast = Contrast::of(prompts, mode)?;
        }
        Ok(())
    }

    /// Subtracts the cotangent of the same loss with the wrong captions, where there are any.
    fn away_from_wrong(
        &self,
        captioner: &dyn Likelihood,
        images: &Tensor,
        share: &Share,
        crops: &[Crop],
        cotangent: &mut Tensor,
    ) -> Result<()> {
        let all: Vec<&str> = share.batch.iter().filter_map(|prompt| self.contrast.get(prompt)).collect();
        let mine = share.prompts().iter().enumerate();
        let (rows, wrong): (Vec<i64>, Vec<&str>) =
            mine.filter_map(|(row, prompt)| Some((row as i64, self.contrast.get(prompt)?))).unzip();
        if wrong.is_empty() {
            return Ok(());
        }
        let crops: Vec<Crop> = rows.iter().map(|row| crops[*row as usize]).collect();
        let rows = Tensor::from_slice(&rows).to_device(images.device());
        let of_wrong = joined(self.parts(captioner, &images.index_select(0, &rows), &wrong, &crops)?);
        let share = -self.config.contrast / self.count(captioner, &all)?;
        let _ = cotangent.index_add_(0, &rows, &(of_wrong * share));
        Ok(())
    }

    /// The loss of each image with its prompt, each on its own and without an offset crop. The captioner is opened once
    /// for all.
    pub fn losses(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        self.captioner.with(|captioner| {
            let loss = |(row, prompt): (i64, &&str)| {
                let nll = nll_by(
                    captioner.as_ref(),
                    self.config.end_weight,
                    &images.narrow(0, row, 1),
                    &[prompt],
                    &[(0, 0)],
                )?;
                Ok(nll.sum.double_value(&[0]) / self.count(captioner.as_ref(), &[prompt])?)
            };
            (0..).zip(prompts).map(loss).collect()
        })
    }

    /// The divisor of the sum over all tokens of these prompts.
    fn count(&self, captioner: &dyn Likelihood, prompts: &[&str]) -> Result<f64> {
        let count: f64 = self.counts(captioner, prompts)?.into_iter().sum();
        Ok(if count == 0.0 { 1.0 } else { count })
    }

    /// Each prompt's part of it.
    fn counts(&self, captioner: &dyn Likelihood, prompts: &[&str]) -> Result<Vec<f64>> {
        let more = self.config.end_weight - 1.0;
        let of_prompt = |tokens: i64| if tokens == 0 { 0.0 } else { tokens as f64 + more };
        Ok(match self.config.reduction {
            Reduction::Sum => vec![1.0; prompts.len()],
            Reduction::Mean => captioner.tokens(prompts)?.into_iter().map(of_prompt).collect(),
        })
    }

    fn parts(
        &self,
        captioner: &dyn Likelihood,
        images: &Tensor,
        prompts: &[&str],
        crops: &[Crop],
    ) -> Result<Vec<Piece>> {
        let (mut parts, smoothing, end) = (vec![], self.config.label_smoothing, self.config.end_weight);
        for rows in parallel::groups(images.size()[0], self.config.micro_batch.samples(), images.device()) {
            let range = |(start, length): (i64, i64)| start as usize..(start + length) as usize;
            let given = rows.into_iter().map(|rows| (range(rows), images.narrow(0, rows.0, rows.1))).collect();
            let done = parallel::map(given, |(range, images): (Range<usize>, Tensor)| {
                let images = images.detach().set_requires_grad(true);
                let nll = nll_by(captioner, end, &images, &prompts[range.clone()], &crops[range])?;
                Piece::of(captioner, smoothing, &images, &nll)
            })?;
            parts.extend(done.into_iter().collect::<Result<Vec<_>>>()?);
        }
        Ok(parts)
    }

    /// Sum of `-log p` over each caption's tokens, `[B]`, and the number of tokens; differentiable with respect to the
    /// images.
    pub fn nll(&self, images: &Tensor, prompts: &[&str], crops: &[Crop]) -> Result<Nll> {
        self.captioner.with(|captioner| nll_by(captioner.as_ref(), self.config.end_weight, images, prompts, crops))
    }
}

/// The reward is the mean log-likelihood of the prompt's tokens.
impl ImageReward for CaptionLoss {
    fn name(&self) -> &str {
        &self.name
    }

    fn values(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        self.captioner.with(|captioner| {
            let mut values = vec![];
            for (start, length) in config::pieces(images.size()[0], self.config.micro_batch.samples()) {
                let prompts = &prompts[start as usize..(start + length) as usize];
                let images = images.narrow(0, start, length);
                let nll =
                    nll_by(captioner.as_ref(), self.config.end_weight, &images, prompts, &vec![(0, 0); prompts.len()])?;
                let sums = Vec::<f64>::try_from(nll.sum.to_kind(Kind::Double))?;
                let counts = self.counts(captioner.as_ref(), prompts)?;
                values
                    .extend(sums.iter().zip(counts).map(|(sum, count)| -sum / if count == 0.0 { 1.0 } else { count }));
            }
            Ok(values)
        })
    }

    fn gradient(&self, seen: &Seen) -> Result<Gradient> {
        let Caption { loss, smoothed, cotangent } = self.with_cotangent(seen.images, seen.share, seen.crops)?;
        Ok(Gradient { reward: -loss, loss: smoothed, cotangent })
    }

    fn offload(&mut self) {
        self.captioner.unload();
    }
}

/// Concatenates the cotangents of all micro-batches.
fn joined(parts: Vec<Piece>) -> Tensor {
    Tensor::cat(&parts.into_iter().map(|part| part.cotangent).collect::<Vec<_>>(), 0)
}

struct Piece {
    nll: f64,
    smoothed: f64,
    cotangent: Tensor,
}

impl Piece {
    /// `images` are leaves of the graph of `nll`.
    fn of(captioner: &dyn Likelihood, smoothing: f64, images: &Tensor, nll: &Nll) -> Result<Self> {
        let (plain, smoothed) = (&nll.sum, nll.smoothed(smoothing));
        let [plain, smoothed] = [plain, &smoothed].map(|rows| rows.sum(rows.kind()));
        let values = Tensor::stack(&[&plain, &smoothed], 0).detach();
        let (nll, value) = (values.double_value(&[0]), values.double_value(&[1]));
        finite::check_value(Part::CaptionLoss, nll)?;
        let cotangent = precision::vjp(captioner.kind(), &[&smoothed], &[images], &[&smoothed.ones_like()])?;
        let cotangent = cotangent.into_iter().next().flatten();
        let cotangent = cotangent.context("the captioner's likelihood does not depend on the image")?;
        Ok(Self { nll, smoothed: value, cotangent })
    }
}
