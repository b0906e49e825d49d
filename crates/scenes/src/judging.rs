//! Judges folders of images against their prompts.

use crate::{
    judge::{self, Look, Verdict},
    prompts::{self, Category},
    scene::SIDE,
    wording::Demand,
};
use anyhow::{Result, anyhow, bail};
use images::{Image, Texts};
use indicatif::ProgressBar;
use models::Error;
use models::write_text;
use ranks::interrupt::Interrupt;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};
use tch::Tensor;

/// One image and its judgement: a line of `scores.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub prompt: String,
    pub category: Category,
    pub seed: u64,
    /// Path relative to the folder that was judged.
    pub file: PathBuf,
    /// Digest of the file; it shows whether the image was replaced since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub look: Look,
    pub verdict: Verdict,
    /// Whether a second judge, a captioner, finds the prompt likelier than all captions with one fault; `None`: it was
    /// not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<bool>,
}

/// The judge for validation during training.
pub struct Watch;

impl diffusion::judge::Judge for Watch {
    fn metrics(&self) -> &'static [&'static str] {
        &["attributes_bound", "all_correct", "objects_present", "clean", "nothing_extra"]
    }

    fn judge(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<Vec<f64>>> {
        let of_image = |(i, prompt): (usize, &&str)| {
            let Some(demand) = Demand::parse(prompt) else {
                bail!("`{prompt}` is not a prompt of the miniature world");
            };
            let verdict = judge::verdict(&demand, &judge::look(&Image::from_tensor(&images.get(i as i64))?));
            let share = |objects: usize| objects as f64 / verdict.wanted.max(1) as f64;
            Ok(vec![
                share(verdict.bound),
                f64::from(verdict.correct),
                share(verdict.present),
                f64::from(verdict.clean),
                f64::from(verdict.extra == 0),
            ])
        };
        prompts.iter().enumerate().map(of_image).collect()
    }
}

/// A prompt and its demand.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub prompt: String,
    pub category: Category,
    pub demand: Demand,
}

impl Question {
    /// From a generated prompt; `None` if its words are not of this world.
    pub fn made(prompts::Prompt { prompt, category, .. }: prompts::Prompt) -> Option<Self> {
        Some(Self { demand: Demand::parse(&prompt)?, prompt, category })
    }
}

/// Results of judging a folder.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// In the order of the file names.
    pub judged: Vec<Judged>,
    /// Prompts without an image.
    pub missing: Vec<String>,
    /// Images that belong to none of the prompts.
    pub foreign: Vec<PathBuf>,
    /// In how many ways the judged images were drawn, by the settings in their files.
    pub ways: usize,
    /// Judged images of which there is another one of the same prompt and seed.
    pub twice: Vec<PathBuf>,
}

/// Reads a prompt file (`.jsonl` or `.txt`). The category is that of the line, or follows from the words.
pub fn questions(path: &Path) -> Result<Vec<Question>> {
    let question = |(line, prompt): (usize, diffusion::prompts::Prompt)| {
        let place = || format!("{}:{line}", path.display());
        let Some(demand) = Demand::parse(&prompt.text) else {
            bail!(
                "{}: `{}` is not a prompt of the miniature world (`comat world prompts` makes some)",
                place(),
                prompt.text
            );
        };
        let category = match prompt.extra.get("category") {
            None => Category::of(&demand),
            Some(given) => {
                let name = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
                name.parse().map_err(|e| anyhow!("{}: category {e}", place()))?
            }
        };
        Ok(Question { prompt: prompt.text, category, demand })
    };
    diffusion::prompts::read_numbered(path)?.into_iter().map(question).collect()
}

