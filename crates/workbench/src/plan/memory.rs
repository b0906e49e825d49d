//! Estimates the memory of a step, phase by phase: measured on small images with the run's own networks on its own
//! device, and extrapolated to the run's images and batches.
//!
//! The memory of a phase is a sum of three parts: a constant (mostly weights), a part per sample of any size (the
//! captioner sees every image at the same size), and a part per latent pixel of each sample. Three small iterations
//! determine them.

use anyhow::{Context, Result};
use comat::{
    adapter,
    discriminator::{Adversary, Discriminator},
    draws::Draws,
    loss::caption::CaptionLoss,
    preference,
    reward::LatentReward,
    session::Session,
    share::Share,
    train::{Phases, iterate},
};
use config::{Config, Keep, MicroBatch, Preference, Size};
use diffusion::{
    prompts,
    random::{Purpose, stream},
};
use optim::{Ema, Gradients, Updater};
use std::{collections::BTreeSet, fmt};
use tch::Tensor;

/// Share of the free memory that is used; the rest is for what the estimate does not include.
pub(super) const USABLE: f64 = 0.9;

/// Peak memory of one phase, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    pub fixed: f64,
    pub per_sample: f64,
    pub per_pixel: f64,
}

impl Need {
    /// Fits the parts to three peaks: 1 sample of `small` and of `large` latent pixels, and 2 samples of `small` ones.
    fn fit([small, large]: [f64; 2], [one, larger, two]: [f64; 3]) -> Self {
        let per_pixel = ((larger - one) / (large - small)).max(0.0);
        let per_sample = (two - one - per_pixel * small).max(0.0);
        Self { fixed: one - per_sample - per_pixel * small, per_sample, per_pixel }
    }

    pub fn of(&self, samples: usize, pixels: f64) -> f64 {
        self.fixed + samples as f64 * (self.per_sample + self.per_pixel * pixels)
    }

    /// The largest number of samples at a time that fits, up to `most`; 0 if not even one does.
    pub(super) fn fitting(&self, memory: f64, pixels: f64, most: usize) -> usize {
        (0..=most).rev().find(|samples| *samples == 0 || self.of(*samples, pixels) <= memory).unwrap_or(0)
    }
}

/// The setting for the number of samples that a phase processes at a time.
const SETTINGS: [(&str, &str); 7] = [
    ("trajectory", "train.batch_size"),
    ("decode", "captioner.micro_batch"),
    ("caption", "captioner.micro_batch"),
    ("reward", "captioner.micro_batch"),
    ("fidelity", "fidelity.micro_batch"),
    ("segment", "train.batch_size"),
    ("replay", "replay.micro_batch"),
];

/// A phase of a step, and the memory that it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub phase: &'static str,
    /// Samples at a time, as configured.
    pub samples: usize,
    pub need: Need,
}

/// The setting that lowers the memory of a phase.
pub fn setting_of(phase: &str) -> &'static str {
    SETTINGS.iter().find(|(name, _)| *name == phase).map_or("train.batch_size", |(_, setting)| setting)
}

impl Line {
    pub(super) fn setting(&self) -> &'static str {
        setting_of(self.phase)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    pub size: Size,
    /// The image sizes of the measurements.
    pub probes: [Size; 2],
    pub batch: usize,
    pub accumulation: usize,
    /// Latent pixels at the configured size.
    pub pixels: f64,
    pub lines: Vec<Line>,
    /// Whether the decoder's graph is kept.
    pub keeps_decoder: bool,
    /// Whether the system reported memory in use.
    pub known: bool,
}

/// Opens the run and does three small iterations. `available`: bytes that the run may use, if known; they decide
/// whether `memory.keep_decoder = "auto"` keeps the graph.
///
/// # Errors
/// Errors of opening the run and of training it.
pub fn forecast(config: &Config, available: Option<f64>) -> Result<Forecast> {
    forecast_in(open(config)?, config, available)
}

/// Opens the run's networks, for the smallest possible iterations.
pub(super) fn open(config: &Config) -> Result<Session> {
    let mut small = config.clone();
    small.train.batch_size = 1;
    small.sampling.steps = 2;
    small.replay.tracked = 1;
    small.memory.keep_decoder = Keep::Never;
    (small.replay.micro_batch, small.captioner.micro_batch) = (MicroBatch::WHOLE, MicroBatch::WHOLE);
    small.mixed = None; // mixed latents use the same phases as the prompts
    if let Some(attention) = &mut small.attention {
        attention.steps = 1;
    }
    if let Some(fidelity) = &mut small.fidelity {
        fidelity.micro_batch = MicroBatch::WHOLE;
    }
    Session::open(small)
}

