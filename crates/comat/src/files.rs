//! Text files that are whole or not there.

use models::{Error, tensors::partial_name};
use std::{fs, path::Path};

/// Writes through a temporary file in the same folder, so that `path` is never half a file.
pub fn write_whole(path: &Path, text: &str) -> models::Result<()> {
    let partial = partial_name(path);
    let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written.map_err(Error::io(path))
}
