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

/// A set of at least one pair, in the order of the list or of the names.
#[derive(Debug)]
pub struct Pairs {
    pairs: Vec<Pair>,
}

impl Pairs {
    /// Opens one of the following. An image with several captions makes several pairs.
    /// - A folder with `metadata.jsonl`, `metadata.csv` or `metadata.tsv` (Hugging Face's image folder), or with
    ///   `scenes.jsonl` (the miniature world): that list is read. The same holds for subfolders.
    /// - Any other folder: all images in it and its subfolders, with captions in a `.txt` or `.caption` file of the
    ///   same stem, one per line; and all its `.tar` shards. If no image has a caption in this way, the metadata of
    ///   sd-scripts in it (`meta*.json`) are read.
    /// - A `.jsonl` list with an object per line. Its key `image`, `file_name` or `file` (or one like it) is relative to
    ///   the list. Its key `caption`, `text`, `captions`, `prompt`, `description` or `tags` has a string or a list of strings; of
    ///   two keys, the other one. Also `.csv` and `.tsv` tables with such columns.
    /// - A `.json` file of sd-scripts: an object with the images' names as keys, with or without their extension; or an
    ///   array of objects like the lines of a list.
    /// - A `.tar` shard of a WebDataset: `KEY.jpg`, `.jpeg`, `.png` or `.webp`, with captions in `KEY.txt`, one per
    ///   line, or in `KEY.json`, as in a line of a list.
    ///
    /// Images without a caption and captions without an image are left out, with one warning for all of them.
    ///
    /// # Errors
    /// There is no pair, or a list, a text or a shard cannot be read.
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

    /// Always false: an opened set has at least one pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The caption of pair `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Self::len`]. The same holds for the other functions with `i`.
    pub fn caption(&self, i: usize) -> &str {
        &self.pairs[i].caption
    }

    /// The image of pair `i`: upright, in RGB, with transparent parts over white.
    ///
    /// # Errors
    /// The file is missing or broken. The error has its name.
    pub fn image(&self, i: usize) -> Result<Image> {
        self.pairs[i].source.image()
    }

    /// The path of the image's file; in a shard, the shard's path and the member's name.
    pub fn name(&self, i: usize) -> String {
        self.pairs[i].source.to_string()
    }

    /// The image of pair `i` as a tensor `[3, H, W]`, single precision, 0..1: cropped to the largest centred part with
    /// the aspect ratio of `size`, and resized to `size`.
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
        "gz" | "tgz" | "zst" | "bz2" | "xz" => bail!(
            "{}: a compressed archive; images are read where they lie in a shard, so decompress it to a .tar (gunzip, unzstd)",
            path.display()
        ),
        _ => bail!("{}: pairs are a folder, a list (.jsonl, .csv, .tsv, .json) or a .tar shard", path.display()),
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
