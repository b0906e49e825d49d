//! What has been scored already.

use super::{SCORES, shares};
use crate::{
    judges::Judge,
    pictures::{self, Found, Gallery},
    prompts::Task,
};
use anyhow::{Context, Result, bail};
use benchmarks::records::{self, Key, Picture, Subject};
use comat::files::write_whole;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
};

/// The scores of a folder, by what they are of.
#[derive(Default)]
pub struct Scored {
    /// In the order of the file.
    pictures: Vec<Picture>,
    keys: BTreeSet<Key>,
}

impl Scored {
    /// Reads what is written of a folder, after putting together what several ranks wrote; on the first rank alone. Scores of a picture
    /// that was replaced since are taken out: it waits again.
    ///
    /// # Errors
    /// A file of another form; one with the scores of other pictures than the folder's: of prompts that have changed since, or of files
    /// that were called otherwise.
    pub fn read(gallery: &Gallery) -> Result<Self> {
        shares::merge(gallery.folder)?;
        let path = gallery.folder.join(SCORES);
        let mut pictures = if path.exists() { records::read(&path)?.pictures } else { vec![] };
        let replaced = replaced(&pictures, gallery)?;
        if !replaced.is_empty() {
            let (place, number) = (path.display(), replaced.len());
            tracing::warn!("{place}: {number} scores are of pictures that were replaced since; they are scored again");
            pictures.retain(|picture| !replaced.contains(&picture.key()));
            write(&path, &pictures)?;
        }
        let keys = pictures.iter().map(Picture::key).collect();
        Ok(Self { pictures, keys })
    }

    /// What is not scored yet.
    pub fn waiting(&self, gallery: &Gallery) -> Waiting {
        let tasks = |found: &Found| {
            let tasks = &gallery.prompt(found).tasks;
            let waits = |task: &usize| !self.keys.contains(&gallery.subject(found).key(tasks[*task].metric()));
            (0..tasks.len()).filter(waits).collect::<Vec<_>>()
        };
        let all = gallery.found.iter().map(tasks).enumerate();
        Waiting(all.filter(|(_, tasks)| !tasks.is_empty()).collect())
    }

    /// What is known of these pictures, in the order of the file.
    pub fn of(self, gallery: &Gallery) -> Vec<Picture> {
        let wanted: BTreeSet<Key> =
            gallery.tasks().map(|(found, task)| gallery.subject(found).key(task.metric())).collect();
        self.pictures.into_iter().filter(|picture| wanted.contains(&picture.key())).collect()
    }
}

/// Pictures of a gallery, by their place in it, and the places of their prompts' tasks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Waiting(pub(super) Vec<(usize, Vec<usize>)>);

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that are waited for.
    pub fn judges(&self, gallery: &Gallery) -> BTreeSet<Judge> {
        let tasks = self.0.iter().flat_map(|(found, tasks)| {
            let all = &gallery.prompt(&gallery.found[*found]).tasks;
            tasks.iter().map(|task| &all[*task])
        });
        tasks.flat_map(Task::judges).collect()
    }
}

/// What is written of files that are others now. Only those are read that were changed since the scores were written.
fn replaced(pictures: &[Picture], gallery: &Gallery) -> Result<BTreeSet<Key>> {
    let known: BTreeMap<Key, &Subject> = pictures.iter().map(|picture| (picture.key(), picture.subject())).collect();
    let path = gallery.folder.join(SCORES);
    let written = if path.exists() { Some(last_change(&path)?) } else { None };
    let mut digests = BTreeMap::new();
    let mut replaced = BTreeSet::new();
    for (found, task) in gallery.tasks() {
        let now = gallery.subject(found);
        let key = now.key(task.metric());
        let Some(then) = known.get(&key) else { continue };
        if (&then.prompt, &then.file) != (&now.prompt, &now.file) {
            bail!(
                "{}: it has the scores of `{}` ({}) where `{}` ({}) is now; have prompts or pictures changed? Choose another folder, or \
                 remove the file",
                path.display(),
                then.prompt,
                then.file,
                now.prompt,
                now.file
            );
        }
        let Some(digest) = &then.digest else { continue };
        let file = gallery.folder.join(&found.file);
        if Some(last_change(&file)?) < written {
            continue;
        }
        let now = match digests.entry(&found.file) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(pictures::digest(&fs::read(&file).with_context(|| file.display().to_string())?))
            }
        };
        if now != digest {
            replaced.insert(key);
        }
    }
    Ok(replaced)
}

/// Seconds and nanoseconds; of the file or of its name, which a copy cannot set back.
fn last_change(path: &Path) -> Result<(i64, i64)> {
    let of = fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok((of.mtime(), of.mtime_nsec()).max((of.ctime(), of.ctime_nsec())))
}

fn write(path: &Path, pictures: &[Picture]) -> Result<()> {
    let lines = pictures.iter().flat_map(Picture::lines).map(|line| Ok(serde_json::to_string(line)? + "\n"));
    Ok(write_whole(path, &lines.collect::<Result<String>>()?)?)
}
