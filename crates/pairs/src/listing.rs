//! Lists of pairs: JSON lines or CSV with the names of the images, and the metadata of sd-scripts.

use crate::{
    found::{Found, IMAGES, extension},
    source::Source,
};
use anyhow::{Context, Result, bail};
use models::{Error, json, text};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Keys of the image's name: this program's, Hugging Face's, the miniature world's, and those of others. The first key
/// that a line has is used.
const IMAGE: [&str; 8] = ["image", "file_name", "file", "image_path", "img_path", "path", "filename", "image_file"];
/// Keys of the captions. The last is that of sd-scripts for images without a caption.
const CAPTION: [&str; 6] = ["caption", "text", "captions", "prompt", "description", "tags"];

/// Reads a list. Its extension decides the format: `.jsonl`, `.csv`, `.tsv` or `.json`.
pub(super) fn read(path: &Path, found: &mut Found) -> Result<()> {
    match extension(path).as_str() {
        "csv" => table(path, b',', found),
        "tsv" => table(path, b'\t', found),
        "json" => metadata(path, found),
        _ => lines(path, found),
    }
}

fn lines(path: &Path, found: &mut Found) -> Result<()> {
    let text = text::read(path)?;
    for (number, line) in text::lines(&text).enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (image, captions) = object(line.as_bytes())
            .and_then(|line| parse(&line, found))
            .with_context(|| format!("{}:{}", path.display(), number + 1))?;
        add(path, &image, &captions, found);
    }
    Ok(())
}

/// Reads a table. The names in the first line tell the columns of the image and of the caption.
fn table(path: &Path, delimiter: u8, found: &mut Found) -> Result<()> {
    let text = text::read(path)?;
    let mut reader = csv::ReaderBuilder::new();
    reader.delimiter(delimiter).quoting(delimiter == b',').flexible(true);
    let mut reader = reader.from_reader(text.as_bytes());
    let plain = |field: &str| if delimiter == b',' { field.to_owned() } else { text::unquoted(field) };
    let broken = |e: csv::Error| Error::file(path, e.to_string());
    let names: Vec<String> =
        reader.headers().map_err(broken)?.iter().map(|name| plain(name).trim().to_lowercase()).collect();
    let column = |known: &[&str]| known.iter().find_map(|key| names.iter().position(|name| name == key));
    let Some(image) = column(&IMAGE) else {
        bail!(
            "{}: no column with the images' names; it is called file_name, in the first line, which has {}",
            path.display(),
            names.join(", ")
        );
    };
    // of two columns, the one that is not the image is the caption, whatever its name
    let caption = column(&CAPTION).or((names.len() == 2).then_some(1 - image.min(1)));
    let Some(caption) = caption else {
        bail!(
            "{}: no column with captions; it is called text, in the first line, which has {}",
            path.display(),
            names.join(", ")
        );
    };
    for row in reader.records() {
        let row = row.map_err(broken)?;
        let of =
            |column: usize| row.get(column).map(|text| plain(text).trim().to_owned()).filter(|text| !text.is_empty());
        let Some(image) = of(image) else { continue };
        add(path, &image, &of(caption).into_iter().collect::<Vec<_>>(), found);
    }
    Ok(())
}

/// Reads an object with the images' names as keys, which sd-scripts writes without their extension; or an array of
/// objects like the lines of a list.
fn metadata(path: &Path, found: &mut Found) -> Result<()> {
    let all: Value = json::from_str(&text::read(path)?).map_err(|e| Error::file(path, e.to_string()))?;
    let at = |name: &str| format!("{}: {name}", path.display());
    match all {
        Value::Object(images) => {
            for (name, value) in images {
                let captions = match &value {
                    Value::Object(object) => with_tags(object)
                        .map_or_else(|| captions(object), |text| Ok(vec![text]))
                        .with_context(|| at(&name))?,
                    Value::String(caption) => vec![caption.clone()],
                    _ => bail!("{}: must be an object with `caption` or `tags`, or a caption", at(&name)),
                };
                add(path, &name, &captions, found);
            }
        }
        Value::Array(lines) => {
            for (number, line) in lines.iter().enumerate() {
                let Value::Object(line) = line else { bail!("{} is no object", at(&format!("element {number}"))) };
                let (image, captions) = parse(line, found).with_context(|| at(&format!("element {number}")))?;
                add(path, &image, &captions, found);
            }
        }
        _ => bail!("{}: a list of pairs is an object by images, or an array of objects", path.display()),
    }
    Ok(())
}

