use std::path::{Path, PathBuf};

/// Errors between a model folder and the network's output. Every variant says what is wrong and where. The message is
/// complete, so there is no `source` that a caller would print again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {}", path.display(), io_message(cause))]
    Io { path: PathBuf, cause: std::io::Error },
    /// A file that can be read but has wrong content.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
    /// An argument that the network cannot take.
    #[error("{0}")]
    Input(String),
    #[error("libtorch: {}", torch_ext::first_line(.0))]
    Torch(tch::TchError),
}

impl Error {
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_owned(), message: message.into() }
    }

    /// For `map_err`: turns an I/O error into one that names the file.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |cause| Error::Io { path, cause }
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Error::Torch(error)
    }
}

/// Plain words for common errors; otherwise the operating system's text.
fn io_message(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or folder".into(),
        std::io::ErrorKind::StorageFull => "the disk is full".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        std::io::ErrorKind::AlreadyExists => "a file of that name is where a folder should be".into(),
        std::io::ErrorKind::NotADirectory => "a part of this path is a file, not a folder".into(),
        std::io::ErrorKind::IsADirectory => "this is a folder, not a file".into(),
        _ => error.to_string(),
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
