//! Concept Matching: how surprised a frozen captioner is by the prompt, given the image (section 2 of the method).

use crate::{
    batch::Share,
    finite::{self, Part},
    loss::contrast::Contrast,
    replay::chunks,
};
use anyhow::{Context, Result};
use config::{self, Reduction};
use diffusion::{
    precision,
    prompts::Prompt,
    random::{Purpose, stream},
    resident::Resident,
};
use models::{
    blip::{Captioner, Nll},
    preprocess::Preprocess,
    tokenizer::BertTokenizer,
};
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Kind, Tensor};

pub struct CaptionLoss {
    captioner: Resident<Captioner>,
    kind: Kind,
    /// Height and width of the pictures it takes.
    image_size: (i64, i64),
    tokenizer: BertTokenizer,
    preprocess: Preprocess,
    config: config::Captioner,
    /// Wrong captions, where the loss has any
    contrast: Contrast,
    /// Tokens of the prefix, the start token among them.
    prefix_tokens: usize,
    max_length: usize,
    /// Whether it was said already that a caption is too long.
    told: AtomicBool,
}

/// A loss of a batch of images, or what some of them add to it.
pub struct Caption {
    /// Mean over all tokens of the batch (or mean over samples of sums), as configured.
    pub loss: f64,
    /// The same with smoothed labels, as configured: L, which the cotangent is of.
    pub smoothed: f64,
    /// `dL/d image` `[B, 3, H, W]`
    pub cotangent: Tensor,
}

/// Offset from the top and from the left, in pixels.
pub type Crop = (i64, i64);

impl CaptionLoss {
    pub fn open(config: &config::Captioner, kind: Kind, device: Device) -> Result<Self> {
        let path = &config.path;
        let captioner = Captioner::open(path, kind, device).with_context(|| format!("captioner {}", path.display()))?;
        Self::new(captioner, config, device)
    }

    /// With a captioner that is in memory already; tokenizer and preprocessing are read from the configured folder.
    pub fn new(captioner: Captioner, config: &config::Captioner, device: Device) -> Result<Self> {
        let tokenizer = BertTokenizer::open(&config.path)?;
        let preprocess = Preprocess::open(&config.path)?;
        let max_length = captioner.config().text.max_position_embeddings as usize;
        let prefix_tokens = tokenizer.encode(config.prefix.trim_end(), max_length)?.ids.len() - 1; // without its end token
        let (kind, image_size) = (captioner.kind(), captioner.image_size());
        let path = config.path.to_path_buf();
        let captioner = Resident::of(captioner, move || Ok(Captioner::open(&path, kind, device)?));
        let config = config.clone();
        let (contrast, told) = (Contrast::default(), AtomicBool::new(false));
        Ok(Self {
            captioner,
            kind,
            image_size,
            tokenizer,
            preprocess,
            config,
            contrast,
            prefix_tokens,
            max_length,
            told,
        })
    }

    /// Lets the captioner go whenever it has nothing to do.
    pub fn offload(&mut self) {
        self.captioner.let_go();
    }

    /// How far the crop of an image of that size may be moved: `0..=jitter` in each direction.
    pub fn jitter(height: i64, width: i64) -> i64 {
        height.min(width) / 224
    }

    /// The crop of a training sample.
    pub fn draw_crop(seed: u64, step: u64, sample: u64, height: i64, width: i64) -> Result<Crop> {
        let most = Self::jitter(height, width);
        let mut draws = stream(seed, Purpose::Crop, step, sample)?;
        Ok((draws.below(0, most + 1)?, draws.below(0, most + 1)?))
    }

    /// Loss, and its cotangent at the images `[B, 3, H, W]` (0..1, not clamped) of a share. A few samples at a time, each
    /// weighted so that any cutting gives the same.
    pub fn with_cotangent(&self, images: &Tensor, share: &Share, crops: &[Crop]) -> Result<Caption> {
        let parts = self.parts(images, share.prompts(), crops, true)?;
        let cotangents: Vec<Tensor> =
            parts.iter().filter_map(|p| p.cotangent.as_ref().map(Tensor::shallow_clone)).collect();
        let count = self.count(&share.batch)?;
        let mean = |of: fn(&Piece) -> f64| parts.iter().map(of).sum::<f64>() / count;
        let (loss, smoothed) = (mean(|p| p.nll), mean(|p| p.smoothed));
        let mut cotangent = Tensor::cat(&cotangents, 0) * (1.0 / count);
        if self.config.contrast > 0.0 {
            self.away_from_wrong(images, share, crops, &mut cotangent)?;
        }
        Ok(Caption { loss, smoothed, cotangent })
    }

    /// Finds the wrong captions of these prompts, which `captioner.contrast` makes less likely.
    pub fn contrast_with(&mut self, prompts: &[Prompt], mode: entities::Mode) -> Result<()> {
        if self.config.contrast > 0.0 {
            self.contrast = Contrast::of(prompts, mode)?;
        }
        Ok(())
    }

    /// Subtracts from the cotangent that of the same loss with wrong captions, where there are any.
    fn away_from_wrong(&self, images: &Tensor, share: &Share, crops: &[Crop], cotangent: &mut Tensor) -> Result<()> {
        let all: Vec<&str> = share.batch.iter().filter_map(|prompt| self.contrast.get(prompt)).collect();
        let mine = share.prompts().iter().enumerate();
        let (rows, wrong): (Vec<i64>, Vec<&str>) =
            mine.filter_map(|(row, prompt)| Some((row as i64, self.contrast.get(prompt)?))).unzip();
        if wrong.is_empty() {
            return Ok(());
        }
        let crops: Vec<Crop> = rows.iter().map(|row| crops[*row as usize]).collect();
        let rows = Tensor::from_slice(&rows).to_device(images.device());
        let parts = self.parts(&images.index_select(0, &rows), &wrong, &crops, true)?;
        let pulls: Vec<Tensor> = parts.into_iter().filter_map(|p| p.cotangent).collect();
        let share = -self.config.contrast / self.count(&all)?;
        let _ = cotangent.index_add_(0, &rows, &(Tensor::cat(&pulls, 0) * share));
        Ok(())
    }

