//! `comat signal`: how much of a batch's gradient is common to all batches, and which sources the rest comes from.
//!
//! Every sample is an iteration of its own, as a run would draw it; nothing is trained. If a share of 0.001 of a step
//! is common, some thousand samples are needed before half of the optimiser's gradient is reproducible.

mod images;
mod nested;
mod preferences;

use anyhow::{Result, bail, ensure};
use comat::{adapter, batch::Order, session::Session};
use config::Config;
use diffusion::prompts::{self, Prompt};
use indicatif::ProgressBar;
use models::{
    lora::{Lora, Trainable},
    text::counted,
};
use nested::Nested;
use optim::Gradients;
use ranks::interrupt::Interrupt;
use std::path::PathBuf;
use tch::Tensor;

pub use nested::{Design, Shares};

pub struct Request {
    pub prompts: usize,
    /// Number of noises for each prompt.
    pub noises: usize,
    /// Number of crops for each noise; `None`: 2 if the captioner's crop is random at this size.
    pub crops: Option<usize>,
    /// An initial adapter, in place of the configuration's.
    pub lora: Option<PathBuf>,
}

/// The results.
pub struct Signal {
    pub design: Design,
    /// Samples of an optimiser step of this configuration.
    pub batch: usize,
    /// Mean caption loss.
    pub caption_loss: f64,
    pub all: Shares,
    /// By step or by timesteps, the noisiest first. Without standard errors, since those need the sums of all prompts
    /// once more for each part.
    pub parts: Vec<Part>,
}

impl Signal {
    pub fn is_of_preferences(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.of, Of::Timesteps(..)))
    }
}

/// A part of the gradient.
pub struct Part {
    pub of: Of,
    pub shares: Shares,
}

pub enum Of {
    /// Of the sampler, and its training timestep.
    Step(usize, f64),
    /// Training timesteps at which images are compared, from the first to before the second.
    Timesteps(i64, i64),
}

/// What every kind of gradient is measured with.
struct Meter<'a> {
    session: Session,
    adapter: Trainable,
    prompts: Vec<Prompt>,
    order: Order,
    design: Design,
    bar: &'a ProgressBar,
    interrupt: &'a Interrupt,
}

/// Sums over all samples.
struct Sums {
    loss: f64,
    all: Nested,
    parts: Vec<(Of, Nested)>,
}

/// # Errors
/// Names what cannot be opened; fewer prompts than requested; a gradient that is not finite; Ctrl-C.
pub fn run(config: Config, request: &Request, bar: &ProgressBar, interrupt: &Interrupt) -> Result<Signal> {
    for (section, there) in [("fidelity", config.fidelity.is_some()), ("mixed", config.mixed.is_some())] {
        if there {
            tracing::warn!("[{section}] takes no part in the measurement");
        }
    }
    let preference = config.preference.clone();
    if preference.is_some() && request.crops.is_some_and(|crops| crops > 1) {
        bail!("[preference] has no gradient at crops; leave --crops out");
    }
    let mut session = Session::open(config)?;
    let prompts = prompts::read(&session.config.prompts.train)?;
    session.take_entities(&prompts)?;
    let config = session.config.clone();
    let order = Order::of(&config, &prompts)?;
    ensure!(
        order.distinct() >= request.prompts,
        "{}: {} before one repeats{}, and {} are asked for (--prompts)",
        config.prompts.train.display(),
        counted(order.distinct(), "prompt"),
        if config.prompts.balance.is_some() { " (prompts.balance)" } else { "" },
        request.prompts
    );
    let lora = match &request.lora {
        Some(path) => Lora::read(path, &session.pipeline.weights)?,
        None => adapter::start(&session)?,
    };
    let adapter = lora.trainable(session.latent_kind(), session.pipeline.device);
    let moved = preference.is_none() && comat::loss::caption::jitter(session.size.height, session.size.width) > 0;
    let crops = request.crops.unwrap_or(if moved { 2 } else { 1 });
    let design = Design { prompts: request.prompts, noises: request.noises, crops };
    bar.set_length((design.prompts * design.noises * design.crops) as u64);
    let mut meter = Meter { session, adapter, prompts, order, design, bar, interrupt };
    let Sums { loss, all, parts } = match preference {
        Some(preference) => preferences::measure(&mut meter, &preference)?,
        None => images::measure(&mut meter)?,
    };
    Ok(Signal {
        design,
        batch: config.train.batch_size * config.train.accumulation,
        caption_loss: loss / (design.prompts * design.noises * design.crops) as f64,
        all: all.shares(),
        parts: parts.into_iter().map(|(of, sums)| Part { of, shares: sums.shares() }).collect(),
    })
}

impl Meter<'_> {
    fn sums(&self) -> Result<Sums> {
        Ok(Sums { loss: 0.0, all: Nested::new(self.design, &self.adapter.flat, true)?, parts: vec![] })
    }

    fn prompt(&mut self, sample: usize) -> Result<String> {
        Ok(self.prompts[self.order.prompt((sample / self.design.noises) as u64)?].text.clone())
    }

    fn gradients(&self) -> Gradients {
        Gradients::zeros(&self.adapter)
    }
}

fn check(gradient: &Tensor, prompt: &str) -> Result<()> {
    ensure!(gradient.isfinite().all().int64_value(&[]) != 0, "the gradient of `{prompt}` is not finite");
    Ok(())
}
