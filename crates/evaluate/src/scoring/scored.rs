//! The scores that a folder already has.

use super::{SCORES, shares};
use crate::{
    image_files::{Found, Gallery},
    judges::Judge,
    prompts::Task,
};
use anyhow::{Result, bail};
use benchmarks::records::{self, Image, Key, Subject};
use models::{Error, write_text};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The scores of a folder, with their keys.
#[derive(Default)]
pub struct Scored {
    /// The scores in the order of the file.
    images: Vec<Image>,
    keys: BTreeSet<Key>,
}

impl Scored {
    /// Reads the scores of a folder, after merging the files of all ranks. Call it on the first rank only. Scores of
    /// images that were replaced since are removed, so those images are scored again.
    ///
    /// # Errors
    /// A file in another format; scores of other images than the folder's: the prompts have changed, or the files had
    /// other names.
    pub fn read(gallery: &Gallery) -> Result<Self> {
        let mut scored = Self::again(gallery)?;
        scored.check(gallery)?;
        let replaced = scored.replaced(gallery.folder)?;
        if !replaced.is_empty() {
            let (path, number) = (gallery.folder.join(SCORES), replaced.len());
            tracing::warn!(
                "{}: {number} scores are of images that were replaced since; they are scored again",
                path.display()
            );
            scored.images.retain(|image| !replaced.contains(&image.key()));
            scored.keys.retain(|key| !replaced.contains(key));
            write(&path, &scored.images)?;
        }
        Ok(scored)
    }

    /// Like [`Self::read`], but without opening the images; for use after more scores were written.
    ///
    /// # Errors
    /// A file in another format.
    pub fn again(gallery: &Gallery) -> Result<Self> {
        shares::merge(gallery.folder)?;
        let path = gallery.folder.join(SCORES);
        let images = if path.exists() { records::read(&path)?.images } else { vec![] };
        let keys = images.iter().map(Image::key).collect();
        Ok(Self { images, keys })
    }

    /// Checks that the scores belong to the gallery's prompts and files.
    fn check(&self, gallery: &Gallery) -> Result<()> {
        let known: BTreeMap<Key, &Subject> = self.images.iter().map(|p| (p.key(), p.subject())).collect();
        for (found, task) in gallery.tasks() {
            let now = gallery.subject(found);
            let Some(then) = known.get(&now.key(task.metric())) else { continue };
            if (&then.prompt, &then.file) != (&now.prompt, &now.file) {
                bail!(
                    "{}: it has the scores of `{}` ({}) where `{}` ({}) is now; have prompts or images changed? Choose another \
                     folder, or remove the file",
                    gallery.folder.join(SCORES).display(),
                    then.prompt,
                    then.file,
                    now.prompt,
                    now.file
                );
            }
            if then.asked.as_ref().is_some_and(|then| *then != gallery.asked(found, task)) {
                bail!(
                    "{}: since {} was scored by {}, what is asked about `{}` has changed; choose another folder, or remove the \
                     file to score all images again",
                    gallery.folder.join(SCORES).display(),
                    now.file,
                    task.metric(),
                    now.prompt
                );
            }
        }
        Ok(())
    }

    /// Keys of all scores whose image file has changed since. Every file is read, because file times are not reliable.
    fn replaced(&self, folder: &Path) -> Result<BTreeSet<Key>> {
        let mut digests = BTreeMap::<&str, Option<String>>::new();
        let mut replaced = BTreeSet::new();
        for image in &self.images {
            let Subject { file, digest: Some(then), .. } = image.subject() else { continue };
            if !digests.contains_key(file.as_str()) {
                let path = folder.join(file);
                let digest = match path.exists() {
                    true => Some(models::digest(&fs::read(&path).map_err(Error::io(&path))?)),
                    false => None,
                };
                digests.insert(file, digest);
            }
            if digests[file.as_str()].as_ref().is_some_and(|now| now != then) {
                replaced.insert(image.key());
            }
        }
        Ok(replaced)
    }

    /// The images and tasks that are not scored yet.
    pub fn waiting(&self, gallery: &Gallery) -> Waiting {
        let tasks = |found: &Found| {
            let tasks = &gallery.prompt(found).tasks;
            let waits = |task: &usize| !self.keys.contains(&gallery.subject(found).key(tasks[*task].metric()));
            (0..tasks.len()).filter(waits).collect::<Vec<_>>()
        };
        let all = gallery.found.iter().map(tasks).enumerate();
        Waiting(all.filter(|(_, tasks)| !tasks.is_empty()).collect())
    }

    /// The scores of the gallery's images, in the order of the file.
    pub fn of(self, gallery: &Gallery) -> Vec<Image> {
        let wanted: BTreeSet<Key> =
            gallery.tasks().map(|(found, task)| gallery.subject(found).key(task.metric())).collect();
        self.images.into_iter().filter(|image| wanted.contains(&image.key())).collect()
    }
}

/// Indices of the gallery's images that wait for scoring, each with the indices of its prompt's tasks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Waiting(pub(super) Vec<(usize, Vec<usize>)>);

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The judges that are needed.
    pub fn judges(&self, gallery: &Gallery) -> BTreeSet<Judge> {
        let tasks = self.0.iter().flat_map(|(found, tasks)| {
            let all = &gallery.prompt(&gallery.found[*found]).tasks;
            tasks.iter().map(|task| &all[*task])
        });
        tasks.flat_map(Task::judges).collect()
    }
}

fn write(path: &Path, images: &[Image]) -> Result<()> {
    let lines = images.iter().flat_map(Image::lines).map(|line| Ok(serde_json::to_string(line)? + "\n"));
    Ok(write_text(path, &lines.collect::<Result<String>>()?)?)
}
