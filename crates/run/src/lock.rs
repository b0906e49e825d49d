//! One process at a time writes into a run's folder.

use anyhow::{Result, bail};
use models::Error;
use std::{
    fs::{File, TryLockError},
    path::Path,
};

/// A folder that is this process's own, until it is dropped or the process ends, however it ends.
pub struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// Makes the folder if it is not there, and locks it.
    ///
    /// # Errors
    /// Another process has locked it; a folder that cannot be written to.
    pub fn take(folder: &Path) -> Result<Self> {
        models::make_folder(folder)?;
        let path = folder.join(".lock");
        let file = File::options().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => bail!(
                "{}: another process is training in this folder; wait until it ends or stop it, or choose another folder (--set output=DIR)",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => {
                tracing::warn!(
                    "{}: cannot be locked ({error}); make sure that no other process trains there",
                    path.display()
                );
                Ok(Self { _file: None })
            }
        }
    }

    /// Of a process that writes nothing.
    pub fn none() -> Self {
        Self { _file: None }
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("run");
        let first = Lock::take(&folder).unwrap();
        let error = Lock::take(&folder).err().unwrap().to_string();
        assert!(error.contains("another process is training in this folder"), "{error}");
        drop(first);
        Lock::take(&folder).unwrap();
    }
}
