//! The report of a run on the miniature world: held-out prompts, sampled without and with the adapter, and judged.

mod sections;

use crate::{
    reasons::reason,
    scores::{Comparison, compare},
};
use anyhow::{Context, Result, bail};
use diffusion::{
    generate::{Seeds, name_of_lora},
    prompts,
    settings::SamplerKind,
};
use images::Image;
use maud::html;
use report::{
    gallery::{Card, Filter, Shot},
    image::{self, SHOT},
    log::Log,
    page::Page,
    samples,
};
use scenes::{
    judging::{Judged, check_files, read_lines},
    prompts::Category,
};
use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};

/// Prompts of each category whose images are shown.
const SHOWN: usize = 8;
/// Prompts whose attention is shown.
const PANELS: usize = 3;

const TUNED: &str = "tuned";
/// How an image's settings say that it is the best of several ([`diffusion::generate::parameters`]).
const BEST_OF: &str = "Best of";
/// The seeds of `--own-seeds` are searched for among this many images of a prompt.
const MOST_IMAGES: u64 = 64;

/// What the report is about.
#[derive(Debug, Clone)]
pub struct Request {
    /// Folder of the training run.
    pub run: PathBuf,
    /// Judged images of the base model.
    pub base: PathBuf,
    /// Judged images of the same prompts and seeds with the adapter.
    pub tuned: PathBuf,
    /// Judged images of the same prompts and seeds with another LoRA, and its name.
    pub also: Option<(String, PathBuf)>,
    /// LoRA files that images were drawn with, for the commands on the page: an image contains only a name.
    pub loras: Vec<PathBuf>,
    /// A note at the top of the page.
    pub note: Option<String>,
    /// The file with those prompts.
    pub prompts: PathBuf,
    pub out: PathBuf,
}

/// Writes the page, and returns the comparison on it.
pub fn write(request: &Request) -> Result<Comparison> {
    let log = Log::read(&request.run)?;
    let pairs = Pairs::read(request)?;
    let also = request.also.as_ref().map(|(name, folder)| Also::read(name, folder, &pairs)).transpose()?;
    let panels = samples::attention(&request.run, PANELS)?;
    let body = html! {
        @if let Some(headline) = sections::headline(&pairs, &log, request.note.as_deref(), of_run(&pairs.drawn[1], request)) { (headline) }
        (sections::images(&filters(&pairs), &cards(&pairs, also.as_ref(), request)?))
        (sections::categories(&pairs.comparison))
        (sections::quality(&pairs.comparison))
        @if let Some(also) = &also { (sections::also(also)) }
        @if let Some(words) = samples::words(&[(None, &panels)]) { (words) }
        (sections::training(&log))
        (sections::reading())
        (sections::making(&log, &commands(request, &log, &pairs, also.as_ref())?))
    };
    let page = Page { title: "CoMat on the miniature world", body, style: include_str!("report/page.css"), script: "" };
    page.save(&request.out)?;
    Ok(pairs.comparison)
}

/// A prompt and seed, sampled with both models.
struct Pair {
    base: Judged,
    tuned: Judged,
}

impl Pair {
    fn outcome(&self) -> Outcome {
        match (self.base.verdict.correct, self.tuned.verdict.correct) {
            (true, true) => Outcome::Right,
            (false, true) => Outcome::Won,
            (true, false) => Outcome::Lost,
            (false, false) => Outcome::Wrong,
        }
    }
}

/// The images of another LoRA, by prompt and seed.
struct Also {
    name: String,
    folder: PathBuf,
    judged: BTreeMap<(String, u64), Judged>,
    /// Settings of its images, read from the first of them.
    drawn: String,
    /// Comparison of the base model with this LoRA.
    comparison: Comparison,
}

impl Also {
    fn read(name: &str, folder: &Path, pairs: &Pairs) -> Result<Self> {
        if ["base", TUNED].contains(&name) {
            bail!("--also {name}=…: so another side is called; choose another name");
        }
        let base: Vec<Judged> = pairs.all.iter().map(|pair| pair.base.clone()).collect();
        let all = beside(&base, folder)?;
        let comparison = compare(&base, &all).with_context(|| format!("the base images and {}", folder.display()))?;
        let drawn = all.first().map(|first| settings(&folder.join(&first.file))).transpose()?.unwrap_or_default();
        let judged = all.into_iter().map(|j| ((j.prompt.clone(), j.seed), j)).collect();
        Ok(Self { name: name.to_owned(), folder: folder.to_owned(), judged, drawn, comparison })
    }

