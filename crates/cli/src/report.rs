//! `comat report`

use crate::{args::shared::at_least_one, console::Console};
use anyhow::Result;
use clap::Args as Group;
use std::path::PathBuf;

/// Write a page on training runs and evaluations: settings, curves, images before and after, scores with intervals
///
/// One HTML file that needs no network, or with --serve a page that renews itself while the run goes on. A folder is a training run (events.jsonl), an evaluation (base/scores.jsonl,
/// lora/scores.jsonl), or a folder of scored images (scores.jsonl). Several runs share their charts.
#[derive(Group)]
pub struct Report {
    /// Folders of runs and evaluations
    #[arg(value_name = "FOLDER", required = true)]
    folders: Vec<PathBuf>,
    /// Scored images to compare with, for evaluations that have no base of their own
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Serve the page to a browser on this machine, instead of writing it, until Ctrl-C; it follows runs that go on
    #[arg(long, conflicts_with = "out")]
    serve: bool,
    /// Port of --serve on 127.0.0.1; 0: any that is free
    #[arg(long, value_name = "N", default_value_t = 6060, requires = "serve")]
    port: u16,
    /// Where to write; a file that is there is replaced
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Heading of the page; the names of the folders when absent
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Prompts whose images are shown: of each run, and of each category and outcome of an evaluation
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    images: usize,
}

pub fn run(args: Report, console: &Console) -> Result<()> {
    let Report { folders, base, serve, port, out, title, images } = args;
    let request = report::Request { folders, base, title, images };
    if serve {
        console.stop_silently_on_ctrl_c();
        let ready = |address| {
            say!("The report is at http://{address}/ and renews itself. Ctrl-C ends it.");
            Ok(())
        };
        return report::serve::serve(&request, port, ready, || console.interrupt.is_set());
    }
    for note in report::write(&request, &out)? {
        say!("{note}");
    }
    say!("The report is {}", out.display());
    Ok(())
}
