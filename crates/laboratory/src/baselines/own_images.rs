//! Images that the base model draws of the training prompts, and what the captioner thinks of them.

use crate::pretrain::data::{self, Stream};
use anyhow::{Context, Result};
use comat::{
    batch::{Order, noise},
    session::Session,
};
use diffusion::{prompts::Prompt, random::Purpose, trajectory};
use indicatif::ProgressBar;
use models::{Error, tensors};
use ranks::interrupt::Interrupt;
use scenes::{scene::Scene, wording};
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};
use tch::{Kind, Tensor};

/// Images at a time.
const BATCH: usize = 16;

pub struct OwnImages {
    /// Scaled latents `[N, C, h, w]`, on the CPU: all images of the first prompt, then those of the second, …
    pub latents: Tensor,
    /// Mean log-likelihood of a token of the prompt, for each image.
    rewards: Vec<f64>,
    prompts: Vec<String>,
}

impl OwnImages {
    /// Draws `of` images of each of the first `count` prompts of a run, as the configuration samples.
    pub fn draw(
        session: &mut Session,
        prompts: &[Prompt],
        (count, of): (usize, usize),
        bar: &ProgressBar,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let mut order = Order::of(&session.config, prompts)?;
        let chosen =
            (0..count as u64).map(|n| Ok(prompts[order.prompt(n)?].text.clone())).collect::<Result<Vec<_>>>()?;
        let all: Vec<&str> = chosen.iter().flat_map(|prompt| vec![prompt.as_str(); of]).collect();
        let network = session.pipeline.network(&session.pipeline.weights)?;
        let sampler = session.sampler.clone();
        bar.set_length(all.len() as u64);
        bar.set_message("drawing images");
        let (mut latents, mut rewards) = (vec![], vec![]);
        for (step, prompts) in all.chunks(BATCH).enumerate() {
            let places: Vec<u64> = (0..prompts.len() as u64).collect();
            let (start, noise) = noise(session, Purpose::Trajectory, step as u64, &places)?;
            let text = session.text(prompts)?;
            let denoiser = session.denoiser(network.as_ref());
            let each = || Ok(interrupt.check()?);
            let start = sampler.start(start);
            let walked =
                trajectory::walk(denoiser.conditioned_on(&text), &sampler, start, &BTreeSet::new(), noise, each)?;
            let losses = session.captioner.losses(&session.decode(&walked.latents)?, prompts)?;
            rewards.extend(losses.into_iter().map(|loss| -loss));
            latents.push(walked.latents.to_device(tch::Device::Cpu).to_kind(Kind::Float));
            bar.inc(prompts.len() as u64);
        }
        Ok(Self { latents: Tensor::cat(&latents, 0), rewards, prompts: chosen })
    }

    /// Renders of the first `count` scenes of the seed without held-out kinds of objects, each with a true caption, and a
    /// reward of 0 for all of them.
    pub fn render(session: &Session, count: usize, bar: &ProgressBar, interrupt: &Interrupt) -> Result<Self> {
        let seed = session.config.seed;
        bar.set_length(count as u64);
        bar.set_message("encoding renders");
        let (mut latents, mut prompts) = (vec![], vec![]);
        let known = |scene: &Scene| !scene.objects.iter().any(|object| object.kind().is_held_out());
        let mut all = (0..).map(|n| data::scene(seed, n)).filter(known);
        for (first, length) in config::pieces(count as i64, BATCH) {
            interrupt.check()?;
            let scenes: Vec<_> = all.by_ref().take(length as usize).collect();
            latents.push(session.encode(&data::images(&scenes))?.to_device(tch::Device::Cpu).to_kind(Kind::Float));
            let mut rng = data::rng(seed, Stream::Spoil, first as u64);
            prompts.extend(scenes.iter().map(|scene| wording::caption(scene, &mut rng)));
            bar.inc(scenes.len() as u64);
        }
        Ok(Self { latents: Tensor::cat(&latents, 0), rewards: vec![0.0; count], prompts })
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let tensors = [
            ("latents".to_owned(), self.latents.shallow_clone()),
            ("rewards".to_owned(), Tensor::from_slice(&self.rewards)),
        ];
        let prompts = HashMap::from([("prompts".to_owned(), serde_json::to_string(&self.prompts)?)]);
        Ok(tensors::write(path, &tensors.into_iter().collect(), prompts)?)
    }

