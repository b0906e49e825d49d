//! Image files as data URIs.

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
use images::{
    Image, Size,
    decode::{cover, decode},
};
use models::Error;
use std::{fs, path::Path};

/// Files up to this many bytes are embedded unchanged.
const SMALL: usize = 48 << 10;
const QUALITY: u8 = 85;

/// Largest length of the longer side of an image beside others, in pixels.
pub const SHOT: usize = 512;
/// Largest length of the longer side of a panel with many cells, in pixels.
pub const PANEL: usize = 1600;

/// An image in a page.
pub struct Inlined {
    /// A data URI.
    pub address: String,
    /// Whether it has so few pixels that they should stay sharp when it is enlarged.
    pub is_tiny: bool,
}

/// Largest length of the longer side of a tiny image, in pixels.
const TINY: usize = 128;

/// A PNG, JPEG or WebP file as a data URI. A small file is embedded unchanged; a larger one becomes a JPEG whose longer
/// side has at most `most` pixels.
///
/// # Errors
/// The file cannot be read as an image.
pub fn inlined(path: &Path, most: usize) -> Result<Inlined> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let in_words = || path.display().to_string();
    let kind = kind(&bytes).with_context(in_words)?;
    let image = decode(&bytes).with_context(in_words)?;
    let is_tiny = image.width.max(image.height) <= TINY;
    if bytes.len() <= SMALL {
        return Ok(Inlined { address: format!("data:image/{kind};base64,{}", BASE64.encode(&bytes)), is_tiny });
    }
    let Image { width, height, pixels } = fitted(image, most).with_context(in_words)?;
    let mut jpeg = vec![];
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .encode(&pixels, u32::try_from(width)?, u32::try_from(height)?, ExtendedColorType::Rgb8)
        .with_context(in_words)?;
    Ok(Inlined { address: format!("data:image/jpeg;base64,{}", BASE64.encode(&jpeg)), is_tiny })
}

fn kind(bytes: &[u8]) -> Result<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Ok("png"),
        [0xff, 0xd8, 0xff, ..] => Ok("jpeg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok("webp"),
        _ => bail!("is not a PNG, JPEG or WebP image"),
    }
}

/// Reduces an image so that no side is longer than `most` pixels. The aspect ratio is kept.
fn fitted(image: Image, most: usize) -> Result<Image> {
    let longer = image.width.max(image.height);
    if longer <= most {
        return Ok(image);
    }
    let side = |length: usize| ((length * most) as f64 / longer as f64).round().max(1.0) as i64;
    cover(&image, Size { width: side(image.width), height: side(image.height) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: usize, height: usize) -> Image {
        let random = |x: &u32| Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let bytes = std::iter::successors(Some(1), random).map(|x| (x >> 24) as u8);
        Image { width, height, pixels: bytes.take(width * height * 3).collect() }
    }

    #[test]
    fn small_files_are_taken_as_they_are_and_large_ones_shrunk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        noise(20, 10).save(&path, &[]).unwrap();
        let expected = format!("data:image/png;base64,{}", BASE64.encode(fs::read(&path).unwrap()));
        let small = inlined(&path, 8).unwrap();
        assert_eq!((small.address, small.is_tiny), (expected, true));
        noise(300, 150).save(&path, &[]).unwrap();
        let Inlined { address, is_tiny } = inlined(&path, 100).unwrap();
        assert!(address.starts_with("data:image/jpeg;base64,/9j/") && address.len() < 20_000, "{}", address.len());
        assert!(!is_tiny);
        let fitted = fitted(noise(300, 150), 100).unwrap();
        assert_eq!((fitted.width, fitted.height, fitted.pixels.len()), (100, 50, 100 * 50 * 3));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let error = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            format!("{:#}", inlined(&path, SHOT).map(|i| i.address).unwrap_err())
        };
        assert!(error(b"GIF89a").contains("a.png: is not a PNG, JPEG or WebP image"));
        assert!(error(b"\x89PNG\r\n\x1a\n").contains("a.png: "));
    }
}
