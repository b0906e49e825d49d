//! `cargo xtask test`: set-up, then `cargo test`.

use crate::command::pass_on;
use crate::setup;
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::ExitCode;

/// Runs `cargo test`, for all packages unless `args` choose some; its exit code is ours.
pub fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    setup::ensure(workspace, false)?;
    let mut cargo = workspace.cargo();
    cargo.arg("test");
    if !choose_packages(args) {
        cargo.arg("--workspace");
    }
    pass_on(cargo.args(args))
}

/// Do the arguments before a `--` name packages? `--workspace` would overrule them.
fn choose_packages(args: &[String]) -> bool {
    let chooses = |arg: &String| arg == "--package" || arg.starts_with("--package=") || arg.starts_with("-p");
    args.iter().take_while(|arg| *arg != "--").any(chooses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_recognised() {
        let choose = |line: &str| choose_packages(&line.split(' ').map(String::from).collect::<Vec<_>>());
        assert!(choose("-p models"));
        assert!(choose("--release -pmodels"));
        assert!(choose("--package=models name"));
        assert!(!choose("name --release"));
        assert!(!choose("-- -p"));
    }
}
