//! `comat report`

use crate::args::at_least_one;
use anyhow::Result;
use clap::Args as Group;
use std::path::PathBuf;

/// Write a page on training runs and evaluations: settings, curves, pictures before and after, scores with intervals
///
/// One HTML file that needs no network. A folder is a training run (events.jsonl), an evaluation (base/scores.jsonl,
/// lora/scores.jsonl), or a folder of scored pictures (scores.jsonl). Several runs share their charts.
#[derive(Group)]
pub struct Report {
    /// Folders of runs and evaluations
    #[arg(value_name = "FOLDER", required = true)]
    folders: Vec<PathBuf>,
    /// Scored pictures to compare with, for evaluations that have no base of their own
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Where to write; a file that is there is replaced
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Heading of the page; the names of the folders when absent
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Prompts whose pictures are shown: of each run, and of each category and outcome of an evaluation
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pictures: usize,
}

pub fn run(args: Report) -> Result<()> {
    let Report { folders, base, out, title, pictures } = args;
    for note in report::write(&report::Request { folders, base, title, pictures, out: out.clone() })? {
        say!("{note}");
    }
    say!("The report is {}", out.display());
    Ok(())
}
