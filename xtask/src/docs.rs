//! `cargo xtask docs`: the pages that are made from the code.

use crate::command::pass_on;
use crate::setup;
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::ExitCode;

/// The test that compares them writes them when it is asked to.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    setup::ensure(workspace, false)?;
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--quiet", "--workspace", "--test", "settings_reference"]).env("COMAT_RENEW_DOCS", "1");
    pass_on(&mut cargo)
}
