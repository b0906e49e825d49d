//! `comat world ablate`: the effect of each part of the method in the miniature world, with several trainings of each
//! to show the influence of chance.
//!
//! All files of an ablation are in one folder: `runs/` with a run for each variant and seed, `images/` with the images
//! of the base model and of each run, and the results in `ablation.md`, `.svg` and `.json`. Existing results are not
//! computed again, so a stopped ablation continues with the same command.

mod cost;
mod figure;
mod plan;
mod table;

pub use plan::{Plan, Variant};
pub use table::{Table, Trained};

use crate::baselines;
use anyhow::{Context, Result, bail};
use comat::{checkpoint, loss::caption::CaptionLoss, train::Ended};
use config::{self, Config};
use cost::{Cost, OfSteps};
use diffusion::generate::{self, Best, Seeds};
use indicatif::ProgressBar;
use models::Error;
use models::{lora, write_text};
use ranks::{
    ProcessGroup,
    interrupt::{Interrupt, Interrupted},
};
use scenes::{
    dataset, judge,
    judging::{self, Judged, Question},
};
use std::{collections::BTreeSet, fs, path::PathBuf};
use tch::Tensor;

pub struct Ablation<'a> {
    pub plan: Plan,
    pub out: PathBuf,
    /// Fetches the models that a configuration names by their ids.
    pub fetch: &'a dyn Fn(&mut Config) -> Result<()>,
    /// A progress bar with the given name.
    pub bar: &'a dyn Fn(&str) -> Result<ProgressBar>,
    pub interrupt: &'a Interrupt,
}

const ADAPTER: &str = "adapter/pytorch_lora_weights.safetensors";
const PAIRS: &str = "pairs";
/// The base model's images that baselines train on.
const OWN_IMAGES: &str = "own_images";
/// File in the folder of a baseline's run, beside its `config.toml`.
const BASELINE: &str = "baseline.toml";
/// File beside the images, with the settings that they were generated with.
const ORIGIN: &str = "drawn.toml";
/// Every image has noise of its own, the same for all variants.
const SEEDS: Seeds = Seeds::Own;
const SEED: u64 = 0;

/// The mean loss over the first and over the last tenth of the steps.
fn of_ends(losses: &[f64]) -> String {
    let tenth = losses.len().div_ceil(10);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    format!("{:.4} at first, {:.4} at last", mean(&losses[..tenth]), mean(&losses[losses.len() - tenth..]))
}

fn origin(variant: &Variant, config: &Config) -> Result<String> {
    let best_of = match variant.best_of {
        0 | 1 => String::new(),
        // the captioner chooses
        of => format!("best_of = {of}\n{}", toml::to_string(&config.captioner)?),
    };
    Ok(format!(
        "judge = {}\n{best_of}model = {:?}\n{}",
        judge::VERSION,
        config.model.path.typed(),
        toml::to_string(&config.sampling)?
    ))
}

/// Folder of a variant's images, and of its run if it has one: images of the base model are the same for all seeds.
fn name(variant: &Variant, config: &Config) -> String {
    let folder = variant.folder();
    if variant.untrained { folder } else { format!("{folder}-seed{}", config.seed) }
}

