//! Models by their id: fetched from the hub into its ordinary cache, or found there.
//!
//! The cache is the one that huggingface_hub, diffusers and transformers have (`models--OWNER--NAME` with `blobs`, `refs`
//! and `snapshots`), so what one of them has fetched is not fetched again. Only the files that this program reads are
//! fetched: configurations, tokenizers, and the safetensors of one variant.
//!
//! Upstream: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>, and the hub's own web interface, of which
//! two requests are used: the list of a revision's files, and a file.
//!
//! Why not the crate `hf-hub`? Version 1.0 is asynchronous inside and brings nearly 300 crates with it; it starts a broken
//! file anew, and knows no `HF_HUB_OFFLINE`. Version 0.5 is synchronous over the same `ureq`, but reads neither `HF_TOKEN`,
//! `HF_HUB_CACHE` nor `HF_HUB_OFFLINE`, does not compare what has come with size and checksum, and gives one error for a
//! licence that was not accepted, a wrong name and a wrong revision.

mod adapters;
mod cache;
mod client;
mod download;
mod error;
mod files;
mod id;
mod settings;

pub use adapters::adapter;
pub use cache::Fetched;
pub use download::{Progress, Silent};
pub use error::{Error, Result};
pub use files::Layout;
pub use id::{Id, refuse_url};
pub use settings::{Settings, Token};

use cache::Repository;
use client::Client;
use std::{io, path::Path};

/// The hub, and the cache of what has come from it.
pub struct Hub {
    settings: Settings,
    client: Client,
}

impl Hub {
    pub fn new(settings: Settings) -> Self {
        Self { client: Client::new(&settings), settings }
    }

    /// The folder of a model, after fetching what is missing in it.
    ///
    /// A commit that is whole in the cache is used without asking, and so is everything when the hub must not be asked
    /// (`HF_HUB_OFFLINE`). Otherwise the hub says what commit the revision stands for; when it cannot be reached, the one
    /// that it stood for last time is used, with a warning.
    pub fn fetch(&self, id: &Id, layout: Layout, progress: &dyn Progress) -> Result<Fetched> {
        let repository = Repository::new(&self.settings.cache, id);
        let pinned = id.commit().map(str::to_owned);
        if let Some(commit) = &pinned
            && repository.whole(commit, layout, true).is_ok()
        {
            return Ok(repository.fetched(commit));
        }
        if self.settings.offline {
            return self.cached(&repository, layout);
        }
        let listing = match self.client.listing(id) {
            Ok(listing) => listing,
            Err(Error::Unreachable { model, message }) => {
                let Ok(fetched) = self.cached(&repository, layout) else {
                    return Err(Error::Unreachable { model, message });
                };
                tracing::warn!("{model}: {message}; the copy of commit {} in the cache is used", fetched.commit);
                return Ok(fetched);
            }
            Err(error) => return Err(error),
        };
        let names: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
        let wanted = files::of_id(&names, layout, id, false)
            .map_err(|lack| Error::hub(id, lack.on_the_hub(&self.client.page(id))))?;
        let mut missing: Vec<_> = listing
            .files
            .iter()
            .filter(|file| wanted.contains(&file.path.as_str()))
            .filter(|file| !repository.has(&listing.commit, &file.path))
            .collect();
        missing.sort_by_key(|file| file.size); // small ones first: what is wrong with the model shows early
        for (i, file) in missing.iter().enumerate() {
            progress.file(&format!("{} {} ({}/{})", id.name, file.path, i + 1, missing.len()), file.size);
            let fetched = download::file(&self.client, &repository, &listing.commit, file, progress);
            progress.end();
            if let Err(Error::Io { path, cause }) = fetched {
                return self.not_written(&repository, layout, &path, &cause);
            }
            fetched?;
        }
        // Last, so that a broken download leaves the revision at the commit that is whole. A cache that is shared or read-only may
        // not be ours to write to.
        if let Err(error) = repository.remember(id.revision(), &listing.commit) {
            tracing::debug!("{error}: the revision is not written down");
        }
        Ok(repository.fetched(&listing.commit))
    }

    /// What is to be done where the cache cannot be written to: an older commit in it will do.
    fn not_written(&self, repository: &Repository, layout: Layout, path: &Path, cause: &io::Error) -> Result<Fetched> {
        let (id, place) = (&repository.id, self.settings.cache.display());
        match self.cached(repository, layout) {
            Ok(fetched) => {
                tracing::warn!(
                    "{id}: {}: {cause}; the copy of commit {} in the cache is used",
                    path.display(),
                    fetched.commit
                );
                Ok(fetched)
            }
            Err(_) => {
                let what = format!("cannot be put into the cache {place} ({}: {cause})", path.display());
                Err(Error::hub(
                    id,
                    format!(
                        "{what}; set HF_HUB_CACHE to a folder that you can write to and that has enough free space"
                    ),
                ))
            }
        }
    }

    /// What the cache has of a model, as far as it is whole.
    fn cached(&self, repository: &Repository, layout: Layout) -> Result<Fetched> {
        let id = &repository.id;
        let commit = match id.commit() {
            Some(commit) => commit.to_owned(),
            None => repository.recall(id.revision()).ok_or_else(|| {
                let place = self.settings.cache.display();
                Error::hub(
                    id,
                    format!(
                        "is no folder here, its revision {} is not in the cache {place}, and {OFFLINE}",
                        id.revision()
                    ),
                )
            })?,
        };
        repository.whole(&commit, layout, false).map_err(|lack| {
            Error::hub(id, format!("{}, and {OFFLINE}", lack.in_the_cache(&repository.snapshot(&commit))))
        })?;
        Ok(repository.fetched(&commit))
    }
}

const OFFLINE: &str = "HF_HUB_OFFLINE forbids to fetch it: unset that, or fetch the model where there is a network";
