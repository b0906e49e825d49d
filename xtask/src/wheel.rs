//! `cargo xtask wheel`: the program as pip installs it. Python's zipfile writes it; the program runs on the libtorch of the user's own torch.

mod check;

use crate::WheelArgs;
use crate::command::{must, program};
use crate::setup::{self, Origin};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Where shells and man look below a prefix.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "share/bash-completion/completions/comat"),
    ("zsh", "share/zsh/site-functions/_comat"),
    ("fish", "share/fish/vendor_completions.d/comat.fish"),
];
const MAN: &str = "share/man/man1";

pub fn run(workspace: &Workspace, args: &WheelArgs) -> Result<ExitCode> {
    setup::ensure(workspace, false)?;
    let lib = libtorch(workspace)?;
    let binary = workspace.build("dist", &[("COMAT_RELOCATABLE", "1")])?;
    let out = workspace.root().join(&args.out);
    let extras = out.join("prefix");
    write_extras(&binary, &lib, &extras)?;
    let wheel = pack(workspace.root(), &binary, &extras, &out)?;
    let megabytes = fs::metadata(&wheel).map_or(0.0, |file| file.len() as f64 / 1e6);
    println!("wheel: {} ({megabytes:.1} MB); completions and man pages in {}", wheel.display(), extras.display());
    if args.check {
        check::run(&wheel, &lib, &out.join("check"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder with the libtorch that was built against, for starting a binary that looks for the user's.
fn libtorch(workspace: &Workspace) -> Result<PathBuf> {
    match Origin::of_environment(workspace.root()) {
        Origin::Ours => Ok(workspace.root().join("libtorch/torch/lib")),
        Origin::Libtorch(path) => Ok(path.join("lib")),
        Origin::PyTorch => bail!("a wheel is built with ./libtorch or LIBTORCH; unset LIBTORCH_USE_PYTORCH"),
    }
}

/// The binary with the libtorch that it was built with.
fn comat(binary: &Path, lib: &Path) -> Command {
    let mut comat = program(binary);
    comat.env("LD_LIBRARY_PATH", lib);
    comat
}

/// Completions and man pages, laid out as below a prefix.
fn write_extras(binary: &Path, lib: &Path, prefix: &Path) -> Result<()> {
    for (shell, path) in COMPLETIONS {
        let output = comat(binary, lib).args(["completions", shell]).output()?;
        if !output.status.success() {
            bail!("comat completions {shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let path = prefix.join(path);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(&path, output.stdout).with_context(|| path.display().to_string())?;
    }
    must(comat(binary, lib).args(["man", "--out"]).arg(prefix.join(MAN)))
}

fn pack(root: &Path, binary: &Path, extras: &Path, out: &Path) -> Result<PathBuf> {
    let mut python = program("python3");
    python.args(["-c", include_str!("wheel/pack.py")]);
    python.args([root, binary, extras, out]).arg(env!("CARGO_PKG_VERSION"));
    let output = python.output().context("could not start python3")?;
    if !output.status.success() {
        bail!("the wheel could not be written: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
