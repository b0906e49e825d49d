//! `comat prompts`: makes prompts to train on.

mod make;
mod words;

use crate::{args::shared::at_least_one, syntax, text::counted};
use anyhow::{Context, Result, bail};
use clap::Args as Group;
use diffusion::prompts;
use make::{Category, Made};
use models::{Error, digest, text, write_text};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};
use words::Words;

/// Default number of prompts.
const COUNT: usize = 20_000;

/// Make prompts to train on, in T2I-CompBench's categories
///
/// Sentences of word lists, all of them distinct, with the nouns and attributes that belong together: as .jsonl that `prompts.train` of a
/// configuration reads; no parser is needed then. The categories come in turn. Held-out prompts have a combination (of an attribute and
/// a noun, a count and a noun, two nouns and their relation) that no training prompt has. The same words and seed make the same prompts.
///
/// With --captions, the lines of caption files take the place of sentences.
#[derive(Group)]
pub struct Prompts {
    /// Prompts to train on: .jsonl (with entities and categories) or .txt (a prompt a line)
    #[arg(long, value_name = "FILE", default_value = "prompts/train.jsonl")]
    out: PathBuf,
    /// How many
    #[arg(long, value_name = "N", default_value_t = COUNT, value_parser = at_least_one)]
    count: usize,
    /// Held-out prompts, for prompts.validation
    #[arg(long, value_name = "FILE")]
    held_out: Option<PathBuf>,
    /// How many of them
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = at_least_one, requires = "held_out")]
    held_out_count: usize,
    /// Only these: color, shape, texture, spatial, non-spatial, complex, numeracy
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    categories: Vec<Category>,
    /// Word lists of your own (TOML): things, animals, people, color, shape, texture, relations, actions, counts, scenes, plurals; lists
    /// that are not in it are the built-in ones
    #[arg(long, value_name = "FILE")]
    words: Option<PathBuf>,
    /// Take the captions of a folder instead: every line of its .txt and .caption files
    #[arg(long, value_name = "DIR", conflicts_with_all = ["words", "categories"])]
    captions: Option<PathBuf>,
    /// Leave out every prompt of this file, a benchmark's for example; can be given several times
    #[arg(long, value_name = "FILE")]
    exclude: Vec<PathBuf>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Replace files that exist
    #[arg(long)]
    overwrite: bool,
}

/// A prompt as text and as a JSON line, its category, and whether it is held out.
struct Line {
    text: String,
    json: String,
    category: &'static str,
    held_out: bool,
}

