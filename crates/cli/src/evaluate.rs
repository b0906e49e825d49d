//! `comat evaluate`: a benchmark's pictures, scored.

mod args;

pub use args::Evaluate;

use crate::{
    console::Console,
    fetch, processes,
    verbs::{denoising_bar, open},
};
use anyhow::{Context, Result, bail};
use args::{DrawArgs, JudgeArgs};
use benchmarks::{
    records::{Benchmark, Picture},
    table::Table,
};
use comat::{
    config::{Location, Ranks, Sampling},
    files::write_whole,
    ranks::World,
};
use evaluate::{
    draw::Drawing,
    judges::{self, EndpointSettings, Judge, Judges, Places},
    pictures::{self, Found},
    prompts::{self, Choice, Prompt},
    scoring::{self, Scoring},
    settings::{self, Settings},
};
use hub::Layout;
use indicatif::ProgressStyle;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

/// Names of an evaluation's folders.
const BASE: &str = "base";
const LORA: &str = "lora";

/// What is scored by whom, and said to whom.
struct Work<'a> {
    world: World,
    args: &'a Evaluate,
    benchmark: Benchmark,
    prompts: Vec<Prompt>,
    console: &'a Console,
}

pub fn run(mut args: Evaluate, console: &Console) -> Result<()> {
    let world = processes::join(Ranks::default().timeout())?;
    args.engine.device = world.place(args.engine.device);
    let choice = Choice {
        benchmark: args.bench.benchmark(),
        path: args.prompts.clone(),
        categories: args.categories.clone(),
        limit: args.limit,
        second_opinion: args.judges.endpoint.is_some(),
    };
    let work = Work { world, benchmark: choice.benchmark, prompts: prompts::read(&choice)?, args: &args, console };
    console.stop_on_ctrl_c("Stopping; what is drawn and scored is kept, and the same command goes on.");
    if let Some(base) = args.base.as_ref() {
        work.claim(&home(base), None)?;
    }
    let (root, tuned, base) = match (&args.images, &args.draw.out) {
        (Some(images), _) => {
            work.claim(&home(images), None)?;
            (images.clone(), images.clone(), args.base.clone())
        }
        (None, Some(out)) => {
            let folders = work.draw(out)?;
            (out.clone(), folders.0, folders.1)
        }
        (None, None) => bail!("give --out DIR for the pictures of --model"),
    };
    let base = base.map(|folder| work.score(&folder)).transpose()?;
    let tuned = work.score(&tuned)?;
    if !work.world.leads() {
        return Ok(());
    }
    let table = Table::new(&tuned, base.as_deref());
    let judges: Vec<String> = work.judges().iter().map(|(judge, name)| format!("{judge} {name}")).collect();
    let text = format!("{table}\njudges: {}", judges.join(", "));
    say!("{text}");
    write_whole(&root.join("table.txt"), &format!("{text}\n"))?;
    write_whole(&root.join("table.json"), &(serde_json::to_string_pretty(&table)? + "\n"))?;
    Ok(())
}

/// Where the settings of a folder of pictures are: beside `base` and `lora` of an evaluation, else in it.
fn home(folder: &Path) -> PathBuf {
    let inside = [BASE, LORA].iter().any(|name| folder.ends_with(name));
    match folder.parent() {
        Some(parent) if inside && parent.join(settings::FILE).exists() => parent.to_owned(),
        _ => folder.to_owned(),
    }
}

