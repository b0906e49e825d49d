//! `events.jsonl`: one line for each event in a run, written when it happens.

use anyhow::Result;
use models::Error;
use serde_json::Value;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

pub struct Events {
    /// `None`: nothing is written.
    file: Option<File>,
    path: PathBuf,
}

impl Events {
    /// Opens the log for appending; earlier lines are kept. A last line that a killed run left unfinished is
    /// terminated.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(Error::io(path))?;
        let close = |file: &mut File| {
            let mut last = [b'\n'];
            if file.metadata()?.len() > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            if last == [b'\n'] { Ok(()) } else { file.write_all(b"\n") }
        };
        close(&mut file).map_err(Error::io(path))?;
        models::sync_folder(path.parent().unwrap_or(Path::new(".")))?;
        Ok(Self { file: Some(file), path: path.to_owned() })
    }

    /// A log that writes nothing, for every rank but the first.
    pub fn nowhere() -> Self {
        Self { file: None, path: PathBuf::new() }
    }

    /// Writes one line, whole or not at all, and syncs it to the disk. Each event has a key `event` that names it.
    pub fn write(&mut self, event: Value) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let before = file.metadata().map_err(Error::io(&self.path))?.len();
        let written = file.write_all(format!("{event}\n").as_bytes());
        if written.is_err() {
            let _ = file.set_len(before);
        }
        Ok(written.and_then(|()| models::sync(file)).map_err(Error::io(&self.path))?)
    }
}
