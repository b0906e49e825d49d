//! `comat config`: the presets, to be copied.

use crate::{console::print, share};
use anyhow::{Context, Result};
use clap::Args as Group;
use std::{fs, path::PathBuf};

/// Print a preset, to be changed: comat config sd15 > my.toml
///
/// Every setting with a comment is in sd15 and sdxl. Without a name, the presets are listed.
#[derive(Group)]
pub struct Config {
    /// Such as sd15
    preset: Option<PathBuf>,
}

pub fn run(args: &Config) -> Result<()> {
    let Some(name) = &args.preset else {
        for name in share::presets() {
            say!("{name:18} {}", about(&name)?);
        }
        return Ok(());
    };
    let file = share::preset(name)?;
    print(format_args!("{}", fs::read_to_string(&file).with_context(|| file.display().to_string())?))
}

/// The first sentence of its first comment.
fn about(name: &str) -> Result<String> {
    let text = fs::read_to_string(share::preset(name.as_ref())?)?;
    let comment: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let comment = comment.join(" ");
    Ok(comment.split_inclusive(". ").next().unwrap_or_default().trim_end_matches([' ', '.', ':']).to_owned())
}