/// Like [`forecast`], with the networks that [`open`] has opened.
pub(super) fn forecast_in(mut session: Session, config: &Config, available: Option<f64>) -> Result<Forecast> {
    let keeps = config.keeps_decoder(config.train.batch_size);
    let forecast = measured(&mut session, config, keeps)?;
    let may_not = keeps && config.memory.keep_decoder == Keep::Auto;
    match available {
        Some(bytes) if may_not && !forecast.decodes_whole(USABLE * bytes) => measured(&mut session, config, false),
        _ => Ok(forecast),
    }
}

fn measured(session: &mut Session, config: &Config, keeps_decoder: bool) -> Result<Forecast> {
    session.config.memory.keep_decoder = if keeps_decoder { Keep::Always } else { Keep::Never };
    let texts: Vec<String> = prompts::read(&config.prompts.train)?.into_iter().map(|p| p.text).take(2).collect();
    let texts: Vec<&str> =
        [&texts[0], texts.last().context("a prompt file has a prompt")?].map(String::as_str).to_vec();
    let full = session.size;
    let probes = probes(session, full);
    // cuDNN tries its algorithms for each new shape, in memory of their own: each is met once before it is measured
    let tries = session.pipeline.device.is_cuda() && !config.model.deterministic;
    let mut run = |size: Size, samples: usize| measure(session, &texts[..samples], size);
    run(probes[0], 2)?; // warm-up: weights are read from disk and libraries initialised at their first use
    if tries {
        run(probes[0], 1)?;
        run(probes[1], 1)?;
    }
    let peaks = [run(probes[0], 1)?, run(probes[1], 1)?, run(probes[0], 2)?];

    let latent = |session: &Session, size: Size| -> Result<f64> {
        let [_, height, width] = session.pipeline.latent_shape(size)?;
        Ok((height * width) as f64)
    };
    (session.size, session.latent_shape) = (full, session.pipeline.latent_shape(full)?);
    let pixels = [latent(session, probes[0])?, latent(session, probes[1])?];
    let (batch, accumulation) = (config.train.batch_size, config.train.accumulation);
    let at_a_time = |micro: MicroBatch| match micro.samples() {
        0 => batch,
        samples => samples.min(batch),
    };
    let mut lines = vec![];
    for (i, (phase, setting)) in SETTINGS.into_iter().enumerate() {
        let there = match phase {
            "reward" => !config.rewards.is_empty(),
            "fidelity" => config.fidelity.is_some(),
            "segment" => config.attention.is_some(),
            _ => true,
        };
        let samples = match setting {
            "captioner.micro_batch" => at_a_time(config.captioner.micro_batch),
            "fidelity.micro_batch" => at_a_time(config.fidelity.as_ref().map_or(MicroBatch::WHOLE, |f| f.micro_batch)),
            "replay.micro_batch" => at_a_time(config.replay.micro_batch),
            _ => batch,
        };
        if let (true, Some(peaks)) = (there, of_phase(&peaks, i)) {
            lines.push(Line { phase, samples, need: Need::fit(pixels, peaks) });
        }
    }
    let known = !lines.is_empty();
    let pixels = latent(session, full)?;
    Ok(Forecast { size: full, probes, batch, accumulation, pixels, lines, keeps_decoder, known })
}

fn of_phase(runs: &[Phases; 3], phase: usize) -> Option<[f64; 3]> {
    let peak = |phases: &Phases| phases.named()[phase].1.peak.map(|bytes| bytes as f64);
    Some([peak(&runs[0])?, peak(&runs[1])?, peak(&runs[2])?])
}

/// About half and three quarters of the side, rounded to sizes that the model can use.
fn probes(session: &Session, full: Size) -> [Size; 2] {
    let cell = session.pipeline.latents.downscale * session.pipeline.family.least_cells();
    let part = |side: i64, quarters: i64| (side * quarters / 4 / cell * cell).max(cell);
    let size = |quarters| Size { width: part(full.width, quarters), height: part(full.height, quarters) };
    match [size(2), size(3)] {
        [small, large] if small == large => [small, Size { width: small.width + cell, height: small.height + cell }],
        two => two,
    }
}

