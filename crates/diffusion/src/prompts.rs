//! Prompt files: `.txt` with one prompt per line, `.jsonl` with one object per line, `.json` with a list of them,
//! tables (`.csv`, `.tsv`).

mod foreign;

use anyhow::{Context, Result, anyhow, bail};
use foreign::Met;

pub use foreign::{option as foreign_option, unknown_option};
use models::{json, text};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{collections::HashSet, path::Path};

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
    /// All other fields of the line; they are copied to reports.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), entities: None, extra: Default::default() }
    }
}

impl Prompt {
    /// The entities that the file names, located in the text; `None` where it names none.
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

/// Reads a prompt file. Empty lines and comments (`#`, in a text file) are skipped. Options of other trainers are left
/// out, with one warning per file. A malformed line is an error with its line number.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    Ok(read_numbered(path)?.into_iter().map(|(_, prompt)| prompt).collect())
}

/// Held-out prompts; warns if some of them are trained on.
///
/// # Errors
/// Those of [`read`].
pub fn read_held_out(path: &Path, training: &[Prompt]) -> Result<Vec<Prompt>> {
    let prompts = read(path)?;
    let trained: HashSet<&str> = training.iter().map(|prompt| prompt.text.as_str()).collect();
    let count = prompts.iter().filter(|prompt| trained.contains(prompt.text.as_str())).count();
    if count > 0 {
        tracing::warn!(
            "{}: {count} of {} held-out prompts are also trained on, so what is measured on them is no proof",
            path.display(),
            prompts.len()
        );
    }
    Ok(prompts)
}

/// A digest that identifies the prompts of a run.
pub fn digest(prompts: &[Prompt]) -> String {
    let text: String = prompts.iter().map(|prompt| format!("{}\n", prompt.text)).collect();
    models::digest(text.as_bytes())
}

/// Parses the text of a file of one format.
type Reader = fn(&str, &Path, &mut Met) -> Result<Vec<(usize, Prompt)>>;

/// Like [`read`], each prompt with its line number (in `.json` the number of its entry), from 1.
pub fn read_numbered(path: &Path) -> Result<Vec<(usize, Prompt)>> {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    let read: Reader = match extension.as_deref() {
        Some("txt") => of_text,
        Some("jsonl") => of_lines,
        Some("json") => of_list,
        Some("csv") => |text, path, met| of_table(text, b',', path, met),
        Some("tsv") => |text, path, met| of_table(text, b'\t', path, met),
        _ => bail!("{}: a prompt file ends in .txt, .jsonl, .json, .csv or .tsv", path.display()),
    };
    let mut met = Met::default();
    let prompts = read(&text::read(path)?, path, &mut met)?;
    if prompts.is_empty() {
        bail!("{}: no prompts in it; write one prompt a line", path.display());
    }
    met.warn(path);
    Ok(prompts)
}

/// Lines that are not empty, numbered from 1.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text::lines(text).enumerate().map(|(i, line)| (i + 1, line.trim())).filter(|(_, line)| !line.is_empty())
}

fn of_text(text: &str, _: &Path, met: &mut Met) -> Result<Vec<(usize, Prompt)>> {
    let prompts = met.prompts_of(text::lines(text));
    Ok(prompts.into_iter().map(|(number, prompt)| (number, prompt.into())).collect())
}

fn of_lines(text: &str, path: &Path, met: &mut Met) -> Result<Vec<(usize, Prompt)>> {
    let prompt = |(number, line)| {
        let parsed = parsed(line).and_then(of_value).with_context(|| format!("{}:{number}", path.display()))?;
        met.keys(parsed.extra.keys());
        Ok((number, parsed))
    };
    numbered(text).map(prompt).collect()
}

