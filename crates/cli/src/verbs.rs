//! Maps the parsed arguments to the function of the verb. Verbs without a file of their own are implemented here.

use crate::{
    args::{
        Args, Attention, Generate, Latents, Plan, Trace, Train, Verb,
        shared::{Engine, Source},
    },
    card,
    console::{Console, DENOISING, watch},
    demo, doctor, entities, evaluate, fetch, init, lora, prepare, preset, processes, report, segment, share, shell,
    signal, syntax,
    text::{counted, quoted},
    threads, world,
};
use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use comat::{
    checkpoint,
    loss::caption::CaptionLoss,
    train::{self, Ended},
};
use config::{Config, OneOrMore, Scaled};
use diffusion::{
    generate, prompts,
    settings::{Where, paths},
    word_maps,
};
use hub::Layout;
use ranks::Terms;
use std::{mem, path::Path};
use workbench::{plan, trace as tracing_of};

pub fn dispatch(verb: Verb, console: &Console) -> Result<()> {
    match verb {
        Verb::Demo(args) => {
            let typed =
                |words: &[String]| dispatch(Args::try_parse_from(words).context("a step of the demo")?.verb, console);
            demo::run(args, console, typed)
        }
        Verb::Init(args) => init::run(args, console),
        Verb::Config(args) => preset::run(&args),
        Verb::Train(args) => train(args, console),
        Verb::Plan(args) => plan(args, console),
        Verb::Prepare(args) => prepare::run(args, console),
        Verb::Generate(args) => generate(args, console),
        Verb::Evaluate(args) => evaluate::run(*args, console),
        Verb::Latents(args) => latents(args, console),
        Verb::Trace(args) => trace(args, console),
        Verb::Signal(args) => signal::run(args, console),
        Verb::Prompts(args) => crate::prompts::run(&args),
        Verb::Entities(args) => entities::run(args),
        Verb::Segment(args) => segment::run(args, console),
        Verb::Attention(args) => attention(args, console),
        Verb::Report(args) => report::run(args, console),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Completions(args) => shell::completions(&args),
        Verb::Man(args) => shell::man(&args),
        Verb::Lora(verb) => lora::run(verb, console),
        Verb::World(verb) => world::run(verb, console),
    }
}

fn warn_of_no_effect(config: &config::Config) {
    for (setting, why) in config.sampling.without_effect() {
        tracing::warn!("no effect: sampling.{setting} ({why})");
    }
    let (warmup, steps) = (config.optimizer.warmup_steps, config.train.steps);
    if steps > 0 && warmup >= steps {
        tracing::warn!(
            "optimizer.warmup_steps is {warmup} and the run has {steps}: it never reaches its learning rate"
        );
    }
    let settings = config.without_effect();
    if !settings.is_empty() {
        tracing::warn!(
            "no effect with [preference], which takes no gradient through the images: {}; these settings can be left out",
            settings.join(", ")
        );
    }
}

/// A run that goes on has its LoRA in the checkpoint: the files of `lora.init` are not read again. Takes the setting out of
/// the configuration, and returns that of the checkpoint, which stays the run's; `None` for a run that begins.
fn start_of_resumed(config: &mut Config, resume: Option<&str>, speaks: bool) -> Option<OneOrMore<Scaled>> {
    // what cannot be found is said where it is opened
    let found = checkpoint::find(&config.output.join("checkpoints"), resume?).ok().flatten()?;
    let typed = mem::take(&mut config.lora.init);
    let began = config::read(&found.join("config.toml"), &[]).map_or_else(|_| typed.clone(), |config| config.lora.init);
    if speaks && typed != began {
        tracing::warn!("no effect: lora.init; the run goes on with the LoRA of {}", found.display());
    }
    Some(began)
}

