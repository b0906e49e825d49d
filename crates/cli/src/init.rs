//! `comat init`: writes a configuration for a model and this machine.

mod edit;

use crate::{
    args::shared::at_least_one,
    console::{Console, lacks_memory},
    doctor, fetch, share, text,
};
use anyhow::{Context, Result, bail};
use clap::{Args as Group, ValueEnum};
use comat::loss::caption::CaptionLoss;
use config::MicroBatch;
use diffusion::{
    pipeline::{Overrides, Pipeline},
    settings::{Location, Where},
};
use edit::quoted;
use images::Size;
use models::{Error, lora::Base, write_text};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tch::{Device, Kind};
use workbench::plan::memory::{self, gigabytes};

/// Write a configuration for a model on this machine
///
/// Looks at the model, at the device and its memory, and writes a complete configuration with comments: the recommended settings of a
/// method, and micro-batches that fit. What a step needs is measured with the model itself, on small images, as `comat plan` does; the
/// segmenter of the attention losses is not measured. A model that is named by its id is fetched.
#[derive(Group)]
pub struct Init {
    /// Model folder in diffusers layout, one .safetensors file, or an id of the hub: OWNER/NAME, OWNER/NAME@REVISION
    #[arg(long, value_name = "DIR|FILE|ID", value_parser = share::model)]
    model: Location,
    /// How the LoRA learns
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Method::Preferences)]
    method: Method,
    /// Captioner
    #[arg(long, value_name = "DIR|ID", default_value = CAPTIONER, value_parser = share::model)]
    captioner: Location,
    /// Prompts to train on, which comat prompts makes
    #[arg(long, value_name = "FILE", default_value = "prompts/train.jsonl", value_parser = share::path)]
    prompts: PathBuf,
    /// Held-out prompts, which the caption loss is measured on
    #[arg(long, value_name = "FILE", default_value = "prompts/held_out.jsonl", value_parser = share::path)]
    held_out: PathBuf,
    /// What the run may use, as 12GB; what the device has free when absent
    #[arg(long, value_name = "AMOUNT", value_parser = memory::parse)]
    memory: Option<f64>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: Where,
    /// Optimiser steps [default: 500 for preferences, 2000 for gradient]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    steps: Option<usize>,
    /// Where to write
    #[arg(long, value_name = "FILE", default_value = "my.toml")]
    out: PathBuf,
    /// Do not measure; write unmeasured micro-batches
    #[arg(long)]
    no_measure: bool,
    /// Replace a file that exists
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// From the better and the worse of the model's own images, as sd15-preference does
    Preferences,
    /// By the gradient of the caption loss, with attention losses and discriminator, as the paper does
    Gradient,
}

/// A setting, with the reason for its value.
struct Choice {
    section: &'static str,
    key: &'static str,
    value: String,
    why: String,
}

impl Choice {
    fn name(&self) -> String {
        let dot = if self.section.is_empty() { "" } else { "." };
        format!("{}{dot}{} = {}", self.section, self.key, self.value)
    }
}

/// Captioner of the published runs.
const CAPTIONER: &str = "Salesforce/blip-image-captioning-large";

/// Samples of a step when memory is small.
const SAMPLES: usize = 16;

/// Facts from which the settings are chosen.
struct Known {
    /// The model as the user named it.
    model: String,
    native: Size,
    xl: bool,
    device: Device,
    memory: f64,
    method: Method,
}

impl Known {
    /// Name of the preset for little memory.
    fn preset(&self) -> &'static str {
        if self.xl { "sdxl-16gb" } else { "sd15-8gb" }
    }

    /// Whether there is enough memory to keep the networks on the device together with an adapter of the published
    /// rank.
    fn has_room(&self) -> bool {
        self.memory >= self.room()
    }

    /// Memory that [`Self::has_room`] requires, in bytes.
    fn room(&self) -> f64 {
        if self.xl { 30e9 } else { 14e9 }
    }
}

