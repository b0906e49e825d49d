//! Text files that are whole or not there.

use models::Error;
use std::{fs, path::Path};

/// Writes a text, whole or not at all, and has it on the disk in the end.
pub fn write_whole(path: &Path, text: &str) -> models::Result<()> {
    models::write_durable(path, |partial| fs::write(partial, text).map_err(Error::io(path)))
}
