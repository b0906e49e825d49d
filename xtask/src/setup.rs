//! `cargo xtask setup`: libtorch under ./libtorch, in the layout of Python's site-packages:
//!
//! ```text
//! libtorch/stamp                   what the folder holds; written last
//! libtorch/torch/{include,lib}     what LIBTORCH points at
//! libtorch/torch/build-version     torch-sys compares its own version with this file
//! libtorch/nvidia/*/lib            libtorch_cpu.so finds these by $ORIGIN/../../nvidia/*/lib
//! ```
//!
//! Everything is put together in ./libtorch.partial and renamed at the end, so that a ./libtorch with a stamp is complete.
//! Wheels that an interrupted set-up has left there are used by the next one.

mod foreign;
mod origin;
mod pip;
mod stamp;
mod wheels;

pub use origin::Origin;

use crate::command::{line, program, succeeds};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use stamp::{Kind, Stamp};
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use wheels::Wheel;

/// The libtorch that tch 0.24 is made for.
const VERSION: &str = "2.11.0";

/// Of the build for GPUs, which is made with CUDA 13.0.
const NEEDS: &str = "it runs on NVIDIA cards of compute capability 7.5 or newer with driver 580 or newer; for an older driver, set LIBTORCH or \
                     LIBTORCH_USE_PYTORCH to another build of torch 2.11 (README.md)";

pub fn run(workspace: &Workspace, cuda: bool) -> Result<ExitCode> {
    ensure(workspace, cuda)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that the workspace can be built: a C++ compiler and libtorch, the user's own or ours.
pub fn ensure(workspace: &Workspace, cuda: bool) -> Result<()> {
    find_compiler()?;
    match Origin::of_environment(workspace.root()) {
        Origin::Ours => install(workspace.root(), if cuda { Kind::Cuda } else { Kind::Cpu }),
        Origin::Libtorch(path) => foreign::check_libtorch(&path, cuda),
        Origin::PyTorch => foreign::check_pytorch(cuda),
    }
}

/// Puts libtorch under `root`, unless it is there.
fn install(root: &Path, want: Kind) -> Result<()> {
    let libtorch = root.join("libtorch");
    if complete(&libtorch, want)? {
        return Ok(());
    }
    check_platform()?;
    find_python()?;
    let _alone = lock(root)?;
    if complete(&libtorch, want)? {
        return Ok(()); // another set-up was faster
    }

    let start = Instant::now();
    let wheels = wheels::of(want);
    let (download, disk) = want.gigabytes();
    eprintln!(
        "setup: libtorch {VERSION} ({want}) into {}: {} wheels from PyPI, {download} GB to download, {disk} GB on disk",
        libtorch.display(),
        wheels.len()
    );
    if want == Kind::Cuda {
        eprintln!("setup: {NEEDS}");
    }
    let partial = root.join("libtorch.partial");
    let result = build(&partial, &wheels, want).and_then(|()| swap(&partial, &libtorch));
    result.with_context(|| format!("libtorch {VERSION} ({want}) is not set up"))?;
    eprintln!("setup: done in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Does ./libtorch hold all that is wanted? An error if it holds something that did not come from here.
fn complete(libtorch: &Path, want: Kind) -> Result<bool> {
    match Stamp::read(libtorch)? {
        Some(stamp) if stamp.serves(want) => {
            eprintln!("setup: {} holds libtorch {stamp}", libtorch.display());
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Downloads and unpacks into `partial`/tree, the stamp last.
fn build(partial: &Path, wheels: &[&Wheel], want: Kind) -> Result<()> {
    let (store, tree) = (partial.join("wheels"), partial.join("tree"));
    fs::create_dir_all(&store).with_context(|| format!("could not make the folder {}", store.display()))?;
    let mut files = vec![];
    for wheel in wheels {
        files.push(pip::download(wheel, &store)?);
    }

    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("could not remove {}", tree.display()))?;
    }
    eprintln!("setup: unpacking");
    for (wheel, file) in wheels.iter().zip(files) {
        unpack(&file, &tree, wheel.keep(want))?;
        fs::remove_file(&file).with_context(|| format!("could not remove {}", file.display()))?;
    }

    // torch-sys wants libtorch.so on the link line. The real one only pulls in libtorch_cuda.so, which is loaded at run
    // time where there is a GPU; this linker script takes its place.
    write(&tree.join("torch/lib/libtorch.so"), "INPUT(libtorch_cpu.so)\n")?;
    write(&tree.join("torch/build-version"), &format!("{VERSION}\n"))?;
    write(&tree.join(stamp::FILE), &Stamp::of(want).text())
}

/// Puts the finished tree in place of an older one.
fn swap(partial: &Path, libtorch: &Path) -> Result<()> {
    let tree = partial.join("tree");
    if libtorch.exists() {
        let old = partial.join("old");
        fs::rename(libtorch, &old).with_context(|| format!("could not move {} aside", libtorch.display()))?;
    }
    fs::rename(&tree, libtorch)
        .with_context(|| format!("could not rename {} to {}", tree.display(), libtorch.display()))?;
    fs::remove_dir_all(partial).with_context(|| format!("could not remove {}", partial.display()))
}

/// Unpacks the files of the wheel that match one of the patterns.
fn unpack(wheel: &Path, tree: &Path, patterns: &[&str]) -> Result<()> {
    let mut python = program("python3");
    python.args(["-c", include_str!("setup/unpack.py")]).args([wheel, tree]).args(patterns);
    let output = python.output().context("could not start python3")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("could not unpack {}: {}", wheel.display(), pip::explain(&error, "python3 was stopped"));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// Lets two set-ups of one checkout run one after the other. The file locked is one that is always there; where the
/// file system knows no locks, there is none.
fn lock(root: &Path) -> Result<File> {
    let path = root.join("xtask/Cargo.toml");
    let file = File::open(&path).with_context(|| format!("could not open {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        eprintln!("setup: waiting for another set-up of this checkout");
        file.lock().with_context(|| format!("could not lock {}", path.display()))?;
    }
    Ok(file)
}

/// The wheels used here are those for Linux with glibc on x86_64. There are wheels for other systems, but with other
/// libraries inside (and no linker scripts on macOS), so the user's own libtorch is the way there.
fn check_platform() -> Result<()> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Ok(());
    }
    bail!(
        "set-up knows libtorch for x86_64 Linux with glibc only, this is {} {}; set LIBTORCH to a libtorch {VERSION} for \
         it, or LIBTORCH_USE_PYTORCH=1 with PyTorch {VERSION} installed",
        std::env::consts::ARCH,
        std::env::consts::OS
    )
}

fn find_compiler() -> Result<()> {
    let chosen = std::env::var("CXX").unwrap_or_default();
    let mut words = chosen.split_whitespace(); // CXX="ccache g++"
    let mut compiler = program(words.next().unwrap_or("c++"));
    compiler.args(words).arg("--version");
    if !succeeds(&mut compiler) {
        bail!(
            "no C++ compiler: `{}` does not run; install one (Debian, Ubuntu: apt install g++) or name yours in CXX",
            line(&compiler)
        );
    }
    Ok(())
}

fn find_python() -> Result<()> {
    if !succeeds(program("python3").arg("--version")) {
        bail!(
            "no python3: set-up downloads with Python's pip; install it (Debian, Ubuntu: apt install python3 python3-pip), \
             or set LIBTORCH to a libtorch {VERSION} that you have"
        );
    }
    Ok(())
}
