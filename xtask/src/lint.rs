//! `cargo xtask lint`: formatting and clippy, warnings counted as errors.

use crate::command::{pass_on, succeeds};
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::process::ExitCode;

/// Runs both checks; the exit code of the first that complains is ours.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !succeeds(workspace.cargo().args([tool, "--version"])) {
            bail!("cargo {tool} is not installed; `rustup component add {component}`");
        }
    }
    let formatted = pass_on(workspace.cargo().args(["fmt", "--all", "--check"]))?;
    if formatted != ExitCode::SUCCESS {
        return Ok(formatted);
    }
    setup::ensure(workspace, false)?; // clippy runs torch-sys' build script
    pass_on(workspace.cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}
