//! Whose libtorch is built against: ours, or one that the user has named in the environment.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Where libtorch comes from, by the same rules as torch-sys' build script.
#[derive(Debug, PartialEq, Eq)]
pub enum Origin {
    /// ./libtorch, made by `cargo xtask setup`.
    Ours,
    /// The folder in the user's LIBTORCH.
    Libtorch(PathBuf),
    /// LIBTORCH_USE_PYTORCH: the torch that Python imports.
    PyTorch,
}

impl Origin {
    /// Reads LIBTORCH and LIBTORCH_USE_PYTORCH.
    pub fn of_environment(root: &Path) -> Self {
        let (libtorch, use_pytorch) = (env::var_os("LIBTORCH"), env::var_os("LIBTORCH_USE_PYTORCH"));
        Self::of(root, libtorch.as_deref(), use_pytorch.as_deref())
    }

    /// Under `cargo xtask`, LIBTORCH is always there: unless the user has set it, cargo sets it to ./libtorch/torch as
    /// .cargo/config.toml says. torch-sys asks only whether LIBTORCH_USE_PYTORCH exists, even empty, and asks it first.
    fn of(root: &Path, libtorch: Option<&OsStr>, use_pytorch: Option<&OsStr>) -> Self {
        match libtorch.map(Path::new) {
            _ if use_pytorch.is_some() => Self::PyTorch,
            Some(path) if !same(path, &root.join("libtorch/torch")) => Self::Libtorch(path.to_path_buf()),
            _ => Self::Ours,
        }
    }
}

/// Do both paths name the same place? By their links where it exists. A relative path does not: cargo runs build scripts
/// in other folders.
fn same(a: &Path, b: &Path) -> bool {
    a == b || a.is_absolute() && matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(libtorch: Option<&str>, use_pytorch: Option<&str>) -> Origin {
        Origin::of(Path::new("/checkout"), libtorch.map(OsStr::new), use_pytorch.map(OsStr::new))
    }

    #[test]
    fn the_value_from_cargos_configuration_is_ours() {
        assert_eq!(of(None, None), Origin::Ours);
        assert_eq!(of(Some("/checkout/libtorch/torch"), None), Origin::Ours);
        assert_eq!(of(Some("/checkout/libtorch/torch/"), None), Origin::Ours);
    }

    #[test]
    fn any_other_value_is_the_users() {
        for path in ["/opt/libtorch", "/elsewhere/libtorch/torch", "libtorch/torch", ""] {
            assert_eq!(of(Some(path), None), Origin::Libtorch(path.into()));
        }
    }

    #[test]
    fn pytorch_wins_as_in_torch_sys() {
        assert_eq!(of(Some("/opt/libtorch"), Some("1")), Origin::PyTorch);
        assert_eq!(of(Some("/checkout/libtorch/torch"), Some("")), Origin::PyTorch);
        assert_eq!(of(None, Some("0")), Origin::PyTorch);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_ours_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("checkout/libtorch/torch")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("checkout"), folder.path().join("link")).unwrap();
        let through_link = folder.path().join("link/libtorch/torch");
        assert_eq!(Origin::of(&folder.path().join("checkout"), Some(through_link.as_os_str()), None), Origin::Ours);
    }
}
