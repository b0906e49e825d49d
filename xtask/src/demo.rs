//! `cargo xtask demo`: set-up, a build, and `comat demo`.

use crate::command::{pass_on, program};
use crate::setup;
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::ExitCode;

/// Builds the release binary and has it go through its demo, in the workspace.
pub fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    setup::ensure(workspace, false)?;
    let comat = workspace.build("release", &[])?;
    pass_on(program(comat).arg("demo").args(args).current_dir(workspace.root()))
}
