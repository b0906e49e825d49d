//! Image–caption pairs: images with text files beside them, a list of them, or WebDataset shards.
//!
//! Opening finds the images and reads the captions; an image is read and decoded when it is asked for.

mod folder;
mod found;
mod listing;
mod shard;
mod source;

pub use found::Pair;

use anyhow::{Result, bail};
use found::{Found, Tally, extension};
use images::{Image, Size};
use models::Error;
use std::path::Path;
use tch::Tensor;

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

#[cfg(test)]
mod tests;