/// Measures one iteration on noise.
fn measure(session: &mut Session, prompts: &[&str], size: Size) -> Result<Phases> {
    session.size = size;
    session.latent_shape = session.pipeline.latent_shape(size)?;
    let seed = session.config.seed;
    let adapter = adapter::start(session)?.trainable(session.latent_kind(), session.pipeline.device);
    // a run holds them, too
    let decay = session.config.train.ema;
    let _optimizer = Updater::new(&session.config.optimizer, &adapter.flat);
    let _ema = (decay > 0.0).then(|| Ema::new(decay, &adapter));
    let (share, mut gradients) = (Share::whole(prompts), Gradients::zeros(&adapter));
    let shape = [&[prompts.len() as i64], session.latent_shape.as_slice()].concat();
    let (device, kind) = (session.pipeline.device, session.latent_kind());
    let mut draws = stream(seed, Purpose::Trajectory, 0, 0)?;
    let mut noise = || -> Result<Tensor> { Ok(draws.randn(&shape)?.to_device(device).to_kind(kind)) };
    let (start, real) = (noise()?, noise()?);
    let mut discriminator = match session.config.fidelity.clone() {
        Some(settings) => {
            let time = session.sampler.steps.last().map_or(0.0, |step| step.time);
            let targets = session.config.lora.targets.clone();
            let size = (size.height, size.width);
            let mut new = Discriminator::new(&settings, &targets, &mut session.pipeline, size, time, seed)?;
            if session.config.memory.offload {
                new.offload();
            }
            Some(new)
        }
        None => None,
    };
    let mut adversary = discriminator.as_mut().map(|discriminator| Adversary {
        discriminator,
        real: real.shallow_clone(),
        verdict: None,
    });
    let at_latents = adversary.iter_mut().map(|reward| (1.0, reward as &mut dyn LatentReward)).collect();
    if let Some(preference) = session.config.preference.clone() {
        let least = Preference { candidates: 2, compared: 2, draws: 1, ..preference };
        let places: Vec<u64> = (0..prompts.len() as u64).collect();
        let adapters = (&adapter, &adapter.lora);
        let samples = (&share, 0, places.as_slice());
        let done = preference::iterate(session, &least, adapters, samples, at_latents, &mut gradients, || Ok(()))?;
        return Ok(done.phases);
    }
    let tracked = BTreeSet::from([session.sampler.len() - 1]);
    let attention = if session.attention.is_some() { tracked.clone() } else { BTreeSet::new() };
    let crops = (0..prompts.len() as u64)
        .map(|i| CaptionLoss::draw_crop(seed, 0, i, size.height, size.width))
        .collect::<Result<_>>()?;
    let draws = Draws {
        start,
        first: 0,
        weight: 1.0,
        rewards: true,
        noise: Box::new(|_| noise()),
        tracked,
        attention,
        anchor: BTreeSet::new(),
        crops,
    };
    Ok(iterate(session, &adapter, &share, draws, at_latents, &mut gradients, || Ok(()))?.phases)
}

impl Forecast {
    /// Whether a whole batch can be decoded, captioned and rewarded at once.
    fn decodes_whole(&self, memory: f64) -> bool {
        let mut lines = self.lines.iter().filter(|line| line.setting() == "captioner.micro_batch");
        lines.all(|line| line.need.of(self.batch, self.pixels) <= memory)
    }

    /// The phase that needs the most memory, and how much.
    pub fn most(&self) -> Option<(&'static str, f64)> {
        let all = self.lines.iter().map(|line| (line.phase, line.need.of(line.samples, self.pixels)));
        all.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Settings with which every phase fits into `memory` bytes: `key=value` each; empty if it fits already.
    ///
    /// # Errors
    /// The phases of which not even one sample fits.
    pub fn fitting(&self, memory: f64) -> std::result::Result<Vec<String>, Vec<&'static str>> {
        let mut samples: Vec<(&str, usize)> = vec![];
        let mut impossible = vec![];
        for line in &self.lines {
            match line.need.fitting(memory, self.pixels, line.samples) {
                0 => impossible.push(line.phase),
                fits if fits < line.samples => match samples.iter_mut().find(|(key, _)| *key == line.setting()) {
                    Some((_, least)) => *least = fits.min(*least),
                    None => samples.push((line.setting(), fits)),
                },
                _ => {}
            }
        }
        if !impossible.is_empty() {
            return Err(impossible);
        }
        let mut settings = vec![];
        for (key, fits) in samples {
            if key != "train.batch_size" {
                settings.push(format!("{key}={fits}"));
                continue;
            }
            // as many samples a step as before, if that divides them
            let all = self.batch * self.accumulation;
            let least = all.div_ceil(fits);
            let accumulation = (least..=2 * least).find(|parts| all.is_multiple_of(*parts)).unwrap_or(least);
            settings.push(format!("{key}={}", all.div_ceil(accumulation)));
            settings.push(format!("train.accumulation={accumulation}"));
        }
        Ok(settings)
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if !self.known {
            return write!(f, "memory       this system does not tell how much is in use");
        }
        let [small, large] = self.probes;
        write!(f, "memory       at most, measured at {small} and {large}, extended to {}:", self.size)?;
        for line in &self.lines {
            let need = line.need.of(line.samples, self.pixels);
            let samples = format!("{} at a time", line.samples);
            write!(f, "\n  {:<10} {samples:<13} {:>8}   ({})", line.phase, gigabytes(need), line.setting())?;
        }
        if self.keeps_decoder {
            write!(f, "\n  with the decoder's graph kept (memory.keep_decoder)")?;
        }
        Ok(())
    }
}

