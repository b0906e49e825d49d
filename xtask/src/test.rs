//! `cargo xtask test`: set-up and lints, then `cargo test` on the CPU and on a device that stands in for a GPU.

use crate::command::{line, pass_on};
use crate::lint;
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::process::ExitCode;

/// The tests that meet a device most: they run on the stand-in too (crates/stand-in). Test programs, and of each the tests, by how their
/// names begin; none: all of them.
const ON_THE_STAND_IN: [(&[&str], &[&str]); 2] = [
    (&["caption", "discriminator", "replay", "waits"], &[]),
    (
        &["program"],
        &[
            "attention::",
            "evaluate::",
            "fidelity::",
            "generate::",
            "mixed::",
            "precision::",
            "prepare::",
            "segment::",
            "trace::",
            "train::offloading",
            "watch::",
        ],
    ),
];

/// Runs `cargo test`, for all packages unless `args` choose some; its exit code is ours. With `stand_in` on the stand-in for a GPU.
/// Without arguments format and lints are checked first, and some tests run on both.
pub fn run(workspace: &Workspace, stand_in: bool, args: &[String]) -> Result<ExitCode> {
    setup::ensure(workspace, false)?;
    if args.is_empty() && !stand_in {
        let linted = lint::if_installed(workspace)?;
        if linted != ExitCode::SUCCESS {
            return Ok(linted);
        }
    }
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
    let preloaded = preloaded(workspace)?;
    for (programs, tests) in ON_THE_STAND_IN {
        let mut cargo = workspace.cargo();
        // of the whole workspace, as above: what is built is built already
        cargo.args(["test", "--workspace"]).args(&preloaded).env("COMAT_TEST_DEVICE", "cuda:0");
        programs.iter().for_each(|program| _ = cargo.args(["--test", program]));
        let code = pass_on(cargo.arg("--").args(tests))?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Arguments of cargo with which test programs, and only they, are started with the stand-in.
fn preloaded(workspace: &Workspace) -> Result<[String; 2]> {
    let mut cargo = workspace.cargo();
    // of the whole workspace, so that no dependency is built once more with other features
    cargo.args(["build", "--quiet", "--workspace", "--bin", "stand-in", "--message-format", "json"]);
    let output = cargo.output()?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(&cargo), String::from_utf8_lossy(&output.stderr));
    }
    let folder =
        built(&String::from_utf8(output.stdout)?).context("cargo does not say where crates/stand-in was built")?;
    let runner = format!("target.'cfg(all())'.runner = ['env', 'LD_PRELOAD={folder}/libstand_in.so']");
    Ok(["--config".into(), runner])
}

/// Where the build script of the stand-in has put its library, by cargo's messages.
fn built(messages: &str) -> Option<String> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut scripts = messages.filter(|message| message["reason"] == "build-script-executed");
    let ours = scripts.find(|message| message["package_id"].as_str().is_some_and(|id| id.contains("/stand-in#")))?;
    Some(ours["out_dir"].as_str()?.to_owned())
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
    fn the_library_is_where_cargo_says() {
        let other =
            r#"{"reason":"build-script-executed","package_id":"path+file:///x/crates/cli#0.1.0","out_dir":"/a"}"#;
        let ours =
            r#"{"reason":"build-script-executed","package_id":"path+file:///x/crates/stand-in#0.1.0","out_dir":"/b"}"#;
        assert_eq!(built(&format!("{other}\nwords\n{ours}\n")), Some("/b".into()));
        assert_eq!(built(other), None);
    }

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
