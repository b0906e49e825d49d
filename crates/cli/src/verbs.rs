//! One function per verb: from what was typed to a call of the library.

use crate::{
    args::{Attention, Engine, Generate, Latents, Plan, Source, Trace, Train},
    console::Console,
    fetch, processes,
};
use anyhow::{Context, Error, Result, bail};
use comat::{
    config::{self, Location},
    generate,
    pipeline::{Overrides, Pipeline},
    plan, prompts,
    ranks::Terms,
    trace as tracing_of,
    train::{Ended, Leg, Trainer},
    word_maps,
};
use comat::{
    judge::Judge,
    segment::{Grounded, Segmenter},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{path::Path, time::Duration};
use tch::{Device, Kind};

pub fn train(args: Train, console: &Console) -> Result<()> {
    let mut config = config::read(&args.config, &args.set)?;
    let resume = args.resume.map(|which| config::paths::expanded(Path::new(&which))).transpose().map_err(Error::msg)?;
    let resume = resume.as_ref().and_then(|which| which.to_str());
    if args.dry_run {
        fetch::config(&mut config, console)?;
        say!("{}", plan::describe(config.clone(), segmenter, judge, resume)?);
        say!("{}", plan::memory::forecast(&config, segmenter)?);
        return Ok(());
    }
    let way_out =
        "no step was made of it; --resume auto goes on from the last checkpoint, or begins anew where there is none";
    let mut world = processes::join(terms(&config, way_out))?;
    world.check_same(&config)?;
    world.one_before_the_others(|| fetch::config(&mut config, console))?;
    config.model.device = world.place(config.model.device);
    world.choose_backend(config.ranks.backend, config.model.device.device()?)?;
    let output = config.output.clone();
    console.stop_on_ctrl_c("Stopping; the step under way is given up, all before it is saved. Ctrl-C once more stops at once, without saving.");
    let (mut trainer, mut run) =
        Trainer::open(config, segmenter, judge, resume, console.bar(), &console.interrupt, world)?;
    for change in &trainer.changed {
        say!("Changed since the checkpoint: {change}");
    }
    let ended = trainer.run(&mut run, &console.interrupt)?;
    if !trainer.world.leads() {
        return Ok(());
    }
    match ended {
        Ended::Finished => {
            say!("{} steps done. The LoRA is in {}", trainer.step, output.join("adapter").display());
            if let Some(verdict) = run.verdict() {
                say!("{verdict}");
            }
            if output.join("before-after.png").exists() {
                say!("Before and after: {}", output.join("before-after.png").display());
            }
        }
        Ended::Stopped(step) if !trainer.world.is_alone() => {
            say!("Stopped after step {step}; it is saved. Go on with the same command and --resume");
        }
        Ended::Stopped(step) => {
            let settings: String = args.set.iter().map(|s| format!(" --set {}", quoted(s))).collect();
            say!(
                "Stopped after step {step}; it is saved. Go on with: comat train --config {}{settings} --resume",
                quoted(&args.config.display().to_string())
            );
        }
    }
    Ok(())
}

pub fn plan(args: Plan, console: &Console) -> Result<()> {
    let mut config = config::read(&args.config, &args.set)?;
    fetch::config(&mut config, console)?;
    say!("{}", plan::describe(config.clone(), segmenter, judge, None)?);
    let forecast = plan::memory::forecast(&config, segmenter)?;
    say!("{forecast}");
    let Some((leg, most)) = forecast.most() else { return Ok(()) };
    let gigabytes = plan::memory::gigabytes;
    say!("  the most is {} in {leg}", gigabytes(most));
    let Some(memory) = args.memory else { return Ok(()) };
    match forecast.fitting(memory) {
        Ok(settings) if settings.is_empty() => say!("{} is enough", gigabytes(memory)),
        Ok(settings) => {
            let words: Vec<String> = settings.iter().map(|setting| format!("--set {setting}")).collect();
            say!("{} is enough with {}", gigabytes(memory), words.join(" "));
        }
        Err(legs) => bail!(
            "{} is too little even for one sample at a time in {}; try model.dtype = \"bfloat16\" or a smaller sampling.size",
            gigabytes(memory),
            legs.join(", ")
        ),
    }
    Ok(())
}

pub fn generate(args: Generate, console: &Console) -> Result<()> {
    let Source { model, variant, tokenizer, overrides, lora, lora_scale } = args.source;
    let texts = texts(args.prompt, args.prompts.as_deref())?;
    let sampling = args.sampling.checked().context("generate")?;
    let request = generate::Request {
        prompts: texts,
        count: args.count,
        seed: args.seed,
        seeds: if args.own_seeds { generate::Seeds::Own } else { generate::Seeds::Shared },
        sampling,
        batch: args.batch,
        out: args.out,
        grid: args.grid,
        overwrite: args.overwrite,
        lora,
        lora_scale,
        init_latents: args.init_latents,
        save_latents: args.save_latents,
    };
    let way_out =
        "images that are done are whole; --overwrite draws them and the others anew, another --out all of them";
    let world = processes::join(args.ranks.terms(way_out, &console.interrupt))?;
    let engine = Engine { device: world.place(args.engine.device), ..args.engine };
    let (mut model, mut tokenizer) = (model, tokenizer);
    world.one_before_the_others(|| fetch::model(&mut model, variant.as_deref(), &mut tokenizer, console))?;
    let pipeline = open(model, variant.as_deref(), tokenizer, overrides.into(), &engine, console)?;
    console.stop_on_ctrl_c("Stopping; images that are done are whole.");
    let bar = denoising_bar(console, "generate")?;
    let files = generate::run(pipeline, &request, &bar, &console.interrupt, &world)?;
    bar.finish_and_clear();
    if world.leads() {
        say!("{} in {}", count(files.len()), request.out.display());
    }
    Ok(())
}

pub fn latents(args: Latents, console: &Console) -> Result<()> {
    let mut config = config::read(&args.config, &args.set)?;
    config.fidelity.get_or_insert_default();
    let way_out = "shards that are done are whole, and the same command goes on";
    let interrupt = Some(console.interrupt.clone());
    let world = processes::join(Terms { interrupt, ..terms(&config, way_out) })?;
    world.check_same(&config)?;
    let model = &mut config.model;
    world.one_before_the_others(|| {
        fetch::model(&mut model.path, model.variant.as_deref(), &mut model.tokenizer, console)
    })?;
    model.device = world.place(model.device);
    let prompts = prompts::read(&config.prompts.train)?;
    let mut pipeline = config.model.open(config.prompts.chunks)?;
    console.stop_on_ctrl_c("Stopping; shards that are done are whole. The same command goes on.");
    let bar = console.bar();
    bar.set_style(ProgressStyle::with_template("latents {wide_bar} {pos}/{len} · {per_sec} · ETA {eta_precise}")?);
    bar.enable_steady_tick(Duration::from_millis(500));
    let store = comat::latents::complete(&config, &mut pipeline, &prompts, &bar, &console.interrupt, &world)?;
    bar.finish_and_clear();
    if world.leads() {
        say!("{}", store.plan(store.len()));
    }
    Ok(())
}

pub fn attention(args: Attention, console: &Console) -> Result<()> {
    let Source { model, variant, tokenizer, overrides, lora, lora_scale } = args.source;
    let request = word_maps::Request {
        prompts: texts(args.prompt, args.prompts.as_deref())?,
        only: args.words,
        seed: args.seed,
        sampling: args.sampling.checked().context("attention")?,
        lora,
        lora_scale,
        out: args.out,
        overwrite: args.overwrite,
    };
    let pipeline = open(model, variant.as_deref(), tokenizer, overrides.into(), &args.engine, console)?;
    console.stop_on_ctrl_c("Stopping; panels that are done are whole.");
    let bar = denoising_bar(console, "attention")?;
    let files = word_maps::run(pipeline, &request, &bar, &console.interrupt)?;
    bar.finish_and_clear();
    for file in files {
        say!("{}", file.display());
    }
    Ok(())
}

pub fn open(
    mut model: Location,
    variant: Option<&str>,
    mut tokenizer: Option<Location>,
    overrides: Overrides,
    engine: &Engine,
    console: &Console,
) -> Result<Pipeline> {
    fetch::model(&mut model, variant, &mut tokenizer, console)?;
    Pipeline::open_at(&model, variant, tokenizer.as_deref(), overrides, engine.precision(), engine.device.device()?)
}

/// Of a run's ranks, as its configuration has them.
fn terms(config: &config::Config, way_out: &'static str) -> Terms {
    Terms { timeout: config.ranks.timeout(), setting: "ranks.timeout", way_out, interrupt: None }
}

/// Prompts as they were typed, then those of a file.
fn texts(mut typed: Vec<String>, file: Option<&Path>) -> Result<Vec<String>> {
    if let Some(path) = file {
        typed.extend(prompts::read(path)?.into_iter().map(|p| p.text));
    }
    Ok(typed)
}

pub fn denoising_bar(console: &Console, verb: &str) -> Result<ProgressBar> {
    let bar = console.bar();
    bar.set_style(ProgressStyle::with_template(&format!(
        "{verb} {{wide_bar}} {{pos}}/{{len}} denoising steps · {{per_sec}} · ETA {{eta_precise}}"
    ))?);
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}

pub fn trace(args: Trace, console: &Console) -> Result<()> {
    let mut config = config::read(&args.config, &args.set)?;
    fetch::config(&mut config, console)?;
    let Trace { noise, out, lora, tracked_start, repeat, .. } = args;
    let request = tracing_of::Request { noise, out, lora, tracked_start, repeat };
    let mut summary = tracing_of::run(config, segmenter, &request)?;
    say!("tracked steps {:?}, caption loss {:.8}", summary.tracked, summary.caption_loss);
    summary.seconds.sort_by(f64::total_cmp);
    say!("iteration {:.3} s (median of {repeat})", summary.seconds[summary.seconds.len() / 2]);
    let legs = summary.legs;
    let of_it =
        [("trajectory", legs.trajectory), ("decode", legs.decode), ("caption", legs.caption), ("replay", legs.replay)];
    let seconds = of_it.map(|(name, leg)| format!("{name} {:.3} s", leg.seconds));
    say!("of it {}", seconds.join(", "));
    let peak = |(name, leg): (&str, Leg)| leg.peak.map(|bytes| format!("{name} {} MiB", bytes >> 20));
    say!("memory at most: {}", of_it.into_iter().filter_map(peak).collect::<Vec<_>>().join(", "));
    if let Some(bytes) = summary.peak_memory {
        say!("peak memory {} MiB", bytes >> 20);
    }
    say!("written to {}", request.out.display());
    Ok(())
}

/// The segmenter that a configuration names.
pub fn segmenter(which: &config::Segmenter, kind: Kind, device: Device) -> Result<Box<dyn Segmenter>> {
    Ok(match which {
        config::Segmenter::World => Box::new(world::segmenter::Judged),
        config::Segmenter::Grounded { detector, segmenter, box_threshold, text_threshold } => {
            let mut grounded = Grounded::open(detector, segmenter, kind, device)?;
            grounded.detector.box_threshold = *box_threshold;
            grounded.detector.text_threshold = *text_threshold;
            Box::new(grounded)
        }
    })
}

/// The judge that a configuration names.
pub fn judge(which: &config::Judge, kind: Kind, device: Device) -> Result<Box<dyn Judge>> {
    Ok(match which {
        config::Judge::World => Box::new(world::judging::Watch),
        config::Judge::Clip { model } => Box::new(comat::judge::Clip::open(model, kind, device)?),
    })
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=,:".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn count(files: usize) -> String {
    if files == 1 { "1 file".into() } else { format!("{files} files") }
}
