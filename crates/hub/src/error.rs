use crate::Id;
use std::path::{Path, PathBuf};

/// Why there is no model. Every message is one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {cause}", path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    /// The hub or the cache answers, but without the model.
    #[error("{model}: {message}")]
    Hub { model: String, message: String },
    /// There was no answer, or none about the model.
    #[error("{model}: {message}")]
    Unreachable { model: String, message: String },
    /// An environment variable that cannot be used.
    #[error("{0}")]
    Setting(String),
}

impl Error {
    pub(crate) fn hub(id: &Id, message: impl Into<String>) -> Self {
        Error::Hub { model: id.to_string(), message: message.into() }
    }

    /// For `map_err`: turns an I/O error into one that names the file.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Error::Io { path, cause }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
