//! A libtorch of the user's own: said, checked, left as it is.

use super::VERSION;
use crate::command::{line, program};
use anyhow::{Context, Result, bail};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Prints where PyTorch lies without importing it, which would take seconds. torch-sys' build script does import it,
/// and torch.utils.cpp_extension, which imports setuptools.
const FIND_PYTORCH: &str = "
import importlib.util, sys
for name in ('torch', 'setuptools'):
    if importlib.util.find_spec(name) is None:
        sys.exit(f'it has no {name}')
print(importlib.util.find_spec('torch').submodule_search_locations[0])
";

/// Checks the folder in LIBTORCH.
pub fn check_libtorch(torch: &Path, cuda: bool) -> Result<()> {
    let who = format!("LIBTORCH={}", torch.display());
    if torch.as_os_str().is_empty() {
        bail!("LIBTORCH is empty; unset it to use ./libtorch, or set it to a libtorch {VERSION}");
    }
    if !torch.is_absolute() {
        bail!("{who} is not an absolute path; build scripts run in other folders, so make it one");
    }
    // torch-sys takes the libraries and the headers from elsewhere when told so.
    let lib = env::var_os("LIBTORCH_LIB").map_or_else(|| torch.to_path_buf(), PathBuf::from).join("lib");
    let include = env::var_os("LIBTORCH_INCLUDE").map_or_else(|| torch.to_path_buf(), PathBuf::from).join("include");
    check(&who, torch, &lib, &include, cuda)
}

/// Checks the PyTorch that the Python of LIBTORCH_USE_PYTORCH imports.
pub fn check_pytorch(cuda: bool) -> Result<()> {
    // torch-sys' rule
    let python = if env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" };
    let mut command = program(python);
    command.args(["-c", FIND_PYTORCH]);
    let output = command.output().with_context(|| {
        format!("LIBTORCH_USE_PYTORCH is set, but `{python}` does not start; install Python or unset it")
    })?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!(
            "LIBTORCH_USE_PYTORCH is set, but `{python}` is of no use: {}; `{python} -m pip install torch=={VERSION} \
             setuptools`, or unset it",
            error.lines().last().unwrap_or(&line(&command)).trim()
        );
    }
    let torch = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let who = format!("LIBTORCH_USE_PYTORCH, {python}'s torch in {}", torch.display());
    check(&who, &torch, &torch.join("lib"), &torch.join("include"), cuda)
}

/// Are headers and libraries there, and are they of the version that tch is made for?
fn check(who: &str, torch: &Path, lib: &Path, include: &Path, cuda: bool) -> Result<()> {
    let library = |name: &str| lib.join(format!("{}{name}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX));
    for file in [library("torch_cpu"), library("c10"), include.join("torch/csrc/api/include/torch/torch.h")] {
        if !file.exists() {
            bail!("{who}: there is no {}; name a folder with libtorch {VERSION} or unset it", file.display());
        }
    }
    if cuda && !library("torch_cuda").exists() {
        bail!("{who}: it is a build without CUDA (no {}); name another or unset it", library("torch_cuda").display());
    }
    match version(torch) {
        Some(found) if found.split('+').next() == Some(VERSION) => eprintln!("setup: {who} (version {found}) is used"),
        Some(found) if env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_some() => {
            eprintln!(
                "setup: {who} is used; its version {found} is not {VERSION}, but LIBTORCH_BYPASS_VERSION_CHECK is set"
            );
        }
        Some(found) => bail!("{who}: its version is {found}, but {VERSION} is needed; name another or unset it"),
        None => eprintln!("setup: {who} is used; it does not tell its version, {VERSION} is needed"),
    }
    Ok(())
}

/// The version by libtorch's `build-version` or PyTorch's `version.py`.
fn version(torch: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(torch.join("build-version")) {
        return Some(text.trim().to_string());
    }
    let text = fs::read_to_string(torch.join("version.py")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("__version__ ="))?;
    Some(value.trim().trim_matches(['\'', '"']).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn torch(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let library = |name: &str| format!("lib/{}{name}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
        let always = ["include/torch/csrc/api/include/torch/torch.h", &library("torch_cpu"), &library("c10")];
        for (name, text) in files.iter().copied().chain(always.map(|name| (name, ""))) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn checked(files: &[(&str, &str)], cuda: bool) -> Result<()> {
        let torch = torch(files);
        check("X", torch.path(), &torch.path().join("lib"), &torch.path().join("include"), cuda)
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version(torch(&[("build-version", "2.11.0+cpu\n")]).path()), Some("2.11.0+cpu".into()));
        let python = "from typing import Optional\n__version__ = '2.11.0+cu130'\ndebug = False\n";
        assert_eq!(version(torch(&[("version.py", python)]).path()), Some("2.11.0+cu130".into()));
        assert_eq!(version(torch(&[]).path()), None);
    }

    #[test]
    fn the_version_must_fit_where_it_is_told() {
        assert!(checked(&[("build-version", "2.11.0+cu130")], false).is_ok());
        assert!(checked(&[], false).is_ok());
        for other in ["2.1.0", "2.11.1", "12.11.0"] {
            let error = checked(&[("build-version", other)], false).unwrap_err().to_string();
            assert_eq!(error, format!("X: its version is {other}, but 2.11.0 is needed; name another or unset it"));
        }
    }

    #[test]
    fn a_cpu_build_is_no_cuda_build() {
        assert!(checked(&[("build-version", "2.11.0")], true).unwrap_err().to_string().contains("without CUDA"));
    }

    #[test]
    fn paths_that_cannot_work_are_refused() {
        let error = |path: &str| check_libtorch(Path::new(path), false).unwrap_err().to_string();
        assert!(error("").starts_with("LIBTORCH is empty"));
        assert!(error("libtorch/torch").contains("not an absolute path"));
        assert!(error("/no/such/folder").contains("there is no /no/such/folder/lib"));
    }
}