pub fn run(args: Init, console: &Console) -> Result<()> {
    let out = &args.out;
    if out.is_dir() {
        bail!("--out {} is a folder; name a file in it", out.display());
    }
    if out.exists() && !args.overwrite {
        bail!("{} exists; --overwrite replaces it, or choose another file by --out", out.display());
    }
    let device = args.device.device()?;
    let (mut model, mut captioner, mut tokenizer) = (args.model.clone(), args.captioner.clone(), None);
    fetch::model(&mut model, None, &mut tokenizer, console)?;
    let pipeline =
        Pipeline::open_at(&model, None, tokenizer.as_deref(), Overrides::default(), Kind::Float.into(), Device::Cpu)?;
    let memory =
        args.memory.or_else(|| free(device)).context("how much memory is there? say it by --memory, as 12GB")?;
    let (base, native) = (pipeline.base(), pipeline.native_size());
    let name = model.typed().display().to_string();
    let known = Known { model: name, native, xl: base == Base::Sdxl, device, memory, method: args.method };
    say!("{}: {base}, made for {native}; {} on {}", known.model, amount(memory), Where::from(device));
    drop(pipeline);
    // a captioner that only the run fetches cannot be looked at
    if !args.no_measure || hub::Id::of(captioner.typed()).is_none() {
        fetch::option("--captioner", &mut captioner, hub::Layout::Network { tokenizer: true }, None, console)?;
        CaptionLoss::open(&config::Captioner::at(captioner.to_path_buf()), Kind::Float, Device::Cpu)
            .context("--captioner")?;
    }
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }

    let mut choices = choices(&args, &known);
    let mut text = preset(&known, &choices)?;
    if !args.no_measure {
        let measured = measure(&text, &model, &captioner, tokenizer, &known)?;
        for choice in &measured {
            text = edit::set(&text, choice.section, choice.key, &choice.value)?;
            choices.retain(|first| (first.section, first.key) != (choice.section, choice.key));
        }
        choices.extend(measured);
    }
    write_text(out, &text)?;
    for choice in &choices {
        say!("  {:<48} {}", choice.name(), choice.why);
    }
    let file = text::quoted(&out.display().to_string());
    say!("The configuration is {}.", out.display());
    if known.method == Method::Gradient {
        say!(
            "The run fetches Grounding DINO and SAM (1.3 GB) for its attention losses; --set attention=false does without."
        );
    }
    let missing = |option: &str, path: &Path| match path.exists() {
        true => String::new(),
        false => format!(" {option} {}", text::quoted(&path.display().to_string())),
    };
    if !args.prompts.exists() {
        say!("Prompts:  comat prompts{}{}", missing("--out", &args.prompts), missing("--held-out", &args.held_out));
    }
    if args.prompts.exists() && !args.held_out.exists() {
        let held_out = args.held_out.display();
        let file_of = |option: &str, path: &Path| format!(" {option} {}", text::quoted(&path.display().to_string()));
        say!(
            "Held-out: {held_out} is not there; comat prompts{}{} --overwrite makes both files anew. Or name a file of \
             your own by prompts.validation, or leave it out of {}",
            file_of("--out", &args.prompts),
            file_of("--held-out", &args.held_out),
            out.display()
        );
    }
    say!("Look:     comat train --config {file} --dry-run\nTrain:    comat train --config {file}");
    Ok(())
}

