//! `events.jsonl`: one line for everything that happens in a run, written as it happens.

use anyhow::Result;
use models::Error;
use serde_json::Value;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

pub struct Events {
    file: File,
    path: PathBuf,
}

impl Events {
    /// Opens the log for appending; earlier lines stay.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Writes one line. Each has an `event` key that says what it is.
    pub fn write(&mut self, event: Value) -> Result<()> {
        Ok(self.file.write_all(format!("{event}\n").as_bytes()).map_err(Error::io(&self.path))?)
    }
}
