//! A WebDataset shard: a tar file in which the members of one sample share a key. It is read once, without the images,
//! and never unpacked.

use crate::{
    found::{Found, captions_of_text, is_image},
    listing,
    source::Source,
};
use anyhow::{Context, Result};
use models::Error;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek},
    path::Path,
    sync::Arc,
};

/// The members with the same key. Texts have their name and bytes.
#[derive(Default)]
struct Sample {
    images: Vec<Source>,
    text: Option<(String, Vec<u8>)>,
    json: Option<(String, Vec<u8>)>,
}

pub(super) fn read(path: &Path, found: &mut Found) -> Result<()> {
    for (_, sample) in samples(path)? {
        let Sample { images, text, json } = sample;
        let captions = match (&text, &json) {
            (Some((name, _)), _) | (None, Some((name, _))) if images.is_empty() => {
                found.captions_alone.add(format_args!("{}: {name}", path.display()));
                continue;
            }
            (Some((name, text)), _) => captions_of_text(text).with_context(|| format!("{}: {name}", path.display()))?,
            (None, Some((name, json))) => listing::object(json)
                .and_then(|json| listing::captions(&json))
                .with_context(|| format!("{}: {name}", path.display()))?,
            (None, None) => vec![],
        };
        for image in images {
            found.add(image, &captions);
        }
    }
    Ok(())
}

/// The samples of a shard by their keys.
fn samples(path: &Path) -> Result<BTreeMap<String, Sample>> {
    let broken = |e: std::io::Error| Error::file(path, format!("not a whole tar file: {e}"));
    let file = fs::File::open(path).map_err(Error::io(path))?;
    if is_compressed(&file) {
        let what = "is a compressed archive; images are read where they lie in a shard, so decompress it to a .tar (gunzip, unzstd)";
        return Err(Error::file(path, what).into());
    }
    let end = file.metadata().map_err(Error::io(path))?.len();
    let shard: Arc<Path> = path.into();
    let mut archive = tar::Archive::new(file);
    let mut samples: BTreeMap<String, Sample> = BTreeMap::new();
    for member in archive.entries_with_seek().map_err(broken)? {
        let mut member = member.map_err(broken)?;
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let Some((key, extension)) = key(&name).filter(|_| member.header().entry_type().is_file()) else { continue };
        let (offset, length) = (member.raw_file_position(), member.size());
        if offset.saturating_add(length) > end {
            return Err(Error::file(path, format!("cut off within {name}; is the copy complete?")).into());
        }
        let mut bytes = || {
            let mut bytes = vec![];
            member.read_to_end(&mut bytes).map_err(broken)?;
            Ok::<_, Error>((name.clone(), bytes))
        };
        match extension.as_str() {
            "txt" => samples.entry(key).or_default().text = Some(bytes()?),
            "caption" => {
                let caption = bytes()?;
                samples.entry(key).or_default().text.get_or_insert(caption);
            }
            "json" => samples.entry(key).or_default().json = Some(bytes()?),
            e if is_image(e) => {
                let image = Source::Member { shard: shard.clone(), name: name.as_str().into(), offset, length };
                samples.entry(key).or_default().images.push(image);
            }
            _ => {}
        }
    }
    Ok(samples)
}

/// Whether a file begins as one of gzip, zstd, bzip2 or xz. It is read from its beginning again afterwards.
fn is_compressed(mut file: &fs::File) -> bool {
    const BEGINNINGS: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];
    let mut start = vec![];
    let is_read = file.take(8).read_to_end(&mut start).is_ok() && file.rewind().is_ok();
    is_read && BEGINNINGS.iter().any(|beginning| start.starts_with(beginning))
}

/// Splits a member's name into its key and its extension. As in WebDataset, the key ends at the first dot after the
/// last slash. Hidden files have no key.
fn key(name: &str) -> Option<(String, String)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.').filter(|&dot| dot > 0)?;
    Some((name[..dot].to_owned(), name[dot + 1..].to_lowercase()))
}
