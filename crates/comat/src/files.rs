//! Text files that are whole or not there, and what data are known again by.

use models::Error;
use sha2::{Digest, Sha256};
use std::{fs, path::Path};

/// Writes a text, whole or not at all, and has it on the disk in the end.
pub fn write_whole(path: &Path, text: &str) -> models::Result<()> {
    models::write_durable(path, |partial| fs::write(partial, text).map_err(Error::io(path)))
}

/// By which data are known again: the first 64 bits of their SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
