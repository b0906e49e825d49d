//! `cargo xtask fixtures`: the reference values, computed by diffusers and transformers.

use crate::command::{must, pass_on, program, succeeds};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Makes the Python environment if need be and runs fixtures.py in it; its exit code is ours.
pub fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    let script = workspace.root().join("tools/reference/fixtures.py");
    pass_on(program(python(workspace)?).arg(script).args(args).current_dir(workspace.root()))
}

/// A Python with what tools/reference needs: the one that REFERENCE_PYTHON names, or an environment under target/.
pub fn python(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(python) = std::env::var_os("REFERENCE_PYTHON") {
        return Ok(python.into());
    }
    let requirements = workspace.root().join("tools/reference/requirements.txt");
    environment(&workspace.root().join("target/reference-venv"), &requirements)
}

/// The environment's Python, with exactly these requirements installed. A copy of the requirements file, written last,
/// tells that the environment is complete; another content makes it anew.
fn environment(venv: &Path, requirements: &Path) -> Result<PathBuf> {
    let wanted =
        fs::read_to_string(requirements).with_context(|| format!("could not read {}", requirements.display()))?;
    let python = venv.join("bin/python");
    let stamp = venv.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && python.exists() {
        return Ok(python);
    }
    if venv.exists() {
        fs::remove_dir_all(venv).with_context(|| format!("could not remove the old {}", venv.display()))?;
    }
    eprintln!("fixtures: a Python environment in {}", venv.display());
    if !succeeds(program("python3").args(["-m", "venv"]).arg(venv)) {
        bail!(
            "`python3 -m venv {}` failed; install Python 3 with its venv module (Debian, Ubuntu: apt install python3-venv)",
            venv.display()
        );
    }
    must(
        program(&python)
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--requirement"])
            .arg(requirements),
    )?;
    fs::write(&stamp, wanted).with_context(|| format!("could not write {}", stamp.display()))?;
    Ok(python)
}
