//! Several ranks score one folder: each rank writes its own file, and the first rank merges them. Files left by a
//! scoring that was stopped are merged before the next one.

use super::SCORES;
use anyhow::Result;
use benchmarks::records::{Log, read};
use models::Error;
use ranks::ProcessGroup;
use std::{
    fs,
    path::{Path, PathBuf},
};

const BEGINNING: &str = "scores.rank-";
const END: &str = ".jsonl";

/// The file that a rank writes to.
pub fn name(group: &ProcessGroup) -> String {
    if group.leads() { SCORES.into() } else { format!("{BEGINNING}{}{END}", group.rank) }
}

/// Moves the scores of the other ranks into the one file.
pub fn merge(folder: &Path) -> Result<()> {
    let mut shares: Vec<PathBuf> = vec![];
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name();
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
        for image in read(&share)?.images.iter().filter(|image| !log.has(&image.key())).collect::<Vec<_>>() {
            log.add(image)?;
        }
        fs::remove_file(&share).map_err(Error::io(&share))?;
    }
    Ok(())
}