fn add(list: &Path, name: &str, captions: &[String], found: &mut Found) {
    let folder = list.parent().unwrap_or(Path::new(""));
    match image(folder, name) {
        Some(image) => found.add(Source::File(image.into()), captions),
        None => found.captions_alone.add(format_args!("for {}, which is not there", folder.join(name).display())),
    }
}

/// The file of an image that a list names: with this name, or with the extension of an image added; otherwise right
/// beside the list, for lists that were moved with their images.
fn image(folder: &Path, name: &str) -> Option<PathBuf> {
    let name = name.replace('\\', "/");
    let places = [folder.join(&name), folder.join(Path::new(&name).file_name()?)];
    places.into_iter().find_map(|place| {
        if place.is_file() {
            return Some(place);
        }
        IMAGES.iter().flat_map(|ending| [(*ending).to_owned(), ending.to_uppercase()]).find_map(|ending| {
            let mut with_ending = place.clone().into_os_string();
            with_ending.push(format!(".{ending}"));
            Some(PathBuf::from(with_ending)).filter(|file| file.is_file())
        })
    })
}

fn parse(line: &Map<String, Value>, found: &mut Found) -> Result<(String, Vec<String>)> {
    let keys = || line.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let (image, name) = match first(line, &IMAGE) {
        Some((key, Value::String(name))) if !name.is_empty() => (key, name),
        Some((key, _)) => bail!("`{key}` must be the name of an image"),
        None => bail!("no image; its name belongs in `image`, relative to this list; the keys are {}", keys()),
    };
    if CAPTION.iter().any(|key| line.get(*key).is_some_and(|value| !value.is_null())) {
        return Ok((name.clone(), captions(line)?));
    }
    // of two keys, the one that is not the image is the caption, whatever its name
    let mut others = line.iter().filter(|(key, value)| *key != image && !value.is_null());
    match (others.next(), others.next()) {
        (Some((key, value)), None) if value.is_string() || value.is_array() => Ok((name.clone(), texts(key, value)?)),
        (None, _) => Ok((name.clone(), vec![])),
        _ => {
            found.other_keys.get_or_insert_with(keys);
            Ok((name.clone(), vec![]))
        }
    }
}

pub(super) fn object(json: &[u8]) -> Result<Map<String, Value>> {
    let text = text::decode(json).map_err(|(_, what)| anyhow::anyhow!("{what}"))?;
    // for a line of a list, the parser's `line 1` would be misleading
    json::from_str(text.trim())
        .map_err(|e| anyhow::anyhow!("{}", e.to_string().replace(" at line 1 column", ", column")))
}

/// The captions in an object; empty if there are none.
pub(super) fn captions(object: &Map<String, Value>) -> Result<Vec<String>> {
    first(object, &CAPTION).map_or(Ok(vec![]), |(key, value)| texts(key, value))
}

/// Caption and tags of an image in one text, as sd-scripts puts them together; `None`: one of them is missing.
fn with_tags(object: &Map<String, Value>) -> Option<String> {
    let text = |key: &str| object.get(key)?.as_str().map(str::trim).filter(|text| !text.is_empty());
    Some(format!("{}, {}", text("caption")?, text("tags")?))
}

fn texts(key: &str, value: &Value) -> Result<Vec<String>> {
    let texts = match value {
        Value::Array(texts) => texts.iter().map(Value::as_str).collect(),
        text => text.as_str().map(|text| vec![text]),
    };
    let Some(texts) = texts else { bail!("`{key}` must be a string, or a list of strings") };
    Ok(texts.into_iter().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect())
}

fn first<'a>(object: &'a Map<String, Value>, keys: &[&'static str]) -> Option<(&'static str, &'a Value)> {
    let is_there = |value: &&Value| !value.is_null() && value.as_str().is_none_or(|text| !text.trim().is_empty());
    keys.iter().find_map(|&key| Some((key, object.get(key).filter(is_there)?)))
}