pub fn train(args: Train, console: &Console) -> Result<()> {
    let mut config = share::config(&args.config, &args.set)?;
    let resume = args.resume.map(|which| paths::expanded(Path::new(&which))).transpose();
    let resume = resume.map_err(|e| anyhow!("--resume: {e}"))?;
    let resume = resume.as_ref().and_then(|which| which.to_str());
    if args.dry_run {
        config.logging.check_program()?;
        let init = start_of_resumed(&mut config, resume, true);
        fetch::config(&mut config, console)?;
        run::folder::check(&config.output, resume)?;
        warn_of_no_effect(&config);
        let mut of_run = config.clone();
        if let Some(init) = init {
            of_run.lora.init = init;
        }
        say!("{}", plan::describe(of_run, resume)?);
        let forecast = plan::memory::forecast(&config, memory_of(&config, None)?)?;
        say!("{forecast}");
        return say_micro_batches(&config, &forecast, None);
    }
    let hint =
        "no step was made of it; --resume auto goes on from the last checkpoint, or begins anew where there is none";
    let mut group = processes::join(terms(&config, hint))?;
    config.check_same(&group)?;
    let init = start_of_resumed(&mut config, resume, group.leads());
    group.first_rank_first(|| fetch::config(&mut config, console))?;
    config.model.device = config.model.device.of_rank(&group);
    group.choose_backend(config.ranks.backend, config.model.device.device()?)?;
    let output = config.output.clone();
    plan::micro_batch::choose(&mut config, resume, &group)?;
    console.stop_on_ctrl_c("Stopping; the step under way is given up, all before it is saved. Ctrl-C once more stops at once, without saving.");
    if group.leads() {
        warn_of_no_effect(&config);
        threads::busy().iter().for_each(|notice| tracing::info!("{notice}"));
    }
    if let Some(init) = init {
        config.lora.init = init;
    }
    let bar = console.bar(watch::SPEAKS, "")?;
    let (mut trainer, mut run) = run::open(config, resume, bar, &console.interrupt, group)?;
    if trainer.group.leads() {
        syntax::warn(trainer.prompts.iter().map(|prompt| prompt.text.as_str()).chain(run.prompts()));
    }
    for change in &trainer.changed {
        say!("Changed since the checkpoint: {change}");
    }
    let begun = trainer.step;
    let ended = trainer.run(&mut run, &console.interrupt)?;
    if !trainer.group.leads() {
        return Ok(());
    }
    match ended {
        Ended::Finished => {
            let adapter = output.join("adapter");
            match (begun, trainer.session.config.train.steps) {
                (1.., steps) if begun >= steps => say!(
                    "No step was left: the run has {begun}, train.steps is {steps}; a larger train.steps trains on. The LoRA is in {}",
                    adapter.display()
                ),
                _ => say!("{} done. The LoRA is in {}", counted(trainer.step as usize, "step"), adapter.display()),
            }
            let verdict = run.verdict();
            if let Some(verdict) = &verdict {
                say!("{verdict}");
            }
            card::write(&trainer.session, trainer.step, verdict.as_deref())?;
            say!("With a model card, for the hub: {}", card::upload(&trainer.session.config));
            if output.join("before-after.png").exists() {
                say!("Before and after: {}", output.join("before-after.png").display());
            }
        }
        Ended::Stopped(step) if !trainer.group.is_alone() => {
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
    let mut config = share::config(&args.config, &args.set)?;
    fetch::config(&mut config, console)?;
    say!("{}", plan::describe(config.clone(), None)?);
    let forecast = plan::memory::forecast(&config, memory_of(&config, args.memory)?)?;
    say!("{forecast}");
    let Some((phase, most)) = forecast.most() else { return Ok(()) };
    let gigabytes = plan::memory::gigabytes;
    say!("  the most is {} in {phase}", gigabytes(most));
    let Some(memory) = args.memory else { return say_micro_batches(&config, &forecast, None) };
    let fitting = forecast.fitting(memory);
    if fitting.is_ok() {
        say_micro_batches(&config, &forecast, Some(memory))?;
    }
    match fitting {
        Ok(settings) if settings.is_empty() => say!("{} is enough", gigabytes(memory)),
        Ok(settings) => {
            let words: Vec<String> = settings.iter().map(|setting| format!("--set {setting}")).collect();
            say!("{} is enough with {}", gigabytes(memory), words.join(" "));
        }
        Err(phases) => bail!(
            "{} is too little even for one sample at a time in {}; try model.dtype = \"bfloat16\" or a smaller sampling.size",
            gigabytes(memory),
            phases.join(", ")
        ),
    }
    Ok(())
}

/// `memory`, or the free memory of the run's device, in bytes.
fn memory_of(config: &config::Config, memory: Option<f64>) -> Result<Option<f64>> {
    let device = config.model.device.device()?;
    Ok(memory.or_else(|| torch_ext::memory::free(device).map(|bytes| bytes as f64)))
}

/// Prints the micro-batches that `micro_batch = "auto"` chooses for `memory` bytes, or for the free memory of the run's
/// device.
fn say_micro_batches(config: &config::Config, forecast: &plan::memory::Forecast, memory: Option<f64>) -> Result<()> {
    if let Some(chosen) =
        memory_of(config, memory)?.and_then(|free| plan::micro_batch::describe(config, forecast, free))
    {
        say!("{chosen}");
    }
    Ok(())
}

pub fn generate(args: Generate, console: &Console) -> Result<()> {
    let Source { model, variant, tokenizer, overrides, lora, lora_scale } = args.source;
    let texts = texts(args.prompt, args.prompts.as_deref())?;
    let sampling = args.sampling.checked().context("generate")?;
    let mut request = generate::Request {
        prompts: texts,
        count: args.count,
        seed: args.seed,
        seeds: if args.own_seeds { generate::Seeds::Own } else { generate::Seeds::Shared },
        sampling,
        batch: args.batch,
        out: args.out,
        grid: args.grid,
        metadata: args.metadata,
        existing: match (args.overwrite, args.resume) {
            (true, _) => generate::Existing::Replace,
            (_, true) => generate::Existing::Keep,
            _ => generate::Existing::Refuse,
        },
        loras: vec![],
        init_latents: args.init_latents,
        save_latents: args.save_latents,
    };
    let hint = "images that are done are whole; the same command with --resume draws the others";
    let group = processes::join(args.ranks.terms(hint, &console.interrupt))?;
    let engine = Engine { device: args.engine.device.of_rank(&group), ..args.engine };
    let (mut model, mut tokenizer, mut captioner) = (model, tokenizer, args.captioner);
    group.first_rank_first(|| {
        if let Some(captioner) = &mut captioner {
            fetch::option("--captioner", captioner, Layout::Network { tokenizer: true }, None, console)?;
        }
        request.loras = fetch::loras(&lora, lora_scale, console)?;
        fetch::model(&mut model, variant.as_deref(), &mut tokenizer, console)
    })?;
    let pipeline = fetch::pipeline(model, variant.as_deref(), tokenizer, overrides.into(), &engine, console)?;
    console
        .stop_on_ctrl_c("Stopping; images that are done are whole. The same command with --resume draws the others.");
    if group.leads() {
        let (images, steps) = (request.prompts.len() * request.count, request.sampling.steps);
        let of = if args.best_of > 1 { format!(", each the best of {},", args.best_of) } else { String::new() };
        tracing::info!(
            "generate: {}{of} in {} each on {}, into {}",
            counted(images, "image"),
            counted(steps, "step"),
            Where::from(pipeline.device),
            request.out.display()
        );
    }
    let of_captioner = captioner.as_ref().map_or(String::new(), |path| path.typed().display().to_string());
    let captioner = captioner
        .map(|path| CaptionLoss::open(&config::Captioner::at(path.to_path_buf()), pipeline.kind, pipeline.device))
        .transpose()
        .context("--captioner")?;
    let loss = |images: &tch::Tensor, prompts: &[&str]| match &captioner {
        Some(captioner) => captioner.losses(images, prompts),
        None => Ok(vec![0.0; prompts.len()]),
    };
    let best =
        captioner.is_some().then_some(generate::Best { of: args.best_of, loss: &loss, of_captioner: &of_captioner });
    let bar = console.count("generate", DENOISING)?;
    let files = generate::run(pipeline, &request, best, &bar, &console.interrupt, &group)?;
    bar.finish_and_clear();
    if group.leads() {
        say!("{} in {}", counted(files.len(), "file"), request.out.display());
    }
    Ok(())
}

pub fn latents(args: Latents, console: &Console) -> Result<()> {
    let mut config = share::config(&args.config, &args.set)?;
    if config.fidelity.is_none() {
        let file = args.config.display();
        tracing::warn!(
            "{file} has no [fidelity]: its defaults are taken, and no run without that section reads the latents"
        );
    }
    config.fidelity.get_or_insert_default();
    let hint = "shards that are done are whole, and the same command goes on";
    let interrupt = Some(console.interrupt.clone());
    let group = processes::join(Terms { interrupt, ..terms(&config, hint) })?;
    config.check_same(&group)?;
    let model = &mut config.model;
    group
        .first_rank_first(|| fetch::model(&mut model.path, model.variant.as_deref(), &mut model.tokenizer, console))?;
    model.device = model.device.of_rank(&group);
    let prompts = prompts::read(&config.prompts.train)?;
    let mut pipeline = config.model.open(config.prompts.chunks)?;
    console.stop_on_ctrl_c("Stopping; shards that are done are whole. The same command goes on.");
    let bar = console.count("latents", "prompts")?;
    let reached = train::reached(&config, &prompts)?;
    let store = latents::complete(&config, &mut pipeline, &reached, &bar, &console.interrupt, &group)?;
    bar.finish_and_clear();
    if group.leads() {
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
        loras: fetch::loras(&lora, lora_scale, console)?,
        out: args.out,
        overwrite: args.overwrite,
    };
    let pipeline = fetch::pipeline(model, variant.as_deref(), tokenizer, overrides.into(), &args.engine, console)?;
    console.stop_on_ctrl_c("Stopping; panels that are done are whole.");
    let bar = console.count("attention", DENOISING)?;
    let files = word_maps::run(pipeline, &request, &bar, &console.interrupt)?;
    bar.finish_and_clear();
    for file in files {
        say!("{}", file.display());
    }
    Ok(())
}

/// Terms of a run's ranks, from its configuration.
fn terms(config: &config::Config, hint: &'static str) -> Terms {
    Terms { timeout: config.ranks.timeout(), setting: "ranks.timeout", hint, interrupt: None }
}

/// The typed prompts, then the prompts of the file.
fn texts(mut typed: Vec<String>, file: Option<&Path>) -> Result<Vec<String>> {
    if let Some(path) = file {
        typed.extend(prompts::read(path)?.into_iter().map(|p| p.text));
    }
    syntax::warn(typed.iter().map(String::as_str));
    Ok(typed)
}

pub fn trace(args: Trace, console: &Console) -> Result<()> {
    let mut config = share::config(&args.config, &args.set)?;
    fetch::config(&mut config, console)?;
    let Trace { noise, out, mut lora, tracked_start, repeat, .. } = args;
    if let Some(adapter) = &mut lora {
        fetch::adapter(Some("--lora"), adapter, console)?;
    }
    let lora = lora.map(|adapter| adapter.to_path_buf());
    let request = tracing_of::Request { noise, out, lora, tracked_start, repeat };
    let mut summary = tracing_of::run(config, &request)?;
    let rewards: String = summary.rewards.iter().map(|(name, reward)| format!(", reward {name} {reward:.8}")).collect();
    say!("tracked steps {:?}, caption loss {:.8}{rewards}", summary.tracked, summary.caption_loss);
    summary.seconds.sort_by(f64::total_cmp);
    say!("iteration {:.3} s (median of {repeat})", summary.seconds[summary.seconds.len() / 2]);
    let phases = summary.phases;
    let of_it = [
        ("trajectory", phases.trajectory),
        ("decode", phases.decode),
        ("caption", phases.caption),
        ("replay", phases.replay),
    ];
    let seconds = of_it.map(|(name, phase)| format!("{name} {:.3} s", phase.seconds));
    say!("of it {}", seconds.join(", "));
    let peak =
        |(name, phase): (&str, torch_ext::clock::Phase)| phase.peak.map(|bytes| format!("{name} {} MiB", bytes >> 20));
    say!("memory at most: {}", of_it.into_iter().filter_map(peak).collect::<Vec<_>>().join(", "));
    if let Some(bytes) = summary.peak_memory {
        say!("peak memory {} MiB", bytes >> 20);
    }
    say!("written to {}", request.out.display());
    Ok(())
}
