//! `comat prepare`: tunes a model for images smaller than its own size.

use crate::{
    args::shared::{Engine, at_least_one},
    console::Console,
    fetch,
};
use anyhow::{Context, Result, bail};
use clap::{Args as Group, ValueEnum};
use config::{Lora, SamplerKind};
use diffusion::{
    pipeline::Pipeline,
    prompts,
    settings::{Dtype, Location, Sampling},
};
use hub::Layout;
use images::Size;
use std::path::PathBuf;
use tch::Device;
use workbench::prepare;

/// Make a model ready for images smaller than its own
///
/// SDXL at 512 pixels draws badly, since it was trained at 1024. This draws images at the model's own size, reduces them, tunes the UNet
/// on them for some steps, and writes a model folder with that UNet in it, to be trained on: `model.path` of a run with a
/// smaller `sampling.size`. After an interruption the same command goes on with the images that are there; the tuning starts anew.
#[derive(Group)]
pub struct Prepare {
    /// Model folder in diffusers layout, or an id of the hub
    #[arg(long, value_name = "DIR|ID")]
    model: Location,
    /// Prompt file; an image is drawn of each of the first --images prompts
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The new model folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What to make it ready for: WIDTHxHEIGHT in pixels, or one number for a square
    #[arg(long, default_value = "512")]
    size: Size,
    /// Train all weights of the UNet, or a LoRA
    #[arg(long, value_enum, value_name = "WHAT", default_value = "unet")]
    tune: What,
    /// Where AdamW's state is kept, 16 bytes a weight, with --tune unet [default: device]
    #[arg(long, value_enum, value_name = "WHERE")]
    optimizer_on: Option<OptimizerOn>,
    /// Rank of the LoRA, with --tune lora [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    rank: Option<i64>,
    /// Images to draw
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = at_least_one)]
    images: usize,
    /// Training steps
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Images of a training step, and drawn at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    batch: usize,
    /// Learning rate of AdamW [default: 1e-5; 1e-4 with --tune lora]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Sampling steps of the images
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    sampling_steps: usize,
    /// Classifier-free guidance of the images
    #[arg(long, value_name = "SCALE", default_value_t = 7.5)]
    guidance_scale: f64,
    /// Folder for the images and the LoRA; OUT.preparation when absent
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Precision of the UNet's weights in the new folder; that of the model when absent
    #[arg(long, value_name = "DTYPE")]
    save_dtype: Option<Dtype>,
    #[command(flatten)]
    engine: Engine,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum What {
    /// Every weight, as the paper's authors do. AdamW takes 16 bytes a weight (float32 master, gradient, two moments): 41 GB for
    /// SDXL, 14 GB for SD1.5. The GPU also holds the weights and a gradient in --dtype: 10 GB for SDXL in bfloat16, and an image's graph
    Unet,
    /// A LoRA, which is then added to the UNet's weights: 1.5 GB beside the model and an image's graph, at rank 64 for SDXL
    Lora,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum OptimizerOn {
    /// On --device
    Device,
    /// In the host's memory, for a GPU with too little; a step takes longer
    Cpu,
}

pub fn run(args: Prepare, console: &Console) -> Result<()> {
    if args.out.exists() {
        bail!("{} exists already; choose another --out", args.out.display());
    }
    match (args.tune, args.rank, args.optimizer_on) {
        (What::Unet, Some(_), _) => bail!("--rank is that of a LoRA; add --tune lora, or leave it out"),
        (What::Lora, _, Some(_)) => bail!("--optimizer-on is for --tune unet; a LoRA's optimizer is small"),
        _ => {}
    }
    let sampling = Sampling {
        sampler: SamplerKind::Ddim,
        steps: args.sampling_steps,
        guidance_scale: args.guidance_scale,
        ..Sampling::default()
    };
    sampling.check().context("prepare")?;
    let learning_rate = args.learning_rate.unwrap_or(if args.tune == What::Unet { 1e-5 } else { 1e-4 });
    if !(learning_rate > 0.0 && learning_rate.is_finite()) {
        bail!("--learning-rate {learning_rate}: it must be above 0");
    }
    let texts: Vec<String> = prompts::read(&args.prompts)?.into_iter().map(|p| p.text).take(args.images).collect();
    let work = args.work.unwrap_or_else(|| {
        let mut beside = args.out.as_os_str().to_owned();
        beside.push(".preparation");
        beside.into()
    });
    let device = args.engine.device.device()?;
    let tune = match args.tune {
        What::Unet => prepare::Tune::Unet {
            optimizer_on: if args.optimizer_on == Some(OptimizerOn::Cpu) { Device::Cpu } else { device },
        },
        What::Lora => prepare::Tune::Lora { rank: args.rank.unwrap_or(64), targets: Lora::default().targets },
    };
    let request = prepare::Request {
        prompts: texts,
        seed: args.seed,
        sampling,
        size: args.size,
        tune,
        steps: args.steps,
        batch: args.batch,
        learning_rate,
        work,
        out: args.out,
        kind: args.save_dtype.map(Dtype::kind),
    };
    let mut model = args.model;
    fetch::option("--model", &mut model, Layout::Diffusion, None, console)?;
    let pipeline = Pipeline::open_at(&model, None, None, Default::default(), args.engine.precision(), device)?;
    console.stop_on_ctrl_c("Stopping; images that are done are not drawn again.");
    let bars = |name: &str| console.count(name, "{msg}");
    let prepared = prepare::run(pipeline, &request, &bars, &console.interrupt)?;
    say!(
        "denoising error at {} on {}: {:.4} → {:.4}",
        request.size,
        request.work.join("images").display(),
        prepared.before,
        prepared.after
    );
    say!(
        "the prepared model is {}; train with model.path = that folder, sampling.size = \"{}\"",
        request.out.display(),
        request.size
    );
    Ok(())
}
