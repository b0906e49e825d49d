//! `comat evaluate`: draws and scores a benchmark's images.

mod args;

pub use args::Evaluate;

use crate::{
    console::{Console, DENOISING},
    fetch, processes,
    text::counted,
};
use anyhow::{Context, Result, bail};
use args::{DrawArgs, JudgeArgs};
use benchmarks::{
    records::{Benchmark, Image},
    table::Table,
};
use diffusion::settings::{Dtype, Location, Sampling};
use evaluate::{
    draw::{Drawing, Missing},
    image_files::{self, Gallery},
    judges::{self, EndpointSettings, Judge, Judges, Places},
    prompts::{self, Choice, Prompt},
    scoring::{Scored, Scoring, Waiting},
    settings::{self, Settings},
};
use hub::Layout;
use models::{Error, write_text};
use ranks::ProcessGroup;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

/// Names of an evaluation's subfolders: images without and with the LoRA.
const BASE: &str = "base";
const LORA: &str = "lora";

/// An evaluation: its ranks, arguments and prompts, and the console.
struct Work<'a> {
    group: ProcessGroup,
    args: &'a Evaluate,
    benchmark: Benchmark,
    prompts: Vec<Prompt>,
    console: &'a Console,
}

pub fn run(mut args: Evaluate, console: &Console) -> Result<()> {
    let hint = "what is drawn and scored is kept, and the same command goes on";
    let group = processes::join(args.ranks.terms(hint, &console.interrupt))?;
    args.engine.device = args.engine.device.of_rank(&group);
    if args.grid.is_some() && matches!(args.bench.benchmark(), Benchmark::T2iCompbench | Benchmark::Geneval) {
        bail!("--grid cuts images that are named by their prompt's id, of dpg, tifa and dsg; leave it out");
    }
    let choice = Choice {
        benchmark: args.bench.benchmark(),
        path: args.prompts.clone(),
        categories: args.categories.clone(),
        limit: args.limit,
        second_opinion: args.judges.endpoint.is_some(),
    };
    let work = Work { group, benchmark: choice.benchmark, prompts: prompts::read(&choice)?, args: &args, console };
    console.stop_on_ctrl_c("Stopping; what is drawn and scored is kept, and the same command goes on.");
    if let Some(base) = args.base.as_ref() {
        work.check(base)?;
    }
    let (root, tuned, base) = match (&args.images, &args.draw.out) {
        (Some(images), _) => {
            work.check(images)?;
            (images.clone(), images.clone(), args.base.clone())
        }
        (None, Some(out)) => {
            let folders = work.draw(out)?;
            (out.clone(), folders.0, folders.1)
        }
        (None, None) => bail!("give --out DIR for the images of --model"),
    };
    let base = base.map(|folder| work.score(&folder)).transpose()?;
    let tuned = work.score(&tuned)?;
    if !work.group.leads() {
        return Ok(());
    }
    let table = Table::new(&tuned, base.as_deref());
    let judges: Vec<String> = work.judges().iter().map(|(judge, name)| format!("{judge} {name}")).collect();
    let text = format!("{table}\njudges: {}", judges.join(", "));
    say!("{text}");
    let name = table_name(&args);
    write_text(&root.join(format!("{name}.txt")), &format!("{text}\n"))?;
    write_text(&root.join(format!("{name}.json")), &(serde_json::to_string_pretty(&table)? + "\n"))?;
    Ok(())
}

/// Name of the table's files without extension. A part of the benchmark has its own files beside those of the whole.
fn table_name(args: &Evaluate) -> String {
    let mut name = "table".to_owned();
    if !args.categories.is_empty() {
        name += &format!(".{}", args.categories.join("-"));
    }
    if let Some(limit) = args.limit {
        name += &format!(".first-{limit}");
    }
    name
}

/// The folder with the settings of a folder of images: the parent of an evaluation's `base` and `lora`, otherwise the
/// folder itself.
fn home(folder: &Path) -> PathBuf {
    let inside = [BASE, LORA].iter().any(|name| folder.ends_with(name));
    match folder.parent() {
        Some(parent) if inside && parent.join(settings::FILE).exists() => parent.to_owned(),
        _ => folder.to_owned(),
    }
}

