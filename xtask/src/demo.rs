//! `cargo xtask demo`: a complete training run on the miniature world.

use crate::command::{must, program};
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the demo writes, relative to the workspace.
const FOLDER: &str = "runs/demo";

/// How held-out prompts are drawn: every image from noise of its own, the same for all sides.
const DRAW: &str = "generate --model weights/world/sd --prompts configs/world/held_out.jsonl --count 2 --own-seeds --sampler ddim \
                    --steps 10 --batch 50";
/// Guidance scales: at which the base model draws best, chosen on other prompts (`comat world sweep`); of the LoRAs; and none.
const GUIDANCE_BASE: &str = "--guidance-scale 6";
const GUIDANCE_TUNED: &str = "--guidance-scale 1";
const UNGUIDED: &str = "--guidance-scale 1";
const JUDGE: &str = "world judge --prompts configs/world/held_out.jsonl";

/// What the demo does: a line to say, then the command line of `comat`, in which the names of the constants above stand for them.
/// The base model is drawn at its best guidance and without guidance; the LoRAs without, as they were trained.
const STEPS: &[(&str, &str)] = &[
    ("a LoRA from prompts alone", "train --config configs/world.toml --set output=runs/demo"),
    ("held-out prompts, the base model at its best guidance", "DRAW GUIDANCE_BASE --out runs/demo/base"),
    ("the same without guidance", "DRAW UNGUIDED --out runs/demo/base-unguided"),
    (
        "the same prompts and noises with the LoRA, without guidance",
        "DRAW GUIDANCE_TUNED --lora runs/demo/adapter/pytorch_lora_weights.safetensors --out runs/demo/tuned",
    ),
    (
        "the same with the LoRA of a long training",
        "DRAW GUIDANCE_TUNED --lora weights/world/lora/comat.safetensors --out runs/demo/long",
    ),
    ("the base model at its best guidance, judged", "JUDGE --images runs/demo/base"),
    ("the base model without guidance, judged", "JUDGE --images runs/demo/base-unguided"),
    ("this training's LoRA without guidance, judged", "JUDGE --images runs/demo/tuned"),
    ("the long training's LoRA, judged", "JUDGE --images runs/demo/long"),
    (
        "a report at equal cost: both without guidance",
        "world report --run runs/demo --base runs/demo/base-unguided --tuned runs/demo/tuned \
         --prompts configs/world/held_out.jsonl --out runs/demo/unguided.html",
    ),
    (
        "the report: the base model at its best guidance, this training's LoRA, and the long training's",
        "world report --run runs/demo --base runs/demo/base --tuned runs/demo/tuned --also long=runs/demo/long \
         --prompts configs/world/held_out.jsonl --out runs/demo/report.html",
    ),
];

/// Where to look afterwards.
const RESULTS: &[(&str, &str)] = &[
    (
        "report.html",
        "for the browser: the base model at its best guidance beside the LoRA, scores with intervals, curves of the run",
    ),
    ("unguided.html", "the same, both without guidance: at equal cost"),
    ("before-after.png", "sample prompts: the base model above, the tuned one below"),
    ("base/, tuned/, …", "held-out prompts without and with a LoRA, and scores.jsonl"),
    ("adapter/", "the LoRA, for diffusers and for ComfyUI or A1111"),
    ("events.jsonl", "loss, gradient norm, time and memory of every step"),
];

/// Builds the release binary and goes through the steps.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    setup::ensure(workspace, false)?;
    let comat = workspace.release_build()?;
    if let Some(aside) = move_aside(&workspace.root().join(FOLDER))? {
        eprintln!("demo: the previous run lies in {} now", aside.display());
    }
    for (number, (what, args)) in STEPS.iter().enumerate() {
        let args = written_out(args);
        eprintln!("demo: {}/{} {what}: comat {args}", number + 1, STEPS.len());
        must(program(&comat).args(args.split_whitespace()).current_dir(workspace.root()))?;
    }
    println!("demo: done. Look into {FOLDER}:");
    for (name, what) in RESULTS {
        println!("  {name:17} {what}");
    }
    Ok(ExitCode::SUCCESS)
}

/// A step's command line, without names of constants.
fn written_out(args: &str) -> String {
    let names = [
        ("GUIDANCE_BASE", GUIDANCE_BASE),
        ("GUIDANCE_TUNED", GUIDANCE_TUNED),
        ("UNGUIDED", UNGUIDED),
        ("DRAW", DRAW),
        ("JUDGE", JUDGE),
    ];
    names.iter().fold(args.to_owned(), |args, (name, words)| args.replace(name, words))
}

/// Renames the folder to the first free name with a number, so that no run is ever lost; None if there is no folder.
fn move_aside(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.exists() {
        return Ok(None);
    }
    let name = |n: usize| {
        let mut name = folder.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    let aside = (1..).map(name).find(|free| !free.exists()).context("no free name for the previous run")?;
    fs::rename(folder, &aside)
        .with_context(|| format!("could not move {} to {}", folder.display(), aside.display()))?;
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_constant_is_left() {
        for (_, args) in STEPS {
            let args = written_out(args);
            assert!(!args.contains(|c: char| c.is_ascii_uppercase()), "{args}");
            assert!(!args.starts_with("generate") || args.contains("--guidance-scale "), "{args}");
        }
    }

    #[test]
    fn earlier_runs_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let run = scratch.path().join("demo");
        assert_eq!(move_aside(&run).unwrap(), None);
        for expected in ["demo.1", "demo.2"] {
            fs::create_dir(&run).unwrap();
            assert_eq!(move_aside(&run).unwrap(), Some(scratch.path().join(expected)));
            assert!(!run.exists());
        }
    }
}
