//! Image–caption pairs: images with text files beside them, a list of them, or WebDataset shards.
//!
//! Opening finds the images and reads the captions; an image is read and decoded when it is asked for.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod folder;
mod listing;
mod shard;
mod source;

use anyhow::{Result, bail};
use images::{Image, Size};
use models::{Error, text};
use source::Source;
use std::{fmt, path::Path};
use tch::Tensor;

/// An image and one of its captions.
#[derive(Debug, Clone)]
pub struct Pair {
    pub caption: String,
    source: Source,
}

/// At least one pair, in the order of the list, or of the names.
#[derive(Debug)]
pub struct Pairs {
    pairs: Vec<Pair>,
}

impl Pairs {
    /// Opens one of these; an image with several captions makes several pairs.
    /// - A folder with `metadata.jsonl` or `metadata.csv` (Hugging Face's image folder), or `scenes.jsonl` (the miniature world): as
    ///   that list. So is a folder in it.
    /// - Any other folder: all its images, those of its folders too, with a caption a line in a `.txt` or `.caption` file of the
    ///   same stem, and all its `.tar` shards; where no image has a caption so, as the metadata of sd-scripts in it (`meta*.json`).
    /// - A `.jsonl` list: an object a line, with `image`, `file_name` or `file` relative to the list, and `caption`, `text`,
    ///   `captions`, `prompt`, `description` or `tags`, each of them a string or a list of strings; `.csv` and `.tsv` with such columns.
    /// - A `.json` of sd-scripts: an object by the images' names, with or without their ending; or an array of such objects.
    /// - A `.tar` shard of a WebDataset: `KEY.jpg`, `.jpeg`, `.png` or `.webp`, with a caption a line in `KEY.txt`, or
    ///   with `KEY.json` that has the caption as a line of a list has it.
    ///
    /// Images without a caption and captions without an image are left out, with one warning for all of them.
    ///
    /// # Errors
    /// Not a single pair; a list, a text or a shard that cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let found = find(path)?;
        if found.pairs.is_empty() {
            let mut alone = if found.alone() { format!(" ({found})") } else { String::new() };
            if found.other_files.count > 0 {
                let Tally { count, first } = &found.other_files;
                alone.push_str(&format!("; {count} files are neither, the first is {first}"));
            }
            bail!(
                "{}: no image with a caption in it{alone}; the caption of a.png belongs in a.txt or a.caption beside it, or in a \
                 line of a list: {{\"image\": \"a.png\", \"caption\": \"a red dog\"}}. Images are JPEG, PNG or WebP",
                path.display()
            );
        }
        if found.alone() {
            tracing::warn!("{}: left out: {found}", path.display());
        }
        Ok(Self { pairs: found.pairs })
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Never; an opened set has a pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// # Panics
    /// Where `i` is not below [`Self::len`]; so do the other functions of `i`.
    pub fn caption(&self, i: usize) -> &str {
        &self.pairs[i].caption
    }

    /// The image upright and in RGB, over white where it is transparent.
    ///
    /// # Errors
    /// A file that is gone or broken, by its name.
    pub fn image(&self, i: usize) -> Result<Image> {
        self.pairs[i].source.image()
    }

    /// The name of the image's file; that of its place in a shard.
    pub fn name(&self, i: usize) -> String {
        self.pairs[i].source.to_string()
    }

    /// `[3, H, W]`, single precision, 0..1: the middle of the image, which covers the size.
    pub fn tensor(&self, i: usize, size: Size) -> Result<Tensor> {
        images::decode::cover(&self.image(i)?, size)?.tensor()
    }
}

fn find(path: &Path) -> Result<Found> {
    let mut found = Found::default();
    let is_folder = path.metadata().map_err(Error::io(path))?.is_dir();
    match extension(path).as_str() {
        _ if is_folder => folder::read(path, &mut found)?,
        "jsonl" | "csv" | "tsv" | "json" => listing::read(path, &mut found)?,
        "tar" => shard::read(path, &mut found)?,
        _ => bail!("{}: pairs are a folder, a list (.jsonl, .csv, .tsv, .json) or a .tar shard", path.display()),
    }
    Ok(found)
}

/// Pairs as they are found, and what has no partner.
#[derive(Debug, Default)]
struct Found {
    pairs: Vec<Pair>,
    images_alone: Tally,
    captions_alone: Tally,
    /// That are neither.
    other_files: Tally,
}

impl Found {
    fn add(&mut self, source: Source, captions: &[String]) {
        if captions.is_empty() {
            self.images_alone.add(&source);
        }
        self.pairs.extend(captions.iter().map(|caption| Pair { caption: caption.clone(), source: source.clone() }));
    }

    /// Is there anything without a partner?
    fn alone(&self) -> bool {
        self.images_alone.count + self.captions_alone.count > 0
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let kinds =
            [("images without a caption", &self.images_alone), ("captions without an image", &self.captions_alone)];
        let present = kinds.into_iter().filter(|(_, tally)| tally.count > 0);
        let texts: Vec<String> =
            present.map(|(kind, tally)| format!("{kind}: {}, the first is {}", tally.count, tally.first)).collect();
        f.write_str(&texts.join("; "))
    }
}

/// How many there were, and the name of the first.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    count: usize,
    first: String,
}

impl Tally {
    fn add(&mut self, name: impl fmt::Display) {
        if self.count == 0 {
            self.first = name.to_string();
        }
        self.count += 1;
    }
}

/// In lower case; empty where there is none.
fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// The endings of images that can be decoded.
const IMAGES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

fn is_image(extension: &str) -> bool {
    IMAGES.contains(&extension)
}

/// The captions of a text file: a line each.
fn captions_of_text(bytes: &[u8]) -> Result<Vec<String>> {
    if let Some(what) = text::mistaken(bytes) {
        bail!("{what}");
    }
    let text = text::decode(bytes).map_err(|line| anyhow::anyhow!("line {line} is not valid UTF-8"))?;
    let lines = text::lines(&text).map(str::trim);
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests;