impl Work<'_> {
    /// Holds this evaluation against what the folder was made with, and writes it there.
    fn claim(&self, folder: &Path, drawing: Option<settings::Drawing>) -> Result<()> {
        if drawing.is_none() && !folder.is_dir() {
            bail!("{}: there is no such folder", folder.display());
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let settings = Settings { benchmark: self.benchmark, drawing, judges: self.judges(), version };
        if self.world.leads() {
            settings.claim(folder)?;
        }
        self.world.barrier()
    }

    /// Those that these prompts need, and what they are called.
    fn judges(&self) -> BTreeMap<String, String> {
        let name = |judge: Judge| (judge.to_string(), self.args.judges.name(judge, self.args));
        judges::needed(&self.prompts).into_iter().map(name).collect()
    }

    /// Draws what is missing. The folder to be scored, and the one to compare it with.
    fn draw(&self, out: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
        let DrawArgs { model, variant, tokenizer, lora, lora_scale, seeds, batch, .. } = &self.args.draw;
        let Some(model) = model else { bail!("give --model for --out, or --images") };
        let sampling = self.args.sampling.clone().checked().context("evaluate")?;
        let seeds = seeds.clone().map_or_else(|| self.args.bench.seeds(), |seeds| seeds.0);
        let of_lora = lora.as_deref().map(|file| settings::Lora::of(file, *lora_scale)).transpose()?;
        let mut variants: Vec<(&str, Option<(&Path, f64)>)> = vec![];
        if self.args.base.is_none() {
            variants.push((BASE, None));
        }
        if let Some(file) = lora {
            variants.push((LORA, Some((file, *lora_scale))));
        }
        if variants.is_empty() {
            bail!("--base is what a LoRA is compared with; give --lora, or leave --base out");
        }
        let drawing = |lora| self.drawing(&seeds, &sampling, *batch, lora);
        let mut missing = vec![];
        for (name, lora) in &variants {
            if drawing(*lora).count_missing(&out.join(name))? > 0 {
                missing.push((name, lora));
            }
        }
        let how = settings::Drawing {
            model: model.typed().display().to_string(),
            dtype: self.args.engine.dtype,
            lora: of_lora,
            seeds: seeds.clone(),
            sampling: sampling.clone(),
        };
        self.claim(out, Some(how))?;
        if !missing.is_empty() {
            let source = (model.clone(), variant.as_deref(), tokenizer.clone());
            let open = || open(source.0, source.1, source.2, &self.args.engine, self.console);
            let mut pipeline = self.world.one_before_the_others(open)?;
            for (name, lora) in missing {
                let unet = pipeline.adapt(*lora)?;
                let bar = denoising_bar(self.console, name)?;
                drawing(*lora).run(
                    &out.join(name),
                    &mut pipeline,
                    &unet,
                    &bar,
                    &self.console.interrupt,
                    &self.world,
                )?;
                bar.finish_and_clear();
            }
        }
        let base = self.args.base.clone().unwrap_or_else(|| out.join(BASE));
        Ok(if lora.is_some() { (out.join(LORA), Some(base)) } else { (base, None) })
    }

    fn drawing<'a>(
        &'a self,
        seeds: &'a [u64],
        sampling: &'a Sampling,
        batch: usize,
        lora: Option<(&'a Path, f64)>,
    ) -> Drawing<'a> {
        Drawing { benchmark: self.benchmark, prompts: &self.prompts, seeds, sampling, batch, lora }
    }

    /// Scores what is not scored yet, and returns everything that is known of the folder's pictures.
    fn score(&self, folder: &Path) -> Result<Vec<Picture>> {
        let found = pictures::find(folder, self.benchmark, &self.prompts)?;
        if found.is_empty() {
            bail!(
                "{}: there are no pictures of these prompts in it; {} calls them {}",
                folder.display(),
                self.benchmark,
                example(self.benchmark, &self.prompts)
            );
        }
        let silent = self.prompts.len() - found.iter().map(|f| f.prompt).collect::<BTreeSet<_>>().len();
        if silent > 0 {
            tracing::warn!("{}: {silent} of {} prompts have no picture in it", folder.display(), self.prompts.len());
        }
        let awaited = scoring::awaited(folder, self.benchmark, &self.prompts, &found)?;
        if awaited.is_empty() {
            self.tell(format_args!("{}: {} pictures, all scored before", folder.display(), found.len()))?;
        } else {
            self.look(folder, &found, &awaited)?;
        }
        scoring::scores(folder, self.benchmark, &self.prompts, &found)
    }

    fn look(&self, folder: &Path, found: &[Found], awaited: &BTreeSet<Judge>) -> Result<()> {
        let judge_args = &self.args.judges;
        let fetch = || judge_args.places(awaited, folder, self.args, self.console);
        let places = self.world.one_before_the_others(fetch)?;
        let (kind, device) = (self.args.engine.dtype.kind(), self.args.engine.device.device()?);
        let judges = Judges::open(places, judge_args.detector_threshold, kind, device)?;
        let scoring = Scoring {
            folder,
            benchmark: self.benchmark,
            prompts: &self.prompts,
            found,
            judges: &judges,
            batch: judge_args.score_batch,
        };
        let bar = self.console.bar();
        bar.set_style(ProgressStyle::with_template(
            "score {wide_bar} {pos}/{len} pictures · {per_sec} · ETA {eta_precise}",
        )?);
        bar.enable_steady_tick(Duration::from_millis(500));
        let times = scoring.run(&bar, &self.console.interrupt, &self.world)?;
        bar.finish_and_clear();
        self.tell(format_args!("{}: {times}", folder.display()))
    }

    /// One of the ranks is enough.
    fn tell(&self, line: std::fmt::Arguments) -> Result<()> {
        if self.world.leads() {
            say!("{line}");
        }
        Ok(())
    }
}

