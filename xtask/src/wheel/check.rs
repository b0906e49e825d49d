//! `cargo xtask wheel --check`: the wheel as a new user has it, in a fresh environment. In the place of torch, a gigabyte, stands the libtorch
//! that the wheel was built with, under torch's name.

use crate::command::{must, program};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub fn run(wheel: &Path, lib: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder)?;
    let venv = folder.join("venv");
    must(program("python3").args(["-m", "venv"]).arg(&venv))?;
    must(program(venv.join("bin/pip")).args(["install", "--quiet", "--no-index", "--no-deps"]).arg(wheel))?;
    let check = Check { comat: venv.join("bin/comat"), folder };
    let packages = packages(&venv)?;
    check.refused(&["there is no torch in this Python", "pip install 'torch==2.11.*'", "whl/cpu"])?;
    torch(&packages, lib, "2.10.1")?;
    check.refused(&["torch 2.10.1 is installed, and comat needs 2.11"])?;
    torch(&packages, lib, "2.11.0+cpu")?;
    must(program(venv.join("bin/pip")).args(["check", "--quiet"]))?;
    check.passes("doctor")?;
    check.passes("doctor --check --device cpu")?;
    check.passes("demo --quick --device cpu")?;
    check.passes("train --config world --set train.steps=2 --set validation.count=4 --set output=two-steps")?;
    check.passes("prompts --count 20 --held-out prompts/held_out.jsonl --held-out-count 8")?;
    check.passes("init --model weights/world/sd --captioner weights/world/blip --out my.toml")?;
    let small = ["attention=false", "fidelity=false", "train.steps=2", "train.batch_size=2", "train.accumulation=1"];
    let small = small.into_iter().chain(["sampling.steps=4", "preference.candidates=2", "validation.count=4"]);
    let small: String = small.map(|setting| format!(" --set {setting}")).collect();
    check.passes(&format!("train --config my.toml{small}"))?;
    println!("wheel: checked in {}", folder.display());
    Ok(())
}

struct Check<'a> {
    comat: PathBuf,
    folder: &'a Path,
}

impl Check<'_> {
    /// The installed program in a folder of its own, with nothing of the checkout in its environment.
    fn command(&self, words: &str) -> Command {
        let mut comat = program(&self.comat);
        for variable in ["LIBTORCH", "LD_LIBRARY_PATH", "COMAT_SHARE", "PYTHONPATH"] {
            comat.env_remove(variable);
        }
        comat.args(words.split(' ')).current_dir(self.folder);
        comat
    }

    fn passes(&self, words: &str) -> Result<()> {
        println!("wheel: comat {words}");
        let begun = Instant::now();
        must(&mut self.command(words))?;
        println!("wheel: comat {words}: {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// It ends with a line that holds these parts.
    fn refused(&self, parts: &[&str]) -> Result<()> {
        let output = self.command("doctor").output().context("could not start the installed comat")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let fits =
            !output.status.success() && said.lines().count() == 1 && parts.iter().all(|part| said.contains(part));
        if !fits {
            bail!("the installed comat should have refused with {parts:?}; it ended with {}: {said}", output.status);
        }
        Ok(())
    }
}

/// `site-packages` of an environment.
fn packages(venv: &Path) -> Result<PathBuf> {
    let mut folders = fs::read_dir(venv.join("lib"))?.flatten().map(|entry| entry.path().join("site-packages"));
    folders.find(|path| path.is_dir()).with_context(|| format!("{}: no site-packages", venv.display()))
}

/// libtorch as torch of some version: links to its folders, and the name in the list of packages.
fn torch(packages: &Path, lib: &Path, version: &str) -> Result<()> {
    let info = packages.join("torch-0.dist-info");
    fs::create_dir_all(&info)?;
    fs::write(info.join("METADATA"), format!("Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"))?;
    let torch = lib.parent().context("libtorch/lib has a parent")?;
    let beside = torch.parent().map(|tree| tree.join("nvidia"));
    for (from, name) in [(Some(torch.to_path_buf()), "torch"), (beside, "nvidia")] {
        let to = packages.join(name);
        if let Some(from) = from.filter(|from| from.exists() && !to.exists()) {
            std::os::unix::fs::symlink(from, to)?;
        }
    }
    Ok(())
}
