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

/// Guidance scales at which held-out prompts are drawn: the base model's and the LoRAs' best, as `comat world sweep` finds them.
/// 1 is no guidance.
const GUIDANCE_BASE: &str = "1";
const GUIDANCE_TUNED: &str = "1";
const GUIDANCE_SHIPPED: &str = "1";

/// A LoRA of a longer training; drawn and judged too where it is there.
const SHIPPED: &str = "weights/world/lora/comat.safetensors";

/// What the demo does: a line to say, then the command line of `comat`.
fn steps(with_shipped: bool) -> Vec<(&'static str, String)> {
    const PROMPTS: &str = "--prompts configs/world/held_out.jsonl";
    let draw = |side: &str, guidance: &str, lora: &str| {
        let lora = if lora.is_empty() { String::new() } else { format!("--lora {lora} ") };
        format!(
            "generate --model weights/world/sd {lora}{PROMPTS} --count 3 --own-seeds --sampler ddim --steps 10 \
             --guidance-scale {guidance} --batch 16 --out {FOLDER}/{side}"
        )
    };
    let judge = |side: &str| format!("world judge --images {FOLDER}/{side} {PROMPTS}");
    let tuned = format!("{FOLDER}/adapter/pytorch_lora_weights.safetensors");
    let mut steps = vec![
        ("a LoRA from prompts alone", format!("train --config configs/world.toml --set output={FOLDER}")),
        ("held-out prompts, drawn by the base model", draw("base", GUIDANCE_BASE, "")),
        ("the same prompts and seeds with the LoRA", draw("tuned", GUIDANCE_TUNED, &tuned)),
        ("the base images, judged", judge("base")),
        ("the tuned images, judged", judge("tuned")),
    ];
    let mut also = String::new();
    if with_shipped {
        steps.push(("the same with the LoRA of a longer training", draw("shipped", GUIDANCE_SHIPPED, SHIPPED)));
        steps.push(("its images, judged", judge("shipped")));
        also = format!("--also shipped={FOLDER}/shipped ");
    }
    let report = format!(
        "world report --run {FOLDER} --base {FOLDER}/base --tuned {FOLDER}/tuned {also}{PROMPTS} --out {FOLDER}/report.html"
    );
    steps.push(("the report", report));
    steps
}

/// Where to look afterwards.
const RESULTS: &[(&str, &str)] = &[
    ("report.html", "for the browser: before and after, scores with intervals, curves of the run"),
    ("before-after.png", "sample prompts: the base model above, the tuned one below"),
    (
        "base/, tuned/",
        "held-out prompts without and with the LoRA, and scores.jsonl; shipped/: with the longer training's",
    ),
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
    let steps = steps(workspace.root().join(SHIPPED).exists());
    for (number, (what, args)) in steps.iter().enumerate() {
        eprintln!("demo: {}/{} {what}: comat {args}", number + 1, steps.len());
        must(program(&comat).args(args.split_whitespace()).current_dir(workspace.root()))?;
    }
    println!("demo: done. Look into {FOLDER}:");
    for (name, what) in RESULTS {
        println!("  {name:17} {what}");
    }
    Ok(ExitCode::SUCCESS)
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
    fn a_shipped_lora_is_a_third_column() {
        let line = |steps: &[(&str, String)]| steps.iter().map(|(_, args)| args.clone()).collect::<Vec<_>>();
        let (without, with) = (line(&steps(false)), line(&steps(true)));
        assert_eq!((without.len(), with.len()), (6, 8));
        assert!(without.iter().all(|args| !args.contains("shipped") && !args.contains("  ")), "{without:?}");
        assert!(
            with[5].contains(&format!("--lora {SHIPPED} ")) && with[7].contains("--also shipped=runs/demo/shipped ")
        );
        let drawn = with.iter().filter(|args| args.starts_with("generate"));
        assert_eq!(drawn.filter(|args| args.contains("--own-seeds")).count(), 3);
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
