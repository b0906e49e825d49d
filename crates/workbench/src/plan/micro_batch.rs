//! `micro_batch = "auto"`: the number of samples that a phase of a step processes at a time, chosen once, before the
//! first step; also whether the decoder's graph is kept, if that is `auto` too.
//!
//! A run that certainly fits is not measured. Any other is measured on small images ([`super::memory`]), and each phase
//! processes as many samples at a time as fit into the free memory. The choice is written into the run's configuration,
//! so that a run resumed from a checkpoint uses the same, whatever memory is free then: its numbers stay the same to
//! the bit.

use super::memory::{self, Forecast, USABLE, gigabytes};
use anyhow::Result;
use comat::{checkpoint, session::Session};
use config::{self, Config, Keep, MicroBatch};
use ranks::ProcessGroup;

/// Upper bound of the bytes that a step needs for each image pixel of a sample: three times the need of SD 1.5 in
/// float32.
const AMPLE: f64 = 128e3;

/// The micro-batch settings, by their names.
fn settings(config: &mut Config) -> Vec<(&'static str, &mut MicroBatch)> {
    let fidelity = config.fidelity.as_mut().map(|f| ("fidelity.micro_batch", &mut f.micro_batch));
    [
        Some(("captioner.micro_batch", &mut config.captioner.micro_batch)),
        Some(("replay.micro_batch", &mut config.replay.micro_batch)),
        fidelity,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether anything is still `auto`. `keep_decoder` only counts if the graph can be kept.
fn open_questions(config: &mut Config) -> bool {
    let graph = config.memory.keep_decoder == Keep::Auto && config.keeps_decoder(config.train.batch_size);
    graph || settings(config).iter().any(|(_, value)| **value == MicroBatch::Auto)
}

/// Replaces every `auto` in the configuration by a number. `resume`: the checkpoint that the run resumes, as in
/// `--resume`; its run has chosen already. Rank 0 chooses for all ranks.
///
/// # Errors
/// Errors of opening the run and of measuring it.
pub fn choose(config: &mut Config, resume: Option<&str>, group: &ProcessGroup) -> Result<()> {
    if !open_questions(config) {
        return Ok(());
    }
    let (chosen, keep): (Vec<MicroBatch>, Keep) = group.of_first(|| {
        let mut config = config.clone();
        let before = match resume {
            Some(which) => checkpoint::find(&config.output.join("checkpoints"), which)?,
            None => None,
        };
        if let Some(checkpoint) = before {
            take(&mut config, config::read(&checkpoint.join("config.toml"), &[])?);
        }
        if open_questions(&mut config) {
            measure(&mut config, group)?;
        }
        let keep = config.memory.keep_decoder;
        Ok((settings(&mut config).into_iter().map(|(_, value)| *value).collect(), keep))
    })?;
    config.memory.keep_decoder = keep;
    settings(config).into_iter().zip(chosen).for_each(|((_, value), chosen)| *value = chosen);
    Ok(())
}

/// What `auto` would choose, given a forecast and `free` bytes of free memory; `None` if nothing is `auto`.
pub fn describe(config: &Config, forecast: &Forecast, free: f64) -> Option<String> {
    let mut config = config.clone();
    open_questions(&mut config).then(|| fit(&mut config, forecast, free))
}

fn take(config: &mut Config, mut chosen: Config) {
    if config.memory.keep_decoder == Keep::Auto {
        config.memory.keep_decoder = chosen.memory.keep_decoder;
    }
    let chosen = settings(&mut chosen).into_iter().map(|(name, value)| (name, *value)).collect::<Vec<_>>();
    for (name, value) in settings(config) {
        if let (MicroBatch::Auto, Some((_, chosen))) = (*value, chosen.iter().find(|(other, _)| *other == name)) {
            *value = *chosen;
        }
    }
}

fn measure(config: &mut Config, group: &ProcessGroup) -> Result<()> {
    let device = config.model.device.device()?;
    // ranks on one CPU share its memory
    let sharers = if device.is_cuda() { 1 } else { group.size };
    let free = match torch_ext::memory::free(device) {
        Some(bytes) => bytes as f64 / sharers as f64,
        None => f64::INFINITY,
    };
    let session = memory::open(config)?;
    if most(&session, config.train.batch_size) <= free {
        whole(config);
        return Ok(());
    }
    tracing::info!("choosing micro-batches for {} of free memory: measuring small images", gigabytes(free));
    let chosen = fit(config, &memory::forecast_in(session, config, Some(free))?, free);
    tracing::info!("{chosen}");
    Ok(())
}

fn whole(config: &mut Config) {
    let auto = settings(config).into_iter().filter(|(_, value)| **value == MicroBatch::Auto);
    auto.for_each(|(_, value)| *value = MicroBatch::WHOLE);
    keep(config, true);
}

/// Decides `memory.keep_decoder`, if it is `auto`.
fn keep(config: &mut Config, fits: bool) {
    if config.memory.keep_decoder == Keep::Auto && config.keeps_decoder(config.train.batch_size) {
        config.memory.keep_decoder = if fits { Keep::Always } else { Keep::Never };
    }
}

/// A rough upper bound of the run's memory, in bytes.
fn most(session: &Session, samples: usize) -> f64 {
    // weights, the other networks' weights, and a merged copy
    let weights = 4.0 * 4.0 * session.pipeline.weights.parameter_count() as f64;
    weights + samples as f64 * (session.size.width * session.size.height) as f64 * AMPLE
}

/// Chooses a value for every `auto`, and returns a sentence with the choice.
fn fit(config: &mut Config, forecast: &Forecast, free: f64) -> String {
    let usable = USABLE * free;
    let batch = config.train.batch_size;
    let mut words = vec![];
    for (name, value) in settings(config) {
        if *value != MicroBatch::Auto {
            continue;
        }
        let lines = forecast.lines.iter().filter(|line| line.setting() == name);
        let fits = lines.map(|line| line.need.fitting(usable, forecast.pixels, batch)).min().unwrap_or(batch);
        if fits == 0 {
            tracing::warn!(
                "{name}: by the forecast not even one sample fits into {}; `comat plan` shows what each part needs",
                gigabytes(usable)
            );
        }
        *value = if fits == batch { MicroBatch::WHOLE } else { MicroBatch::Samples(fits.max(1)) };
        words.push(format!("{name} = {}", if fits == batch { batch } else { fits.max(1) }));
    }
    let whole = forecast.lines.iter().filter(|line| line.setting() == "train.batch_size");
    for line in whole.filter(|line| line.need.of(batch, forecast.pixels) > usable) {
        tracing::warn!(
            "{} needs {}, and {} are free: lower train.batch_size, and raise train.accumulation",
            line.phase,
            gigabytes(line.need.of(batch, forecast.pixels)),
            gigabytes(usable)
        );
    }
    keep(config, forecast.keeps_decoder);
    words.push(format!("the decoder's graph is {}kept", if config.keeps_decoder(batch) { "" } else { "not " }));
    let batch = if batch == 1 { "1 sample".to_owned() } else { format!("{batch} samples") };
    format!("micro-batches of a batch of {batch}: {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{
        super::memory::{Line, Need},
        *,
    };
    use config::Size;

    fn config(settings: &[&str]) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(
            &path,
            "output = \"o\"\n[model]\npath = \"m\"\n[captioner]\npath = \"b\"\n[prompts]\ntrain = \"p\"\n",
        )
        .unwrap();
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        config::read(&path, &settings).unwrap()
    }

    fn forecast(batch: usize) -> Forecast {
        let size = |side| Size { width: side, height: side };
        let line =
            |phase, per_sample| Line { phase, samples: batch, need: Need { fixed: 1e9, per_sample, per_pixel: 0.0 } };
        Forecast {
            size: size(512),
            probes: [size(256), size(384)],
            batch,
            accumulation: 1,
            pixels: 4096.0,
            lines: vec![
                line("trajectory", 1e8),
                line("decode", 2e9),
                line("caption", 1e9),
                line("fidelity", 9e9),
                line("replay", 5e8),
            ],
            keeps_decoder: false,
            known: true,
        }
    }

    #[test]
    fn as_many_samples_as_fit() {
        let mut config = config(&["train.batch_size=8", "fidelity.rank=2"]);
        let said = fit(&mut config, &forecast(8), 10e9);
        // of 9 GB, 1 is constant: 4 samples decoded, all 8 replayed, and less than one for the discriminator
        assert_eq!(config.captioner.micro_batch, MicroBatch::Samples(4));
        assert_eq!(config.replay.micro_batch, MicroBatch::WHOLE);
        assert_eq!(config.fidelity.unwrap().micro_batch, MicroBatch::Samples(1));
        let expected = "captioner.micro_batch = 4, replay.micro_batch = 8, fidelity.micro_batch = 1, the decoder's graph is not kept";
        assert_eq!(said, format!("micro-batches of a batch of 8 samples: {expected}"));
    }

    /// The graph is kept if it was measured to fit, and never if decoding is in pieces; an explicit setting takes
    /// precedence.
    #[test]
    fn the_decoder_is_kept_where_it_fits() {
        for (settings, fits, keep, kept) in [
            (&["train.batch_size=2"][..], true, Keep::Always, true),
            (&["train.batch_size=2"], false, Keep::Never, false),
            (&["train.batch_size=2", "memory.keep_decoder=never"], true, Keep::Never, false),
            (&["train.batch_size=2", "captioner.micro_batch=1"], false, Keep::Auto, false),
            (&["train.batch_size=2", "memory.vae_tile=8"], false, Keep::Auto, false),
        ] {
            let mut config = config(settings);
            fit(&mut config, &Forecast { keeps_decoder: fits, ..forecast(2) }, 100e9);
            assert_eq!((config.memory.keep_decoder, config.keeps_decoder(2)), (keep, kept), "{settings:?}");
            assert!(!open_questions(&mut config));
        }
    }

    #[test]
    fn numbers_stay_as_they_are() {
        let mut config = config(&["train.batch_size=8", "captioner.micro_batch=7", "replay.micro_batch=0"]);
        fit(&mut config, &forecast(8), 2e9);
        assert_eq!(config.captioner.micro_batch, MicroBatch::Samples(7));
        assert_eq!(config.replay.micro_batch, MicroBatch::WHOLE);
    }

    #[test]
    fn a_run_goes_on_with_what_it_chose() {
        let chosen = config(&["captioner.micro_batch=3", "replay.micro_batch=2"]);
        let mut auto = config(&["replay.micro_batch=5"]);
        take(&mut auto, chosen);
        assert_eq!(auto.captioner.micro_batch, MicroBatch::Samples(3));
        assert_eq!(auto.replay.micro_batch, MicroBatch::Samples(5), "what somebody types counts");
    }

    #[test]
    fn as_it_is_typed() {
        let typed = config(&["captioner.micro_batch=auto", "replay.micro_batch=4"]);
        let text = toml::to_string(&typed).unwrap();
        assert!(text.contains("micro_batch = \"auto\"") && text.contains("micro_batch = 4"), "{text}");
        let again: Config = toml::from_str(&text).unwrap();
        assert_eq!(again, typed);
    }
}
