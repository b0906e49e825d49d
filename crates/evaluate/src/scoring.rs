//! Goes through the pictures of a folder: each is looked at, and what was answered is written down, a picture at a time.

mod answer;
mod look;
mod second_opinion;
mod shares;
mod times;

pub use times::Times;

use crate::{
    judges::{Judge, Judges},
    pictures::{self, Found},
    prompts::{Prompt, Task},
};
use anyhow::{Context, Result, bail};
use benchmarks::records::{self, Answer, Benchmark, Key, Log, Metric, Picture, Subject};
use comat::{interrupt::Interrupt, ranks::World};
use indicatif::ProgressBar;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Instant,
};
use tch::Tensor;

/// The name of the file of lines.
pub const SCORES: &str = "scores.jsonl";

/// A folder of pictures, and what is to be known of them.
pub struct Scoring<'a> {
    pub folder: &'a Path,
    pub benchmark: Benchmark,
    pub prompts: &'a [Prompt],
    pub found: &'a [Found],
    pub judges: &'a Judges,
    /// Pictures that a network looks at together.
    pub batch: usize,
}

/// The judges that pictures of a folder still wait for.
///
/// # Errors
/// A `scores.jsonl` of another form.
pub fn awaited(folder: &Path, benchmark: Benchmark, prompts: &[Prompt], found: &[Found]) -> Result<BTreeSet<Judge>> {
    check(folder, benchmark, prompts, found)?;
    let done = done(folder)?;
    let waits = |found: &&Found, task: &&Task| {
        !done.contains(&found.subject(benchmark, &prompts[found.prompt], None).key(task.metric()))
    };
    let tasks =
        found.iter().flat_map(|found| prompts[found.prompt].tasks.iter().filter(move |task| waits(&found, task)));
    Ok(tasks.flat_map(Task::judges).collect())
}

/// Refuses a folder whose scores are of other pictures: of prompts that have changed since, or of files that were called otherwise.
fn check(folder: &Path, benchmark: Benchmark, prompts: &[Prompt], found: &[Found]) -> Result<()> {
    let path = folder.join(SCORES);
    if !path.exists() {
        return Ok(());
    }
    let scored = records::read(&path)?.pictures;
    let known: BTreeMap<Key, &Subject> = scored.iter().map(|picture| (picture.key(), picture.subject())).collect();
    for found in found {
        let prompt = &prompts[found.prompt];
        let now = found.subject(benchmark, prompt, None);
        for then in prompt.tasks.iter().filter_map(|task| known.get(&now.key(task.metric()))) {
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
        }
    }
    Ok(())
}

/// What is scored already.
fn done(folder: &Path) -> Result<BTreeSet<Key>> {
    let path = folder.join(SCORES);
    Ok(match path.exists() {
        true => records::read(&path)?.pictures.iter().map(Picture::key).collect(),
        false => BTreeSet::new(),
    })
}

/// What is written of these pictures, in the order of the file.
///
/// # Errors
/// A `scores.jsonl` that cannot be read or is of another form.
pub fn scores(folder: &Path, benchmark: Benchmark, prompts: &[Prompt], found: &[Found]) -> Result<Vec<Picture>> {
    let wanted: BTreeSet<Key> = found
        .iter()
        .flat_map(|found| {
            let prompt = &prompts[found.prompt];
            prompt.tasks.iter().map(|task| found.subject(benchmark, prompt, None).key(task.metric()))
        })
        .collect();
    let all = records::read(&folder.join(SCORES))?.pictures;
    Ok(all.into_iter().filter(|picture| wanted.contains(&picture.key())).collect())
}

/// A picture that is looked at.
struct Shot {
    subject: Subject,
    /// `[3, H, W]` in 0..1
    image: Tensor,
    /// The file as it is, for an endpoint.
    bytes: Vec<u8>,
}