pub fn gigabytes(bytes: f64) -> String {
    format!("{:.2} GB", bytes / 1e9)
}

/// `24GB`, `8 GiB`, `900MB` in bytes.
pub fn parse(text: &str) -> std::result::Result<f64, String> {
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let unit = match lower[digits..].trim() {
        "gb" | "g" => 1e9,
        "gib" => f64::from(1 << 30),
        "mb" | "m" => 1e6,
        "mib" => f64::from(1 << 20),
        _ => return Err(format!("`{text}` is no amount of memory; write 24GB, 8GiB or 900MB")),
    };
    match lower[..digits].parse::<f64>() {
        Ok(number) if number > 0.0 => Ok(number * unit),
        _ => Err(format!("`{text}` is no amount of memory; write 24GB, 8GiB or 900MB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_measurements_tell_the_parts_apart() {
        let need = Need { fixed: 1000.0, per_sample: 50.0, per_pixel: 2.0 };
        let fitted = Need::fit([16.0, 36.0], [need.of(1, 16.0), need.of(1, 36.0), need.of(2, 16.0)]);
        assert_eq!(fitted, need);
        assert_eq!(need.of(4, 64.0), 1000.0 + 200.0 + 512.0);
        // noise never makes the memory of a sample negative
        let flat = Need::fit([16.0, 36.0], [1000.0, 990.0, 995.0]);
        assert_eq!(flat, Need { fixed: 1000.0, per_sample: 0.0, per_pixel: 0.0 });
    }

    fn forecast() -> Forecast {
        let size = |side| Size { width: side, height: side };
        let line =
            |phase, samples, per_pixel| Line { phase, samples, need: Need { fixed: 1e9, per_sample: 0.0, per_pixel } };
        Forecast {
            size: size(512),
            probes: [size(256), size(384)],
            batch: 6,
            accumulation: 2,
            pixels: 1000.0,
            lines: vec![
                line("trajectory", 6, 1e5),
                line("decode", 6, 1e6),
                line("caption", 6, 5e5),
                line("replay", 6, 2e6),
            ],
            keeps_decoder: false,
            known: true,
        }
    }

    #[test]
    fn micro_batches_that_fit_are_proposed() {
        let forecast = forecast();
        assert_eq!(forecast.most(), Some(("replay", 13e9)));
        assert_eq!(forecast.fitting(14e9), Ok(vec![]));
        let fits = forecast.fitting(5.1e9).unwrap();
        assert_eq!(fits, ["captioner.micro_batch=4", "replay.micro_batch=2"]);
        let little = forecast.fitting(3.1e9).unwrap();
        assert_eq!(little, ["captioner.micro_batch=2", "replay.micro_batch=1"]);
        assert_eq!(forecast.fitting(2.2e9), Err(vec!["replay"]));
        let mut heavy = forecast.clone();
        heavy.lines[0].need.per_pixel = 1e6; // the trajectory, whose batch is the step's
        let smaller = heavy.fitting(5.1e9).unwrap();
        assert_eq!(smaller[..2], ["train.batch_size=4", "train.accumulation=3"], "as many samples a step as before");
        (heavy.batch, heavy.accumulation) = (5, 4);
        heavy.lines[0].samples = 5;
        let smaller = heavy.fitting(4.1e9).unwrap();
        assert_eq!(smaller[..2], ["train.batch_size=2", "train.accumulation=10"], "7 x 3 would be another number");
    }

    #[test]
    fn amounts_of_memory() {
        assert_eq!((parse("24GB"), parse("0.5 GiB"), parse("900mb")), (Ok(24e9), Ok(536870912.0), Ok(9e8)));
        assert!(["", "24", "GB", "-3GB", "0GB", "3TB"].iter().all(|text| parse(text).is_err()));
    }
}
