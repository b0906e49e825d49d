//! `comat completions`, `comat man`: shell completions and man pages.

use crate::args::Args;
use anyhow::Result;
use clap::{Args as Group, CommandFactory};
use clap_complete::Shell;
use models::Error;
use std::{fs, path::PathBuf};

/// Print a shell's completions
///
/// bash: comat completions bash > ~/.local/share/bash-completion/completions/comat
/// zsh:  comat completions zsh > ~/.zfunc/_comat        (with ~/.zfunc in fpath)
/// fish: comat completions fish > ~/.config/fish/completions/comat.fish
#[derive(Group)]
#[command(verbatim_doc_comment)]
pub struct Completions {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

/// Write the man pages: comat.1 and one for each command
#[derive(Group)]
pub struct Man {
    /// Folder for them; made when it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn completions(args: &Completions) -> Result<()> {
    let mut text = vec![];
    clap_complete::generate(args.shell, &mut Args::command(), "comat", &mut text);
    crate::console::print(format_args!("{}", String::from_utf8_lossy(&text)))
}

pub fn man(args: &Man) -> Result<()> {
    let out = &args.out;
    fs::create_dir_all(out).map_err(Error::io(out))?;
    clap_mangen::generate_to(Args::command(), out).map_err(Error::io(out))?;
    say!("The man pages are in {}; man -l {}", out.display(), out.join("comat.1").display());
    Ok(())
}
