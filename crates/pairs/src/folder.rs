//! Pictures with text files beside them, and shards, anywhere in a folder.

use super::{Found, captions_of_text, extension, is_picture, shard, source::Source};
use anyhow::{Context, Result};
use models::Error;
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// The files of one stem.
#[derive(Default)]
struct Stem {
    pictures: Vec<PathBuf>,
    text: Option<PathBuf>,
}

pub(super) fn read(folder: &Path, found: &mut Found) -> Result<()> {
    let mut stems: BTreeMap<PathBuf, Stem> = BTreeMap::new();
    let mut shards = vec![];
    for file in files(folder)? {
        let stem = file.with_extension("");
        match extension(&file).as_str() {
            "txt" => stems.entry(stem).or_default().text = Some(file),
            "tar" => shards.push(file),
            e if is_picture(e) => stems.entry(stem).or_default().pictures.push(file),
            _ => {}
        }
    }
    for Stem { pictures, text } in stems.into_values() {
        let captions = match text {
            // a text about something else may be in any encoding
            Some(text) if pictures.is_empty() => {
                found.captions_alone.add(text.display());
                continue;
            }
            Some(text) => captions_of_text(&fs::read(&text).map_err(Error::io(&text))?)
                .with_context(|| text.display().to_string())?,
            None => vec![],
        };
        for picture in pictures {
            found.add(Source::File(picture.into()), &captions);
        }
    }
    shards.iter().try_for_each(|path| shard::read(path, found))
}

/// Every file in a folder and its folders, sorted; hidden ones are none of ours.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    let mut folders = vec![folder.to_owned()];
    let mut seen = HashSet::new(); // links may lead back
    while let Some(folder) = folders.pop() {
        if !seen.insert(folder.canonicalize().map_err(Error::io(&folder))?) {
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let entry = entry.map_err(Error::io(&folder))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}
