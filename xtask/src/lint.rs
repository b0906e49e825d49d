//! `cargo xtask lint`: formatting, clippy and the documentation's links, warnings counted as errors.

use crate::command::{pass_on, succeeds};
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::process::ExitCode;

/// What cargo runs a check with, and the component of rustup that brings it.
const TOOLS: [(&str, &str); 2] = [("fmt", "rustfmt"), ("clippy", "clippy")];

/// Runs all checks, the fast ones first; the exit code of the first that complains is ours.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    match missing(workspace) {
        Some((tool, component)) => bail!("cargo {tool} is not installed; `rustup component add {component}`"),
        None => check(workspace),
    }
}

/// The same for `cargo xtask test`, which does without where a tool is not installed.
pub fn if_installed(workspace: &Workspace) -> Result<ExitCode> {
    match missing(workspace) {
        Some((tool, component)) => {
            println!(
                "cargo {tool} is not installed (`rustup component add {component}`): format and lints are not checked"
            );
            Ok(ExitCode::SUCCESS)
        }
        None => check(workspace),
    }
}

fn missing(workspace: &Workspace) -> Option<(&'static str, &'static str)> {
    TOOLS.into_iter().find(|(tool, _)| !succeeds(workspace.cargo().args([*tool, "--version"])))
}

fn check(workspace: &Workspace) -> Result<ExitCode> {
    let formatted = pass_on(workspace.cargo().args(["fmt", "--all", "--check"]))?;
    if formatted != ExitCode::SUCCESS {
        return Ok(formatted);
    }
    setup::ensure(workspace, false)?; // clippy runs torch-sys' build script
    let linted = pass_on(workspace.cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    if linted != ExitCode::SUCCESS {
        return Ok(linted);
    }
    let mut doc = workspace.cargo();
    // the program's own comments are its help, where [FILE] is no link
    doc.args(["doc", "--workspace", "--exclude", "cli", "--exclude", "xtask", "--no-deps"]);
    pass_on(doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"))
}
