//! Reads text files as editors and shells of all systems write them.

use crate::{
    error::{Error, Result},
    mistaken,
};
use std::{borrow::Cow, fs, os::unix::fs::FileTypeExt, path::Path};

/// Reads a text file: UTF-8; UTF-16 or UTF-32 with a byte order mark; UTF-16 without one, if every second byte is zero.
/// The mark is removed.
///
/// # Errors
/// A file of another kind, which the error names (a Git LFS pointer, a web page, an archive, a device, …); a line that
/// is not valid.
pub fn read(path: &Path) -> Result<String> {
    let kind = fs::metadata(path).map_err(Error::io(path))?.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        return Err(Error::file(path, "this is a device, not a file"));
    }
    let bytes = fs::read(path).map_err(Error::io(path))?;
    if let Some(what) = mistaken(&bytes) {
        return Err(Error::file(path, what));
    }
    let text = decode(&bytes).map_err(|(line, what)| Error::Input(format!("{}:{line}: {what}", path.display())))?;
    Ok(text.into_owned())
}

/// `1 image`, `2 images`
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A field of a table with tabs. Most programs write no quotes there; spreadsheets write them around the whole field, and each
/// quote inside twice.
pub fn unquoted(field: &str) -> String {
    let inside = field.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inside {
        Some(inside) if !inside.replace("\"\"", "").contains('"') => inside.replace("\"\"", "\""),
        _ => field.to_owned(),
    }
}

/// A text in Unicode's composed form (NFC): `é` as one character.
pub fn composed(text: &str) -> String {
    let mut text = tokenizers::NormalizedString::from(text);
    text.nfc();
    text.get().to_owned()
}

/// What the bytes are instead of a text, recognised by their beginning; `None` if they may be a text.
pub fn mistaken(bytes: &[u8]) -> Option<&'static str> {
    mistaken::for_text(&bytes[..bytes.len().min(mistaken::LOOKED_AT)], bytes.len() as u64)
}

/// What the bytes are instead of an image, recognised by their beginning; `None` if they may be an image.
pub fn mistaken_for_image(bytes: &[u8]) -> Option<&'static str> {
    mistaken::for_image(&bytes[..bytes.len().min(mistaken::LOOKED_AT)], bytes.len() as u64)
}

/// Reasons why bytes are not a text.
const NOT_UTF8: &str = "not valid UTF-8; save the file as UTF-8";
const NOT_UNICODE: &str = "not valid UTF-16 or UTF-32, as which the file begins";
const NUL: &str = "not a text: it holds a NUL character; save the file as UTF-8";

/// Like [`read`], for bytes. The error is the number of the first invalid line, and the reason.
pub fn decode(bytes: &[u8]) -> std::result::Result<Cow<'_, str>, (usize, &'static str)> {
    let text = match bytes {
        // tested before UTF-16, whose mark has the same beginning; no text begins with NUL
        [0xff, 0xfe, 0, 0, rest @ ..] => thirty_two(rest, u32::from_le_bytes)?,
        [0, 0, 0xfe, 0xff, rest @ ..] => thirty_two(rest, u32::from_be_bytes)?,
        [0xff, 0xfe, rest @ ..] => sixteen(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => sixteen(rest, u16::from_be_bytes)?,
        _ => match zeros(bytes) {
            Some(Zeros::Odd) => sixteen(bytes, u16::from_le_bytes)?,
            Some(Zeros::Even) => sixteen(bytes, u16::from_be_bytes)?,
            None => eight(bytes)?,
        },
    };
    match text.find('\0') {
        Some(at) => Err((line_at(&text, at), NUL)),
        None => Ok(text),
    }
}

fn eight(bytes: &[u8]) -> std::result::Result<Cow<'_, str>, (usize, &'static str)> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    std::str::from_utf8(bytes).map(Cow::from).map_err(|e| {
        let valid = std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default();
        (line_at(valid, valid.len()), NOT_UTF8)
    })
}

fn sixteen(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> std::result::Result<Cow<'_, str>, (usize, &'static str)> {
    let units: Vec<u16> = bytes.chunks(2).map(|pair| unit([pair[0], *pair.get(1).unwrap_or(&0)])).collect();
    String::from_utf16(&units).map(Cow::from).map_err(|_| (1, NOT_UNICODE))
}

