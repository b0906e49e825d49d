//! A reward of one's own: trains as `comat train` does, and rewards red images besides. docs/extending.md explains it.
//!
//!     cargo run --release -p run --example red_reward -- run.toml train.steps=20

use anyhow::{Context, Result};
use comat::reward::{ImageReward, PerImage, Weighted};
use diffusion::resident::Resident;
use indicatif::ProgressBar;
use ranks::{ProcessGroup, interrupt::Interrupt};
use std::path::Path;
use tch::{Kind, Tensor};

/// How much more red than green and blue an image is, -1 to 1: images `[b, 3, H, W]` to rewards `[b]`.
/// It needs no network, so that it gets `()` in the place of one, and does not care for the prompts.
fn redness(_network: &(), images: &Tensor, _prompts: &[&str]) -> Result<Tensor> {
    let [red, green, blue] = [0, 1, 2].map(|channel| images.select(1, channel));
    Ok((red - (green + blue) / 2.0).mean_dim([1i64, 2].as_slice(), false, None::<Kind>))
}

/// Its name in logs is `reward_red`.
pub fn reward() -> Result<impl ImageReward + 'static> {
    Ok(PerImage::new("red", Resident::open(|| Ok(()))?, redness, Kind::Float))
}

/// A run of a configuration, with this reward beside those that it names.
pub fn train(file: &Path, settings: &[String], weight: f64) -> Result<()> {
    let config = config::read(file, settings)?;
    let interrupt = Interrupt::default();
    let (mut trainer, mut run) = run::open(config, None, ProgressBar::hidden(), &interrupt, ProcessGroup::alone())?;
    trainer.session.rewards.push(Weighted { weight, reward: Box::new(reward()?) });
    trainer.run(&mut run, &interrupt)?;
    Ok(())
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let file = words.next().context("name a configuration: red_reward run.toml [key=value …]")?;
    train(Path::new(&file), &words.collect::<Vec<_>>(), 1.0)
}