impl Work<'_> {
    /// The settings with which this evaluation draws and scores a folder of images.
    fn settings(&self, drawing: Option<settings::Drawing>) -> Settings {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Settings { benchmark: self.benchmark, drawing, grid: self.args.grid, judges: self.judges(), version }
    }

    /// Refuses a folder whose images were made or scored with other settings.
    fn check(&self, images: &Path) -> Result<()> {
        self.group.of_first(|| {
            if !images.is_dir() {
                bail!("{}: there is no such folder", images.display());
            }
            self.settings(None).check(&home(images))
        })
    }

    /// Saves the names of the judges in the settings of a folder of images.
    fn claim(&self, images: &Path) -> Result<()> {
        self.group.of_first(|| self.settings(None).claim(&home(images)))
    }

    /// The judges that these prompts need, each with its name in the settings.
    fn judges(&self) -> BTreeMap<String, String> {
        let name = |judge: Judge| (judge.to_string(), self.args.judges.name(judge, self.args));
        judges::needed(&self.prompts).into_iter().map(name).collect()
    }

    /// Draws the missing images. Returns the folder to score, and the folder to compare it with.
    fn draw(&self, out: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
        let DrawArgs { model, variant, tokenizer, overrides, lora, lora_scale, seeds, batch, .. } = &self.args.draw;
        let Some(model) = model else { bail!("give --model for --out, or --images") };
        let sampling = self.args.sampling.clone().checked().context("evaluate")?;
        let seeds = seeds.clone().map_or_else(|| self.args.bench.seeds(), |seeds| seeds.0);
        let loras = self.group.first_rank_first(|| fetch::loras(lora, *lora_scale, self.console))?;
        let of_loras = loras.iter().map(|(file, scale)| settings::Lora::of(file, *scale)).collect::<Result<_>>()?;
        let mut variants: Vec<(&str, &[(PathBuf, f64)])> = vec![];
        if self.args.base.is_none() {
            variants.push((BASE, &[]));
        }
        if !loras.is_empty() {
            variants.push((LORA, &loras));
        }
        if variants.is_empty() {
            bail!("--base is what a LoRA is compared with; give --lora, or leave --base out");
        }
        let drawing = |loras| self.drawing(&seeds, &sampling, *batch, loras);
        let look = || variants.iter().map(|(name, loras)| drawing(loras).missing(&out.join(name))).collect();
        let missing: Vec<Vec<Missing>> = self.group.of_first(look)?;
        let how = settings::Drawing {
            model: typed(model),
            variant: variant.clone(),
            tokenizer: tokenizer.as_ref().map(typed),
            overrides: (*overrides).into(),
            dtype: self.args.engine.dtype,
            loras: of_loras,
            seeds: seeds.clone(),
            sampling: sampling.clone(),
        };
        self.group.of_first(|| {
            if let Some(base) = &self.args.base {
                compare(&how, base)?;
            }
            self.settings(Some(how.clone())).check(out)
        })?;
        if let Some(((first, _), _)) = variants.iter().zip(&missing).find(|(_, missing)| !missing.is_empty()) {
            self.try_judges(&out.join(first))?;
        }
        // saved without the judges: their names are added once they could be opened
        self.group.of_first(|| Settings { judges: BTreeMap::new(), ..self.settings(Some(how)) }.claim(out))?;
        if missing.iter().any(|missing| !missing.is_empty()) {
            let source = (model.clone(), variant.as_deref(), tokenizer.clone());
            let open =
                || fetch::pipeline(source.0, source.1, source.2, (*overrides).into(), &self.args.engine, self.console);
            let mut pipeline = self.group.first_rank_first(open)?;
            for ((name, loras), missing) in variants.iter().zip(&missing).filter(|(_, missing)| !missing.is_empty()) {
                let unet = pipeline.adapt(loras)?;
                let bar = self.console.count(name, DENOISING)?;
                drawing(loras).run(
                    &out.join(name),
                    missing,
                    &mut pipeline,
                    unet.as_ref(),
                    &bar,
                    &self.console.interrupt,
                    &self.group,
                )?;
                bar.finish_and_clear();
            }
        }
        let base = self.args.base.clone().unwrap_or_else(|| out.join(BASE));
        Ok(if !loras.is_empty() { (out.join(LORA), Some(base)) } else { (base, None) })
    }

    /// Opens the judges and drops them again, so that their errors show before images are drawn for hours.
    fn try_judges(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let judges = self.open_judges(&judges::needed(&self.prompts), folder)?;
        judges.endpoint.as_ref().map_or(Ok(()), judges::Endpoint::check)
    }

    fn open_judges(&self, judges: &BTreeSet<Judge>, folder: &Path) -> Result<Judges> {
        let fetch = || self.args.judges.places(judges, folder, self.console);
        let places = self.group.first_rank_first(fetch)?;
        let (kind, device) = (self.args.engine.dtype.kind(), self.args.engine.device.device()?);
        let threshold = self.args.judges.detector_threshold;
        Judges::open(places, threshold, kind, device, &self.console.interrupt)
    }

    fn drawing<'a>(
        &'a self,
        seeds: &'a [u64],
        sampling: &'a Sampling,
        batch: usize,
        loras: &'a [(PathBuf, f64)],
    ) -> Drawing<'a> {
        Drawing { benchmark: self.benchmark, prompts: &self.prompts, seeds, sampling, batch, loras }
    }

    /// Scores the images that have no scores yet. Rank 0 returns all scores of the folder's images; other ranks return
    /// none.
    fn score(&self, folder: &Path) -> Result<Vec<Image>> {
        let mut known = None; // only on rank 0
        let (found, waiting) = self.group.of_first(|| {
            let gallery = self.gallery(folder)?;
            let scored = Scored::read(&gallery)?;
            let waiting = scored.waiting(&gallery);
            known = Some(scored);
            Ok((gallery.found, waiting))
        })?;
        let gallery = Gallery { folder, benchmark: self.benchmark, prompts: &self.prompts, found };
        if waiting.is_empty() {
            let images = counted(gallery.found.len(), "image");
            self.tell(format_args!("{}: {images}, all scored before", folder.display()))?;
        } else {
            self.look(&gallery, &waiting)?;
            self.group.of_first(|| {
                let scored = Scored::again(&gallery)?;
                let missing = scored.waiting(&gallery).len();
                if missing > 0 {
                    bail!(
                        "{}: scores of {missing} of its images have not come; the same command goes on",
                        folder.display()
                    );
                }
                known = Some(scored);
                Ok(())
            })?;
        }
        Ok(known.map_or(vec![], |scored| scored.of(&gallery)))
    }

    fn gallery<'a>(&'a self, folder: &'a Path) -> Result<Gallery<'a>> {
        let gallery = Gallery::open(folder, self.benchmark, &self.prompts, self.args.grid)?;
        if gallery.found.is_empty() {
            bail!(
                "{}: there are no images of these prompts in it; {} calls them {}",
                folder.display(),
                self.benchmark,
                example(self.benchmark, &self.prompts)
            );
        }
        let drawn: BTreeSet<usize> = gallery.found.iter().map(|f| f.prompt).collect();
        if let Some(first) = (0..self.prompts.len()).find(|i| !drawn.contains(i)) {
            let (silent, all) = (self.prompts.len() - drawn.len(), self.prompts.len());
            let expected = match example(self.benchmark, &self.prompts[first..]) {
                name if name.is_empty() => name,
                name => format!(", expected as {name}"),
            };
            tracing::warn!(
                "{}: {silent} of {all} prompts have no image in it; the first is `{}`{expected}",
                folder.display(),
                self.prompts[first].text
            );
        }
        Ok(gallery)
    }

    fn look(&self, gallery: &Gallery, waiting: &Waiting) -> Result<()> {
        let judges = self.open_judges(&waiting.judges(gallery), gallery.folder)?;
        self.claim(gallery.folder)?;
        let scoring = Scoring { gallery, judges: &judges, batch: self.args.judges.score_batch };
        let bar = self.console.count("score", "images")?;
        let times = scoring.run(waiting, &bar, &self.console.interrupt, &self.group)?;
        bar.finish_and_clear();
        self.tell(format_args!("{}: {times}", gallery.folder.display()))
    }

    /// Prints a line, only on rank 0.
    fn tell(&self, line: std::fmt::Arguments) -> Result<()> {
        if self.group.leads() {
            say!("{line}");
        }
        Ok(())
    }
}

