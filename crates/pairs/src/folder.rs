//! Reads the pairs in a folder and its subfolders: images with text files beside them, lists and shards.

use crate::{
    found::{Found, captions_of_text, extension, is_image, is_unread},
    listing, shard,
    source::Source,
};
use anyhow::{Context, Result};
use models::Error;
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// File names of lists that replace the other files of their folder: those of Hugging Face and of the miniature world.
const LISTS: [&str; 4] = ["metadata.jsonl", "scenes.jsonl", "metadata.csv", "metadata.tsv"];

/// Extensions of text files with captions. The first one that exists is used. The second is that of sd-scripts.
const TEXTS: [&str; 2] = ["txt", "caption"];

/// The files with the same stem.
#[derive(Default)]
struct Stem {
    images: Vec<PathBuf>,
    /// In a format that is not read.
    unread: Vec<PathBuf>,
    texts: [Option<PathBuf>; TEXTS.len()],
}

pub(super) fn read(folder: &Path, found: &mut Found) -> Result<()> {
    let mut stems: BTreeMap<PathBuf, Stem> = BTreeMap::new();
    let (mut shards, mut metadata) = (vec![], vec![]);
    let Files { files, lists } = files(folder)?;
    for file in files {
        let (stem, ending) = (file.with_extension(""), extension(&file));
        match ending.as_str() {
            "tar" => shards.push(file),
            "json" if is_metadata(&file) => metadata.push(file),
            e if is_image(e) => stems.entry(stem).or_default().images.push(file),
            e if is_unread(e) => stems.entry(stem).or_default().unread.push(file),
            e => {
                if let Some(which) = TEXTS.iter().position(|text| *text == e) {
                    stems.entry(stem).or_default().texts[which] = Some(file);
                } else {
                    found.other_files.add(file.display());
                }
            }
        }
    }
    for Stem { images, unread, texts } in stems.into_values() {
        unread.iter().for_each(|image| found.unread.add(image.display()));
        let captions = match texts.into_iter().flatten().next() {
            // not read, since a text about something else may be in any encoding
            Some(_) if images.is_empty() && !unread.is_empty() => continue,
            Some(text) if images.is_empty() => {
                found.captions_alone.add(text.display());
                continue;
            }
            Some(text) => captions_of_text(&fs::read(&text).map_err(Error::io(&text))?)
                .with_context(|| text.display().to_string())?,
            None => vec![],
        };
        for image in images {
            found.add(Source::File(image.into()), &captions);
        }
    }
    lists.iter().try_for_each(|list| listing::read(list, found))?;
    shards.iter().try_for_each(|path| shard::read(path, found))?;
    if found.pairs.is_empty() && !metadata.is_empty() {
        found.images_alone = Default::default();
        metadata.iter().try_for_each(|list| listing::read(list, found))?;
    }
    Ok(())
}

/// Whether a file is metadata of sd-scripts: `metadata.json`, `meta_cap.json`, …
fn is_metadata(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().starts_with("meta"))
}

/// The files that make up the pairs.
#[derive(Default)]
struct Files {
    files: Vec<PathBuf>,
    /// Each list replaces all files of its folder.
    lists: Vec<PathBuf>,
}

/// Every file in a folder and its subfolders, sorted. Hidden files and folders are skipped. If a folder has a list,
/// only the list is taken.
fn files(folder: &Path) -> Result<Files> {
    let mut all = Files::default();
    let mut folders = vec![folder.to_owned()];
    let mut seen = HashSet::new(); // links may form cycles
    while let Some(folder) = folders.pop() {
        if !seen.insert(folder.canonicalize().map_err(Error::io(&folder))?) {
            continue;
        }
        let (mut files, mut inner) = (vec![], vec![]);
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let entry = entry.map_err(Error::io(&folder))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if path.is_dir() { inner.push(path) } else { files.push(path) }
        }
        let called = |name: &str| {
            files.iter().find(|file| file.file_name().is_some_and(|n| n.to_string_lossy().eq_ignore_ascii_case(name)))
        };
        match LISTS.into_iter().find_map(called) {
            Some(list) => all.lists.push(list.clone()),
            None => {
                all.files.append(&mut files);
                folders.append(&mut inner);
            }
        }
    }
    all.files.sort();
    all.lists.sort();
    Ok(all)
}