/// Judges every PNG file of a folder that belongs to one of the prompts. Prompt and seed are read from its text chunks,
/// or from its name if that is `PROMPT_SEED.png`.
pub fn judge(questions: &[Question], folder: &Path, bar: &ProgressBar, interrupt: &Interrupt) -> Result<Outcome> {
    let files = image_files(folder)?;
    bar.set_length(files.len() as u64);
    let by_prompt: BTreeMap<&str, &Question> = questions.iter().map(|q| (q.prompt.trim(), q)).collect();
    let answer = |i: usize| {
        let answer = judge_file(&by_prompt, folder, &files[i]);
        bar.inc(1);
        answer
    };
    let answers = on_all_cores(files.len(), answer, interrupt)?;
    let mut outcome = Outcome::default();
    let (mut ways, mut once) = (BTreeSet::new(), BTreeSet::new());
    for (file, answer) in files.iter().zip(answers) {
        match answer? {
            Some((judged, way)) => {
                if !once.insert((judged.prompt.clone(), judged.seed)) {
                    outcome.twice.push(file.clone());
                }
                ways.insert(way);
                outcome.judged.push(judged);
            }
            None => outcome.foreign.push(file.clone()),
        }
    }
    outcome.ways = ways.len();
    let seen: BTreeSet<&str> = outcome.judged.iter().map(|j| j.prompt.as_str()).collect();
    outcome.missing = by_prompt.values().map(|q| q.prompt.clone()).filter(|p| !seen.contains(p.as_str())).collect();
    Ok(outcome)
}

/// An image in memory.
pub struct Drawn<'a> {
    pub question: &'a Question,
    pub seed: u64,
    pub image: Image,
}

/// Judges images in memory, in their order; `file` of each is empty.
pub fn judge_drawn(drawn: &[Drawn], interrupt: &Interrupt) -> Result<Vec<Judged>> {
    let of = |i: usize| {
        let Drawn { question, seed, image } = &drawn[i];
        let look = judge::look(image);
        let verdict = judge::verdict(&question.demand, &look);
        let (prompt, category) = (question.prompt.clone(), question.category);
        Judged { prompt, category, seed: *seed, file: PathBuf::new(), digest: None, look, verdict, second: None }
    };
    on_all_cores(drawn.len(), of, interrupt)
}

/// Runs `work` for each number below `count` on all cores; results are in order.
fn on_all_cores<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync, interrupt: &Interrupt) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let share = || {
        let mut answers = vec![];
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count || interrupt.is_set() {
                break answers;
            }
            answers.push((i, work(i)));
        }
    };
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let mut answers = thread::scope(|scope| {
        let others: Vec<_> = (1..cores).map(|_| scope.spawn(share)).collect();
        let mut answers = share();
        for other in others {
            answers.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        answers
    });
    interrupt.check()?;
    answers.sort_by_key(|(i, _)| *i);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// Names of the PNG files in a folder, sorted, without the grid of `comat generate --grid`.
fn image_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = PathBuf::from(entry.map_err(Error::io(folder))?.file_name());
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) && path != Path::new("grid.png") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::file(folder, "there are no PNG files in it").into());
    }
    files.sort();
    Ok(files)
}

/// An image's judgement, and how it was drawn, if its file says it. `None` for an image of another prompt, or without a
/// prompt.
fn judge_file(questions: &BTreeMap<&str, &Question>, folder: &Path, file: &Path) -> Result<Option<(Judged, String)>> {
    let path = folder.join(file);
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let (image, texts) = Image::decode_with_texts(&bytes, &path)?;
    let Some((prompt, seed)) = origin(&texts, file) else { return Ok(None) };
    let Some(question) = questions.get(prompt.trim()) else { return Ok(None) };
    if (image.width, image.height) != (SIDE, SIDE) {
        let size = format!("is {}x{}; images of the miniature world are {SIDE}x{SIDE}", image.width, image.height);
        return Err(Error::file(&path, size).into());
    }
    let look = judge::look(&image);
    let verdict = judge::verdict(&question.demand, &look);
    let prompt = question.prompt.clone();
    let (category, file, digest) = (question.category, file.to_owned(), Some(models::digest(&bytes)));
    Ok(Some((Judged { prompt, category, seed, file, digest, look, verdict, second: None }, way(&texts))))
}

/// The settings of an image but its prompt and its seed, and what identifies the files that it was drawn with.
fn way(texts: &Texts) -> String {
    let [settings, files] = ["parameters", "comat"].map(|key| texts.get(key).map_or("", String::as_str));
    let settings = settings.rsplit_once("\nSteps: ").map_or("", |(_, settings)| settings);
    settings.split(", ").filter(|setting| !setting.starts_with("Seed: ")).chain([files]).collect::<Vec<_>>().join(", ")
}