    fn of(&self, base: &Judged) -> Option<&Judged> {
        self.judged.get(&(base.prompt.clone(), base.seed))
    }
}

/// How an image has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Right,
    Won,
    Lost,
    Wrong,
}

impl Outcome {
    const ALL: &[Self] = &[Self::Right, Self::Won, Self::Lost, Self::Wrong];

    /// Its name in tags and style rules.
    fn tag(self) -> &'static str {
        match self {
            Self::Right => "right-both",
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Wrong => "wrong-both",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Right => "right in both",
            Self::Won => "won: right only when tuned",
            Self::Lost => "lost: right only before",
            Self::Wrong => "wrong in both",
        }
    }
}

/// All pairs, in the order of the prompt file and of the seeds.
struct Pairs {
    all: Vec<Pair>,
    comparison: Comparison,
    /// Settings of the base and tuned images, read from the first of each.
    drawn: [String; 2],
}

impl Pairs {
    fn read(request: &Request) -> Result<Self> {
        let base = judged(&request.base)?;
        let tuned = beside(&base, &request.tuned)?;
        let context = || format!("{} and {}", request.base.display(), request.tuned.display());
        let comparison = compare(&base, &tuned).with_context(context)?;
        let mut places = BTreeMap::new();
        for (place, prompt) in prompts::read(&request.prompts)?.into_iter().enumerate() {
            places.entry(prompt.text).or_insert(place);
        }
        if let Some(stranger) = base.iter().find(|j| !places.contains_key(&j.prompt)) {
            bail!(
                "{}: `{}`, which {} shows, is not in it; give the file that the images were drawn from",
                request.prompts.display(),
                stranger.prompt,
                request.base.display()
            );
        }
        let mut others: BTreeMap<(String, u64), Judged> =
            tuned.into_iter().map(|j| ((j.prompt.clone(), j.seed), j)).collect();
        let mut all: Vec<Pair> = base
            .into_iter()
            .filter_map(|base| Some(Pair { tuned: others.remove(&(base.prompt.clone(), base.seed))?, base }))
            .collect();
        all.sort_by_key(|pair| (places[&pair.base.prompt], pair.base.seed));
        let drawn = match all.first() {
            Some(first) => {
                [settings(&request.base.join(&first.base.file))?, settings(&request.tuned.join(&first.tuned.file))?]
            }
            None => Default::default(),
        };
        Ok(Self { all, comparison, drawn })
    }

    /// How the images of both sides were drawn, if they contain it: `, guidance 1, best of 2`.
    fn manner(&self) -> [String; 2] {
        self.drawn.each_ref().map(|drawn| manner(drawn))
    }

    /// Whether every image has its own noise.
    fn own_seeds(&self) -> bool {
        self.all.iter().take(1).any(|pair| {
            let Judged { prompt, seed, .. } = &pair.base;
            (0..MOST_IMAGES).any(|image| Seeds::Own.of(0, prompt, image) == *seed)
        })
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.all.iter().filter(|pair| pair.outcome() == outcome).count()
    }

    /// The first prompts of each category, with different seeds in turn: images of the same seed have the same layout.
    fn shown(&self) -> Vec<&Pair> {
        let by_prompt = self.all.chunk_by(|a, b| a.base.prompt == b.base.prompt);
        let mut room: BTreeMap<Category, usize> = BTreeMap::new();
        let mut place = |pairs: &[Pair]| {
            let taken = room.entry(pairs[0].base.category).or_default();
            *taken += 1;
            (*taken <= SHOWN).then(|| *taken - 1)
        };
        by_prompt.filter_map(|pairs| Some((pairs, place(pairs)?))).map(|(pairs, n)| &pairs[n % pairs.len()]).collect()
    }
}

/// Reads a folder's `scores.jsonl`.
fn judged(folder: &Path) -> Result<Vec<Judged>> {
    let path = folder.join("scores.jsonl");
    if !path.exists() {
        bail!("{} does not exist; run `comat world judge` on {} first", path.display(), folder.display());
    }
    let judged = read_lines(&path)?;
    check_files(&judged, folder)?;
    Ok(judged)
}