impl Scoring<'_> {
    /// Scores what is not scored yet, every rank its share; nothing is scored twice. The lines of a picture are written when it is done, so a scoring that is
    /// stopped goes on with the next picture.
    ///
    /// # Errors
    /// Pictures that cannot be read; those of the networks; a `scores.jsonl` of another form.
    pub fn run(&self, bar: &ProgressBar, interrupt: &Interrupt, world: &World) -> Result<Times> {
        shares::collect(self.folder, world)?;
        let waiting = world.of_first(|| self.waiting())?;
        let (mut log, before) = Log::open(&self.folder.join(shares::name(world)))?;
        if let Some(warning) = before.warning {
            tracing::warn!("{warning}");
        }
        let mut times = Times::default();
        times.before = self.found.len() - waiting.len();
        let of = |(found, tasks): &(usize, Vec<usize>)| {
            let found = &self.found[*found];
            (found, tasks.iter().map(|task| &self.prompts[found.prompt].tasks[*task]).collect())
        };
        let waiting: Vec<(&Found, Vec<&Task>)> = waiting[world.share(waiting.len())].iter().map(of).collect();
        bar.set_length(waiting.len() as u64);
        for batch in waiting.chunks(self.batch.max(1)) {
            interrupt.check()?;
            let began = Instant::now();
            let shots = batch.iter().map(|(found, _)| self.shot(found)).collect::<Result<Vec<_>>>()?;
            times.add("reading", began, shots.len());
            for picture in self.score(&shots, batch, &mut times)? {
                log.add(&picture)?;
            }
            times.pictures += shots.len();
            bar.inc(shots.len() as u64);
        }
        drop(log);
        world.barrier()?; // all shares are there
        shares::collect(self.folder, world)?;
        Ok(times)
    }

    /// Which of the pictures are not scored yet, and by which of their prompts' tasks.
    fn waiting(&self) -> Result<Vec<(usize, Vec<usize>)>> {
        let done = done(self.folder)?;
        let tasks = |found: &Found| {
            let prompt = &self.prompts[found.prompt];
            let is_done = |task: &Task| done.contains(&found.subject(self.benchmark, prompt, None).key(task.metric()));
            (0..prompt.tasks.len()).filter(|task| !is_done(&prompt.tasks[*task])).collect::<Vec<_>>()
        };
        let all = self.found.iter().map(tasks).enumerate();
        Ok(all.filter(|(_, tasks)| !tasks.is_empty()).collect())
    }

    fn shot(&self, found: &Found) -> Result<Shot> {
        let path = self.folder.join(&found.file);
        let (picture, seed) = pictures::open(&path)?;
        Ok(Shot {
            subject: found.subject(self.benchmark, &self.prompts[found.prompt], seed),
            image: picture.tensor()?,
            bytes: match self.judges.endpoint {
                Some(_) => fs::read(&path).with_context(|| path.display().to_string())?,
                None => vec![],
            },
        })
    }

    /// In the order of the pictures, and of the tasks of each.
    fn score(&self, shots: &[Shot], batch: &[(&Found, Vec<&Task>)], times: &mut Times) -> Result<Vec<Picture>> {
        let mut scored: Vec<((usize, Metric), Picture)> = vec![];
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
            let prompts = || asked.iter().map(|(i, _)| &self.prompts[batch[*i].0.prompt]);
            let answers: Vec<Vec<Answer>> = match metric {
                Metric::Endpoint => second_opinion::ask(self.judges, &pairs, prompts())?,
                _ => look::at(self.judges, &pairs)?
                    .into_iter()
                    .zip(&pairs)
                    .map(|(seen, (shot, task))| answer::to(task, &shot.image, seen, self.judges))
                    .collect::<Result<_>>()?,
            };
            for ((i, _), answers) in asked.iter().zip(answers) {
                let subject = &shots[*i].subject;
                let name = || format!("{}, {metric}", self.folder.join(&subject.file).display());
                scored.push(((*i, metric), Picture::new(subject, metric, answers).with_context(name)?));
            }
            times.add(metric.name(), began, asked.len());
        }
        scored.sort_by_key(|(place, _)| *place);
        Ok(scored.into_iter().map(|(_, picture)| picture).collect())
    }
}
