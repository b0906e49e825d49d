//! Text files as editors and shells of all systems write them.

use crate::{
    error::{Error, Result},
    mistaken,
};
use std::{borrow::Cow, fs, os::unix::fs::FileTypeExt, path::Path};

/// The text of a file: UTF-8, or UTF-16 where the file begins with its byte order mark. The mark is left out.
///
/// # Errors
/// A file that is something else, by what it is (a Git LFS pointer, a web page, an archive, a device, …); a line that is not valid.
pub fn read(path: &Path) -> Result<String> {
    let kind = fs::metadata(path).map_err(Error::io(path))?.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        return Err(Error::file(path, "this is a device, not a file"));
    }
    let bytes = fs::read(path).map_err(Error::io(path))?;
    if let Some(what) = mistaken(&bytes) {
        return Err(Error::file(path, what));
    }
    let text = decode(&bytes).map_err(|line| Error::Input(format!("{}:{line}: not valid UTF-8", path.display())))?;
    Ok(text.into_owned())
}

/// What bytes are that should be a text and are none, by how they begin.
pub fn mistaken(bytes: &[u8]) -> Option<&'static str> {
    mistaken::for_text(&bytes[..bytes.len().min(mistaken::LOOKED_AT)], bytes.len() as u64)
}

/// What bytes are that should be an image and are none, by how they begin.
pub fn mistaken_for_image(bytes: &[u8]) -> Option<&'static str> {
    mistaken::for_image(&bytes[..bytes.len().min(mistaken::LOOKED_AT)], bytes.len() as u64)
}

/// As [`read`], of bytes; the error is the number of the first line that is not valid.
pub fn decode(bytes: &[u8]) -> std::result::Result<Cow<'_, str>, usize> {
    let sixteen = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks(2).map(|pair| unit([pair[0], *pair.get(1).unwrap_or(&0)])).collect();
        String::from_utf16(&units).map(Cow::from).map_err(|_| 1)
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => sixteen(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => sixteen(rest, u16::from_be_bytes),
        _ => {
            let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
            let line = |end: usize| lines(std::str::from_utf8(&bytes[..end]).unwrap_or_default()).count().max(1);
            std::str::from_utf8(bytes).map(Cow::from).map_err(|e| {
                let at = e.valid_up_to();
                line(at) + usize::from(at > 0 && matches!(bytes[at - 1], b'\n' | b'\r'))
            })
        }
    }
}

/// The lines of a text, whatever they end in: `\n`, `\r\n` or `\r`.
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
        assert_eq!(decode(b"fine\n\xff"), Err(2));
        assert_eq!(decode(b"fine\rfi\xffne"), Err(2));
        assert_eq!(decode(b"\xff"), Err(1));
        assert!(decode(b"\xff\xfe\x00\xd8").is_err());
    }
}
