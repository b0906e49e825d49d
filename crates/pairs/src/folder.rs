//! Reads the pairs in a folder and its subfolders: images with text files beside them, lists and shards.

use crate::{
    found::{Found, captions_of_text, extension, is_image, is_unread},
    listing, shard,
    source::Source,
};
use anyhow::{Context, Result, bail};
use models::Error;
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// File names of lists that replace the other files of their folder: those of Hugging Face and of the miniature world.
const LISTS: [&str; 4] = ["metadata.jsonl", "scenes.jsonl", "metadata.csv", "metadata.tsv"];

/// Extensions of text files with captions, `a.txt` or `a.png.txt`. The first one that exists is used. The second is that of
/// sd-scripts; the third, too, is offered by its graphical interface.
const TEXTS: [&str; 3] = ["txt", "caption", "cap"];

/// The metadata that sd-scripts writes stage by stage; each stage has everything of those before it.
const STAGES: [&str; 5] = ["meta_lat.json", "meta_clean.json", "meta_cap_dd.json", "meta_dd.json", "meta_cap.json"];

/// The files with the same stem.
#[derive(Default)]
struct Stem {
    images: Vec<PathBuf>,
    /// In a format that is not read.
    unread: Vec<PathBuf>,
    texts: [Option<PathBuf>; TEXTS.len()],
    /// Text files whose names have the image's extension, too.
    long_texts: [Option<PathBuf>; TEXTS.len()],
    /// Used if there is no text.
    json: Option<PathBuf>,
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
                    if is_image(&extension(&stem)) {
                        stems.entry(stem.with_extension("")).or_default().long_texts[which] = Some(file);
                    } else {
                        stems.entry(stem).or_default().texts[which] = Some(file);
                    }
                } else if e == "json" {
                    stems.entry(stem).or_default().json = Some(file);
                } else {
                    found.other_files.add(file.display());
                }
            }
        }
    }
    for Stem { images, unread, texts, long_texts, json } in stems.into_values() {
        unread.iter().for_each(|image| found.unread.add(image.display()));
        let json = json.and_then(|json| {
            let captions = if images.is_empty() { vec![] } else { captions_of_json(&json) };
            if captions.is_empty() {
                found.other_files.add(json.display());
            }
            Some(captions).filter(|captions| !captions.is_empty())
        });
        let captions = match texts.into_iter().chain(long_texts).flatten().next() {
            // not read, since a text about something else may be in any encoding
            Some(_) if images.is_empty() && !unread.is_empty() => continue,
            Some(text) if images.is_empty() => {
                found.captions_alone.add(text.display());
                continue;
            }
            Some(text) => captions_of_text(&fs::read(&text).map_err(Error::io(&text))?)
                .with_context(|| text.display().to_string())?,
            None => json.unwrap_or_default(),
        };
        for image in images {
            found.add(Source::File(image.into()), &captions);
        }
    }
    lists.iter().try_for_each(|list| listing::read(list, found))?;
    shards.iter().try_for_each(|path| shard::read(path, found))?;
    if found.pairs.is_empty() && !metadata.is_empty() {
        found.images_alone = Default::default();
        last_stages(metadata)?.iter().try_for_each(|list| listing::read(list, found))?;
    }
    Ok(())
}

/// The captions in a JSON file beside an image, as in a shard; empty if it is about something else.
fn captions_of_json(file: &Path) -> Vec<String> {
    let object = fs::read(file).ok().and_then(|bytes| listing::object(&bytes).ok());
    object.and_then(|object| listing::captions(&object).ok()).unwrap_or_default()
}

/// Of the metadata of each folder the last stage.
///
/// # Errors
/// A folder has several, and which is the last is not known.
fn last_stages(metadata: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut folders: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for file in metadata {
        folders.entry(file.parent().unwrap_or(Path::new("")).to_owned()).or_default().push(file);
    }
    let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let stage = |file: &PathBuf| STAGES.iter().position(|stage| *stage == name(file));
    let last = |(folder, mut files): (PathBuf, Vec<PathBuf>)| {
        if files.len() == 1 {
            return Ok(files.remove(0));
        }
        let names = files.iter().map(name).collect::<Vec<_>>().join(", ");
        let Some(last) = files.iter().filter(|file| stage(file).is_some()).min_by_key(|file| stage(file)).cloned()
        else {
            bail!(
                "{}: has several files of metadata, {names}; name one of them in place of the folder",
                folder.display()
            );
        };
        tracing::warn!("{}: of {names} only {} is read, which is the last stage", folder.display(), name(&last));
        Ok(last)
    };
    folders.into_iter().map(last).collect()
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
