//! `comat plan` and `comat train --dry-run`: describes a run before it starts.

pub mod memory;
pub mod micro_batch;

use anyhow::Result;
use comat::{
    adapter,
    batch::{self, Order},
    checkpoint,
    mixed::Mixed,
    session::Session,
    train,
};
use config::{Config, Dtype, Form, Preference, Segmenter, Where};
use diffusion::prompts::{self, Prompt};
use models::{lora::Lora, text::counted};
use report::numbers::thousands;

/// Opens everything that the run needs, and describes it. The text starts with the resolved configuration. `resume`:
/// the checkpoint that the run would resume.
///
/// # Errors
/// Names what cannot be opened, and its file.
pub fn describe(config: Config, resume: Option<&str>) -> Result<String> {
    let prompts = prompts::read(&config.prompts.train)?;
    let held_out = match &config.prompts.validation {
        Some(path) => prompts::read_held_out(path, &prompts)?.len(),
        None => 0,
    };
    let resolved = toml::to_string(&config)?;
    let mut session = Session::open(config)?;
    let lora = open_the_rest(&mut session, &prompts, resume)?;
    let (config, pipeline) = (&session.config, &session.pipeline);
    let [channels, height, width] = session.latent_shape;
    let (t, k, batch) =
        (session.sampler.len(), config.replay.tracked, config.train.batch_size * config.train.accumulation);
    let (forward, both) = match &config.preference {
        None => (t, k),
        Some(preference) => {
            let Preference { candidates, compared, draws, anchor, .. } = preference;
            let frozen = if *anchor > 0.0 { 2 } else { 1 }; // the policy, and the original model
            (candidates * t + compared * draws * frozen, compared * draws)
        }
    };
    let halves = if config.sampling.guidance().is_on() {
        "conditional and unconditional halves as one batch"
    } else {
        "no guidance"
    };
    let samples = config.train.steps.saturating_mul(batch as u64);
    let adapter_bytes = lora.parameter_count() * 4;
    let rounds = |every: u64| 2 + config.train.steps.saturating_sub(1).checked_div(every).unwrap_or(0);
    let lines = [
        resolved,
        "# The plan".into(),
        format!(
            "model        {}: {}, UNet {} parameters, {} on {}",
            pipeline.name.display(),
            pipeline.base(),
            thousands(pipeline.weights.parameter_count() as u64),
            Dtype::from(pipeline.kind),
            Where::from(pipeline.device)
        ),
        format!(
            "adapter      rank {} on {} layers, {} trainable parameters ({})",
            config.lora.rank,
            lora.pairs().count(),
            thousands(lora.parameter_count() as u64),
            bytes(adapter_bytes)
        ),
        format!(
            "prompts      {} to train on, {held_out} held out, digest {}",
            prompts.len(),
            batch::digest(config, &prompts)
        ),
        format!("images       {}, latents {channels}x{height}x{width}", session.size),
        match &config.preference {
            None => format!(
                "a step       {}: {t} {} steps without graph ({halves}), decode, caption, {k} steps replayed ({})",
                counted(batch, "sample"),
                config.sampling.sampler,
                config.replay.mode
            ),
            Some(Preference { candidates, compared, draws, timesteps: [low, high], .. }) => format!(
                "a step       {}: {candidates} images each, {t} {} steps without graph ({halves}), decode, caption; the best \
                 and the worst ({compared} of a prompt) are compared, {} at timesteps from {low} to {high} of the schedule",
                counted(batch, "prompt"),
                config.sampling.sampler,
                counted(*draws, "time"),
            ),
        },
        match &config.rewards[..] {
            [] => "rewards      the caption loss alone".into(),
            rewards => {
                let one = |r: &config::Reward| format!("{} (weight {}, {})", r.name(), r.weight, r.path.display());
                format!(
                    "rewards      the caption loss (weight {}), {}",
                    config.captioner.weight,
                    rewards.iter().map(one).collect::<Vec<_>>().join(", ")
                )
            }
        },
        match &config.attention {
            Some(a) => format!(
                "attention    losses {} on up to {} of the {k} replayed steps, objects found by {}",
                match a.form {
                    Form::Reference => "as in the authors' program",
                    Form::Paper => "as in the paper",
                },
                a.steps,
                match &a.segmenter {
                    Segmenter::World => "the miniature world's segmenter".to_owned(),
                    Segmenter::Grounded { detector, segmenter, .. } => {
                        format!("{} and {}", detector.display(), segmenter.display())
                    }
                }
            ),
            None => "attention    no losses on it".into(),
        },
        match &config.fidelity {
            Some(f) => format!(
                "fidelity     discriminator of rank {} on {}, its latents in {}",
                f.rank,
                f.model.as_ref().map_or("the model itself, weights shared".into(), |path| path.display().to_string()),
                f.latents.clone().unwrap_or_else(|| config.output.join("latents")).display()
            ),
            None => "fidelity     no discriminator".into(),
        },
        match &config.mixed {
            Some(m) => format!(
                "mixed        {} images of {} in a step, entering at timesteps {} to {}",
                config.train.accumulation * if m.batch_size == 0 { batch } else { m.batch_size },
                m.pairs.display(),
                m.timesteps[0],
                m.timesteps[1]
            ),
            None => "mixed        no images".into(),
        },
        format!(
            "UNet passes  {} forward and {} forward+backward in a step",
            forward * config.train.accumulation,
            both * config.train.accumulation
        ),
        format!(
            "the run      {}, {} samples{}",
            counted(config.train.steps as usize, "step"),
            thousands(samples),
            match config.prompts.balance {
                None => format!(", {:.2} epochs", samples as f64 / prompts.len() as f64),
                Some(_) => String::new(), // rare prompts are used more often than others
            }
        ),
        format!(
            "checkpoints  {} each (adapter and two moments), {} kept",
            bytes(3 * adapter_bytes),
            if config.checkpoints.keep == 0 { "all".into() } else { config.checkpoints.keep.to_string() }
        ),
        format!(
            "on the way   validation {} times, samples {} times",
            if held_out > 0 { rounds(config.validation.every) } else { 0 },
            rounds(config.samples.every)
        ),
        format!("output       {}", config.output.display()),
    ];
    Ok(lines.join("\n"))
}

