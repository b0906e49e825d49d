//! `adapter/README.md`: a model card for the hub, with the settings for other programs.

mod recipe;

use anyhow::Result;
use comat::session::Session;
use config::Config;
use diffusion::settings::Location;
use models::{Error, write_text};
use runlog::samples;
use std::{fs, path::Path};

/// Writes the card and a copy of the before-after image beside the LoRA, and the recipe beside the newest samples.
pub fn write(session: &Session, steps: u64, verdict: Option<&str>) -> Result<()> {
    let config = &session.config;
    let model = recipe::Model::of(session.pipeline.base(), session.pipeline.schedule()?);
    let path = match config.model.path.typed() {
        _ if is_local(&config.model.path) => format!("PATH-TO/{}", shown(&config.model.path)),
        typed => typed.display().to_string(),
    };
    let recipe = |folder: &str| recipe::of(config, &model, &name(config), &path, folder);
    let (run, adapter) = (&config.output, config.output.join("adapter"));
    let image = copy_image(run, &adapter)?;
    write_text(&adapter.join("README.md"), &card(config, steps, verdict, image, &recipe(".")))?;
    if let Some((_, newest)) = samples::rounds(run)?.pop() {
        write_text(
            &newest.join("README.md"),
            &format!("# How to draw these elsewhere\n\n{}", recipe("../../adapter")),
        )?;
    }
    Ok(())
}

fn copy_image(run: &Path, adapter: &Path) -> Result<bool> {
    let image = run.join("before-after.png");
    if !image.exists() {
        return Ok(false);
    }
    let copy = adapter.join("before-after.png");
    fs::copy(&image, &copy).map_err(Error::io(&copy))?;
    Ok(true)
}

/// The command that uploads the LoRA's folder to the hub.
pub fn upload(config: &Config) -> String {
    let folder = config.output.join("adapter");
    format!("hf upload YOUR-NAME/{} {} .", name(config), crate::text::quoted(&folder.display().to_string()))
}

fn name(config: &Config) -> String {
    config.output.file_name().map_or("comat".into(), |name| name.to_string_lossy().into_owned())
}

/// Name of a model for other users. Of a local path, only the last part; the folders of this machine mean nothing to
/// them.
fn shown(location: &Location) -> String {
    let typed = location.typed();
    let last = typed.file_name().map(|name| name.to_string_lossy().into_owned());
    last.filter(|_| is_local(location)).unwrap_or_else(|| typed.display().to_string())
}

fn is_local(location: &Location) -> bool {
    location.typed().is_absolute() || location.typed().exists()
}

fn card(config: &Config, steps: u64, verdict: Option<&str>, image: bool, recipe: &str) -> String {
    let (name, model) = (name(config), shown(&config.model.path));
    let base = if model.contains('/') { format!("base_model: {model}\n") } else { String::new() };
    let image = if image { "![base model above, with the LoRA below](before-after.png)\n\n" } else { "" };
    let verdict = verdict.map_or(String::new(), |verdict| format!("{verdict}.\n\n"));
    let train = &config.train;
    let guidance = |scale: f64| if scale == 1.0 { "none".into() } else { scale.to_string() };
    let rows = [
        ("base model", model.clone()),
        ("captioner", shown(&config.captioner.path)),
        ("other rewards", rewards(config)),
        ("steps", format!("{steps} of {} samples", train.batch_size * train.accumulation)),
        ("LoRA", format!("rank {}, alpha {}", config.lora.rank, config.lora.alpha())),
        ("learning rate", format!("{:e}", config.optimizer.learning_rate)),
        (
            "sampling",
            format!(
                "{}, {} steps, guidance {}",
                config.sampling.sampler,
                config.sampling.steps,
                guidance(config.sampling.guidance_scale)
            ),
        ),
        ("replay", format!("{} steps, {}", config.replay.tracked, config.replay.mode)),
        ("attention losses", on(config.attention.is_some())),
        ("discriminator", on(config.fidelity.is_some())),
        ("anchor", on(config.anchor.is_some())),
        ("seed", config.seed.to_string()),
    ];
    let table: String = rows.iter().map(|(what, value)| format!("| {what} | {value} |\n")).collect();
    format!(
        "---\n{base}library_name: diffusers\npipeline_tag: text-to-image\ntags:\n- lora\n- text-to-image\n- comat\n---\n\n\
         # {name}\n\nA LoRA for {model}, trained with prompts alone by CoMat (Jiang et al., NeurIPS 2024): a frozen captioner tells how likely \
         the prompt is, given the image.\n\n{image}{verdict}| | |\n|---|---|\n{table}\n## Draw with it\n\n{recipe}"
    )
}

fn rewards(config: &Config) -> String {
    let one = |r: &config::Reward| format!("{} (weight {}): {}", r.name(), r.weight, shown(&r.path));
    let all: Vec<String> = config.rewards.iter().map(one).collect();
    if all.is_empty() { "none".into() } else { all.join("; ") }
}

fn on(is: bool) -> String {
    if is { "on" } else { "off" }.into()
}
