//! `adapter/README.md`: a model card for the hub, with the settings for other programs.

mod recipe;

use crate::text::{counted, quoted};
use anyhow::Result;
use comat::session::Session;
use config::{Config, Preference};
use diffusion::settings::Location;
use models::{Error, write_text};
use report::log::{Log, Validation};
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
    let judged = judged(Log::read(run)?.comparable());
    write_text(&adapter.join("README.md"), &card(config, steps, verdict, &judged, image, &recipe(".")))?;
    if let Some((_, newest)) = samples::rounds(run)?.pop() {
        write_text(
            &newest.join("README.md"),
            &format!("# How to draw these elsewhere\n\n{}", recipe("../../adapter")),
        )?;
    }
    Ok(())
}

/// A row for each metric of the judge, on images of held-out prompts: in the first round, in the best one by the first
/// metric, and in the last.
fn judged<'a>(rounds: impl IntoIterator<Item = &'a Validation>) -> Vec<(String, String)> {
    let rounds: Vec<&Validation> = rounds.into_iter().filter(|round| !round.judge.is_empty()).collect();
    let [first, .., last] = rounds[..] else { return vec![] };
    let metrics: Vec<&String> = first.judge.keys().collect();
    let value = |round: &Validation| metrics.first().and_then(|name| round.metric(name)).unwrap_or(f64::MIN);
    let best = rounds.iter().rev().copied().max_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or(last);
    let row = |metric: &&String| {
        let at = |round: &Validation| Some(format!("{:.4} at step {}", round.metric(metric)?, round.step));
        let mut values: Vec<String> = [first, best, last].into_iter().filter_map(at).collect();
        values.dedup();
        (format!("judge: {metric}"), values.join(", "))
    };
    metrics.iter().map(row).collect()
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
    format!("hf upload {} {} .", quoted(&format!("YOUR-NAME/{}", name(config))), quoted(&folder.display().to_string()))
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

fn card(
    config: &Config,
    steps: u64,
    verdict: Option<&str>,
    judged: &[(String, String)],
    image: bool,
    recipe: &str,
) -> String {
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
        ("steps", format!("{steps}, of {} each", counted(train.batch_size * train.accumulation, "sample"))),
        ("LoRA", format!("rank {}, alpha {}", config.lora.rank, config.lora.alpha())),
        ("learning rate", format!("{:e}", config.optimizer.learning_rate)),
        (
            "sampling",
            format!(
                "{}, {}, guidance {}",
                config.sampling.sampler,
                counted(config.sampling.steps, "step"),
                guidance(config.sampling.guidance_scale)
            ),
        ),
        match &config.preference {
            None => ("replay", format!("{}, {}", counted(config.replay.tracked, "step"), config.replay.mode)),
            Some(p) => {
                let Preference { candidates, compared, beta, anchor, .. } = p;
                let learnt = if compared < candidates { format!(", {compared} compared") } else { String::new() };
                ("preference", format!("{candidates} images of each prompt{learnt}, beta {beta}, anchor {anchor}"))
            }
        },
        ("attention losses", on(config.attention.is_some())),
        ("discriminator", on(config.fidelity.is_some())),
        ("anchor", on(config.anchor.is_some())),
        ("seed", config.seed.to_string()),
    ];
    let method = match config.preference {
        None => {
            "CoMat (Jiang et al., NeurIPS 2024): a frozen captioner tells how likely the prompt is, given the image."
        }
        Some(_) => {
            "preferences between the model's own images (DiffusionNFT, Zheng et al. 2025): those become likelier for which a frozen \
             captioner finds the prompt likelier."
        }
    };
    let row = |what: &str, value: &str| format!("| {what} | {value} |\n");
    let settings = rows.iter().map(|(what, value)| row(what, value));
    let table: String = settings.chain(judged.iter().map(|(what, value)| row(what, value))).collect();
    format!(
        "---\n{base}library_name: diffusers\npipeline_tag: text-to-image\ntags:\n- lora\n- text-to-image\n- comat\n---\n\n\
         # {name}\n\nA LoRA for {model}, trained with prompts alone by {method}\n\n{image}{verdict}| | |\n|---|---|\n{table}\n## Draw with it\n\n{recipe}"
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_judge_saw() {
        let round = |step: u64, bound: f64, clean: f64| -> Validation {
            let judge = json!({ "bound": bound, "clean": clean });
            let line = json!({ "step": step, "caption_loss": 1, "standard_error": 0, "prompts": 2, "judge": judge });
            serde_json::from_value(line).unwrap()
        };
        let rows = judged(&[round(0, 0.1, 0.9), round(2, 0.4, 0.8), round(4, 0.4, 0.7), round(6, 0.3, 0.6)]);
        assert_eq!(rows[0], ("judge: bound".into(), "0.1000 at step 0, 0.4000 at step 2, 0.3000 at step 6".into()));
        assert_eq!(rows[1].1, "0.9000 at step 0, 0.8000 at step 2, 0.6000 at step 6");
        assert_eq!(judged(&[round(0, 0.1, 0.9), round(2, 0.4, 0.8)])[0].1, "0.1000 at step 0, 0.4000 at step 2");
        assert!(judged(&[round(0, 0.1, 0.9)]).is_empty() && judged(&[]).is_empty());
    }
}
