//! Downloads one file from the hub into the cache: in several transfers if needed, and verified.

use crate::{
    Error, Result,
    cache::{Repository, make_parent},
    client::{Client, RemoteFile},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    thread,
};
use ureq::http::StatusCode;

/// Number of successive attempts without new bytes before the transfer is given up.
const TRIES: u32 = 5;

/// Receives the progress of a download. Files are downloaded one after the other.
pub trait Progress {
    /// A file of `size` bytes begins.
    fn file(&self, name: &str, size: u64);
    /// Number of bytes of it that are there, including those of an earlier attempt.
    fn at(&self, bytes: u64);
    fn end(&self);
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn file(&self, _: &str, _: u64) {}
    fn at(&self, _: u64) {}
    fn end(&self) {}
}

/// Downloads a file into a commit's folder. A broken transfer is kept, and the next one continues it.
pub(crate) fn file(
    client: &Client,
    repository: &Repository,
    commit: &str,
    file: &RemoteFile,
    progress: &dyn Progress,
) -> Result<()> {
    let blob = repository.blob(&file.hash);
    let _lock = repository.lock(&file.hash, &file.path)?;
    if !blob.exists() {
        make_parent(&blob)?;
        let partial = repository.partial(&file.hash);
        let from = Source { client, repository, commit, file };
        from.download(&partial, progress)?;
        if let Err(message) = verify(&partial, file).map_err(Error::io(&partial))? {
            fs::remove_file(&partial).map_err(Error::io(&partial))?;
            return Err(Error::hub(&repository.id, message));
        }
        fs::rename(&partial, &blob).map_err(Error::io(&blob))?;
    }
    repository.link(commit, &file.path, &file.hash)
}

struct Source<'a> {
    client: &'a Client,
    repository: &'a Repository,
    commit: &'a str,
    file: &'a RemoteFile,
}

impl Source<'_> {
    /// Downloads until the file has its size.
    fn download(&self, partial: &Path, progress: &dyn Progress) -> Result<()> {
        let mut out = File::options().create(true).append(true).open(partial).map_err(Error::io(partial))?;
        let mut tries = 0;
        loop {
            let have = out.metadata().map_err(Error::io(partial))?.len();
            if have == self.file.size {
                return out.sync_all().map_err(Error::io(partial));
            }
            if have > self.file.size {
                out.set_len(0).map_err(Error::io(partial))?;
                continue;
            }
            progress.at(have);
            let broken = match self.transfer(&mut out, have, partial, progress) {
                Ok(None) => continue,
                Ok(Some(reason)) => reason,
                Err(Error::Unreachable { message, .. }) => message,
                Err(error) => return Err(error),
            };
            let now = out.metadata().map_err(Error::io(partial))?.len();
            tries = if (have + 1..=self.file.size).contains(&now) { 1 } else { tries + 1 };
            if tries >= TRIES {
                let Source { repository, file, .. } = self;
                let message = format!(
                    "{}: the transfer broke off after {now} of {} bytes ({broken}); run the command again, it goes on from there",
                    file.path, file.size
                );
                return Err(Error::Unreachable { model: repository.id.to_string(), message });
            }
            tracing::debug!("{}: {broken}; trying again", self.file.path);
            thread::sleep(self.client.pause * (1 << tries) / 2);
        }
    }

    /// One request; its bytes are appended to the existing ones. `Some`: why it ended early.
    fn transfer(&self, out: &mut File, have: u64, partial: &Path, progress: &dyn Progress) -> Result<Option<String>> {
        let Source { client, repository, commit, file } = self;
        let response = client.file(&repository.id, commit, &file.path, have)?;
        let starts = response.headers().get("content-range").and_then(|range| range.to_str().ok());
        let starts: Option<u64> =
            starts.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        let mut at = match (response.status(), starts) {
            (StatusCode::PARTIAL_CONTENT, Some(start)) if start == have => have,
            (StatusCode::OK, _) => 0, // a server without ranges sends the file from its beginning
            _ => {
                out.set_len(0).map_err(Error::io(partial))?;
                return Ok(Some(format!("no answer to a request from byte {have} on")));
            }
        };
        if at != have {
            out.set_len(0).map_err(Error::io(partial))?;
        }
        let mut body = response.into_body().into_reader();
        let mut piece = vec![0; 1 << 18];
        loop {
            let count = match body.read(&mut piece) {
                Ok(0) if at < file.size => return Ok(Some("the connection was closed".into())),
                Ok(0) => return Ok(None),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Ok(Some(e.to_string())),
            };
            out.write_all(&piece[..count]).map_err(Error::io(partial))?;
            at += count as u64;
            if at > file.size {
                return Ok(Some("more bytes came than the file has".into()));
            }
            progress.at(at);
        }
    }
}

/// Checks the size, and the checksum if the hub has one of the content. The inner error describes a wrong file.
fn verify(partial: &Path, file: &RemoteFile) -> io::Result<Result<(), String>> {
    if !file.is_sha256 {
        return Ok(Ok(()));
    }
    let mut hasher = Sha256::new();
    let mut source = File::open(partial)?;
    let mut piece = vec![0; 1 << 18];
    loop {
        match source.read(&mut piece)? {
            0 => break,
            count => hasher.update(&piece[..count]),
        }
    }
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(if found == file.hash.to_ascii_lowercase() {
        Ok(())
    } else {
        Err(format!(
            "{} came with the checksum {found}, the hub says {}; it was thrown away: run the command again",
            file.path, file.hash
        ))
    })
}
