//! One model in the cache, and the cache's layout.
//!
//! `blobs/HASH` are the contents, `snapshots/COMMIT/PATH` links to them, `refs/REVISION` the commit that a revision stood
//! for. A blob is renamed into its place when it is whole, so a link that leads somewhere leads to a whole file.

use crate::{
    Error, Id, Layout, Result,
    files::{self, Lack},
    id::is_commit,
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A model that is complete in the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The folder; files have their names in the repository.
    pub folder: PathBuf,
    /// The commit of the revision, 40 hexadecimal digits.
    pub commit: String,
}

pub(crate) struct Repository {
    pub id: Id,
    folder: PathBuf,
    locks: PathBuf,
}

impl Repository {
    pub fn new(cache: &Path, id: &Id) -> Self {
        let name = format!("models--{}", id.name.replace('/', "--"));
        Self { id: id.clone(), folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub fn fetched(&self, commit: &str) -> Fetched {
        Fetched { folder: self.snapshot(commit), commit: commit.to_owned() }
    }

    pub fn has(&self, commit: &str, path: &str) -> bool {
        self.snapshot(commit).join(path).exists()
    }

    /// Checks that everything a model of that layout needs is here. `strictly`: in exactly the variant that is asked
    /// for, without looking for others.
    pub fn whole(&self, commit: &str, layout: Layout, strictly: bool) -> Result<(), Lack> {
        let mut here = vec![];
        list(&self.snapshot(commit), "", &mut here);
        let here: Vec<&str> = here.iter().map(String::as_str).collect();
        files::of_id(&here, layout, &self.id, strictly).map(|_| ())
    }

    /// The commit that a revision stood for when it was last fetched.
    pub fn recall(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.recall(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        make_parent(&path)?;
        let partial = with_ending(&path, "partial");
        fs::write(&partial, commit).and_then(|()| fs::rename(&partial, &path)).map_err(Error::io(&path))
    }

    pub fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    /// Waits until no other program fetches this blob. The lock ends with the file that is returned; `None` where none can be had:
    /// two programs at a time would only cost a checksum that is wrong.
    pub fn lock(&self, hash: &str, name: &str) -> Result<Option<File>> {
        let path = self.locks.join(format!("{hash}.lock"));
        let made = make_parent(&path)
            .and_then(|()| File::options().create(true).append(true).open(&path).map_err(Error::io(&path)));
        let file = match made.or_else(|e| File::open(&path).map_err(|_| e)) {
            Ok(file) => file, // another user's can be locked, too
            Err(error) => {
                tracing::debug!("{error}: {name} is fetched without a lock");
                return Ok(None);
            }
        };
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            tracing::info!("{}: another program is fetching {name}; waiting for it", self.id);
            file.lock().map_err(Error::io(&path))?;
        }
        Ok(Some(file))
    }

    /// Path of an unfinished blob: huggingface_hub's name for it, or one of this process's own if that file belongs to
    /// another user.
    pub fn partial(&self, hash: &str) -> PathBuf {
        let blob = self.blob(hash);
        let usual = with_ending(&blob, "incomplete");
        if usual.exists() && File::options().append(true).open(&usual).is_err() {
            return with_ending(&blob, &format!("{}.incomplete", std::process::id()));
        }
        usual
    }

    /// Puts a blob under its name into a commit's folder.
    pub fn link(&self, commit: &str, path: &str, hash: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(path);
        make_parent(&pointer)?;
        let up = "../".repeat(2 + path.matches('/').count());
        let _ = fs::remove_file(&pointer); // one that leads nowhere
        match symlink(&format!("{up}blobs/{hash}"), &pointer) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // a file system without links: as huggingface_hub does there
            Err(_) => fs::rename(self.blob(hash), &pointer).map_err(Error::io(&pointer)),
            Ok(()) => Ok(()),
        }
    }
}

pub(crate) fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(Error::io(parent))
}

/// `name` → `name.ending`
pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// All files below a folder, with their names on the hub; broken links are left out.
fn list(folder: &Path, within: &str, all: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = format!("{within}{}", name.to_string_lossy());
        if path.is_dir() {
            list(&path, &format!("{name}/"), all);
        } else if path.exists() {
            all.push(name);
        }
    }
}
