//! The exact gradient of one iteration, matrix by matrix of the LoRA, without a trainer: for an optimiser of one's own, or a study.
//!
//!     cargo run --release -p run --example exact_gradient -- run.toml "a red dog" "two green cars"

use anyhow::{Result, bail};
use comat::{
    adapter, batch,
    draws::Draws,
    session::Session,
    share::Share,
    tracked,
    train::{Outcome, iterate},
};
use config::Config;
use diffusion::random::Purpose;
use optim::Gradients;
use std::{collections::BTreeSet, path::Path};
use tch::Tensor;

/// What the iteration computed, and its gradient for every matrix, by peft's keys. The latents start from the noise of a run's first
/// step; the tracked steps are as many as the configuration says.
pub fn gradient(config: Config, prompts: &[&str]) -> Result<(Outcome, Vec<(String, Tensor)>)> {
    let mut session = Session::open(config)?;
    let adapter = adapter::start(&session)?.trainable(session.latent_kind(), session.pipeline.device);
    let places: Vec<u64> = (0..).take(prompts.len()).collect();
    let (start, noise) = batch::noise(&session, Purpose::Trajectory, 0, &places)?;
    let draws = Draws {
        start: session.sampler.start(start),
        first: 0,
        weight: 1.0,
        rewards: true,
        noise,
        tracked: tracked::grid(session.sampler.len(), session.config.replay.tracked, 0),
        attention: BTreeSet::new(),
        anchor: BTreeSet::new(),
        crops: vec![(0, 0); prompts.len()],
    };
    let mut gradients = Gradients::zeros(&adapter);
    let outcome = iterate(&mut session, &adapter, &Share::whole(prompts), draws, vec![], &mut gradients, || Ok(()))?;
    let keys = adapter.parameters().into_iter().map(|(key, _)| key);
    Ok((outcome, keys.zip(gradients.views().iter().map(Tensor::copy)).collect()))
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, prompts @ ..] = &words[..] else { bail!("exact_gradient run.toml PROMPT [PROMPT …]") };
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let (outcome, gradients) = gradient(config::read(Path::new(file), &[])?, &prompts)?;
    println!("caption loss {:.4}", outcome.caption_loss);
    for (key, gradient) in gradients {
        println!("{:.3e}  {key}", gradient.norm().double_value(&[]));
    }
    Ok(())
}