/// Reads a list of texts or objects, an object that has such a list as `prompts`, or an object of texts or objects by their
/// ids; also a single object with a prompt.
fn of_list(text: &str, path: &Path, met: &mut Met) -> Result<Vec<(usize, Prompt)>> {
    let whole: Value = json::from_str(text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    let list = match whole {
        Value::Array(list) => list,
        Value::Object(mut object) => match object.remove("prompts") {
            Some(Value::Array(list)) => list,
            None if object.keys().any(|key| is_prompt(key)) => vec![object.into()],
            None if !object.is_empty() && object.values().all(Value::is_string) => by_id(object),
            None if !object.is_empty() && object.values().all(Value::is_object) => by_id(object),
            _ => bail!("{}: an object without a list `prompts`; expected a list of prompts", path.display()),
        },
        other => bail!("{}: {}; expected a list of prompts", path.display(), kind_of(&other)),
    };
    let mut prompts = vec![];
    for (i, value) in list.into_iter().enumerate().map(|(i, value)| (i + 1, value)) {
        if !met.is_disabled(&value) {
            let prompt = of_value(value).with_context(|| format!("{}: entry {i}", path.display()))?;
            met.keys(prompt.extra.keys());
            prompts.push((i, prompt));
        }
    }
    Ok(prompts)
}

/// The values of an object, by number where the keys are numbers.
fn by_id(object: Map<String, Value>) -> Vec<Value> {
    let mut all: Vec<(String, Value)> = object.into_iter().collect();
    all.sort_by_key(|(id, _)| id.parse::<u64>().ok());
    all.into_iter().map(|(_, value)| value).collect()
}

/// Reads a table. Its first line names the columns, one of which holds the prompts.
fn of_table(text: &str, delimiter: u8, path: &Path, met: &mut Met) -> Result<Vec<(usize, Prompt)>> {
    let mut reader = csv::ReaderBuilder::new();
    reader.delimiter(delimiter).quoting(delimiter == b',').trim(csv::Trim::All);
    let mut table = reader.from_reader(text.as_bytes());
    let plain = |field: &str| if delimiter == b',' { field.to_owned() } else { text::unquoted(field) };
    let fail = |error: csv::Error| match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => anyhow!(
            "{}:{}: {} where the first line names {expected_len}{}",
            path.display(),
            pos.as_ref().map_or(0, csv::Position::line),
            text::counted(*len as usize, "column"),
            if len > expected_len { "; a prompt with a comma in it must be in quotes" } else { "" }
        ),
        _ => anyhow!("{}: {error}", path.display()),
    };
    let columns: Vec<String> = table.headers().map_err(fail)?.iter().map(plain).collect();
    let Some(column) = KEYS
        .iter()
        .chain(&["prompts"])
        .find_map(|key| columns.iter().position(|column| column.eq_ignore_ascii_case(key)))
    else {
        bail!(
            "{}: its first line names no column {}; it names {}",
            path.display(),
            KEYS.join(", "),
            columns.join(", ")
        );
    };
    let mut prompts = vec![];
    for record in table.records() {
        let record = record.map_err(fail)?;
        let Some(text) = record.get(column).map(plain).filter(|text| !text.trim().is_empty()) else { continue };
        let others = columns.iter().zip(&record).enumerate().filter(|(i, _)| *i != column);
        let extra: Map<String, Value> = others.map(|(_, (name, value))| (name.clone(), plain(value).into())).collect();
        met.keys(extra.keys());
        let line = record.position().map_or(0, |position| position.line() as usize);
        prompts.push((line, Prompt { extra, ..text.as_str().into() }));
    }
    Ok(prompts)
}

/// Keys of the prompt; the first one that exists is used.
const KEYS: [&str; 3] = ["prompt", "text", "caption"];

fn is_prompt(key: &str) -> bool {
    KEYS.iter().any(|known| known.eq_ignore_ascii_case(key))
}

fn parsed(line: &str) -> Result<Value> {
    // drops the parser's line number, which is not that of the file
    json::from_str(line).map_err(|e| anyhow::anyhow!("{}", e.to_string().replace(" at line 1 column", ", column")))
}

