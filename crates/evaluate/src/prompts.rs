//! The prompts of the benchmarks and how their images are scored.

mod dsg;
mod geneval;
mod t2i_compbench;
mod tifa;

use crate::judges::Judge;
use anyhow::{Result, bail};
use benchmarks::{
    dsg::{Item, Rule},
    geneval::Metadata,
    records::{Benchmark, Metric},
    t2i_compbench::{numeracy::Wanted, spatial::Locality, three_in_one::Kind},
    tifa::Question,
};
use models::Error;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// A prompt of a benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Id in the benchmark, or the number of the prompt in its file.
    pub id: String,
    pub category: String,
    pub kind: Option<Kind>,
    pub text: String,
    /// Position in its file, from 0.
    pub number: u64,
    pub tasks: Vec<Task>,
}

/// A way to score an image of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// A question for each noun phrase (BLIP-VQA).
    Attributes(Vec<String>),
    /// Similarity of the image and this text (CLIP).
    Similarity(String),
    /// Relative position of two objects.
    Places {
        objects: Option<[String; 2]>,
        locality: Option<Locality>,
    },
    Counts(Vec<Wanted>),
    /// Questions with choices (TIFA).
    Choices(Vec<Question>),
    /// Questions that depend on each other (DSG, DPG).
    YesOrNo(Item, Rule),
    /// Objects, counts, colours, positions (GenEval).
    Clauses(Metadata),
    /// Asks the questions of the prompt's other tasks to a network behind an endpoint; if they have no questions, asks
    /// about the whole prompt.
    SecondOpinion,
}

/// Which prompts to use, and which metrics besides the benchmark's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub benchmark: Benchmark,
    /// The folder with the benchmark's prompt files, or one file.
    pub path: PathBuf,
    /// Empty: all categories that can be scored.
    pub categories: Vec<String>,
    /// Use only this many first prompts of each category; absent: all.
    pub limit: Option<usize>,
    pub second_opinion: bool,
}

impl Task {
    pub fn metric(&self) -> Metric {
        match self {
            Self::Attributes(_) => Metric::BlipVqa,
            Self::Similarity(_) => Metric::Clip,
            Self::Places { .. } => Metric::Spatial,
            Self::Counts(_) => Metric::Numeracy,
            Self::Choices(_) | Self::YesOrNo(..) => Metric::Questions,
            Self::Clauses(_) => Metric::Correct,
            Self::SecondOpinion => Metric::Endpoint,
        }
    }

    /// The judges that this task needs.
    pub fn judges(&self) -> BTreeSet<Judge> {
        match self {
            Self::Attributes(_) | Self::YesOrNo(..) => [Judge::Vqa].into(),
            Self::Choices(_) => [Judge::Vqa, Judge::Sentences].into(),
            Self::Similarity(_) => [Judge::Clip].into(),
            Self::Places { .. } | Self::Counts(_) => [Judge::Detector].into(),
            // CLIP classifies colours
            Self::Clauses(_) => [Judge::Detector, Judge::Clip].into(),
            Self::SecondOpinion => [Judge::Endpoint].into(),
        }
    }
}

/// Reads the prompts of a benchmark, with their tasks. Every prompt has CLIP's cosine among its tasks, because CLIP is
/// of another family than the captioner that gives the reward in training.
///
/// # Errors
/// Files that cannot be read; a category that the benchmark does not have.
pub fn read(choice: &Choice) -> Result<Vec<Prompt>> {
    let mut prompts = match choice.benchmark {
        Benchmark::T2iCompbench => t2i_compbench::read(&choice.path, &choice.categories)?,
        Benchmark::Tifa => {
            tifa::read(&file(&choice.path, &["tifa_v1.0_question_answers.json"], "question_answers.json")?)?
        }
        Benchmark::Dsg => dsg::read(&file(&choice.path, &["dsg-1k-anns.csv"], "-anns.csv")?, Rule::Dsg)?,
        Benchmark::Dpg => dsg::read(&file(&choice.path, &["dpg_bench.csv"], ".csv")?, Rule::Dpg)?,
        Benchmark::Geneval => geneval::read(&file(&choice.path, &["evaluation_metadata.jsonl"], "metadata.jsonl")?)?,
    };
    let known: BTreeSet<String> = prompts.iter().map(|prompt| prompt.category.clone()).collect();
    if let Some(stranger) = choice.categories.iter().find(|name| !known.contains(*name)) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        bail!("{}: it has no category `{stranger}`; those are {}", choice.path.display(), known.join(", "));
    }
    prompts.retain(|prompt| choice.categories.is_empty() || choice.categories.contains(&prompt.category));
    if let Some(limit) = choice.limit {
        let mut taken = std::collections::BTreeMap::<String, usize>::new();
        prompts.retain(|prompt| {
            let taken = taken.entry(prompt.category.clone()).or_default();
            *taken += 1;
            *taken <= limit
        });
    }
    for prompt in &mut prompts {
        if !prompt.tasks.iter().any(|task| task.metric() == Metric::Clip) {
            prompt.tasks.push(Task::Similarity(prompt.text.clone()));
        }
        if choice.second_opinion {
            prompt.tasks.push(Task::SecondOpinion);
        }
    }
    Ok(prompts)
}

/// The file itself; for a folder, a file with one of these names in it, or the only one whose name ends with `ending`.
fn file(path: &Path, names: &[&str], ending: &str) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    if let Some(found) = names.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(found);
    }
    let entries = path.read_dir().map_err(Error::io(path))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut others: Vec<PathBuf> = files.filter(|f| f.is_file() && f.to_string_lossy().ends_with(ending)).collect();
    match (others.len(), others.pop()) {
        (1, Some(file)) => Ok(file),
        (0, _) => bail!("{}: there is no {} in it", path.display(), names.join(" or ")),
        _ => bail!("{}: there are several files *{ending} in it; name one of them by --prompts", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_file_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let find = || file(folder.path(), &["known.json"], "answers.json").map_err(|e| e.to_string());
        assert!(find().unwrap_err().contains("there is no known.json in it"));
        fs::write(folder.path().join("my_answers.json"), "").unwrap();
        assert!(find().unwrap().ends_with("my_answers.json"));
        fs::write(folder.path().join("your_answers.json"), "").unwrap();
        assert!(find().unwrap_err().contains("several files *answers.json"));
        fs::write(folder.path().join("known.json"), "").unwrap();
        assert!(find().unwrap().ends_with("known.json"));
    }

    #[test]
    fn every_prompt_is_seen_by_another_family() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("color_val.txt"), "a red dog and a blue cat\na green bench\n").unwrap();
        fs::write(folder.path().join("non_spatial_val.txt"), "a man reads\n").unwrap();
        let choice = Choice {
            benchmark: Benchmark::T2iCompbench,
            path: folder.path().into(),
            categories: vec![],
            limit: Some(1),
            second_opinion: true,
        };
        let prompts = read(&choice).unwrap();
        assert_eq!(prompts.len(), 2);
        let metrics = |i: usize| prompts[i].tasks.iter().map(Task::metric).collect::<Vec<_>>();
        assert_eq!(metrics(0), [Metric::BlipVqa, Metric::Clip, Metric::Endpoint]);
        assert_eq!(metrics(1), [Metric::Clip, Metric::Endpoint]);
        assert_eq!(prompts[0].tasks[0], Task::Attributes(vec!["a red dog?".into(), "a blue cat?".into()]));
        let error = read(&Choice { categories: vec!["shape".into()], ..choice }).unwrap_err().to_string();
        assert!(error.contains("shape_val.txt"), "{error}");
    }
}
