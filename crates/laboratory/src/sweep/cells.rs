//! One cell: one model at one guidance with one set of prompts, sampled, judged, and stored.

use super::Request;
use anyhow::Result;
use config::SamplerKind;
use diffusion::{
    generate::{self, Seeds},
    pipeline::Pipeline,
    settings::Sampling,
};
use images::{Image, Size};
use indicatif::ProgressBar;
use models::network::Network;
use ranks::interrupt::Interrupt;
use scenes::{
    judge,
    judging::{self, Drawn, Judged, Question},
    scene::SIDE,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

pub struct Cell<'a> {
    sampling: Sampling,
    /// All requested images: prompt and seed.
    jobs: Vec<(&'a Question, u64)>,
    /// File whose name depends on everything that the images depend on.
    file: PathBuf,
}

impl<'a> Cell<'a> {
    /// `of`: fingerprints of the model, and of the LoRA if there is one.
    pub fn new(
        request: &Request,
        questions: &'a [Question],
        guidance: f64,
        pipeline: &Pipeline,
        of: [Option<&str>; 2],
    ) -> Result<Self> {
        let side = SIDE as i64;
        let sampling = Sampling {
            sampler: SamplerKind::Ddim,
            steps: request.steps,
            guidance_scale: guidance,
            size: Some(Size { width: side, height: side }),
            ..Sampling::default()
        };
        let images = |q: &'a Question| {
            let seed = |image| Seeds::Own.of(request.seed, &q.prompt, image as u64);
            (0..request.count).map(seed).map(|seed| (q, seed)).collect::<Vec<_>>()
        };
        let jobs: Vec<_> = questions.iter().flat_map(images).collect();
        let drawn = jobs.iter().map(|(q, seed)| format!("{seed} {} {}\n", q.category, q.prompt)).collect::<String>();
        let [model, lora] = of.map(Option::unwrap_or_default);
        let all = format!(
            "{model}\n{lora}\n{:?}\njudge {}\n{}\n{drawn}",
            pipeline.kind,
            judge::VERSION,
            toml::to_string(&sampling)?
        );
        let kind = if lora.is_empty() { "base" } else { "tuned" };
        let file = format!("{kind}-guidance{guidance}-{}.jsonl", models::digest(all.as_bytes())).into();
        Ok(Self { sampling, jobs, file })
    }

    /// Stored judgements, if they are complete.
    pub fn read(&self, folder: &Path) -> Result<Option<Vec<Judged>>> {
        if self.jobs.is_empty() {
            return Ok(Some(vec![]));
        }
        let path = folder.join(&self.file);
        if !path.exists() {
            return Ok(None);
        }
        let judged = judging::read_lines(&path)?;
        let there: BTreeSet<(&str, u64)> = judged.iter().map(|j| (j.prompt.as_str(), j.seed)).collect();
        let wanted = self.jobs.iter().map(|(q, seed)| (q.prompt.as_str(), *seed)).collect();
        Ok((there == wanted).then_some(judged))
    }

    pub fn write(&self, folder: &Path, judged: &[Judged]) -> Result<()> {
        judging::write_lines(&folder.join(&self.file), judged)
    }

    /// Samples and judges `batch` images at a time, in the order of prompts and seeds.
    pub fn draw(
        &self,
        pipeline: &mut Pipeline,
        unet: &dyn Network,
        batch: usize,
        bar: &ProgressBar,
        interrupt: &Interrupt,
    ) -> Result<Vec<Judged>> {
        bar.set_length((self.jobs.len() * self.sampling.steps) as u64);
        let mut judged = vec![];
        for jobs in self.jobs.chunks(batch.max(1)) {
            let asked: Vec<(&str, u64)> = jobs.iter().map(|(q, seed)| (q.prompt.as_str(), *seed)).collect();
            let each = || {
                bar.inc(jobs.len() as u64);
                Ok(interrupt.check()?)
            };
            let images = generate::draw(pipeline, unet, &self.sampling, &asked, each)?;
            let image = |(i, (question, seed)): (usize, &(&'a Question, u64))| {
                Ok(Drawn { question, seed: *seed, image: Image::from_tensor(&images.get(i as i64))? })
            };
            let drawn = jobs.iter().enumerate().map(image).collect::<Result<Vec<_>>>()?;
            judged.extend(judging::judge_drawn(&drawn, interrupt)?);
        }
        Ok(judged)
    }
}
