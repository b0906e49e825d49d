//! A list of pairs: JSON lines with the names of the pictures.

use super::{Found, source::Source};
use anyhow::{Context, Result, bail};
use models::Error;
use serde_json::{Map, Value};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
};

/// Ours, Hugging Face's, the miniature world's; the first of them that a line has counts.
const PICTURE: [&str; 3] = ["image", "file_name", "file"];
const CAPTION: [&str; 3] = ["caption", "text", "captions"];

pub(super) fn read(path: &Path, found: &mut Found) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut file = BufReader::new(fs::File::open(path).map_err(Error::io(path))?);
    let mut line = vec![];
    for number in 1.. {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(Error::io(path))? == 0 {
            break;
        }
        let line = line.strip_prefix("\u{feff}".as_bytes()).filter(|_| number == 1).unwrap_or(&line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (picture, captions) = parse(line).with_context(|| format!("{}:{number}", path.display()))?;
        let picture = folder.join(picture);
        if picture.is_file() {
            found.add(Source::File(picture.into()), &captions);
        } else {
            found.captions_alone.add(format_args!("for {}, which is not there", picture.display()));
        }
    }
    Ok(())
}

fn parse(line: &[u8]) -> Result<(String, Vec<String>)> {
    let line = object(line)?;
    match first(&line, &PICTURE) {
        Some((_, Value::String(name))) if !name.is_empty() => Ok((name.clone(), captions(&line)?)),
        Some((key, _)) => bail!("`{key}` must be the name of a picture"),
        None => bail!("no picture; its name belongs in `image`, relative to this list"),
    }
}

pub(super) fn object(json: &[u8]) -> Result<Map<String, Value>> {
    let json = std::str::from_utf8(json).map_err(|_| anyhow::anyhow!("not valid UTF-8"))?;
    // the line is the file's, not the parser's
    serde_json::from_str(json.trim())
        .map_err(|e| anyhow::anyhow!("{}", e.to_string().replace(" at line 1 column", ", column")))
}

/// What an object says about its picture; empty where it says nothing.
pub(super) fn captions(object: &Map<String, Value>) -> Result<Vec<String>> {
    let Some((key, value)) = first(object, &CAPTION) else { return Ok(vec![]) };
    let texts = match value {
        Value::Array(texts) => texts.iter().map(Value::as_str).collect(),
        text => text.as_str().map(|text| vec![text]),
    };
    let Some(texts) = texts else { bail!("`{key}` must be a string, or a list of strings") };
    Ok(texts.into_iter().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect())
}

fn first<'a>(object: &'a Map<String, Value>, keys: &[&'static str]) -> Option<(&'static str, &'a Value)> {
    keys.iter().find_map(|&key| Some((key, object.get(key).filter(|value| !value.is_null())?)))
}