    /// # Errors
    /// Not a file of [`OwnImages::write`].
    pub fn read(path: &Path) -> Result<Self> {
        let (mut tensors, metadata) = tensors::read(path)?;
        let broken = || Error::file(path, "it does not hold latents, rewards and prompts; delete it");
        let (latents, rewards) = tensors.remove("latents").zip(tensors.remove("rewards")).with_context(broken)?;
        let prompts: Vec<String> = serde_json::from_str(metadata.get("prompts").with_context(broken)?)?;
        let rewards = Vec::<f64>::try_from(rewards)?;
        if prompts.is_empty() || rewards.len() % prompts.len() != 0 || latents.size()[0] != rewards.len() as i64 {
            return Err(broken().into());
        }
        Ok(Self { latents, rewards, prompts })
    }

    /// Number of prompts.
    pub fn prompts(&self) -> usize {
        self.prompts.len()
    }

    /// Images of each prompt.
    fn of(&self) -> usize {
        self.rewards.len() / self.prompts.len()
    }

    /// The prompt of an image.
    pub fn prompt(&self, image: usize) -> &str {
        &self.prompts[image / self.of()]
    }

    /// The captioner's probability of a token of the image's prompt: the geometric mean over its tokens.
    pub fn probability(&self, image: usize) -> f64 {
        self.rewards[image].exp()
    }

    /// The images with the highest rewards, half of all, and one at least.
    pub fn better_half(&self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.rewards.len()).collect();
        all.sort_by(|a, b| self.rewards[*b].total_cmp(&self.rewards[*a]));
        all.truncate(self.rewards.len().div_ceil(2));
        all
    }

    /// Of a prompt's images the ones with the highest and with the lowest reward.
    pub fn best_and_worst(&self, prompt: usize) -> (usize, usize) {
        let of = self.of();
        let (mut best, mut worst) = (prompt * of, prompt * of);
        for image in prompt * of..(prompt + 1) * of {
            best = if self.rewards[image] > self.rewards[best] { image } else { best };
            worst = if self.rewards[image] < self.rewards[worst] { image } else { worst };
        }
        (best, worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torch_ext::testing::device;

    fn images() -> OwnImages {
        let latents = Tensor::arange(6, (Kind::Float, device())).view([6, 1, 1, 1]);
        let rewards = vec![-0.5, -0.1, -0.9, -2.0, -0.2, -0.2];
        OwnImages { latents, rewards, prompts: vec!["a red star".into(), "two \"circles\"".into()] }
    }

    #[test]
    fn the_captioner_chooses() {
        let images = images();
        assert_eq!((images.prompts(), images.prompt(2), images.prompt(3)), (2, "a red star", "two \"circles\""));
        assert_eq!(images.better_half(), [1, 4, 5]);
        assert_eq!((images.best_and_worst(0), images.best_and_worst(1)), ((1, 2), (4, 3)));
        assert!((images.probability(1) - 0.904_837).abs() < 1e-6);
    }

    #[test]
    fn written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own_images.safetensors");
        images().write(&path).unwrap();
        let read = OwnImages::read(&path).unwrap();
        assert_eq!((read.rewards, read.prompts), (images().rewards, images().prompts));
        assert_eq!(read.latents, images().latents);
        let nothing = tensors::Tensors::from([("latents".to_owned(), images().latents)]);
        tensors::write(&path, &nothing, HashMap::new()).unwrap();
        let error = OwnImages::read(&path).err().unwrap().to_string();
        assert!(error.contains("own_images.safetensors") && error.contains("delete it"), "{error}");
    }
}
