//! Makes the pictures that are missing.

use crate::{pictures, prompts::Prompt};
use anyhow::{Context, Result};
use benchmarks::records::Benchmark;
use comat::{config::Sampling, generate, image::Picture, interrupt::Interrupt, pipeline::Pipeline, ranks::World};
use indicatif::ProgressBar;
use models::unet::UNet;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What is drawn, and how.
pub struct Drawing<'a> {
    pub benchmark: Benchmark,
    pub prompts: &'a [Prompt],
    /// One for each picture of a prompt.
    pub seeds: &'a [u64],
    pub sampling: &'a Sampling,
    /// Pictures at a time.
    pub batch: usize,
    /// The LoRA that is merged into the UNet, and how much of it: for what a picture says of itself.
    pub lora: Option<(&'a Path, f64)>,
}

struct Job<'a> {
    prompt: &'a Prompt,
    seed: u64,
    path: PathBuf,
}

impl Drawing<'_> {
    /// Those that are not there yet: the first of every prompt, then the second. So a drawing that was stopped has some of every prompt.
    fn missing(&self, folder: &Path) -> Result<Vec<Job<'_>>> {
        let mut jobs = vec![];
        for (index, &seed) in (0..).zip(self.seeds) {
            for prompt in self.prompts {
                let path = folder.join(pictures::path(self.benchmark, prompt, index)?);
                if !path.exists() {
                    jobs.push(Job { prompt, seed, path });
                }
            }
        }
        Ok(jobs)
    }

    /// How many are not there yet.
    ///
    /// # Errors
    /// Those of [`pictures::path`].
    pub fn count_missing(&self, folder: &Path) -> Result<usize> {
        Ok(self.missing(folder)?.len())
    }

    /// Draws them, every rank its share. Each file is whole or not there; the same call goes on where it was stopped.
    ///
    /// # Errors
    /// Those of drawing and writing.
    pub fn run(
        &self,
        folder: &Path,
        pipeline: &mut Pipeline,
        unet: &UNet,
        bar: &ProgressBar,
        interrupt: &Interrupt,
        world: &World,
    ) -> Result<()> {
        let jobs = self.missing(folder)?;
        world.barrier()?; // all of them have seen what is missing
        if self.benchmark == Benchmark::Geneval && world.leads() {
            // the pictures of a prompt may be of several ranks
            for job in &jobs {
                let parent = job.path.parent().unwrap_or(folder);
                fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
                write_metadata(folder, job.prompt)?;
            }
        }
        let jobs = &jobs[world.share(jobs.len())];
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
                let settings = generate::parameters(self.sampling, prompt, seed, size, &pipeline.name, self.lora);
                Picture::from_tensor(&images.get(row))?
                    .save(&job.path, &[("parameters", &settings), ("prompt", prompt), ("seed", &seed.to_string())])?;
            }
        }
        world.barrier() // all pictures are there
    }
}

/// What stands beside a prompt's pictures in GenEval.
fn write_metadata(folder: &Path, prompt: &Prompt) -> Result<()> {
    let path = folder.join(format!("{:05}", prompt.number)).join("metadata.jsonl");
    let metadata = prompt.tasks.iter().find_map(|task| match task {
        crate::prompts::Task::Clauses(metadata) => Some(metadata),
        _ => None,
    });
    match metadata {
        Some(metadata) if !path.exists() => {
            Ok(comat::files::write_whole(&path, &(serde_json::to_string(metadata)? + "\n"))?)
        }
        _ => Ok(()),
    }
}
