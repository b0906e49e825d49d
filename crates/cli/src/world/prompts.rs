//! `comat world prompts`: makes prompts by category.

use crate::{args::shared::at_least_one, console::print, text::counted};
use anyhow::{Result, bail};
use clap::{Args as Group, ValueEnum};
use models::write_text;
use scenes::prompts;
use std::path::PathBuf;

/// Make prompts to train on or to test on
///
/// The categories come in turn: color, shape, texture, complex. No prompt is in both splits, and of the held-out
/// prompts that say everything of an object, each has a combination that no training prompt has.
#[derive(Group)]
pub struct Prompts {
    /// To train on, or to test on
    #[arg(long)]
    pub split: Split,
    /// How many
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub count: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// .jsonl (with categories) or .txt (a prompt a line); to the terminal, as .jsonl, when absent
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace a file that exists
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Split {
    Train,
    HeldOut,
}

pub fn run(args: &Prompts) -> Result<()> {
    let plain = match args.out.as_ref().map(|path| (path, path.extension().and_then(|e| e.to_str()))) {
        Some((_, Some("txt"))) => true,
        None | Some((_, Some("jsonl"))) => false,
        Some((path, _)) => bail!("{}: a prompt file ends in .txt or .jsonl", path.display()),
    };
    if let Some(file) = args.out.as_ref().filter(|file| file.exists() && !args.overwrite) {
        bail!("{} exists; --overwrite replaces it, or choose another file", file.display());
    }
    let split = match args.split {
        Split::Train => prompts::Split::Train,
        Split::HeldOut => prompts::Split::HeldOut,
    };
    let prompts = prompts::make(split, args.count, args.seed);
    let line = |p: &prompts::Prompt| Ok(if plain { p.prompt.clone() } else { serde_json::to_string(p)? } + "\n");
    let text = prompts.iter().map(line).collect::<Result<String>>()?;
    match &args.out {
        Some(path) => {
            write_text(path, &text)?;
            say!("{} in {}", counted(prompts.len(), "prompt"), path.display());
        }
        None => print(format_args!("{text}"))?,
    }
    if prompts.len() < args.count {
        tracing::warn!(
            "{} instead of {}: there are no more different ones",
            counted(prompts.len(), "prompt"),
            args.count
        );
    }
    Ok(())
}