/// Opens everything else that a run opens, in the same way; returns its LoRA.
fn open_the_rest(session: &mut Session, prompts: &[Prompt], resume: Option<&str>) -> Result<Lora> {
    session.take_entities(prompts)?;
    Order::of(&session.config, prompts)?;
    if let Some(which) = &session.config.validation.judge {
        which.open(session.pipeline.kind, session.pipeline.device)?;
    }
    session.config.samples.prompts.read()?;
    if let Some(mixed) = Mixed::open(session)? {
        mixed.look_at_some(session)?;
    }
    if train::discriminator(session)?.is_some() {
        latents::Store::of_run(&session.config, &session.pipeline)?;
    }
    let root = session.config.output.join("checkpoints");
    if let Some(path) = resume.map(|which| checkpoint::find(&root, which)).transpose()?.flatten() {
        let (weights, kind) = (&session.pipeline.weights, session.latent_kind());
        let found = checkpoint::load(&path, weights, &session.config, kind, session.pipeline.device)?;
        found.state.check(session.config.seed, &batch::digest(&session.config, prompts), &path)?;
        return Ok(found.adapter.lora);
    }
    adapter::start(session)
}

fn bytes(n: i64) -> String {
    match n {
        0..1_000_000 => format!("{:.0} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            (bytes(4_000), bytes(2_500_000), bytes(3_210_000_000)),
            ("4 kB".into(), "2.5 MB".into(), "3.21 GB".into())
        );
    }
}
