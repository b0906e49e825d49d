//! File of earlier answers, one per line.

use anyhow::Result;
use models::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

pub struct Cache {
    path: PathBuf,
    file: File,
    answers: HashMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    answer: String,
}

/// Key of a question about an image to a model.
pub fn key(model: &str, question: &str, image: &[u8]) -> String {
    let mut hasher = Sha256::new();
    for part in [model.as_bytes(), question.as_bytes(), image] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    models::hex(&hasher.finalize())
}

impl Cache {
    /// Reads the answers in the file; a line that is cut off is ignored.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(Error::io(path))?;
        let text = String::from_utf8_lossy(&fs::read(path).map_err(Error::io(path))?).into_owned();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let answers = lines.map(|line| (line.key, line.answer)).collect();
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(Error::io(path))?;
        }
        Ok(Self { path: path.to_owned(), file, answers })
    }

    pub fn get(&self, key: &str) -> Option<String> {
        self.answers.get(key).cloned()
    }

    pub fn put(&mut self, key: String, answer: &str) -> Result<()> {
        let line = serde_json::to_string(&Line { key: key.clone(), answer: answer.into() })? + "\n";
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path))?;
        self.answers.insert(key, answer.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/answers.jsonl");
        let (one, other) = (key("m", "a dog?", b"1"), key("m", "a dog", b"?1"));
        assert_ne!(one, other);
        Cache::open(&path).unwrap().put(one.clone(), "yes").unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, whole.clone() + &whole[..20]).unwrap();
        let mut cache = Cache::open(&path).unwrap();
        assert_eq!((cache.get(&one), cache.get(&other)), (Some("yes".into()), None));
        cache.put(other.clone(), "no\n\"").unwrap();
        let cache = Cache::open(&path).unwrap();
        assert_eq!((cache.get(&one), cache.get(&other)), (Some("yes".into()), Some("no\n\"".into())));
    }
}
