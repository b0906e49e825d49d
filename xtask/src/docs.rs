//! `cargo xtask docs`: the pages that are made from the code.

use crate::command::pass_on;
use crate::setup;
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::ExitCode;

/// The tests that compare them write them when they are asked to.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    setup::ensure(workspace, false)?;
    for words in [&["settings_reference"][..], &["program", "--", "help::", "errors::"]] {
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--quiet", "--workspace", "--test"]).args(words).env("COMAT_RENEW_DOCS", "1");
        let code = pass_on(&mut cargo)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}