impl Ablation<'_> {
    /// Trains and samples whatever is missing, seed by seed; rewrites the table after every training. `only`: the names
    /// of the variants to train; empty: all of them.
    ///
    /// # Errors
    /// A run in the folder that has other settings; errors of training and sampling.
    pub fn run(&self, only: &[String]) -> Result<Table> {
        if let Some(name) = only.iter().find(|name| !self.plan.variants.iter().any(|v| &v.name == *name)) {
            let known: Vec<&str> = self.plan.variants.iter().map(|v| v.name.as_str()).collect();
            bail!("--only {name}: the variants are {}", known.join(", "));
        }
        let questions = judging::questions(&self.plan.prompts)?;
        for variant in &self.plan.variants {
            self.config(variant, 0)?; // so that a mistake in the last variant is reported now
        }
        self.render_pairs()?;
        let plain = Variant { name: "base".into(), settings: vec![], baseline: None, untrained: true, best_of: 1 };
        let base = self.draw(&plain, &self.config(&plain, self.plan.seeds[0])?, &questions)?;
        for &seed in &self.plan.seeds {
            for variant in &self.plan.variants {
                if only.is_empty() || only.contains(&variant.name) {
                    let config = self.config(variant, seed)?;
                    self.train(variant, &config)?;
                    self.draw(variant, &config, &questions)?;
                    self.write(&self.table(&base)?)?;
                }
            }
        }
        self.table(&base)
    }

    fn config(&self, variant: &Variant, seed: u64) -> Result<Config> {
        let output = self.out.join(format!("runs/{}-seed{seed}", variant.folder()));
        let own = [format!("seed={seed}"), format!("output={}", toml::Value::from(output.display().to_string()))];
        let out = self.out.display().to_string();
        let settings = self.plan.settings.iter().chain(&variant.settings).map(|s| s.replace("{out}", &out));
        let settings: Vec<String> = settings.chain(own).collect();
        let of_variant = || format!("variant `{}`", variant.name);
        let mut config = config::read(&self.plan.config, &settings).with_context(of_variant)?;
        (self.fetch)(&mut config).with_context(of_variant)?;
        Ok(config)
    }

    /// Renders images with captions for variants that need some.
    fn render_pairs(&self) -> Result<()> {
        let (count, out) = (self.plan.pairs, self.out.join(PAIRS));
        if count == 0 || out.join("scenes.jsonl").exists() {
            return Ok(());
        }
        let bar = (self.bar)("render")?;
        // differs from the seeds of all images and prompts
        let request = dataset::Request { count, seed: 20_241, category: None, out, overwrite: false };
        dataset::write(&request, &bar, self.interrupt)?;
        bar.finish_and_clear();
        Ok(())
    }

    fn train(&self, variant: &Variant, config: &Config) -> Result<()> {
        if variant.untrained {
            return Ok(());
        }
        let (folder, name) = (&config.output, name(variant, config));
        let begun = folder.join("config.toml");
        let other = folder.join(BASELINE);
        let of_baseline = variant.baseline.as_ref().map(toml::to_string).transpose()?;
        let trained_by = fs::read_to_string(&other).ok();
        if begun.exists() && (config::read(&begun, &[])? != *config || trained_by != of_baseline) {
            bail!(
                "{} was trained with other settings; choose another --out, or delete that run and its images",
                folder.display()
            );
        }
        if folder.join(ADAPTER).exists() {
            return Ok(());
        }
        let saved = !checkpoint::steps(&folder.join("checkpoints"))?.is_empty();
        if begun.exists() && !saved {
            tracing::info!("{}: was stopped before its first checkpoint, begins anew", folder.display());
            fs::remove_dir_all(folder).map_err(Error::io(folder))?;
        }
        tracing::info!("training {name}");
        let scores = self.scores(&name);
        if scores.exists() {
            fs::remove_file(&scores).map_err(Error::io(&scores))?; // left from an earlier run that was deleted
        }
        let bar = (self.bar)("train")?;
        if let (Some(baseline), Some(text)) = (&variant.baseline, of_baseline) {
            let images = self.out.join(OWN_IMAGES);
            models::make_folder(&images)?;
            let tuned = baseline.train(config, &images.join(baseline.images(config)?), &bar, self.interrupt)?;
            tracing::info!("{name}: loss {}", of_ends(&tuned.losses));
            models::make_folder(&folder.join("adapter"))?;
            write_text(&other, &text)?;
            write_text(&begun, &toml::to_string(config)?)?;
            bar.finish_and_clear();
            return Ok(lora::write_diffusers(&tuned.lora, &folder.join(ADAPTER))?);
        }
        let resume = saved.then_some("latest");
        let (mut trainer, mut run) =
            run::open(config.clone(), resume, bar.clone(), self.interrupt, ProcessGroup::alone())?;
        let ended = trainer.run(&mut run, self.interrupt)?;
        bar.finish_and_clear();
        if let Ended::Stopped(_) = ended { Err(Interrupted.into()) } else { Ok(()) }
    }

    fn images(&self, name: &str) -> PathBuf {
        self.out.join("images").join(name)
    }

    fn scores(&self, name: &str) -> PathBuf {
        self.images(name).join("scores.jsonl")
    }

    /// Samples the plan's prompts with the run's settings, and judges them, unless that is done already.
    fn draw(&self, variant: &Variant, config: &Config, questions: &[Question]) -> Result<Vec<Judged>> {
        if let Some(judged) = self.drawn(variant, config, questions)? {
            return Ok(judged);
        }
        let name = name(variant, config);
        let out = self.images(&name);
        let lora = (!variant.untrained).then(|| (config.output.join(ADAPTER), 1.0));
        if out.exists() {
            fs::remove_dir_all(&out).map_err(Error::io(&out))?; // incomplete, or for other prompts
        }
        let request = generate::Request {
            prompts: questions.iter().map(|q| q.prompt.clone()).collect(),
            count: self.plan.count,
            seed: SEED,
            seeds: SEEDS,
            sampling: config.sampling.clone(),
            batch: 16,
            out: out.clone(),
            metadata: false,
            grid: false,
            existing: generate::Existing::Replace,
            loras: lora.into_iter().collect(),
            init_latents: None,
            save_latents: None,
        };
        let pipeline = config.model.open(config.prompts.chunks)?;
        let of_captioner = toml::to_string(&config.captioner)?;
        let captioner = match variant.best_of {
            1 => None,
            _ => Some(CaptionLoss::open(&config.captioner, pipeline.kind, pipeline.device)?),
        };
        let loss = |images: &Tensor, prompts: &[&str]| match &captioner {
            Some(captioner) => captioner.losses(images, prompts),
            None => Ok(vec![0.0; prompts.len()]),
        };
        let best =
            captioner.is_some().then_some(Best { of: variant.best_of, loss: &loss, of_captioner: &of_captioner });
        let bar = (self.bar)("draw")?;
        generate::run(pipeline, &request, best, &bar, self.interrupt, &ProcessGroup::alone())?;
        bar.finish_and_clear();
        let bar = (self.bar)("judge")?;
        let outcome = judging::judge(questions, &out, &bar, self.interrupt)?;
        bar.finish_and_clear();
        write_text(&out.join(ORIGIN), &origin(variant, config)?)?;
        judging::write_lines(&self.scores(&name), &outcome.judged)?;
        Ok(outcome.judged)
    }

    /// Existing results, if they cover all of the plan's images.
    fn drawn(&self, variant: &Variant, config: &Config, questions: &[Question]) -> Result<Option<Vec<Judged>>> {
        let name = name(variant, config);
        let path = self.scores(&name);
        let of = fs::read_to_string(self.images(&name).join(ORIGIN)).unwrap_or_default();
        if !path.exists() || of != origin(variant, config)? {
            return Ok(None);
        }
        let judged = judging::read_lines(&path)?;
        let there: BTreeSet<(&str, u64)> = judged.iter().map(|j| (j.prompt.as_str(), j.seed)).collect();
        let prompts: BTreeSet<&str> = questions.iter().map(|q| q.prompt.as_str()).collect();
        let images = 0..self.plan.count as u64;
        if variant.best_of > 1 {
            // which of the candidates' seeds are there is the captioner's choice
            let of = |prompt: &str| there.iter().filter(|(other, _)| *other == prompt).count();
            let whole = prompts.iter().all(|prompt| of(prompt) == self.plan.count);
            return Ok((whole && there.len() == prompts.len() * self.plan.count).then_some(judged));
        }
        let wanted = prompts.iter().flat_map(|p| images.clone().map(move |image| (*p, SEEDS.of(SEED, p, image))));
        Ok((there == wanted.collect()).then_some(judged))
    }

    /// The table of everything that is trained and sampled so far.
    fn table(&self, base: &[Judged]) -> Result<Table> {
        let questions = judging::questions(&self.plan.prompts)?;
        let trained = |variant: &Variant| {
            let mut all = vec![];
            for &seed in &self.plan.seeds {
                let config = self.config(variant, seed)?;
                if !variant.untrained && !config.output.join(ADAPTER).exists() {
                    continue; // images of a run that was deleted
                }
                if let Some(judged) = self.drawn(variant, &config, &questions)? {
                    let baseline = variant.baseline.as_ref();
                    let training = if variant.untrained { 0.0 } else { baselines::training(&config, baseline) };
                    let drawing = baselines::drawing(&config.sampling, variant.best_of);
                    let by_comat = !variant.untrained && baseline.is_none();
                    let steps = by_comat.then(|| OfSteps::read(&config.output)).transpose()?;
                    all.push(Trained { seed, judged, cost: Cost { training, drawing, steps } });
                }
            }
            Ok((variant.name.clone(), all))
        };
        let variants = self.plan.variants.iter().map(trained).collect::<Result<Vec<_>>>()?;
        Ok(Table::new(base, variants))
    }

    fn write(&self, table: &Table) -> Result<()> {
        write_text(&self.out.join("ablation.md"), &table.to_string())?;
        write_text(&self.out.join("ablation.svg"), &figure::draw(table))?;
        Ok(write_text(&self.out.join("ablation.json"), &(serde_json::to_string_pretty(table)? + "\n"))?)
    }
}
