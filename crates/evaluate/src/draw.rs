//! Draws the images that are missing.

use crate::{image_files, prompts::Prompt};
use anyhow::Result;
use benchmarks::records::Benchmark;
use diffusion::{generate, pipeline::Pipeline, settings::Sampling};
use images::Image;
use indicatif::ProgressBar;
use models::{Error, network::Network};
use ranks::{ProcessGroup, interrupt::Interrupt};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The images to draw and their settings.
pub struct Drawing<'a> {
    pub benchmark: Benchmark,
    pub prompts: &'a [Prompt],
    /// One seed for each image of a prompt.
    pub seeds: &'a [u64],
    pub sampling: &'a Sampling,
    /// Images drawn together.
    pub batch: usize,
    /// The LoRAs in the networks and the strength of each; written to the metadata of the images.
    pub loras: &'a [(PathBuf, f64)],
}

/// An image that does not exist yet.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Missing {
    /// Index of the prompt; `index`: number of the image among the prompt's images, from 0.
    prompt: usize,
    index: usize,
}

struct Job<'a> {
    prompt: &'a Prompt,
    seed: u64,
    path: PathBuf,
}

impl Drawing<'_> {
    /// The images that do not exist yet: the first image of every prompt, then the second, and so on. So a drawing that
    /// was stopped has some images of every prompt.
    ///
    /// # Errors
    /// The same as [`image_files::path`].
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

    /// Draws the missing images; every rank draws its share of the list. A file is written whole or not at all. After a
    /// stop, the images that were not drawn are still missing.
    ///
    /// # Errors
    /// An image that cannot be drawn or written; an interruption.
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
            // rank 0 reads the folders later; on a network file system it sees at once what it has made itself
            for job in &jobs {
                let parent = job.path.parent().unwrap_or(folder);
                fs::create_dir_all(parent).map_err(Error::io(parent))?;
                if self.benchmark == Benchmark::Geneval {
                    write_metadata(folder, job.prompt)?; // the images of one prompt may be drawn by several ranks
                }
            }
        }
        let jobs = &jobs[group.share(jobs.len())];
        for job in jobs {
            let parent = job.path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
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
        group.barrier() // all images exist now
    }
}

/// Writes `metadata.jsonl` beside the prompt's images, as GenEval expects.
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