pub fn run(args: &Prompts) -> Result<()> {
    const EMPTY: &str =
        "one caption in ten is held out, so that a few are too few for --held-out; --exclude may name them all";
    const MOST: usize = 10_000_000;
    if let Some(count) = [args.count, args.held_out_count].into_iter().find(|count| *count > MOST) {
        bail!("{count} prompts are too many; at most {MOST} are made at a time");
    }
    let files: Vec<&Path> =
        [Some(&args.out), args.held_out.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
    for file in &files {
        if !matches!(file.extension().and_then(|end| end.to_str()), Some("jsonl" | "txt")) {
            bail!("{}: a prompt file ends in .txt or .jsonl", file.display());
        }
        if file.exists() && !args.overwrite {
            bail!("{} exists; --overwrite replaces it, or choose another file", file.display());
        }
    }
    if let [out, held_out] = files[..]
        && models::place(out) == models::place(held_out)
    {
        bail!("--held-out {}: it is the file of --out; choose another", held_out.display());
    }
    let mut excluded = HashSet::new();
    for file in &args.exclude {
        excluded.extend(prompts::read(file).context("--exclude")?.iter().map(|prompt| plain(&prompt.text)));
    }
    let wanted = [args.count, args.held_out.as_ref().map_or(0, |_| args.held_out_count)];
    let mut choice = Choice { wanted, excluded, seen: HashSet::new(), left_out: 0, chosen: [vec![], vec![]] };
    match &args.captions {
        Some(folder) => captions(folder, &mut choice)?,
        None => sentences(args, &mut choice)?,
    }
    if let Some((_, file)) = choice.chosen.iter().zip(&files).find(|(lines, _)| lines.is_empty()) {
        bail!("no prompt is left for {}; {EMPTY}", file.display());
    }
    for (lines, file) in choice.chosen.iter().zip(files) {
        write(lines, file)?;
    }
    syntax::warn(choice.chosen.iter().flatten().map(|line| line.text.as_str()));
    if !args.exclude.is_empty() {
        say!("{} left out, which --exclude names", counted(choice.left_out, "prompt"));
    }
    for (lines, wanted) in choice.chosen.iter().zip(wanted) {
        // captions may be fewer than the default count, but not fewer than a count that was asked for
        if lines.len() < wanted && (args.captions.is_none() || wanted != COUNT) {
            tracing::warn!("{} instead of {wanted}: there are no more different ones", counted(lines.len(), "prompt"));
        }
    }
    Ok(())
}

/// Collects prompts without duplicates and excluded ones. Arrays have training prompts first, then held-out ones.
struct Choice {
    wanted: [usize; 2],
    excluded: HashSet<String>,
    seen: HashSet<String>,
    left_out: usize,
    chosen: [Vec<Line>; 2],
}

impl Choice {
    /// Adds a prompt if it is wanted, new and not excluded. Returns whether it was added.
    fn offer(&mut self, line: Line) -> bool {
        let side = usize::from(line.held_out);
        if self.chosen[side].len() >= self.wanted[side] {
            return false;
        }
        let plain = plain(&line.text);
        if self.excluded.contains(&plain) {
            self.left_out += usize::from(self.seen.insert(plain));
            return false;
        }
        let new = self.seen.insert(plain);
        if new {
            self.chosen[side].push(line);
        }
        new
    }

    fn is_full(&self, side: usize) -> bool {
        self.chosen[side].len() >= self.wanted[side]
    }
}

/// Makes the training prompts, then the held-out ones, with the categories in turn. A category is dropped after
/// `PATIENCE` tries without a new prompt.
fn sentences(args: &Prompts, choice: &mut Choice) -> Result<()> {
    const PATIENCE: usize = 5_000;
    let words = Words::read(args.words.as_deref())?;
    // each category has its own random stream, so that exclusions in one do not change the others
    let mut random = Category::ALL.map(|category| {
        let mut stream = ChaCha8Rng::seed_from_u64(args.seed);
        stream.set_stream(category as u64);
        stream
    });
    for side in [0, 1] {
        let mut open = if args.categories.is_empty() { Category::ALL.to_vec() } else { args.categories.clone() };
        open.dedup();
        while !choice.is_full(side) && !open.is_empty() {
            let mut exhausted = vec![];
            for category in &open {
                let mut tries = 0;
                while tries < PATIENCE && !choice.is_full(side) {
                    let made =
                        make::one(*category, &words, &mut random[*category as usize]).context(category.name())?;
                    if usize::from(made.is_held_out()) == side && choice.offer(made.into()) {
                        break;
                    }
                    tries += 1;
                }
                if tries == PATIENCE {
                    exhausted.push(*category);
                }
            }
            open.retain(|category| !exhausted.contains(category));
        }
    }
    Ok(())
}

impl From<Made> for Line {
    fn from(made: Made) -> Self {
        Self { json: made.line(), category: made.category.name(), held_out: made.is_held_out(), text: made.text }
    }
}

/// Takes every line of the caption files below a folder. If held-out prompts are wanted, one line in ten is held out,
/// chosen by the caption's digest.
fn captions(folder: &Path, choice: &mut Choice) -> Result<()> {
    let mut files = vec![];
    caption_files(folder, &mut files)?;
    files.sort();
    if files.is_empty() {
        bail!("{}: no .txt or .caption file in it", folder.display());
    }
    for file in files {
        let text = text::read(&file)?;
        for line in text::lines(&text).map(str::trim).filter(|line| !line.is_empty()) {
            let tenth = u64::from_str_radix(&digest(line.as_bytes()), 16).is_ok_and(|n| n % 10 == 0);
            let json = json!({ "prompt": line }).to_string();
            let held_out = tenth && !choice.is_full(1);
            choice.offer(Line { text: line.to_owned(), json, category: "captions", held_out });
        }
    }
    Ok(())
}

fn caption_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry?.path();
        if path.is_dir() {
            caption_files(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|end| ["txt", "caption"].iter().any(|known| end.eq_ignore_ascii_case(known)))
        {
            found.push(path);
        }
    }
    Ok(())
}

/// A prompt's words without case, extra spaces and punctuation. Prompts with the same words count as the same.
fn plain(text: &str) -> String {
    let words = text.split_whitespace().map(|word| word.trim_matches(['.', ',', ';', '!', '"']).to_lowercase());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn write(lines: &[Line], file: &Path) -> Result<()> {
    let only_text = file.extension().is_some_and(|end| end == "txt");
    let text: String = lines.iter().flat_map(|line| [if only_text { &line.text } else { &line.json }, "\n"]).collect();
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    write_text(file, &text)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    lines.iter().for_each(|line| *counts.entry(line.category).or_default() += 1);
    let counts: Vec<String> = counts.iter().map(|(category, count)| format!("{category} {count}")).collect();
    say!("{} in {}: {}", counted(lines.len(), "prompt"), file.display(), counts.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_names_its_entities_as_training_reads_them() {
        let words = Words::read(None).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut held_out = 0;
        for number in 0..7_000 {
            let made = make::one(Category::ALL[number % 7], &words, &mut random).unwrap();
            let prompt: prompts::Prompt = serde_json::from_str(&made.line()).unwrap();
            let found = prompt.found().unwrap_or_else(|e| panic!("{}: {e}", made.line())).unwrap();
            assert!(!found.is_empty(), "{}", made.line());
            assert!(made.text.split_whitespace().count() < 40, "{}", made.text);
            held_out += usize::from(made.is_held_out());
        }
        assert!((700..2500).contains(&held_out), "{held_out} of 7000");
    }

    #[test]
    fn the_same_prompt_written_otherwise() {
        assert_eq!(plain("A red  book, and a Dog."), plain("a red book and a dog"));
        assert_ne!(plain("a red book"), plain("a red dog"));
    }
}
