//! Whether a run can use a folder.

use anyhow::{Result, bail};
use comat::checkpoint;
use models::Error;
use nix::unistd::{AccessFlags, access};
use std::{fs, io, path::Path};

/// Checks that a run can write to a folder and would replace nothing in it that is not its own. Writes nothing itself.
/// `resume`: as given to `--resume`.
///
/// # Errors
/// A file where a folder should be; a folder without the right to write to it; a run that is already there, unless it is resumed;
/// a configuration or a LoRA that this run did not write.
pub fn check(folder: &Path, resume: Option<&str>) -> Result<()> {
    can_be_written(folder)?;
    let checkpoints = folder.join("checkpoints");
    let (log, resolved) = (folder.join("events.jsonl"), folder.join("config.toml"));
    // an empty log belongs to a run that was stopped before its first step
    let begun = fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    if resume.is_none() && begun {
        let hint = match checkpoint::steps(&checkpoints)?.last() {
            Some(_) => "go on with it by --resume",
            None => "it has no checkpoint to go on from: delete it, begin anew in it by --resume auto",
        };
        bail!("{} already holds a run; {hint}, or choose another folder (--set output=DIR)", folder.display());
    }
    if log.exists() {
        return Ok(());
    }
    if resolved.exists() && !is_resolved(&resolved) {
        bail!("{} exists, and no run wrote it; choose another folder (--set output=DIR)", resolved.display());
    }
    let resumed = resume.map(|which| checkpoint::find(&checkpoints, which)).transpose()?.flatten();
    let made = ["adapter", "best"].map(|name| folder.join(name));
    if let (None, Some(made)) = (resumed, made.iter().find(|made| made.exists())) {
        bail!("{} exists, and would be replaced; move it, or choose another folder (--set output=DIR)", made.display());
    }
    Ok(())
}

fn can_be_written(folder: &Path) -> Result<()> {
    let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    let is_there = |above: &&Path| !fs::metadata(above).is_err_and(is_missing);
    let mut named = folder.ancestors().filter(|above| !above.as_os_str().is_empty());
    let there = named.find(is_there).unwrap_or(Path::new("."));
    match fs::metadata(there) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => bail!("{}: a file of that name is where a folder should be", there.display()),
        Err(error) => return Err(Error::io(there)(error).into()),
    }
    Ok(access(there, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| Error::io(there)(error.into()))?)
}

/// Whether a configuration was written by a run: every setting is there, and nothing else.
fn is_resolved(file: &Path) -> bool {
    let again = config::read(file, &[]).ok().and_then(|config| toml::to_string(&config).ok());
    again.is_some() && fs::read_to_string(file).ok() == again
}
