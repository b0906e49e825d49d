//! Scores the images of a folder. The answers are written to a file, one image at a time.

mod ahead;
mod answer;
mod look;
mod scored;
mod second_opinion;
mod shares;
mod shot;
mod times;

pub use scored::{Scored, Waiting};
pub use times::Times;

use crate::{
    image_files::{self, Found, Gallery, Opened},
    judges::Judges,
    prompts::Task,
};
use anyhow::{Context, Result};
use benchmarks::records::{Answer, Image, Log, Metric, Subject};
use indicatif::ProgressBar;
use ranks::{ProcessGroup, interrupt::Interrupt};
use shot::Shot;
use std::time::Instant;

/// Name of the file of scores.
pub const SCORES: &str = "scores.jsonl";

/// The time in which nothing was scored, since the next images had not been read yet.
const WAITING: &str = "waiting for images";

/// A folder of images and the judges that score them.
pub struct Scoring<'a> {
    pub gallery: &'a Gallery<'a>,
    pub judges: &'a Judges,
    /// Images that a network sees in one batch.
    pub batch: usize,
}

impl Scoring<'_> {
    /// Scores the images that are not scored yet; every rank scores its share. The lines of an image are written when
    /// it is finished, so a scoring that was stopped continues with the next image. Call [`Scored::read`] again to get
    /// the new scores.
    ///
    /// # Errors
    /// Images that cannot be read; errors of the networks; a `scores.jsonl` in another format.
    pub fn run(
        &self,
        waiting: &Waiting,
        bar: &ProgressBar,
        interrupt: &Interrupt,
        group: &ProcessGroup,
    ) -> Result<Times> {
        let (mut log, before) = Log::open(&self.gallery.folder.join(shares::name(group)))?;
        if let Some(warning) = before.warning {
            tracing::warn!("{warning}");
        }
        let mut times = Times::default();
        let waiting = &waiting.0;
        times.before = self.gallery.found.len() - waiting.len();
        let of = |(found, tasks): &(usize, Vec<usize>)| {
            let found = &self.gallery.found[*found];
            (found, tasks.iter().map(|task| &self.gallery.prompt(found).tasks[*task]).collect())
        };
        let waiting: Vec<(&Found, Vec<&Task>)> = waiting[group.share(waiting.len())].iter().map(of).collect();
        bar.set_length(waiting.len() as u64);
        let batches: Vec<&[(&Found, Vec<&Task>)]> = waiting.chunks(self.batch.max(1)).collect();
        let open = |(found, _): &(&Found, Vec<&Task>)| image_files::open(self.gallery.folder, found);
        let read = |batch: &&[(&Found, Vec<&Task>)]| batch.iter().map(open).collect::<Result<Vec<_>>>();
        ahead::read(&batches, read, |opened| {
            let mut began = Instant::now();
            for (batch, opened) in batches.iter().zip(opened) {
                interrupt.check()?;
                let shots = batch.iter().zip(opened?).map(|((found, _), image)| self.shot(found, image));
                let shots = shots.collect::<Result<Vec<_>>>()?;
                times.add(WAITING, began, shots.len());
                for image in self.score(&shots, batch, &mut times)? {
                    log.add(&image)?;
                }
                times.images += shots.len();
                bar.inc(shots.len() as u64);
                began = Instant::now();
            }
            anyhow::Ok(())
        })?;
        drop(log);
        group.barrier()?; // all shares are written now
        Ok(times)
    }

    fn shot(&self, found: &Found, Opened { image, seed, digest, bytes }: Opened) -> Result<Shot> {
        Ok(Shot {
            subject: Subject { seed, digest: Some(digest), ..self.gallery.subject(found) },
            image: image.tensor()?,
            bytes,
        })
    }

    /// Scores in the order of the images, and of the tasks of each image.
    fn score(&self, shots: &[Shot], batch: &[(&Found, Vec<&Task>)], times: &mut Times) -> Result<Vec<Image>> {
        let mut scored: Vec<((usize, Metric), Image)> = vec![];
        let mut metrics: Vec<Metric> = batch.iter().flat_map(|(_, tasks)| tasks.iter().map(|t| t.metric())).collect();
        metrics.sort();
        metrics.dedup();
        for metric in metrics {
            let began = Instant::now();
            let asked: Vec<(usize, &Task)> = (0..)
                .zip(batch)
                .flat_map(|(i, (_, tasks))| tasks.iter().map(move |task| (i, *task)))
                .filter(|(_, task)| task.metric() == metric)
                .collect();
            let pairs: Vec<(&Shot, &Task)> = asked.iter().map(|(i, task)| (&shots[*i], *task)).collect();
            let prompts = || asked.iter().map(|(i, _)| self.gallery.prompt(batch[*i].0));
            let answers: Vec<Vec<Answer>> = match metric {
                Metric::Endpoint => second_opinion::ask(self.judges, &pairs, prompts())?,
                _ => look::at(self.judges, &pairs)?
                    .into_iter()
                    .zip(&pairs)
                    .map(|(seen, (shot, task))| answer::to(task, &shot.image, seen, self.judges))
                    .collect::<Result<_>>()?,
            };
            for ((i, task), answers) in asked.iter().zip(answers) {
                let asked = Some(self.gallery.asked(batch[*i].0, task));
                let subject = &Subject { asked, ..shots[*i].subject.clone() };
                let name = || format!("{}, {metric}", self.gallery.folder.join(&subject.file).display());
                scored.push(((*i, metric), Image::new(subject, metric, answers).with_context(name)?));
            }
            times.add(metric.name(), began, asked.len());
        }
        scored.sort_by_key(|(place, _)| *place);
        Ok(scored.into_iter().map(|(_, image)| image).collect())
    }
}
