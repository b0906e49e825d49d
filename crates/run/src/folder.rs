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
/// a checkpoint of another run, which would go on in its place; a configuration or a LoRA that this run did not write.
pub fn check(folder: &Path, resume: Option<&str>) -> Result<()> {
    can_be_written(folder)?;
    let checkpoints = folder.join("checkpoints");
    let (log, resolved) = (folder.join("events.jsonl"), folder.join("config.toml"));
    let newest = checkpoint::steps(&checkpoints)?.pop();
    // an empty log belongs to a run that was stopped before its first step
    let begun = newest.is_some() || fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    if resume.is_none() && begun {
        let hint = match newest {
            Some(_) => "go on with it by --resume",
            None => "it has no checkpoint to go on from: delete it, begin anew in it by --resume auto",
        };
        bail!("{} already holds a run; {hint}, or choose another folder (--set output=DIR)", folder.display());
    }
    let resumed = resume.map(|which| checkpoint::find(&checkpoints, which)).transpose()?.flatten();
    if let Some(other) = resumed.as_ref().filter(|path| begun && !is_in(path, &checkpoints)) {
        bail!(
            "{} holds a run, and {} is a checkpoint of another one, which would replace it; go on with that in its own folder, or \
             in a new one (--set output=DIR)",
            folder.display(),
            other.display()
        );
    }
    if log.exists() {
        return Ok(());
    }
    if resolved.exists() && !is_resolved(&resolved) {
        bail!("{} exists, and no run wrote it; choose another folder (--set output=DIR)", resolved.display());
    }
    let made = ["adapter", "best"].map(|name| folder.join(name));
    if let (None, Some(made)) = (resumed, made.iter().find(|made| made.exists())) {
        bail!("{} exists, and would be replaced; move it, or choose another folder (--set output=DIR)", made.display());
    }
    Ok(())
}

/// Whether something that exists is in a folder, however the two are written.
fn is_in(path: &Path, folder: &Path) -> bool {
    let above = |path: &Path| path.canonicalize().ok().and_then(|path| Some(path.parent()?.to_owned()));
    above(path).is_some_and(|above| folder.canonicalize().is_ok_and(|folder| folder == above))
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