fn choices(args: &Init, known: &Known) -> Vec<Choice> {
    let name = Path::new(&known.model).file_stem().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    let (dtype, why_dtype) = precision(known.device);
    let halved = known.xl && known.native.width > 512;
    let side = |side: i64| if halved { side / 2 } else { side };
    let size = format!("{}x{}", side(known.native.width), side(known.native.height));
    let why_size = if halved {
        "half the model's own, as published; comat prepare makes the model ready for it"
    } else {
        "the model's own"
    };
    let captioner = args.captioner.typed().display().to_string();
    let mut all = vec![];
    let mut choose = |section, key, value: String, why: &str| all.push(Choice { section, key, value, why: why.into() });
    choose("", "output", quoted(&format!("runs/{name}")), "the run's folder");
    choose("model", "path", quoted(&known.model), "as named");
    choose("model", "dtype", quoted(dtype), why_dtype);
    let why_device = if args.device == Where::Auto { "the default" } else { "as chosen" };
    choose("model", "device", quoted(&args.device.to_string()), why_device);
    choose("captioner", "path", quoted(&captioner), if captioner == CAPTIONER { "as published" } else { "as named" });
    choose("prompts", "train", quoted(&args.prompts.display().to_string()), "comat prompts makes them");
    choose(
        "prompts",
        "validation",
        quoted(&args.held_out.display().to_string()),
        "the caption loss is measured on these",
    );
    choose("sampling", "size", quoted(&size), why_size);
    let (steps, preset) = match known.method {
        Method::Preferences => (500, "as in sd15-preference"),
        Method::Gradient => (2000, "as published"),
    };
    if known.method == Method::Gradient {
        choose("fidelity", "latents", quoted(&format!("latents/{name}")), "the original model's, made once");
    }
    let why_steps = if args.steps.is_some() { "as given" } else { preset };
    choose("train", "steps", args.steps.unwrap_or(steps).to_string(), why_steps);
    if known.has_room() {
        let why = &format!("{preset}: there is memory enough");
        choose("lora", "rank", "128".into(), why);
        choose("lora", "alpha", "128".into(), "the rank");
        choose("memory", "offload", "false".into(), "the networks can stay on the device");
        choose("train", "batch_size", "4".into(), why);
        let accumulation = if known.xl && known.method == Method::Gradient { "12" } else { "8" };
        choose("train", "accumulation", accumulation.into(), why);
        let auto = "what fits, measured when the run starts";
        choose("captioner", "micro_batch", quoted("auto"), auto);
        choose("replay", "micro_batch", quoted("auto"), auto);
        if known.method == Method::Gradient {
            choose("fidelity", "micro_batch", quoted("auto"), auto);
            choose("fidelity", "rank", "128".into(), why);
        }
    } else {
        let why = format!("less memory than {}: a quarter of the published one", amount(known.room()));
        choose("lora", "rank", "32".into(), &why);
        choose("lora", "alpha", "32".into(), "the rank");
        choose("memory", "offload", "true".into(), "networks are unloaded while they have nothing to do");
        choose("train", "batch_size", "1".into(), "not measured: a sample at a time");
        choose("train", "accumulation", SAMPLES.to_string(), "a step has 16 samples, fewer than the preset's");
    }
    all
}

/// The text of the preset that extends no other and has every setting with its comment, with the values of those that
/// extend it, up to [`Known::preset`], those of the method, and `choices`.
fn preset(known: &Known, choices: &[Choice]) -> Result<String> {
    let (mut chain, mut next) = (vec![], Some(known.preset().to_owned()));
    while let Some(name) = next {
        let (text, table) = shipped(&name)?;
        next = table.get("extends").and_then(toml::Value::as_str).map(str::to_owned);
        chain.push((text, table));
    }
    let (mut text, _) = chain.pop().context("there is a preset")?;
    chain.reverse();
    if known.method == Method::Preferences {
        let (method, table) = shipped("sd15-preference")?;
        text = edit::insert_section(&text, "lora", &method, "preference")?;
        chain.push((method, table));
    }
    for (_, over) in &chain {
        for (section, settings) in over {
            for (key, value) in settings.as_table().into_iter().flatten() {
                text = edit::set(&text, section, key, &value.to_string())?;
            }
        }
    }
    if known.method == Method::Preferences {
        for section in ["attention", "fidelity"] {
            text = edit::remove_section(&text, section);
        }
        let without_effect =
            [("captioner", "label_smoothing"), ("replay", "mode"), ("replay", "tracked"), ("replay", "policy")];
        for (section, key) in without_effect {
            text = edit::remove(&text, section, key);
        }
    }
    for choice in choices {
        text = edit::set(&text, choice.section, choice.key, &choice.value)?;
    }
    let body: Vec<&str> = text.lines().skip_while(|line| line.starts_with('#')).collect();
    let heading = format!(
        "# CoMat on {}, by `comat init` for {} on {}",
        known.model,
        amount(known.memory),
        Where::from(known.device)
    );
    Ok(format!("{heading}\n{}\n", body.join("\n")))
}

/// A preset of this name, and its settings.
fn shipped(name: &str) -> Result<(String, toml::Table)> {
    let share = share::folder().with_context(|| format!("presets are not found; {}", share::advice()))?;
    let file = share.join("configs").join(name).with_extension("toml");
    let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
    let table = toml::from_str(&text).with_context(|| file.display().to_string())?;
    Ok((text, table))
}

