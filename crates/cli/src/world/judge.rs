//! `comat world judge`: judges images against their prompts.

use crate::{console::Console, share, text::counted};
use anyhow::{Result, bail};
use clap::Args as Group;
use laboratory::{scores, second_judge::SecondJudge};
use models::write_text;
use scenes::judging;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tch::Device;

/// Judge images against their prompts, from the pixels alone
///
/// An image's prompt and seed are read from its text chunks, as comat generate writes them, or from a file name like
/// PROMPT_SEED.png. An image is correct if it shows every object with its colour and texture, lying as asked, whole, and
/// nothing else. Intervals are of 95 %, over prompts. Beside FILE.json, FILE.jsonl has a line for each image.
#[derive(Group)]
pub struct Judge {
    /// Prompt file: .jsonl (with categories) or .txt (the category is that of the words)
    #[arg(long, value_name = "FILE", value_parser = share::path)]
    pub prompts: PathBuf,
    /// Folder of 64x64 PNG files
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// A captioner that no training has used, as a second judge: an image passes if its prompt is likelier to it than every caption
    /// with one fault. A folder as comat world pretrain captioner writes it
    #[arg(long, value_name = "DIR", value_parser = share::path)]
    pub captioner: Option<PathBuf>,
    /// Where to write the scores (.json); DIR/scores.json when absent
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn has_scores(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    serde_json::from_str(&text).is_ok_and(|value: Value| value.get("scores").is_some())
}

pub fn run(args: &Judge, console: &Console) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| args.images.join("scores.json"));
    if out.extension().is_none_or(|e| e != "json") {
        bail!("{}: scores are written to a .json file", out.display());
    }
    let lines = out.with_extension("jsonl");
    if models::place(&lines) == models::place(&args.prompts) {
        bail!("--out {}: {} beside it is the file of --prompts; choose another", out.display(), lines.display());
    }
    // the lines come with the scores; alone they are somebody else's
    if let Some(file) = [&out, &lines].into_iter().find(|file| file.exists() && !has_scores(&out)) {
        bail!("{} exists, and has no scores of comat; choose another --out", file.display());
    }
    let questions = judging::questions(&args.prompts)?;
    console.stop_on_ctrl_c("Stopping; nothing is written.");
    let bar = console.count("judge", "images")?;
    let mut outcome = judging::judge(&questions, &args.images, &bar, &console.interrupt)?;
    bar.finish_and_clear();
    if outcome.judged.is_empty() {
        bail!(
            "{}: none of {} is of a prompt in {}; images carry their prompt in a text chunk `prompt`, or are named PROMPT_SEED.png",
            args.images.display(),
            counted(outcome.foreign.len(), "image"),
            args.prompts.display()
        );
    }
    if outcome.ways > 1 {
        tracing::warn!(
            "{}: its images were drawn in {} ways (other settings, models or LoRAs); the table is about all of them together",
            args.images.display(),
            outcome.ways
        );
    }
    if let Some(first) = outcome.twice.first() {
        let count = counted(outcome.twice.len(), "image");
        tracing::warn!("{count} of a prompt and seed that another one has, too, the first: {}", first.display());
    }
    if let Some(captioner) = &args.captioner {
        let judge = SecondJudge::open(captioner, Device::Cpu)?;
        let bar = console.count("second judge", "images")?;
        judge.judge(&mut outcome.judged, &args.images, Device::Cpu, &bar, &console.interrupt)?;
        bar.finish_and_clear();
    }
    let scores = scores::scores(&outcome.judged);
    say!("{scores}");
    if let Some(first) = outcome.missing.first() {
        say!("{} without an image, the first: {first}", counted(outcome.missing.len(), "prompt"));
    }
    if let Some(first) = outcome.foreign.first() {
        let count = counted(outcome.foreign.len(), "image");
        say!("{count} of none of the prompts, not judged, the first: {}", first.display());
    }
    let summary = json!({ "scores": scores, "missing": outcome.missing, "foreign": outcome.foreign });
    write_text(&out, &(serde_json::to_string_pretty(&summary)? + "\n"))?;
    judging::write_lines(&lines, &outcome.judged)?;
    say!("written to {} and {}", out.display(), lines.display());
    Ok(())
}