fn thirty_two(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> std::result::Result<Cow<'_, str>, (usize, &'static str)> {
    let character = |four: &[u8]| char::from_u32(unit(four.try_into().ok()?));
    let text: Option<String> = bytes.chunks(4).map(character).collect();
    text.map(Cow::from).ok_or((1, NOT_UNICODE))
}

/// Position of the zero byte in each pair of bytes.
enum Zeros {
    Even,
    Odd,
}

/// Recognises UTF-16 without a mark, for mostly Latin text: at least half of the pairs have a zero byte, and it is
/// always the first of the pair, or always the second.
fn zeros(bytes: &[u8]) -> Option<Zeros> {
    let counts = bytes.iter().enumerate().filter(|(_, byte)| **byte == 0).fold([0, 0], |mut counts, (at, _)| {
        counts[at % 2] += 1;
        counts
    });
    let pairs = bytes.len() / 2;
    match counts {
        _ if !bytes.len().is_multiple_of(2) || pairs < 2 => None,
        [0, odd] if 2 * odd >= pairs => Some(Zeros::Odd),
        [even, 0] if 2 * even >= pairs => Some(Zeros::Even),
        _ => None,
    }
}

/// The number of the line that contains a byte position, from 1.
fn line_at(text: &str, at: usize) -> usize {
    let before = &text[..at];
    lines(before).count().max(1) + usize::from(before.ends_with(['\n', '\r']))
}

/// The lines of a text, which may end in `\n`, `\r\n` or `\r`.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, after) = match rest.find(['\n', '\r']) {
            None => (rest, ""),
            Some(end) if rest[end..].starts_with("\r\n") => (&rest[..end], &rest[end + 2..]),
            Some(end) => (&rest[..end], &rest[end + 1..]),
        };
        rest = after;
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_ending() {
        let of = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(of("a\nb\r\nc\rd\r\r\ne"), ["a", "b", "c", "d", "", "e"]);
        assert_eq!(of("a\n"), ["a"]);
        assert!(of("").is_empty());
    }

    #[test]
    fn what_is_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        for (bytes, part) in
            [(&b"<html>"[..], "a.txt: this is a web page"), (b"fine\n\xff", "a.txt:2: not valid UTF-8")]
        {
            fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("this is a device"));
    }

    #[test]
    fn marks_and_encodings() {
        let utf16 = |order: fn(u16) -> [u8; 2]| "\u{feff}aß🐶".encode_utf16().flat_map(order).collect::<Vec<u8>>();
        for bytes in [utf16(u16::to_le_bytes), utf16(u16::to_be_bytes), "\u{feff}aß🐶".into(), "aß🐶".into()] {
            assert_eq!(decode(&bytes).unwrap(), "aß🐶");
        }
        let utf32 =
            |order: fn(u32) -> [u8; 4]| "\u{feff}aß🐶".chars().flat_map(|c| order(c.into())).collect::<Vec<u8>>();
        for bytes in [utf32(u32::to_le_bytes), utf32(u32::to_be_bytes)] {
            assert_eq!(decode(&bytes).unwrap(), "aß🐶");
        }
        let unmarked = |order: fn(u16) -> [u8; 2]| "a café\n🐶".encode_utf16().flat_map(order).collect::<Vec<u8>>();
        for bytes in [unmarked(u16::to_le_bytes), unmarked(u16::to_be_bytes)] {
            assert_eq!(decode(&bytes).unwrap(), "a café\n🐶");
        }
        assert_eq!(decode(b"fine\n\xff"), Err((2, NOT_UTF8)));
        assert_eq!(decode(b"fine\rfi\xffne"), Err((2, NOT_UTF8)));
        assert_eq!(decode(b"\xff"), Err((1, NOT_UTF8)));
        assert_eq!(decode(b"fine\na red\0 dog"), Err((2, NUL)));
        assert_eq!(decode(b"\0\0\0\0"), Err((1, NUL)));
        assert_eq!(decode(b"\xff\xfe\0\0\0\0\x11\0").err(), Some((1, NOT_UNICODE)));
        assert_eq!(decode(b"").unwrap(), "");
        assert!(decode(b"\xff\xfe\x00\xd8").is_err());
    }
}