/// Chooses the largest micro-batches that fit. One eighth of the memory is reserved for what the measurement on small
/// images does not show.
fn measure(
    text: &str,
    model: &Location,
    captioner: &Location,
    tokenizer: Option<Location>,
    known: &Known,
) -> Result<Vec<Choice>> {
    const PART: f64 = 0.875;
    /// `train.batch_size` and `train.accumulation` when memory is small: samples of a trajectory, and number of
    /// trajectories.
    const AT_MOST: (usize, usize) = (4, SAMPLES / 4);
    let scratch = std::env::temp_dir().join(format!("comat-init-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let prompts = scratch.join("prompts.txt");
    let configuration = scratch.join("run.toml");
    let read = || -> Result<config::Config> {
        fs::write(&prompts, "a red dog\na blue cat\n")?;
        fs::write(&configuration, text)?;
        config::read(&configuration, &[])
    };
    let config = read();
    let mut judged = false; // whether the discriminator is measured too
    let forecast = config.and_then(|mut config| {
        config.prompts.train = prompts.clone();
        (config.model.path, config.captioner.path, config.model.tokenizer) =
            (model.clone(), captioner.clone(), tokenizer);
        config.attention = None; // its networks are not fetched for this
        if config.fidelity.as_ref().is_some_and(|fidelity| fidelity.model.is_some()) {
            config.fidelity = None;
        }
        (config.captioner.micro_batch, config.replay.micro_batch) = (MicroBatch::WHOLE, MicroBatch::WHOLE);
        if let Some(fidelity) = &mut config.fidelity {
            fidelity.micro_batch = MicroBatch::WHOLE;
            judged = true;
        }
        if !known.has_room() {
            (config.train.batch_size, config.train.accumulation) = AT_MOST;
        }
        memory::forecast(&config, Some(known.memory))
    });
    let _ = fs::remove_dir_all(&scratch);
    let forecast = match forecast {
        Err(error) if lacks_memory(&format!("{error:#}")) => {
            bail!("measuring what a step needs takes more memory than there is; --no-measure does without it")
        }
        forecast => forecast.context("measuring what a step needs")?,
    };
    if !forecast.known {
        return Ok(vec![]);
    }
    let fitting = match forecast.fitting(known.memory * PART) {
        Ok(fitting) => fitting,
        Err(phases) => {
            tracing::warn!(
                "{} is too little even for one sample at a time in {}; the configuration has the smallest settings",
                amount(known.memory),
                phases.join(", ")
            );
            return Ok(vec![]);
        }
    };
    let most = forecast
        .most()
        .map_or(String::new(), |(phase, bytes)| format!(": all at once, {phase} needs the most, {}", amount(bytes)));
    let mut chosen = vec![];
    let settings = [
        ("captioner", "micro_batch"),
        ("replay", "micro_batch"),
        ("fidelity", "micro_batch"),
        ("train", "batch_size"),
        ("train", "accumulation"),
    ];
    for (section, key) in settings.into_iter().filter(|(section, _)| judged || *section != "fidelity") {
        let proposed = fitting.iter().find_map(|setting| setting.strip_prefix(&format!("{section}.{key}=")));
        let value = match (proposed, key) {
            (Some(value), _) => value.to_owned(),
            (None, "micro_batch") => "0".into(),
            (None, "batch_size") if !known.has_room() => AT_MOST.0.to_string(),
            (None, "accumulation") if !known.has_room() => AT_MOST.1.to_string(),
            (None, _) => continue,
        };
        let whole = if value == "0" { "; 0: the whole batch" } else { "" };
        chosen.push(Choice { section, key, value, why: format!("measured{most}{whole}") });
    }
    Ok(chosen)
}

/// `24.00 GB`, or of less than a tenth of that unit in `MB`.
fn amount(bytes: f64) -> String {
    if bytes < 1e8 { format!("{:.0} MB", bytes / 1e6) } else { gigabytes(bytes) }
}

/// Free memory of the device, in bytes.
fn free(device: Device) -> Option<f64> {
    match device {
        Device::Cpu => doctor::memory_free(),
        _ => torch_ext::memory::free(device).map(|bytes| bytes as f64),
    }
}

/// The precision of the frozen networks, and why.
fn precision(device: Device) -> (&'static str, &'static str) {
    match device {
        Device::Cpu => ("float32", "half precision is slower on most CPUs"),
        _ if doctor::compute_capability().is_some_and(|major| major < 8) => {
            ("float16", "this card does not compute in bfloat16")
        }
        _ => ("bfloat16", "half the memory, and without loss scaling"),
    }
}