fn of_value(value: Value) -> Result<Prompt> {
    let prompt = match value {
        Value::String(text) => Prompt::from(text.as_str()),
        Value::Object(mut object) => {
            let is = |known: &&str| object.keys().find(|key| key.eq_ignore_ascii_case(known)).cloned();
            let Some(key) = KEYS.iter().find_map(is) else {
                let there: Vec<&str> = object.keys().take(5).map(String::as_str).collect();
                bail!("missing field `prompt` (or `text`, or `caption`); there are: {}", there.join(", "));
            };
            match object.remove(&key) {
                Some(Value::String(text)) => object.insert(KEYS[0].to_owned(), text.into()),
                Some(other) => bail!("`{key}` is {}, not a text", kind_of(&other)),
                None => None,
            };
            serde_json::from_value(object.into())?
        }
        other => bail!("{}; expected an object with `prompt`, or a text", kind_of(&other)),
    };
    if prompt.text.trim().is_empty() {
        bail!("the prompt is empty");
    }
    prompt.found()?;
    Ok(prompt)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
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

    /// Lists and tables of other programs, each with its own key for the prompt.
    #[test]
    fn lists_and_tables() {
        let texts = |name: &str, text: &str| {
            let prompts = file(name, text.as_bytes()).unwrap();
            prompts.into_iter().map(|prompt| prompt.text).collect::<Vec<_>>()
        };
        let both = ["a red dog", "two cats"];
        for (name, text) in [
            ("a.json", r#"["a red dog", "two cats"]"#),
            ("a.json", r#"[{"prompt": "a red dog"}, {"text": "two cats"}]"#),
            ("a.json", r#"{"prompts": [{"caption": "a red dog", "seed": 3}, "two cats"]}"#),
            ("a.jsonl", "{\"text\": \"a red dog\"}\n\"two cats\"\n"),
            (
                "a.jsonl",
                "{\"caption\": \"a red dog\", \"file_name\": \"a.png\"}\n{\"caption\": \"x\", \"prompt\": \"two cats\"}",
            ),
            ("a.json", r#"{"10": {"prompt": "two cats"}, "9": {"prompt": "a red dog"}}"#),
            (
                "a.json",
                r#"[{"prompt": "a red dog"}, {"prompt": "x", "enabled": false}, {"prompt": "two cats", "enabled": true}]"#,
            ),
            ("a.csv", "prompt\na red dog\ntwo cats\n"),
            ("a.csv", "id,Prompts\n1,a red dog\n2,two cats\n"),
            ("A.CSV", "id,Prompt\r\n1,\"a red dog\"\r\n2,two cats\r\n"),
            ("a.json", r#"{"first": "a red dog", "second": "two cats"}"#),
            ("a.jsonl", "{\"Prompt\": \"a red dog\"}\n{\"Caption\": \"two cats\"}"),
            ("a.tsv", "Prompt\tChallenge\n\"a red dog\"\tx\ntwo cats\ty\n"),
            ("a.tsv", "text\tseed\na red dog\t1\n\t2\ntwo cats\t3\n"),
        ] {
            assert_eq!(texts(name, text), both, "{name}: {text}");
        }
        assert_eq!(texts("a.json", r#"{"prompt": "a red dog", "negative": "bad"}"#), ["a red dog"]);
        // quotes of a table with tabs are part of the text, unless they are around all of it
        let quotes = "prompt\n\"A B\" in red\n\"two cats\n\"say \"\"hi\"\"\"\n";
        assert_eq!(texts("a.tsv", quotes), ["\"A B\" in red", "\"two cats", "say \"hi\""]);
        let prompts = file("a.csv", b"category,caption\ncolor,\"a red, old dog\"\n").unwrap();
        assert_eq!((prompts[0].text.as_str(), &prompts[0].extra["category"]), ("a red, old dog", &"color".into()));
        let path = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
        fs::write(path.path(), "prompt\n\"a\nb\"\nc\n").unwrap();
        assert_eq!(read_numbered(path.path()).unwrap().iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4]);
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
        assert!(error("a.xml", b"x").contains(".txt, .jsonl, .json, .csv or .tsv"));
        assert!(error("a.txt", b"a red\0 dog").contains("a.txt:1: not a text: it holds a NUL"));
        for (name, text, part) in [
            ("a.jsonl", "[\"a dog\"]", "a.jsonl:1: a list; expected an object with `prompt`, or a text"),
            ("a.jsonl", "{\"prompt\": 3}", "a.jsonl:1: `prompt` is a number, not a text"),
            ("a.json", "{\"a\": 1}", "a.json: an object without a list `prompts`"),
            ("a.json", "[\"a dog\", 3]", "a.json: entry 2: a number"),
            ("a.json", "[", "a.json: EOF while parsing"),
            ("a.json", "[]", "no prompts in it"),
            ("a.csv", "a dog,x\n", "names no column prompt, text, caption; it names a dog, x"),
            ("a.csv", "prompt,x\na dog\n", "a.csv:2: 1 column where the first line names 2"),
            (
                "a.csv",
                "prompt,x\na dog, a cat,3\n",
                "a.csv:2: 3 columns where the first line names 2; a prompt with a comma",
            ),
        ] {
            assert!(error(name, text.as_bytes()).contains(part), "{}", error(name, text.as_bytes()));
        }
    }
}
