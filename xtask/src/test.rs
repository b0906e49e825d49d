//! `cargo xtask test`: set-up, then `cargo test` on the CPU and on a device that stands in for a GPU.

use crate::command::{line, pass_on};
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::process::ExitCode;

/// The tests that meet a device most: they run on the stand-in too (crates/stand-in).
const ON_THE_STAND_IN: [(&str, &[&str]); 3] = [
    ("comat", &["attention", "caption", "discriminator", "replay", "waits"]),
    ("workbench", &["prepare"]),
    ("cli", &["evaluate", "fidelity", "precision", "segment", "trace"]),
];

/// Runs `cargo test`, for all packages unless `args` choose some; its exit code is ours. With `stand_in` on the stand-in for a GPU.
/// Without arguments some tests run on both.
pub fn run(workspace: &Workspace, stand_in: bool, args: &[String]) -> Result<ExitCode> {
    setup::ensure(workspace, false)?;
    let mut cargo = workspace.cargo();
    cargo.arg("test");
    if !choose_packages(args) {
        cargo.arg("--workspace");
    }
    if stand_in {
        return pass_on(cargo.args(preloaded(workspace)?).args(args).env("COMAT_TEST_DEVICE", "cuda:0"));
    }
    let code = pass_on(cargo.args(args))?;
    if code != ExitCode::SUCCESS || !args.is_empty() || std::env::var_os("COMAT_TEST_DEVICE").is_some() {
        return Ok(code);
    }
    println!("\nOn the stand-in for a GPU:");
    for (package, binaries) in ON_THE_STAND_IN {
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--package", package]).args(preloaded(workspace)?).env("COMAT_TEST_DEVICE", "cuda:0");
        binaries.iter().for_each(|binary| _ = cargo.args(["--test", binary]));
        let code = pass_on(&mut cargo)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Arguments of cargo with which test programs, and only they, are started with the stand-in.
fn preloaded(workspace: &Workspace) -> Result<[String; 2]> {
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--quiet", "--package", "stand-in"]);
    let output = cargo.output()?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(&cargo), String::from_utf8_lossy(&output.stderr));
    }
    let library = String::from_utf8(output.stdout)?;
    let runner = format!("target.'cfg(all())'.runner = ['env', 'LD_PRELOAD={}']", library.trim());
    Ok(["--config".into(), runner])
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
