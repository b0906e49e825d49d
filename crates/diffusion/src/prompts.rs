//! Prompt files: `.txt` with a prompt a line, `.jsonl` with an object a line.

mod foreign;

use anyhow::{Context, Result, bail};
use foreign::Met;

pub use foreign::option as foreign_option;
use models::{json, text};
use serde::Deserialize;
use std::path::Path;

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

/// Reads a prompt file. Empty lines and comments (`#`, in a text) are skipped, and options of other trainers left out, with a warning
/// for each file; a malformed line is an error with its number.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    Ok(read_numbered(path)?.into_iter().map(|(_, prompt)| prompt).collect())
}

/// As [`read`], each prompt with the number of its line, from 1.
pub fn read_numbered(path: &Path) -> Result<Vec<(usize, Prompt)>> {
    let json = match path.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
        Some("jsonl") => true,
        Some("txt") => false,
        _ => bail!("{}: a prompt file ends in .txt or .jsonl", path.display()),
    };
    let text = text::read(path)?;
    let (mut prompts, mut met) = (vec![], Met::default());
    for (number, line) in text::lines(&text).enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let prompt = if json {
            let prompt = parse(line).with_context(|| format!("{}:{}", path.display(), number + 1))?;
            met.keys(prompt.extra.keys());
            prompt
        } else {
            let Some(prompt) = met.prompt_of(line) else { continue };
            prompt.into()
        };
        prompts.push((number + 1, prompt));
    }
    if prompts.is_empty() {
        bail!("{}: no prompts in it; write one prompt a line", path.display());
    }
    met.warn(path);
    Ok(prompts)
}

fn parse(line: &str) -> Result<Prompt> {
    let prompt: Prompt = json::from_str(line).map_err(|e| {
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
    use std::fs;

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
        let prompts = file("A.TXT", b"# sd-scripts\ra red dog --n bad --w 512\r\rtwo cats").unwrap();
        assert_eq!(prompts, ["a red dog".into(), "two cats".into()]);
        let utf16: Vec<u8> = "\u{feff}a caf\u{e9}\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(file("a.txt", &utf16).unwrap(), ["a caf\u{e9}".into()]);
        let prompts = file("A.JSONL", br#"{"prompt": "a dog", "score": NaN}"#).unwrap();
        assert_eq!((prompts[0].text.as_str(), &prompts[0].extra["score"]), ("a dog", &"NaN".into()));
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
