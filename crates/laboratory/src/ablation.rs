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

use anyhow::{Context, Result, bail};
use comat::{checkpoint, train::Ended};
use config::{self, Config};
use cost::Cost;
use diffusion::generate::{self, Seeds};
use indicatif::ProgressBar;
use models::Error;
use models::write_text;
use ranks::{
    ProcessGroup,
    interrupt::{Interrupt, Interrupted},
};
use scenes::{
    dataset,
    judging::{self, Judged, Question},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

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
/// File beside the images, with the settings that they were generated with.
const ORIGIN: &str = "drawn.toml";
/// Every image has noise of its own, the same for all variants.
const SEEDS: Seeds = Seeds::Own;
const SEED: u64 = 0;

fn origin(config: &Config) -> Result<String> {
    Ok(format!("model = {:?}\n{}", config.model.path.typed(), toml::to_string(&config.sampling)?))
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
        let base = self.draw(&self.config(&self.plan.variants[0], self.plan.seeds[0])?, None, "base", &questions)?;
        for &seed in &self.plan.seeds {
            for variant in &self.plan.variants {
                if only.is_empty() || only.contains(&variant.name) {
                    let name = format!("{}-seed{seed}", variant.folder());
                    let config = self.config(variant, seed)?;
                    self.train(&config, &name)?;
                    self.draw(&config, Some(&config.output.join(ADAPTER)), &name, &questions)?;
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

    fn train(&self, config: &Config, name: &str) -> Result<()> {
        let folder = &config.output;
        let begun = folder.join("config.toml");
        if begun.exists() && config::read(&begun, &[])? != *config {
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
        let scores = self.scores(name);
        if scores.exists() {
            fs::remove_file(&scores).map_err(Error::io(&scores))?; // left from an earlier run that was deleted
        }
        let bar = (self.bar)("train")?;
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
    fn draw(&self, config: &Config, lora: Option<&Path>, name: &str, questions: &[Question]) -> Result<Vec<Judged>> {
        if let Some(judged) = self.drawn(config, name, questions)? {
            return Ok(judged);
        }
        let out = self.images(name);
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
            overwrite: true,
            loras: lora.map(|path| (path.to_owned(), 1.0)).into_iter().collect(),
            init_latents: None,
            save_latents: None,
        };
        let pipeline = config.model.open(config.prompts.chunks)?;
        let bar = (self.bar)("draw")?;
        generate::run(pipeline, &request, None, &bar, self.interrupt, &ProcessGroup::alone())?;
        bar.finish_and_clear();
        let bar = (self.bar)("judge")?;
        let outcome = judging::judge(questions, &out, &bar, self.interrupt)?;
        bar.finish_and_clear();
        write_text(&out.join(ORIGIN), &origin(config)?)?;
        judging::write_lines(&self.scores(name), &outcome.judged)?;
        Ok(outcome.judged)
    }

    /// Existing results, if they cover all of the plan's images.
    fn drawn(&self, config: &Config, name: &str, questions: &[Question]) -> Result<Option<Vec<Judged>>> {
        let path = self.scores(name);
        let of = fs::read_to_string(self.images(name).join(ORIGIN)).unwrap_or_default();
        if !path.exists() || of != origin(config)? {
            return Ok(None);
        }
        let judged = judging::read_lines(&path)?;
        let there: BTreeSet<(&str, u64)> = judged.iter().map(|j| (j.prompt.as_str(), j.seed)).collect();
        let prompts: BTreeSet<&str> = questions.iter().map(|q| q.prompt.as_str()).collect();
        let images = 0..self.plan.count as u64;
        let wanted = prompts.iter().flat_map(|p| images.clone().map(move |image| (*p, SEEDS.of(SEED, p, image))));
        Ok((there == wanted.collect()).then_some(judged))
    }

    /// The table of everything that is trained and sampled so far.
    fn table(&self, base: &[Judged]) -> Result<Table> {
        let questions = judging::questions(&self.plan.prompts)?;
        let trained = |variant: &Variant| {
            let mut all = vec![];
            for &seed in &self.plan.seeds {
                let name = format!("{}-seed{seed}", variant.folder());
                let config = self.config(variant, seed)?;
                if !config.output.join(ADAPTER).exists() {
                    continue; // images of a run that was deleted
                }
                if let Some(judged) = self.drawn(&config, &name, &questions)? {
                    all.push(Trained { seed, judged, cost: Cost::read(&config.output)? });
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
