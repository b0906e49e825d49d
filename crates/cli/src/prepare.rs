//! `comat prepare`: a model made ready for pictures smaller than its own.

use crate::{
    args::{Engine, at_least_one},
    console::Console,
    fetch,
};
use anyhow::{Context, Result, bail};
use clap::Args as Group;
use comat::{
    config::{Location, Lora, SamplerKind, Sampling, Size},
    merge,
    pipeline::Pipeline,
    prepare, prompts,
};
use hub::Layout;
use indicatif::{ProgressBar, ProgressStyle};
use std::{path::PathBuf, time::Duration};

/// Make a model ready for pictures smaller than its own
///
/// SDXL at 512 pixels draws badly, since it was trained at 1024. This draws pictures at the model's own size, reduces them, tunes a LoRA
/// on them for some steps, and writes a model folder with that LoRA in it, to be trained on: `model.path` of a run with a
/// smaller `sampling.size`. Pictures that are drawn already are not drawn again.
#[derive(Group)]
pub struct Prepare {
    /// Model folder in diffusers layout, or an id of the hub
    #[arg(long, value_name = "DIR|ID")]
    model: Location,
    /// Prompt file; a picture is drawn of each of the first --images prompts
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The new model folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What to make it ready for: WIDTHxHEIGHT in pixels, or one number for a square
    #[arg(long, default_value = "512")]
    size: Size,
    /// Pictures to draw
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = at_least_one)]
    images: usize,
    /// Training steps
    #[arg(long, value_name = "N", default_value_t = 100)]
    steps: u64,
    /// Pictures of a training step, and drawn at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    batch: usize,
    #[arg(long, value_name = "RATE", default_value_t = 1e-4)]
    learning_rate: f64,
    /// Of the LoRA
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(i64).range(1..))]
    rank: i64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Sampling steps of the pictures
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    sampling_steps: usize,
    /// Classifier-free guidance of the pictures
    #[arg(long, value_name = "SCALE", default_value_t = 7.5)]
    guidance_scale: f64,
    /// Folder for the pictures and the LoRA; OUT.preparation when absent
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    #[command(flatten)]
    engine: Engine,
}

pub fn run(args: Prepare, console: &Console) -> Result<()> {
    if args.out.exists() {
        bail!("{} exists already; choose another --out", args.out.display());
    }
    let sampling = Sampling {
        sampler: SamplerKind::Ddim,
        steps: args.sampling_steps,
        guidance_scale: args.guidance_scale,
        ..Sampling::default()
    };
    sampling.check().context("prepare")?;
    if !(args.learning_rate > 0.0 && args.learning_rate.is_finite()) {
        bail!("--learning-rate {}: it must be above 0", args.learning_rate);
    }
    let texts: Vec<String> = prompts::read(&args.prompts)?.into_iter().map(|p| p.text).take(args.images).collect();
    let work = args.work.unwrap_or_else(|| {
        let mut beside = args.out.as_os_str().to_owned();
        beside.push(".preparation");
        beside.into()
    });
    let request = prepare::Request {
        prompts: texts,
        seed: args.seed,
        sampling,
        size: args.size,
        steps: args.steps,
        batch: args.batch,
        learning_rate: args.learning_rate,
        rank: args.rank,
        targets: Lora::default().targets,
        work,
    };
    let mut model = args.model;
    fetch::option("--model", &mut model, Layout::Diffusion, None, console)?;
    let mut pipeline = Pipeline::open_at(&model, None, None, args.engine.precision(), args.engine.device.device()?)?;
    console.stop_on_ctrl_c("Stopping; pictures that are done are not drawn again.");
    let bars = |name: &str| -> Result<ProgressBar> {
        let bar = console.bar();
        let template = format!("{name} {{wide_bar}} {{pos}}/{{len}} {{msg}} · {{per_sec}} · ETA {{eta_precise}}");
        bar.set_style(ProgressStyle::with_template(&template)?);
        bar.enable_steady_tick(Duration::from_millis(500));
        Ok(bar)
    };
    let prepared = prepare::run(&mut pipeline, &request, &bars, &console.interrupt)?;
    say!(
        "denoising error at {} on {}: {:.4} → {:.4}",
        request.size,
        request.work.join("images").display(),
        prepared.before,
        prepared.after
    );
    drop(pipeline);
    let merging =
        merge::Request { model: model.to_path_buf(), loras: vec![(prepared.lora, 1.0)], out: args.out, kind: None };
    merge::run(&merging, &console.interrupt)?;
    say!(
        "the prepared model is {}; train with model.path = that folder, sampling.size = \"{}\"",
        merging.out.display(),
        request.size
    );
    Ok(())
}
