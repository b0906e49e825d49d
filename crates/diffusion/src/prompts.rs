//! Prompt files: `.txt` with a prompt a line, `.jsonl` with an object a line.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{fs, path::Path};

/// A noun and its attributes, where the file names them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entity {
    pub noun: String,
    #[serde(default)]
    pub attributes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Prompt {
    #[serde(rename = "prompt")]
    pub text: String,
    pub entities: Option<Vec<Entity>>,
    /// Whatever else the line holds; carried along into reports.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), entities: None, extra: Default::default() }
    }
}

impl Prompt {
    /// The entities that the file names, found in the text; `None` where it names none.
    ///
    /// # Errors
    /// A noun or an attribute that is not in the text.
    pub fn found(&self) -> Result<Option<Vec<entities::Entity>>> {
        let Some(named) = &self.entities else { return Ok(None) };
        let named: Vec<(&str, Vec<&str>)> =
            named.iter().map(|e| (e.noun.as_str(), e.attributes.iter().map(String::as_str).collect())).collect();
        Ok(Some(entities::explicit(&self.text, &named)?))
    }
}

/// Reads a prompt file. Empty lines are skipped; a malformed line is an error with its number.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    Ok(read_numbered(path)?.into_iter().map(|(_, prompt)| prompt).collect())
}

/// As [`read`], each prompt with the number of its line, from 1.
pub fn read_numbered(path: &Path) -> Result<Vec<(usize, Prompt)>> {
    let bytes = fs::read(path).map_err(models::Error::io(path))?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            bail!("{}:{line}: not valid UTF-8", path.display());
        }
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let json = match path.extension().and_then(|e| e.to_str()) {
        Some("jsonl") => true,
        Some("txt") => false,
        _ => bail!("{}: a prompt file ends in .txt or .jsonl", path.display()),
    };
    let mut prompts = vec![];
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let prompt =
            if json { parse(line).with_context(|| format!("{}:{}", path.display(), number + 1))? } else { line.into() };
        prompts.push((number + 1, prompt));
    }
    if prompts.is_empty() {
        bail!("{}: no prompts in it", path.display());
    }
    Ok(prompts)
}

fn parse(line: &str) -> Result<Prompt> {
    let prompt: Prompt = serde_json::from_str(line).map_err(|e| {
        let text = e.to_string();
        // the line is the file's, not the parser's
        anyhow::anyhow!("{}", text.replace(" at line 1 column", ", column"))
    })?;
    if prompt.text.trim().is_empty() {
        bail!("the prompt is empty");
    }
    prompt.found()?;
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &[u8]) -> Result<Vec<Prompt>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        fs::write(&path, text)?;
        read(&path)
    }

    #[test]
    fn text_and_json() {
        let prompts = file("a.txt", "\u{feff}a red dog\r\n\n  two cats \n".as_bytes()).unwrap();
        assert_eq!(prompts, ["a red dog".into(), "two cats".into()]);
        let line = br#"{"prompt": "a red dog", "entities": [{"noun": "dog", "attributes": ["red"]}], "tag": 3}"#;
        let prompt = file("a.jsonl", line).unwrap().remove(0);
        assert_eq!(prompt.entities.unwrap()[0].attributes, ["red"]);
        assert_eq!(prompt.extra["tag"], 3);
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = |name, text: &[u8]| format!("{:#}", file(name, text).unwrap_err());
        assert!(
            error("a.jsonl", b"{\"prompt\": \"x\"}\n\n{\"prompt\": }").contains("a.jsonl:3: expected value, column 12")
        );
        assert!(error("a.jsonl", b"{\"promt\": \"x\"}").contains("a.jsonl:1: missing field `prompt`"));
        assert!(error("a.jsonl", b"{\"prompt\": \" \"}").contains("empty"));
        let line = br#"{"prompt": "a dog", "entities": [{"noun": "cat"}]}"#;
        assert!(error("a.jsonl", line).contains("a.jsonl:1: `cat` is not a word of the prompt `a dog`"));
        assert!(error("a.txt", b"fine\n\xff").contains("a.txt:2: not valid UTF-8"));
        assert!(error("a.txt", b"\n\n").contains("no prompts"));
        assert!(error("a.csv", b"x").contains(".txt or .jsonl"));
    }
}
