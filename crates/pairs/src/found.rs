//! Collects pairs from all kinds of sources.

use crate::source::Source;
use anyhow::{Result, bail};
use models::text;
use std::{fmt, path::Path};

/// An image and one of its captions.
#[derive(Debug, Clone)]
pub struct Pair {
    pub caption: String,
    pub(crate) source: Source,
}

/// The pairs found so far, and the images and captions without a partner.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) pairs: Vec<Pair>,
    pub(crate) images_alone: Tally,
    pub(crate) captions_alone: Tally,
    /// Images in formats that are not read.
    pub(crate) unread: Tally,
    /// The keys of the first line of a list that has no key of a caption.
    pub(crate) other_keys: Option<String>,
    /// Files that are neither images nor captions.
    pub(crate) other_files: Tally,
}

impl Found {
    pub(crate) fn add(&mut self, source: Source, captions: &[String]) {
        if captions.is_empty() {
            self.images_alone.add(&source);
        }
        self.pairs.extend(captions.iter().map(|caption| Pair { caption: caption.clone(), source: source.clone() }));
    }

    /// Whether there is an image or a caption without a partner.
    pub(crate) fn alone(&self) -> bool {
        self.images_alone.count + self.captions_alone.count + self.unread.count > 0
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let kinds = [
            ("images without a caption", &self.images_alone),
            ("captions without an image", &self.captions_alone),
            ("images in a format that is not read (convert them to PNG, JPEG or WebP)", &self.unread),
        ];
        let present = kinds.into_iter().filter(|(_, tally)| tally.count > 0);
        let mut texts: Vec<String> =
            present.map(|(kind, tally)| format!("{kind}: {}, the first is {}", tally.count, tally.first)).collect();
        if let Some(keys) = &self.other_keys {
            texts.push(format!("a line has the keys {keys}, and none of a caption (caption, text)"));
        }
        f.write_str(&texts.join("; "))
    }
}

/// A count, and the name of the first item.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) count: usize,
    pub(crate) first: String,
}

impl Tally {
    pub(crate) fn add(&mut self, name: impl fmt::Display) {
        if self.count == 0 {
            self.first = name.to_string();
        }
        self.count += 1;
    }
}

/// The extension of a path in lower case; empty if there is none.
pub(crate) fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Extensions of images that can be decoded.
pub(crate) const IMAGES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

pub(crate) fn is_image(extension: &str) -> bool {
    IMAGES.contains(&extension)
}

/// Whether this is the extension of an image that cannot be decoded.
pub(crate) fn is_unread(extension: &str) -> bool {
    const UNREAD: [&str; 10] = ["bmp", "gif", "tif", "tiff", "jfif", "avif", "heic", "heif", "jxl", "jp2"];
    UNREAD.contains(&extension)
}

/// The captions of a text file, one per line.
pub(crate) fn captions_of_text(bytes: &[u8]) -> Result<Vec<String>> {
    if let Some(what) = text::mistaken(bytes) {
        bail!("{what}");
    }
    let text = text::decode(bytes).map_err(|(line, what)| anyhow::anyhow!("line {line} is {what}"))?;
    let lines = text::lines(&text).map(str::trim);
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
