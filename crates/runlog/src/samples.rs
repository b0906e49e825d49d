//! `samples/step-N/`: the images of one round, in a folder of their own.

use anyhow::Result;
use models::Error;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// All images of a round in one file.
pub const GRID: &str = "grid.png";

/// The rounds of a run: steps and folders, the newest last.
pub fn rounds(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let rounds = run.join("samples");
    if !rounds.exists() {
        return Ok(vec![]);
    }
    let step = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("step-")?.parse::<u64>().ok();
    let folders = fs::read_dir(&rounds).map_err(Error::io(&rounds))?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<_> = folders.filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

/// The images of a round, in order.
pub fn images(round: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(round).map_err(Error::io(round))?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_image =
        |path: &PathBuf| path.extension().is_some_and(|e| e == "png") && path.file_name().is_some_and(|n| n != GRID);
    let mut found: Vec<_> = entries.filter(is_image).collect();
    found.sort();
    Ok(found)
}
