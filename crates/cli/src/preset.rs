//! `comat config`: prints all settings, or a preset to copy.

use crate::{console::print, share};
use anyhow::{Result, bail};
use clap::Args as Group;
use config::reference;
use models::Error;
use std::{fs, path::PathBuf};

/// Print all settings with their meaning, or a preset to change: comat config sd15 > my.toml
///
/// Without a name: every section and key of a configuration with its type, default and meaning (docs/config.md).
#[derive(Group)]
pub struct Config {
    /// Print this preset, such as sd15
    preset: Option<PathBuf>,
    /// List the presets
    #[arg(long, conflicts_with_all = ["preset", "schema"])]
    presets: bool,
    /// Print a JSON schema of all settings: editors complete and check a configuration with it
    #[arg(long, conflicts_with = "preset")]
    schema: bool,
}

pub fn run(args: &Config) -> Result<()> {
    if args.schema {
        return print(format_args!("{}", reference::schema_text()));
    }
    if args.presets {
        let names = share::presets();
        if names.is_empty() {
            bail!("presets are not found; {}", share::advice());
        }
        for name in names {
            say!("{name:18} {}", about(&name)?);
        }
        return Ok(());
    }
    let Some(name) = &args.preset else { return print(format_args!("{}", reference::markdown())) };
    let file = share::preset(name)?;
    print(format_args!("{}", fs::read_to_string(&file).map_err(Error::io(&file))?))
}

/// The first sentence of a preset's first comment.
fn about(name: &str) -> Result<String> {
    let text = fs::read_to_string(share::preset(name.as_ref())?)?;
    let comment: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let comment = comment.join(" ");
    Ok(comment.split_inclusive(". ").next().unwrap_or_default().trim_end_matches([' ', '.', ':']).to_owned())
}
