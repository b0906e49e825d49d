//! Reads text files; errors name the file and the line.

use anyhow::{Result, anyhow, bail};
use serde::de::DeserializeOwned;
use std::{
    fmt::Display,
    fs,
    io::{self, ErrorKind},
    path::Path,
};

/// Reads a whole file as UTF-8 and removes a byte order mark; UTF-16 with a byte order mark, as PowerShell writes it,
/// is converted.
pub fn read(path: &Path) -> Result<String> {
    let mut bytes = fs::read(path).map_err(io_error(path))?;
    let unit: Option<fn([u8; 2]) -> u16> = match bytes.as_slice() {
        [0xff, 0xfe, ..] => Some(u16::from_le_bytes),
        [0xfe, 0xff, ..] => Some(u16::from_be_bytes),
        _ => None,
    };
    if let Some(unit) = unit {
        let units: Vec<u16> = bytes.as_chunks().0.iter().skip(1).map(|pair| unit(*pair)).collect();
        return String::from_utf16(&units).map_err(|_| anyhow!("{}: not valid UTF-16", path.display()));
    }
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(..3);
    }
    if let Some(what) = no_data(&bytes) {
        bail!("{}: {what}", path.display());
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        at(path, line, "not valid UTF-8")
    })
}

/// Recognises what was downloaded instead of the file.
fn no_data(bytes: &[u8]) -> Option<&'static str> {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).trim_start().to_lowercase();
    if start.starts_with("version https://git-lfs") {
        Some("this is a Git LFS pointer; run `git lfs pull` where it was cloned, or download the file")
    } else if start.starts_with("<!doctype") || start.starts_with("<html") {
        Some("this is a web page, not the file; download the file itself")
    } else {
        None
    }
}

/// Reads the values of a `.jsonl` file with their line numbers, from 1; from any other file, the elements of one JSON
/// array.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    let text = read(path)?;
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl")) {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        return lines.map(|(i, line)| Ok((i + 1, parse(path, i + 1, line)?))).collect();
    }
    if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) && !text.trim_start().starts_with('[') {
        bail!("{}: this is no JSON; name a .json file with a list, or a .jsonl file", path.display());
    }
    let values: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|e| at(path, e.line(), e))?;
    let value = |(i, value)| {
        Ok((i + 1, serde_json::from_value(value).map_err(|e| anyhow!("{}: entry {}: {e}", path.display(), i + 1))?))
    };
    values.into_iter().enumerate().map(value).collect()
}

/// Parses a line of JSON.
pub fn parse<T: DeserializeOwned>(path: &Path, line: usize, text: &str) -> Result<T> {
    // `line` is the line in the file; the parser knows only this one line
    serde_json::from_str(text).map_err(|e| at(path, line, e.to_string().replace(" at line 1 column", ", column")))
}

pub fn at(path: &Path, line: usize, message: impl Display) -> anyhow::Error {
    anyhow!("{}:{line}: {message}", path.display())
}

pub fn not_empty<T>(path: &Path, values: Vec<T>, what: &str) -> Result<Vec<T>> {
    if values.is_empty() {
        bail!("{}: there are no {what} in it", path.display());
    }
    Ok(values)
}

pub fn io_error(path: &Path) -> impl FnOnce(io::Error) -> anyhow::Error {
    move |error| match error.kind() {
        ErrorKind::NotFound => anyhow!("{}: no such file or folder", path.display()),
        _ => anyhow!("{}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_where() {
        let folder = tempfile::tempdir().unwrap();
        let error = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            read_json::<u8>(&path).unwrap_err().to_string()
        };
        assert!(error("a.jsonl", b"1\n\nx").contains("a.jsonl:3: expected value, column 1"));
        assert!(error("a.json", b"[1,\n2").contains("a.json:2: EOF"));
        assert!(error("a.json", b"[1, 300]").contains("a.json: entry 2: invalid value"));
        assert!(error("a.json", b"1\n\xff").contains("a.json:2: not valid UTF-8"));
        assert!(
            error("a.json", b"version https://git-lfs.github.com/spec/v1\n")
                .contains("a.json: this is a Git LFS pointer")
        );
        assert!(error("a.jsonl", b"\n<!DOCTYPE html>").contains("this is a web page"));
        assert!(read(&folder.path().join("none")).unwrap_err().to_string().contains("no such file"));
        fs::write(folder.path().join("b.jsonl"), "\u{feff}1\n\n2\n").unwrap();
        assert_eq!(read_json::<u8>(&folder.path().join("b.jsonl")).unwrap(), [(1, 1), (3, 2)]);
        for unit in [u16::to_le_bytes, u16::to_be_bytes] {
            let bytes: Vec<u8> = "\u{feff}1\r\n\r\n2\r\n".encode_utf16().flat_map(unit).collect();
            fs::write(folder.path().join("b.jsonl"), bytes).unwrap();
            assert_eq!(read_json::<u8>(&folder.path().join("b.jsonl")).unwrap(), [(1, 1), (3, 2)]);
        }
        assert!(error("a.json", b"\xff\xfe\x00\xd8").contains("a.json: not valid UTF-16"));
    }
}