/// Checks that the images of judgements are still the same files.
///
/// # Errors
/// The first image that was replaced since, or cannot be read.
pub fn check_files(judged: &[Judged], folder: &Path) -> Result<()> {
    for Judged { file, digest, .. } in judged {
        let path = folder.join(file);
        let Some(then) = digest else { continue };
        if *then != models::digest(&fs::read(&path).map_err(Error::io(&path))?) {
            let what = "it was replaced since it was judged; run `comat world judge` on its folder again";
            return Err(Error::file(&path, what).into());
        }
    }
    Ok(())
}

/// Prompt and seed of an image: as `comat generate` stores them in the file, or from a name in T2I-CompBench's format.
fn origin(texts: &Texts, file: &Path) -> Option<(String, u64)> {
    if let (Some(prompt), Some(seed)) = (texts.get("prompt"), texts.get("seed")) {
        return Some((prompt.clone(), seed.parse().ok()?));
    }
    let (prompt, seed) = file.file_stem()?.to_str()?.rsplit_once('_')?;
    Some((prompt.to_owned(), seed.parse().ok()?))
}

/// Writes one line per image; the whole file or nothing.
pub fn write_lines(path: &Path, judged: &[Judged]) -> Result<()> {
    let lines = judged.iter().map(|j| Ok(serde_json::to_string(j)? + "\n")).collect::<Result<String>>()?;
    Ok(write_text(path, &lines)?)
}

/// Reads what [`write_lines`] wrote.
pub fn read_lines(path: &Path) -> Result<Vec<Judged>> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let line =
        |(i, line)| serde_json::from_str(line).map_err(|e| Error::file(path, format!("line {}: {e}", i + 1)).into());
    text.lines().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{render, staging};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn image_of(text: &str) -> Image {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        render::image(&staging::scene_for(&Demand::parse(text).unwrap(), &mut rng).unwrap())
    }

    fn prompts(name: &str, text: &str) -> Result<Vec<Question>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        fs::write(&path, text)?;
        questions(&path)
    }

    #[test]
    fn prompts_with_and_without_a_category() {
        let plain = prompts("a.txt", "a red circle and a blue star\na circle above a star\n").unwrap();
        assert_eq!(plain.iter().map(|q| q.category).collect::<Vec<_>>(), [Category::Color, Category::Spatial]);
        let given = prompts("a.jsonl", r#"{"prompt": "a circle above a star", "category": "complex"}"#).unwrap();
        assert_eq!(given[0].category, Category::Complex);
        let error = |name, text| format!("{:#}", prompts(name, text).unwrap_err());
        assert!(error("a.txt", "a red circle\n\na red dog\n").contains("a.txt:3: `a red dog` is not a prompt"));
        let line = r#"{"prompt": "a star", "category": "colour"}"#;
        assert!(error("a.jsonl", line).contains("a.jsonl:1: category `colour` is not one of color, shape"));
    }

    #[test]
    fn a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let star = image_of("a red star");
        star.save(&path("00000-a-red-star-seed7.png"), &[("prompt", "a red star"), ("seed", "7")]).unwrap();
        star.save(&path("a blue star_000012.png"), &[]).unwrap();
        star.save(&path("something.png"), &[]).unwrap();
        star.save(&path("grid.png"), &[]).unwrap();
        let questions = prompts("a.txt", "a red star\na blue star\na heart\n").unwrap();
        let bar = ProgressBar::hidden();
        let outcome = judge(&questions, folder.path(), &bar, &Interrupt::default()).unwrap();
        assert_eq!((outcome.missing, outcome.foreign), (vec!["a heart".to_owned()], vec!["something.png".into()]));
        let [right, wrong] = outcome.judged.as_slice() else { panic!("{:?}", outcome.judged) };
        assert_eq!((right.seed, right.verdict.correct), (7, true));
        assert_eq!((wrong.seed, wrong.prompt.as_str(), wrong.verdict.correct), (12, "a blue star", false));
        write_lines(&path("scores.jsonl"), &outcome.judged).unwrap();
        assert_eq!(read_lines(&path("scores.jsonl")).unwrap(), outcome.judged);

        star.enlarge(2).save(&path("a heart_000000.png"), &[]).unwrap();
        let error = judge(&questions, folder.path(), &bar, &Interrupt::default()).unwrap_err().to_string();
        assert!(error.contains("a heart_000000.png: is 128x128"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(
            judge(&questions, empty.path(), &bar, &Interrupt::default())
                .unwrap_err()
                .to_string()
                .contains("no PNG files")
        );
    }
}
