//! `comat world report`

use crate::share;
use anyhow::Result;
use clap::Args as Group;
use laboratory::{report, scores::Measure};
use std::path::PathBuf;

/// Write a page on what a run changed: images before and after, scores with intervals, loss curves
///
/// One HTML file that needs no network. Draw the same prompts with the same seeds without and with the LoRA
/// (comat generate), and judge both folders (comat world judge) first.
#[derive(Group)]
pub struct Report {
    /// Folder of the training run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Judged images without the LoRA
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Judged images with the LoRA
    #[arg(long, value_name = "DIR")]
    tuned: PathBuf,
    /// Judged images with another LoRA, as a third column: what it is called, and their folder
    #[arg(long, value_name = "NAME=DIR", value_parser = named)]
    also: Option<(String, PathBuf)>,
    /// LoRA file that images were drawn with, for the commands on the page: an image contains only its name; can be given several times
    #[arg(long, value_name = "FILE")]
    lora: Vec<PathBuf>,
    /// A sentence for the top of the page, for example what the columns are
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// The prompt file that both were drawn from
    #[arg(long, value_name = "FILE", value_parser = share::path)]
    prompts: PathBuf,
    /// Where to write; a file that is there is replaced
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name.to_owned(), folder.into())),
        _ => Err("must be NAME=DIR".into()),
    }
}

pub fn run(args: Report) -> Result<()> {
    let Report { run, base, tuned, also, lora: loras, note, prompts, out } = args;
    let comparison =
        report::write(&report::Request { run, base, tuned, also, loras, note, prompts, out: out.clone() })?;
    say!("{comparison}\n");
    if let Some(change) = comparison.all.get(Measure::Correct) {
        let [base, tuned] = [change.base, change.tuned].map(|e| Measure::Correct.percent(e.value));
        say!("All correct: {base} % → {tuned} %");
    }
    say!("The report is {}", out.display());
    Ok(())
}
