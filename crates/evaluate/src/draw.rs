//! Makes the images that are missing.

use crate::{image_files, prompts::Prompt};
use anyhow::{Context, Result};
use benchmarks::records::Benchmark;
use diffusion::{generate, pipeline::Pipeline, settings::Sampling};
use images::Image;
use indicatif::ProgressBar;
use models::network::Network;
use ranks::{ProcessGroup, interrupt::Interrupt};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What is drawn, and how.
pub struct Drawing<'a> {
    pub benchmark: Benchmark,
    pub prompts: &'a [Prompt],
    /// One for each image of a prompt.
    pub seeds: &'a [u64],
    pub sampling: &'a Sampling,
    /// Images at a time.
    pub batch: usize,
    /// The LoRAs that are in the networks, and how much of each: for what an image says of itself.
    pub loras: &'a [(PathBuf, f64)],
}

/// An image that is not there yet.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Missing {
    /// Which of the prompts, and which of its images.
    prompt: usize,
    index: usize,
}

struct Job<'a> {
    prompt: &'a Prompt,
    seed: u64,
    path: PathBuf,
}

impl Drawing<'_> {
    /// Those that are not there yet: the first of every prompt, then the second. So a drawing that was stopped has some of every prompt.
    ///
    /// # Errors
    /// Those of [`image_files::path`].
    pub fn missing(&self, folder: &Path) -> Result<Vec<Missing>> {
        let mut all = vec![];
        for index in 0..self.seeds.len() {
            for prompt in 0..self.prompts.len() {
                let missing = Missing { prompt, index };
                if !self.job(folder, &missing)?.path.exists() {
                    all.push(missing);
                }
            }
        }
        Ok(all)
    }

    fn job(&self, folder: &Path, missing: &Missing) -> Result<Job<'_>> {
        let prompt = &self.prompts[missing.prompt];
        let path = folder.join(image_files::path(self.benchmark, prompt, missing.index as u64)?);
        Ok(Job { prompt, seed: self.seeds[missing.index], path })
    }

    /// Draws those, every rank its share of one list. Each file is whole or not there; what was stopped leaves the others missing.
    ///
    /// # Errors
    /// Those of drawing and writing.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        folder: &Path,
        missing: &[Missing],
        pipeline: &mut Pipeline,
        unet: &dyn Network,
        bar: &ProgressBar,
        interrupt: &Interrupt,
        group: &ProcessGroup,
    ) -> Result<()> {
        let jobs = missing.iter().map(|missing| self.job(folder, missing)).collect::<Result<Vec<_>>>()?;
        if group.leads() {
            // rank 0 looks for the images later on: what it has made itself, it sees at once on a network file system, too
            for job in &jobs {
                let parent = job.path.parent().unwrap_or(folder);
                fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
                if self.benchmark == Benchmark::Geneval {
                    write_metadata(folder, job.prompt)?; // the images of a prompt may be of several ranks
                }
            }
        }
        let jobs = &jobs[group.share(jobs.len())];
        for job in jobs {
            let parent = job.path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        let size = self.sampling.size.unwrap_or(pipeline.native_size());
        bar.set_length((jobs.len() * self.sampling.steps) as u64);
        for batch in jobs.chunks(self.batch.max(1)) {
            let wanted: Vec<(&str, u64)> = batch.iter().map(|job| (job.prompt.text.as_str(), job.seed)).collect();
            let images = generate::draw(pipeline, unet, self.sampling, &wanted, || {
                bar.inc(batch.len() as u64);
                Ok(interrupt.check()?)
            })?;
            for (row, job) in (0..).zip(batch) {
                let (prompt, seed) = (&job.prompt.text, job.seed);
                let settings = generate::parameters(self.sampling, prompt, seed, size, &pipeline.name, self.loras);
                Image::from_tensor(&images.get(row))?
                    .save(&job.path, &[("parameters", &settings), ("prompt", prompt), ("seed", &seed.to_string())])?;
            }
        }
        group.barrier() // all images are there
    }
}

/// What stands beside a prompt's images in GenEval.
fn write_metadata(folder: &Path, prompt: &Prompt) -> Result<()> {
    let path = folder.join(format!("{:05}", prompt.number)).join("metadata.jsonl");
    let metadata = prompt.tasks.iter().find_map(|task| match task {
        crate::prompts::Task::Clauses(metadata) => Some(metadata),
        _ => None,
    });
    match metadata {
        Some(metadata) if !path.exists() => Ok(models::write_text(&path, &(serde_json::to_string(metadata)? + "\n"))?),
        _ => Ok(()),
    }
}
