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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Output;

    fn python(words: &[&str], path: &Path) -> Output {
        let mut python = program("python3");
        python.args(words).env("PYTHONPATH", path).env_remove("LD_LIBRARY_PATH").output().unwrap()
    }

    fn said(output: &Output) -> String {
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    }

    /// A wheel of this checkout with a shell script as its program, unpacked into `site`.
    fn unpacked(scratch: &Path) -> (PathBuf, PathBuf) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let (binary, extras, site) = (scratch.join("comat"), scratch.join("prefix"), scratch.join("site"));
        fs::write(&binary, "#!/bin/sh\n# GLIBC_2.17 GLIBC_2.31\necho \"[$@] [$LD_LIBRARY_PATH]\"\n").unwrap();
        fs::create_dir_all(extras.join("share/man/man1")).unwrap();
        fs::write(extras.join("share/man/man1/comat.1"), "page").unwrap();
        let wheel = pack(root, &binary, &extras, &scratch.join("out")).unwrap();
        let pip = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"];
        let output = python(&[&pip[..], &[site.to_str().unwrap(), wheel.to_str().unwrap()]].concat(), scratch);
        assert!(output.status.success(), "{}", said(&output)); // pip has checked every digest of RECORD
        (wheel, site)
    }

    fn torch(site: &Path, version: &str) {
        fs::create_dir_all(site.join("torch-0.dist-info")).unwrap();
        let metadata = format!("Metadata-Version: 2.1\nName: torch\nVersion: {version}\n");
        fs::write(site.join("torch-0.dist-info/METADATA"), metadata).unwrap();
    }

    #[test]
    fn pip_installs_it_and_it_starts_with_the_users_torch() {
        let scratch = tempfile::tempdir().unwrap();
        let (wheel, site) = unpacked(scratch.path());
        let name = wheel.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with(&format!("-py3-none-manylinux_2_31_{}.whl", std::env::consts::ARCH)), "{name}");
        let mut infos = fs::read_dir(&site).unwrap().flatten().map(|entry| entry.path().join("METADATA"));
        let metadata = fs::read_to_string(infos.find(|file| file.exists()).unwrap()).unwrap();
        assert!(metadata.contains("# comat\n") && !metadata.contains("](docs/"), "{metadata}");
        for file in ["share/configs/sd15.toml", "share/weights/world/sd/model_index.json", "__main__.py"] {
            assert!(site.join("comat").join(file).exists(), "{file}");
        }
        let start = || python(&["-S", "-m", "comat", "doctor", "a b"], &site); // without this machine's packages
        let refused = |part: &str| {
            let output = start();
            assert!(!output.status.success() && said(&output).contains(part), "{}", said(&output));
        };
        refused("there is no torch in this Python");
        torch(&site, "2.10.0");
        refused("torch 2.10.0 is installed, and comat needs 2.11");
        torch(&site, "2.11.0+cu130");
        refused("has no lib/libtorch_cpu.so");
        fs::create_dir_all(site.join("torch/lib")).unwrap();
        fs::write(site.join("torch/lib/libtorch_cpu.so"), "").unwrap();
        assert_eq!(said(&start()).trim(), "[doctor a b] []", "the binary finds torch beside it");
        // torch in another folder of packages
        let elsewhere = scratch.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::rename(site.join("torch"), elsewhere.join("torch")).unwrap();
        fs::rename(site.join("torch-0.dist-info"), elsewhere.join("torch-0.dist-info")).unwrap();
        let both = std::env::join_paths([&site, &elsewhere]).unwrap();
        let output = python(&["-S", "-m", "comat", "doctor"], Path::new(&both));
        assert_eq!(said(&output).trim(), format!("[doctor] [{}]", elsewhere.join("torch/lib").display()));
    }
}
