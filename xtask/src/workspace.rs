//! Where the workspace lies, and cargo called from within it.

use crate::command::program;
use crate::setup::Origin;
use anyhow::{Context, Result};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout that `cargo xtask` was started in.
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// `cargo run` tells where xtask's manifest lies; the program started by hand remembers where it was built.
    pub fn find() -> Result<Self> {
        let xtask = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = xtask.parent().context("xtask has no parent folder; start it as `cargo xtask` in the checkout")?;
        Ok(Self { root: root.to_path_buf() })
    }

    /// The workspace's top folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo in the top folder. Our own LIBTORCH is left to .cargo/config.toml: with the variable passed down as well,
    /// some versions of cargo take it for a change and build torch-sys again after every bare `cargo build`.
    pub fn cargo(&self) -> Command {
        let mut cargo = program(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        if matches!(Origin::of_environment(&self.root), Origin::Ours) {
            cargo.env_remove("LIBTORCH");
        }
        cargo
    }

    /// Builds `comat` in a profile, with variables in the environment, and returns its path.
    pub fn build(&self, profile: &str, variables: &[(&str, &str)]) -> Result<PathBuf> {
        let mut cargo = self.cargo();
        cargo.args(["build", "--profile", profile, "--package", "cli", "--bin", "comat"]);
        crate::command::must(cargo.envs(variables.iter().copied()))?;
        // TARGET/debug/xtask → TARGET/PROFILE/comat, wherever cargo was told to put TARGET
        let xtask = env::current_exe().context("where does xtask itself lie?")?;
        let target = xtask.parent().and_then(Path::parent).context("xtask does not lie in a target folder")?;
        Ok(target.join(profile).join(format!("comat{}", env::consts::EXE_SUFFIX)))
    }
}