/// The images of a folder to compare with those of the base model. The best of several candidates keeps its own seed; it
/// stands beside the base model's image with the same number of that prompt.
fn beside(base: &[Judged], folder: &Path) -> Result<Vec<Judged>> {
    let mut images = judged(folder)?;
    let Some(first) = images.first() else { return Ok(images) };
    let drawn = settings(&folder.join(&first.file)).unwrap_or_default(); // an image that is missing is told of later
    if parameter(&drawn, BEST_OF).is_some() {
        let mut seeds: BTreeMap<&str, VecDeque<u64>> = BTreeMap::new();
        base.iter().for_each(|j| seeds.entry(&j.prompt).or_default().push_back(j.seed));
        for image in &mut images {
            if let Some(seed) = seeds.get_mut(image.prompt.as_str()).and_then(VecDeque::pop_front) {
                image.seed = seed;
            }
        }
    }
    Ok(images)
}

/// Filters by outcome, and by the categories that occur.
fn filters(pairs: &Pairs) -> [Vec<Filter>; 2] {
    let filter = |tag: &str, label: &str| Filter { tag: tag.into(), label: label.into() };
    let outcomes = vec![filter("", "all"), filter("won", "won"), filter("lost", "lost")];
    let asked = Category::ALL.iter().filter(|c| pairs.comparison.categories.contains_key(c));
    let categories = asked.map(|c| filter(&c.to_string(), &c.to_string()));
    [outcomes, [filter("", "all")].into_iter().chain(categories).collect()]
}

fn cards(pairs: &Pairs, also: Option<&Also>, request: &Request) -> Result<Vec<Card>> {
    let shot = |side: &str, folder: &Path, judged: &Judged| -> Result<Shot> {
        Ok(Shot {
            side: side.into(),
            is_tuned: side != "base",
            image: Some(image::inlined(&folder.join(&judged.file), SHOT)?),
            mark: Some(judged.verdict.correct),
            note: reason(&judged.prompt, &judged.look, &judged.verdict),
            answers: vec![],
        })
    };
    let card = |pair: &&Pair| {
        let Judged { prompt, category, seed, .. } = &pair.base;
        let mut shots = vec![shot("base", &request.base, &pair.base)?, shot(TUNED, &request.tuned, &pair.tuned)?];
        if let Some((also, judged)) = also.and_then(|also| Some((also, also.of(&pair.base)?))) {
            shots.push(shot(&also.name, &also.folder, judged)?);
        }
        Ok(Card {
            prompt: prompt.clone(),
            note: format!("{category}, seed {seed}"),
            tags: vec![category.to_string(), pair.outcome().tag().into()],
            shots,
        })
    };
    pairs.shown().iter().map(card).collect()
}

/// The commands that lead to this report.
fn commands(request: &Request, log: &Log, pairs: &Pairs, also: Option<&Also>) -> Result<Vec<Vec<String>>> {
    let Request { run, base, tuned, prompts, out, .. } = request;
    let word = |path: &Path| path.display().to_string();
    let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
    let Some(first) = pairs.all.first() else { return Ok(vec![]) };
    let seeds = pairs.all.iter().filter(|pair| pair.base.prompt == first.base.prompt).count();

    let mut train = words("comat train --config");
    train.extend([word(&run.join("config.toml")), "--set".into(), format!("output={}", word(run))]);
    let generate = |out: &Path, otherwise: Option<PathBuf>, drawn: &str| {
        let mut all = words("comat generate --model");
        all.push(log.setting("model.path").unwrap_or("MODEL").into());
        let mut loras = loras(drawn, request);
        if loras.is_empty() {
            loras.extend(otherwise.map(|file| word(&file)));
        }
        all.extend(loras.into_iter().flat_map(|lora| ["--lora".into(), lora]));
        all.extend(["--prompts".into(), word(prompts)]);
        all.extend(["--count".into(), seeds.to_string()]);
        match pairs.own_seeds() {
            true => all.push("--own-seeds".into()),
            false => all.extend(["--seed".into(), first.base.seed.to_string()]),
        }
        for (name, flag) in [("Steps", "--steps"), ("Sampler", "--sampler"), ("CFG scale", "--guidance-scale")] {
            if let Some(value) = parameter(drawn, name) {
                let value = value.parse().map_or(value.to_lowercase(), |kind: SamplerKind| kind.to_string());
                all.extend([flag.into(), value]);
            }
        }
        if let Some(number) = parameter(drawn, BEST_OF) {
            all.extend(["--best-of".into(), number.into(), "--captioner".into()]);
            all.push(log.setting("captioner.path").unwrap_or("CAPTIONER").into());
        }
        all.extend(["--out".into(), word(out)]);
        all
    };
    let judge = |folder: &Path| {
        let mut all = words("comat world judge --images");
        all.extend([word(folder), "--prompts".into(), word(prompts)]);
        all
    };
    let mut report = words("comat world report --run");
    report.extend([word(run), "--base".into(), word(base), "--tuned".into(), word(tuned)]);
    let adapter = run.join("adapter/pytorch_lora_weights.safetensors");
    let [of_base, of_tuned] = &pairs.drawn;
    let mut drawings = vec![generate(base, None, of_base), generate(tuned, Some(adapter), of_tuned)];
    let mut judges = vec![judge(base), judge(tuned)];
    if let Some(also) = also {
        drawings.push(generate(&also.folder, Some("LORA".into()), &also.drawn));
        judges.push(judge(&also.folder));
        report.extend(["--also".into(), format!("{}={}", also.name, word(&also.folder))]);
    }
    report.extend(request.loras.iter().flat_map(|file| ["--lora".into(), word(file)]));
    report.extend(["--prompts".into(), word(prompts), "--out".into(), word(out)]);
    Ok([train].into_iter().chain(drawings).chain(judges).chain([report]).collect())
}

