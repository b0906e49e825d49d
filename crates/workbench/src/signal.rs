//! `comat signal`: how much of a batch's gradient is common to all batches, and which sources the rest comes from.
//!
//! Every sample is an iteration of its own, as a run would draw it; nothing is trained. If a share of 0.001 of a step
//! is common, some thousand samples are needed before half of the optimiser's gradient is reproducible.

mod nested;

use anyhow::{Result, bail, ensure};
use comat::{
    adapter,
    batch::{Batch, Order},
    loss::caption::CaptionLoss,
    session::Session,
    share::Share,
    train::iterate,
};
use config::Config;
use diffusion::prompts;
use indicatif::ProgressBar;
use models::lora::Lora;
use nested::Nested;
use optim::Gradients;
use ranks::{ProcessGroup, interrupt::Interrupt};
use std::path::PathBuf;

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
    /// By the sampler's step, the noisiest first. Without standard errors, since those need the sums of all prompts
    /// once more for each step.
    pub steps: Vec<Step>,
}

pub struct Step {
    pub step: usize,
    /// Training timestep.
    pub time: f64,
    pub shares: Shares,
}

/// # Errors
/// Names what cannot be opened; fewer prompts than requested; a gradient that is not finite; Ctrl-C.
pub fn run(config: Config, request: &Request, bar: &ProgressBar, interrupt: &Interrupt) -> Result<Signal> {
    if config.preference.is_some() {
        bail!(
            "this measures the gradient through the images, which [preference] does not use; add --set preference=false"
        );
    }
    for (section, there) in [("fidelity", config.fidelity.is_some()), ("mixed", config.mixed.is_some())] {
        if there {
            tracing::warn!("[{section}] takes no part in the measurement");
        }
    }
    let mut session = Session::open(config)?;
    let prompts = prompts::read(&session.config.prompts.train)?;
    session.take_entities(&prompts)?;
    let config = session.config.clone();
    ensure!(
        prompts.len() >= request.prompts,
        "{}: {} prompts, and {} are asked for (--prompts)",
        config.prompts.train.display(),
        prompts.len(),
        request.prompts
    );
    let lora = match &request.lora {
        Some(path) => Lora::read(path, &session.pipeline.weights)?,
        None => adapter::start(&session)?,
    };
    let adapter = lora.trainable(session.latent_kind(), session.pipeline.device);
    let moved = comat::loss::caption::jitter(session.size.height, session.size.width) > 0;
    let crops = request.crops.unwrap_or(if moved { 2 } else { 1 });
    let design = Design { prompts: request.prompts, noises: request.noises, crops };

    let mut order = Order::new(config.seed, prompts.len())?;
    let alone = ProcessGroup::alone();
    let mut tracked = None;
    let mut all = Nested::new(design, &adapter.flat, true)?;
    let mut steps: Vec<(usize, Nested)> = vec![];
    let mut loss = 0.0;
    bar.set_length((design.prompts * design.noises * design.crops) as u64);
    for sample in 0..design.prompts * design.noises {
        let prompt = prompts[order.prompt((sample / design.noises) as u64)?].text.as_str();
        for crop in 0..design.crops {
            let batch = Batch::of(sample as u64, 0..1, 1, &alone, |_| Ok(prompt.to_owned()))?;
            let mut draws = batch.draws(&session)?;
            // the same tracked steps for all samples, so that each step can be compared
            let (steps_of_all, attention, anchor) =
                tracked.get_or_insert((draws.tracked, draws.attention, draws.anchor));
            (draws.tracked, draws.attention, draws.anchor) = (steps_of_all.clone(), attention.clone(), anchor.clone());
            if crop > 0 {
                let place = u64::MAX - crop as u64;
                let size = session.size;
                draws.crops = vec![CaptionLoss::draw_crop(config.seed, sample as u64, place, size.height, size.width)?];
            }
            let mut gradients = Gradients::zeros(&adapter).step_by_step();
            let share = Share::whole(&[prompt]);
            let outcome =
                iterate(&mut session, &adapter, &share, draws, vec![], &mut gradients, || Ok(interrupt.check()?))?;
            if gradients.flat.isfinite().all().int64_value(&[]) == 0 {
                bail!("the gradient of `{prompt}` is not finite");
            }
            loss += outcome.caption_loss;
            all.add(&gradients.flat);
            let each = gradients.of_steps();
            if steps.is_empty() {
                let empty = |(step, part): &(usize, _)| Ok((*step, Nested::new(design, part, false)?));
                steps = each.iter().map(empty).collect::<Result<_>>()?;
            }
            for ((_, sums), (_, part)) in steps.iter_mut().zip(&each) {
                sums.add(part);
            }
            bar.inc(1);
        }
    }
    let of_step = |(step, sums): &(usize, Nested)| Step {
        step: *step,
        time: session.sampler.steps[*step].time,
        shares: sums.shares(),
    };
    Ok(Signal {
        design,
        batch: config.train.batch_size * config.train.accumulation,
        caption_loss: loss / (design.prompts * design.noises * design.crops) as f64,
        all: all.shares(),
        steps: steps.iter().rev().map(of_step).collect(),
    })
}
