//! Finds out what a folder holds, from the files in it, and makes short names for folders.

use anyhow::{Context, Result, bail};
use models::Error;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

pub const EVENTS: &str = "events.jsonl";
pub const SCORES: &str = "scores.jsonl";
pub const EVALUATION: &str = "evaluation.json";
pub const BASE: &str = "base";

#[derive(Debug, PartialEq)]
pub enum Folder {
    Run,
    /// Names and paths of scored folders; `base` comes first, if there is one.
    Evaluation(Vec<(String, PathBuf)>),
}

impl Folder {
    pub fn at(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            bail!(
                "{} is no folder; give folders of training runs, of evaluations, or of scored images",
                path.display()
            );
        }
        if path.join(EVENTS).exists() {
            return Ok(Self::Run);
        }
        let variants =
            if path.join(SCORES).exists() { vec![(last_part(path), path.to_owned())] } else { scored_below(path)? };
        if variants.is_empty() && path.join(EVALUATION).exists() {
            bail!("{}: nothing has been scored in it yet ({SCORES} is missing)", path.display());
        }
        if variants.is_empty() {
            bail!(
                "{} is neither a training run ({EVENTS}), nor an evaluation (base/{SCORES}, lora/{SCORES}), nor a folder of scored \
                 images ({SCORES})",
                path.display()
            );
        }
        variants.iter().try_for_each(|(_, folder)| of_benchmarks(folder))?;
        Ok(Self::Evaluation(variants))
    }
}

/// Subfolders with scores, sorted by name; `base` comes before all others.
fn scored_below(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(path).map_err(Error::io(path))?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<_> =
        entries.filter(|folder| folder.join(SCORES).exists()).map(|folder| (last_part(&folder), folder)).collect();
    found.sort_by_key(|(name, _)| (name != BASE, name.clone()));
    Ok(found)
}

/// Refuses the scores of the miniature world's judge, which have the same name.
fn of_benchmarks(folder: &Path) -> Result<()> {
    let path = folder.join(SCORES);
    let mut first = String::new();
    BufReader::new(fs::File::open(&path).map_err(Error::io(&path))?)
        .read_line(&mut first)
        .with_context(|| path.display().to_string())?;
    let is_world = serde_json::from_str::<serde_json::Value>(&first).is_ok_and(|line| line.get("verdict").is_some());
    if is_world {
        bail!("{} is of `comat world judge`; `comat world report` makes its page", path.display());
    }
    Ok(())
}

/// Short names for folders: of each path the shortest end that no other path has.
///
/// # Errors
/// A folder is given twice.
pub fn names(folders: &[PathBuf]) -> Result<Vec<String>> {
    let whole: Vec<PathBuf> = folders.iter().map(|f| fs::canonicalize(f).unwrap_or_else(|_| f.clone())).collect();
    if let Some((i, _)) = whole.iter().enumerate().find(|(i, path)| whole[..*i].contains(path)) {
        bail!("{} is given twice", folders[i].display());
    }
    let end = |path: &PathBuf, parts: usize| -> String {
        let all: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        all[all.len().saturating_sub(parts)..].join("/")
    };
    let name = |path: &PathBuf| {
        let longest = path.iter().count();
        let tells = |parts: &usize| whole.iter().filter(|other| end(other, *parts) == end(path, *parts)).count() == 1;
        let parts = (1..=longest).find(tells).unwrap_or(longest);
        end(path, parts)
    };
    Ok(whole.iter().map(name).collect())
}

fn last_part(path: &Path) -> String {
    let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    whole.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let write = |name: &str, text: &str| {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        };
        let error = |name: &str| Folder::at(&path(name)).unwrap_err().to_string();
        assert!(error("none").contains("none is no folder"));
        write("empty/notes.txt", "");
        assert!(error("empty").contains("is neither a training run (events.jsonl)"));
        write("begun/evaluation.json", "{}");
        assert!(error("begun").contains("nothing has been scored"));
        write("run/events.jsonl", "");
        assert_eq!(Folder::at(&path("run")).unwrap(), Folder::Run);
        for name in ["e/lora/scores.jsonl", "e/base/scores.jsonl", "e/half/scores.jsonl"] {
            write(name, "");
        }
        let of = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), path("e").join(n))).collect();
        assert_eq!(Folder::at(&path("e")).unwrap(), Folder::Evaluation(of(&["base", "half", "lora"])));
        assert_eq!(Folder::at(&path("e/lora")).unwrap(), Folder::Evaluation(of(&["lora"])));
        write("world/scores.jsonl", "{\"prompt\":\"a\",\"verdict\":{}}\n");
        assert!(error("world").contains("comat world report"));
    }

    #[test]
    fn names_tell_folders_apart() {
        let names = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["x/a", "x/b"]).unwrap(), ["a", "b"]);
        assert_eq!(names(&["x/a", "y/a", "y/b"]).unwrap(), ["x/a", "y/a", "b"]);
        assert!(names(&["x/a", "x/a"]).unwrap_err().to_string().contains("x/a is given twice"));
        assert_eq!(names(&["."]).unwrap().len(), 1);
    }
}
