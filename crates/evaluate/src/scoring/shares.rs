//! Several ranks score one folder: each writes a file of its own, and the first puts them together. What is left of a scoring that was
//! stopped is put together before the next.

use super::SCORES;
use anyhow::{Context, Result};
use benchmarks::records::{Log, read};
use ranks::World;
use std::{
    fs,
    path::{Path, PathBuf},
};

const BEGINNING: &str = "scores.rank-";
const END: &str = ".jsonl";

/// The file that a rank writes to.
pub fn name(world: &World) -> String {
    if world.leads() { SCORES.into() } else { format!("{BEGINNING}{}{END}", world.rank) }
}

/// Moves what the others have written into the one file.
pub fn merge(folder: &Path) -> Result<()> {
    let mut shares: Vec<PathBuf> = vec![];
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry.with_context(|| folder.display().to_string())?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(BEGINNING) && name.ends_with(END)) {
            shares.push(folder.join(name));
        }
    }
    if shares.is_empty() {
        return Ok(());
    }
    shares.sort();
    let (mut log, _) = Log::open(&folder.join(SCORES))?;
    for share in shares {
        for picture in read(&share)?.pictures.iter().filter(|picture| !log.has(&picture.key())).collect::<Vec<_>>() {
            log.add(picture)?;
        }
        fs::remove_file(&share).with_context(|| share.display().to_string())?;
    }
    Ok(())
}
