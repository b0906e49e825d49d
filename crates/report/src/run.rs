//! A training run of the page.

use crate::log::Log;
use std::path::PathBuf;

/// A training run.
pub(crate) struct Run {
    pub name: String,
    pub folder: PathBuf,
    pub log: Log,
}
