//! What has been scored already.

use super::{SCORES, shares};
use crate::{judges::Judge, pictures::Gallery, prompts::Task};
use anyhow::{Result, bail};
use benchmarks::records::{self, Key, Picture};
use comat::ranks::World;
use std::collections::{BTreeMap, BTreeSet};

/// The scores of a folder, by what they are of.
#[derive(Default)]
pub struct Scored {
    /// In the order of the file.
    pictures: Vec<Picture>,
    places: BTreeMap<Key, usize>,
}

impl Scored {
    /// Reads what is written of a folder, once the first rank has put together what several wrote.
    ///
    /// # Errors
    /// A file of another form; one with the scores of other pictures than the folder's: of prompts that have changed since, of files
    /// that were called otherwise, or that were replaced.
    pub fn read(gallery: &Gallery, world: &World) -> Result<Self> {
        shares::collect(gallery.folder, world)?;
        let path = gallery.folder.join(SCORES);
        let pictures = if path.exists() { records::read(&path)?.pictures } else { vec![] };
        world.barrier()?; // all of them have read it
        let places = pictures.iter().enumerate().map(|(place, picture)| (picture.key(), place)).collect();
        let scored = Self { pictures, places };
        scored.check(gallery)?;
        Ok(scored)
    }

    fn check(&self, gallery: &Gallery) -> Result<()> {
        for (found, task) in gallery.tasks() {
            let now = gallery.subject(found, None);
            let Some(place) = self.places.get(&now.key(task.metric())) else { continue };
            let then = self.pictures[*place].subject();
            let path = gallery.folder.join(SCORES);
            if (&then.prompt, &then.file) != (&now.prompt, &now.file) {
                bail!(
                    "{}: it has the scores of `{}` ({}) where `{}` ({}) is now; have prompts or pictures changed? Choose another \
                     folder, or remove the file",
                    path.display(),
                    then.prompt,
                    then.file,
                    now.prompt,
                    now.file
                );
            }
            if let (Some(was), Some(is)) = (then.bytes, now.bytes)
                && was != is
            {
                bail!(
                    "{}: it has the scores of another picture that was called {} ({was} bytes, now {is}); choose another folder, or \
                     remove the file",
                    path.display(),
                    then.file
                );
            }
        }
        Ok(())
    }

    pub fn has(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    /// The judges that pictures still wait for.
    pub fn awaited(&self, gallery: &Gallery) -> BTreeSet<Judge> {
        let waits = gallery.tasks().filter(|(found, task)| !self.has(&gallery.subject(found, None).key(task.metric())));
        waits.flat_map(|(_, task)| Task::judges(task)).collect()
    }

    /// What is known of these pictures, in the order of the file.
    pub fn of(self, gallery: &Gallery) -> Vec<Picture> {
        let wanted: BTreeSet<Key> =
            gallery.tasks().map(|(found, task)| gallery.subject(found, None).key(task.metric())).collect();
        self.pictures.into_iter().filter(|picture| wanted.contains(&picture.key())).collect()
    }
}