    /// The loss of each image with its prompt, alone and not moved. The captioner is opened once for all.
    pub fn values(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        self.captioner.with(|captioner| {
            let value = |(row, prompt): (i64, &&str)| {
                let parts = self.parts_by(captioner, &images.narrow(0, row, 1), &[prompt], &[(0, 0)], false)?;
                Ok(parts.iter().map(|p| p.nll).sum::<f64>() / self.count(&[prompt])?)
            };
            (0..).zip(prompts).map(value).collect()
        })
    }

    /// What the sum over all tokens of these prompts is divided by.
    fn count(&self, prompts: &[&str]) -> Result<f64> {
        Ok(match self.config.reduction {
            Reduction::Sum => prompts.len().max(1) as f64,
            Reduction::Mean => {
                let labels = self.tokens(prompts, Device::Cpu)?.2;
                let told = labels.narrow(1, 1, labels.size()[1] - 1).ne(-100); // nothing tells the first token
                told.sum(Kind::Int64).int64_value(&[]).max(1) as f64
            }
        })
    }

    fn parts(&self, images: &Tensor, prompts: &[&str], crops: &[Crop], gradient: bool) -> Result<Vec<Piece>> {
        self.captioner.with(|captioner| self.parts_by(captioner, images, prompts, crops, gradient))
    }

    fn parts_by(
        &self,
        captioner: &Captioner,
        images: &Tensor,
        prompts: &[&str],
        crops: &[Crop],
        gradient: bool,
    ) -> Result<Vec<Piece>> {
        let mut parts = vec![];
        for (start, length) in chunks(images.size()[0], self.config.micro_batch.samples()) {
            let range = start as usize..(start + length) as usize;
            let images = images.narrow(0, start, length).detach().set_requires_grad(gradient);
            let nll = self.nll_by(captioner, &images, &prompts[range.clone()], &crops[range])?;
            let (plain, smoothed) = (&nll.sum, nll.smoothed(self.config.label_smoothing));
            let [plain, smoothed] = [plain, &smoothed].map(|rows| rows.sum(rows.kind()));
            let values = Tensor::stack(&[&plain, &smoothed], 0).detach();
            let (nll, value) = (values.double_value(&[0]), values.double_value(&[1]));
            if gradient {
                finite::check_value(Part::CaptionLoss, nll)?;
            }
            let cotangent = match gradient {
                true => precision::vjp(self.kind, &[&smoothed], &[&images], &[&smoothed.ones_like()])?.remove(0),
                false => None,
            };
            parts.push(Piece { nll, smoothed: value, cotangent });
        }
        Ok(parts)
    }

    /// Sum of `-log p` over each caption's tokens `[B]`, and their number; differentiable with respect to the images.
    pub fn nll(&self, images: &Tensor, prompts: &[&str], crops: &[Crop]) -> Result<Nll> {
        self.captioner.with(|captioner| self.nll_by(captioner, images, prompts, crops))
    }

    fn nll_by(&self, captioner: &Captioner, images: &Tensor, prompts: &[&str], crops: &[Crop]) -> Result<Nll> {
        let pixels = self.look(images, crops)?;
        let (ids, mask, labels) = self.tokens(prompts, images.device())?;
        Ok(captioner.nll(&pixels, &ids, &mask, &labels)?)
    }

    /// Crop, resize and normalise, each image by its own crop.
    fn look(&self, images: &Tensor, crops: &[Crop]) -> Result<Tensor> {
        let (_, _, height, width) = images.size4()?;
        let jitter = Self::jitter(height, width);
        let cropped: Vec<Tensor> = crops
            .iter()
            .enumerate()
            .map(|(i, (top, left))| {
                images.narrow(0, i as i64, 1).narrow(2, *top, height - jitter).narrow(3, *left, width - jitter)
            })
            .collect();
        Ok(self.preprocess.apply(&Tensor::cat(&cropped, 0), self.image_size)?)
    }

    /// Ids, attention mask and labels `[B, L]`: prefix and padding are no labels.
    fn tokens(&self, prompts: &[&str], device: Device) -> Result<(Tensor, Tensor, Tensor)> {
        let captions: Vec<String> =
            prompts.iter().map(|p| format!("{}{}", self.config.prefix, p.to_lowercase())).collect();
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let batch = self.tokenizer.encode_batch(&captions, self.max_length)?;
        self.tell(prompts, &batch.cut);
        let (ids, mask) = (batch.ids.to_device(device), batch.attention_mask.to_device(device));
        let labels = ids.masked_fill(&mask.eq(0), -100);
        let _ = labels.narrow(1, 0, (self.prefix_tokens as i64).min(labels.size()[1])).fill_(-100);
        Ok((ids, mask, labels))
    }
}

impl CaptionLoss {
    /// Says once that a caption is too long.
    fn tell(&self, prompts: &[&str], cut: &[Option<String>]) {
        let Some((prompt, cut)) = prompts.iter().zip(cut).find_map(|(prompt, cut)| Some((prompt, cut.as_ref()?)))
        else {
            return;
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "prompt longer than the {} tokens that the captioner takes; the caption loss does not see the end of `{prompt}`: \
                 …{cut}. Further ones are not named",
                self.max_length
            );
        }
    }
}

struct Piece {
    nll: f64,
    smoothed: f64,
    cotangent: Option<Tensor>,
}
