//! Text files that are whole or not there.

use models::Error;
use std::{fs, path::Path};

/// Writes a text, whole or not at all.
pub fn write_whole(path: &Path, text: &str) -> models::Result<()> {
    models::write_whole(path, |partial| fs::write(partial, text).map_err(Error::io(path)))
}