/// How a picture of the first prompt would be called.
fn example(benchmark: Benchmark, prompts: &[Prompt]) -> String {
    let path = prompts.first().and_then(|prompt| pictures::path(benchmark, prompt, 0).ok());
    path.map_or_else(String::new, |path| format!("`{}`", path.display()))
}

impl JudgeArgs {
    /// What a judge is called in the settings.
    fn name(&self, judge: Judge, args: &Evaluate) -> String {
        let typed = |location: &Location| location.typed().display().to_string();
        match judge {
            Judge::Vqa => typed(&self.vqa),
            Judge::Clip => typed(&self.clip(args)),
            Judge::Detector => format!("{} above {}", typed(&self.detector), self.detector_threshold),
            Judge::Sentences => typed(&self.sentences),
            Judge::Endpoint => self.endpoint_model.clone().unwrap_or_default(),
        }
    }

    fn clip(&self, args: &Evaluate) -> Location {
        self.clip.clone().unwrap_or_else(|| args.bench.clip())
    }

    /// Where those judges lie, after fetching what is on the hub.
    fn places(&self, awaited: &BTreeSet<Judge>, folder: &Path, args: &Evaluate, console: &Console) -> Result<Places> {
        let networks: BTreeMap<Judge, (&'static str, Location)> = [
            (Judge::Vqa, ("--vqa", self.vqa.clone())),
            (Judge::Clip, ("--clip", self.clip(args))),
            (Judge::Detector, ("--detector", self.detector.clone())),
            (Judge::Sentences, ("--sentences", self.sentences.clone())),
        ]
        .into();
        let mut there = BTreeMap::new();
        for (judge, (option, mut location)) in networks {
            if awaited.contains(&judge) {
                fetch::option(option, &mut location, Layout::Network { tokenizer: true }, None, console)?;
                there.insert(judge, location.to_path_buf());
            }
        }
        let endpoint = match (&self.endpoint, &self.endpoint_model) {
            (Some(url), Some(model)) if awaited.contains(&Judge::Endpoint) => Some(EndpointSettings {
                url: url.clone(),
                model: model.clone(),
                key: std::env::var("COMAT_ENDPOINT_KEY").ok().filter(|key| !key.is_empty()),
                timeout: Duration::from_secs(self.endpoint_timeout),
                retries: self.endpoint_retries,
                parallel: self.endpoint_parallel,
                cache: folder.join("endpoint.jsonl"),
            }),
            _ => None,
        };
        Ok(Places {
            vqa: there.remove(&Judge::Vqa),
            clip: there.remove(&Judge::Clip),
            detector: there.remove(&Judge::Detector),
            sentences: there.remove(&Judge::Sentences),
            endpoint,
        })
    }
}