fn typed(location: &Location) -> String {
    location.typed().display().to_string()
}

/// Warns of every setting besides the LoRA that differs from how the images of `base` were drawn. The difference may be
/// intended.
fn compare(how: &settings::Drawing, base: &Path) -> Result<()> {
    let Some(then) = Settings::read(&home(base))?.and_then(|settings| settings.drawing) else { return Ok(()) };
    let mut all = how.differences(&then)?;
    if how.seeds.iter().any(|seed| !then.seeds.contains(seed)) {
        all.push(("a seed".into(), format!("one of {:?}", then.seeds), format!("one of {:?}", how.seeds)));
    }
    for (what, was, is) in all {
        let base = base.display();
        tracing::warn!("--base {base}: {what} was {was} there and is {is} here; it is not the LoRA alone that differs");
    }
    Ok(())
}

/// Expected file name of an image of the first prompt.
fn example(benchmark: Benchmark, prompts: &[Prompt]) -> String {
    let path = prompts.first().and_then(|prompt| image_files::path(benchmark, prompt, 0).ok());
    path.map_or_else(String::new, |path| format!("`{}`", path.display()))
}

impl JudgeArgs {
    /// Name of a judge in the settings.
    fn name(&self, judge: Judge, args: &Evaluate) -> String {
        let precision = match args.engine.dtype {
            Dtype::Float32 => "",
            Dtype::Bfloat16 => " in bfloat16",
            Dtype::Float16 => " in float16",
            Dtype::Float64 => " in float64",
        };
        let typed = |location| typed(location) + precision;
        match judge {
            Judge::Vqa => typed(&self.vqa),
            Judge::Clip => typed(&self.clip),
            Judge::Detector => format!("{} above {}", typed(&self.detector), self.detector_threshold),
            Judge::Sentences => typed(&self.sentences),
            Judge::Endpoint => self.endpoint_model.clone().unwrap_or_default(),
        }
    }

    /// Paths and settings of the awaited judges. Networks on the hub are fetched.
    fn places(&self, awaited: &BTreeSet<Judge>, folder: &Path, console: &Console) -> Result<Places> {
        let networks: BTreeMap<Judge, (&'static str, Location)> = [
            (Judge::Vqa, ("--vqa", self.vqa.clone())),
            (Judge::Clip, ("--clip", self.clip.clone())),
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