/// Whether an image was drawn with the run's own LoRA.
fn of_run(drawn: &str, request: &Request) -> bool {
    let own = request.run.join("adapter").display().to_string();
    loras(drawn, request).iter().any(|lora| lora.starts_with(&own))
}

/// The LoRAs that an image was drawn with, as `--lora` takes them. The image contains only names
/// ([`name_of_lora`]): a file of [`Request::loras`] and the run's adapter are known by theirs.
fn loras(drawn: &str, request: &Request) -> Vec<String> {
    let parts = drawn.lines().last().unwrap_or_default().split(", ");
    let named = parts.filter_map(|part| part.strip_prefix("Lora: ")?.rsplit_once(':'));
    let typed = named.map(|(name, scale)| {
        let of_run = request.run.join("adapter/pytorch_lora_weights.safetensors");
        let mut known = request.loras.iter().chain([&of_run]);
        let file =
            known.find(|file| name_of_lora(file) == name).map_or(name.to_owned(), |file| file.display().to_string());
        if scale == "1" { file } else { format!("{file}:{scale}") }
    });
    typed.collect()
}

/// The settings stored in an image.
fn settings(image: &Path) -> Result<String> {
    let (_, mut texts) = Image::open_with_texts(image)?;
    Ok(texts.remove("parameters").unwrap_or_default())
}

fn manner(drawn: &str) -> String {
    let part = |name: &str, word: &str| parameter(drawn, name).map(|value| format!(", {word} {value}"));
    [part("CFG scale", "guidance"), part(BEST_OF, "best of")].into_iter().flatten().collect()
}

/// The value of `NAME: VALUE,` in the last line of an image's settings.
fn parameter<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().last()?;
    line.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loras_have_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().to_owned();
        let of_run = run.join("adapter/pytorch_lora_weights.safetensors");
        let name = name_of_lora(&of_run);
        let request = Request {
            run,
            base: "base".into(),
            tuned: "tuned".into(),
            also: None,
            loras: vec!["weights/b.safetensors".into()],
            note: None,
            prompts: "p.txt".into(),
            out: "page.html".into(),
        };
        let of = |text: &str| loras(text, &request);
        assert_eq!(of(&format!("Steps: 10, Lora: {name}:1, Version: 2")), [of_run.display().to_string()]);
        let both = of("a dog\nSteps: 10, Lora: b.safetensors:0.5, Lora: c.safetensors:1");
        assert_eq!(both, ["weights/b.safetensors:0.5", "c.safetensors"]);
        assert!(of("Steps: 10").is_empty() && of("").is_empty());
    }

    #[test]
    fn parameters_of_an_image() {
        let text = "a dog, Steps: 3\nSteps: 10, Sampler: DDIM, CFG scale: 4, Seed: 0";
        assert_eq!(parameter(text, "Steps"), Some("10"));
        assert_eq!(parameter(text, "CFG scale"), Some("4"));
        assert_eq!(parameter(text, "Eta"), None);
        assert_eq!(parameter("", "Steps"), None);
        assert_eq!(manner(text), ", guidance 4");
        assert_eq!(manner(&format!("{text}, Version: comat 0, Best of: 2")), ", guidance 4, best of 2");
    }
}
