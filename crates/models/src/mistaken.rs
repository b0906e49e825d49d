//! Recognises by its first bytes a file that should be a safetensors file, a text or an image and is not.

/// Number of bytes at the start of a file that are examined.
pub const LOOKED_AT: usize = 1024;

/// What the file is and what to do about it. `None`: it may be a safetensors file, complete or not.
pub fn for_safetensors(start: &[u8], size: u64) -> Option<&'static str> {
    if size == 0 {
        return Some("this file is empty: its download or copy was cut off; fetch it again");
    }
    if has_header(start, size) {
        return None;
    }
    let magic = |bytes: &[u8]| start.starts_with(bytes);
    // beginning of a pickle of protocol 2 to 5, and of an old torch.save
    let is_pickle = matches!(start, [0x80, 2..=5, b'}' | b']' | b')' | b'c' | b'(' | 0x8a | 0x95 | b'X', ..]);
    if magic(b"PK\x03\x04") {
        return Some(
            "this is a zip archive: a pickle of torch.save, which can run code when it is read, or files to be unpacked first; \
             convert it to .safetensors, or unpack it",
        );
    }
    if is_pickle {
        return Some("this is a pickle, which can run code when it is read; convert it to .safetensors");
    }
    let known: [(&[u8], &str); 8] = [
        (b"GGUF", "this is a GGUF file, which is not read; take the model's safetensors"),
        (b"\x1f\x8b", "this is a gzip archive; unpack it first"),
        (b"7z\xbc\xaf\x27\x1c", "this is a 7z archive; unpack it first"),
        (b"Rar!", "this is a RAR archive; unpack it first"),
        (b"\x93NUMPY", "this is a NumPy array; convert it to .safetensors"),
        (b"\x89PNG", "this is an image, not the file that it shows"),
        (b"\xff\xd8\xff", "this is an image, not the file that it shows"),
        (b"\x89HDF", "this is an HDF5 file; convert it to .safetensors"),
    ];
    known.iter().find(|(bytes, _)| magic(bytes)).map(|(_, what)| *what).or_else(|| as_text(start))
}

/// What the file is instead of a text. `None`: it may be a text.
pub fn for_text(start: &[u8], size: u64) -> Option<&'static str> {
    let magic = |bytes: &[u8]| start.starts_with(bytes);
    if magic(b"PK\x03\x04") || magic(b"\x1f\x8b") {
        return Some("this is an archive, not a text; unpack it first");
    }
    if magic(b"\x89PNG") || magic(b"\xff\xd8\xff") {
        return Some("this is an image, not a text");
    }
    if has_header(start, size) {
        return Some("this is a safetensors file, not a text");
    }
    let text = text_of(start)?;
    if is_pointer(&text) { Some(POINTER) } else { is_page(&text).then_some(PAGE) }
}

/// What the file is instead of an image. `None`: it may be an image.
pub fn for_image(start: &[u8], size: u64) -> Option<&'static str> {
    if size == 0 {
        return Some("this file is empty: its download or copy was cut off; fetch it again");
    }
    let text = text_of(start)?;
    if is_pointer(&text) {
        Some(POINTER)
    } else if is_drawing(&text) {
        Some("this is an SVG drawing; save it as PNG, JPEG or WebP")
    } else if is_page(&text) {
        Some(PAGE)
    } else {
        Some("this is a text, not an image")
    }
}

/// Whether the bytes begin as a safetensors file does: a header length that fits into the file, and the start of a JSON
/// object.
pub fn has_header(start: &[u8], size: u64) -> bool {
    let Some((length, rest)) = start.split_first_chunk::<8>() else { return false };
    u64::from_le_bytes(*length) <= size.saturating_sub(8) && rest.first() == Some(&b'{')
}

const POINTER: &str = "this is a Git LFS pointer, a few lines in the place of the file; run `git lfs pull` where it was cloned, or \
                       download the file";
const PAGE: &str = "this is a web page, not the file: the address leads to a page, or the site wants a login first; download \
                    the file itself";

/// The text in lower case, without leading white space; `None` if the bytes are not a text.
fn text_of(start: &[u8]) -> Option<String> {
    let valid = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&start[..e.valid_up_to()]).ok()?, // a cut character
        Err(_) => return None,
    };
    let text = valid.trim_start_matches('\u{feff}').trim_start().to_lowercase();
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    Some(text)
}

fn is_pointer(text: &str) -> bool {
    ["version https://git-lfs", "version https://hawser"].iter().any(|first| text.starts_with(first))
}

fn is_drawing(text: &str) -> bool {
    text.starts_with("<svg")
        || (["<?xml", "<!doctype svg", "<!--"].iter().any(|first| text.starts_with(first))
            && text.contains("<svg")
            && !text.contains("<html"))
}

fn is_page(text: &str) -> bool {
    // `<headphones>` may be a word of a prompt
    let is_tag = |rest: &str| rest.starts_with(|c: char| c.is_whitespace() || c == '>');
    let begins = ["html", "head", "body", "script"]
        .iter()
        .any(|tag| text.strip_prefix('<').and_then(|text| text.strip_prefix(tag)).is_some_and(is_tag));
    begins
        || ["<!doctype", "<?xml"].iter().any(|tag| text.starts_with(tag))
        || (text.starts_with("<!--") && text.contains("<html"))
}

fn as_text(start: &[u8]) -> Option<&'static str> {
    let text = text_of(start)?;
    Some(if is_pointer(&text) {
        POINTER
    } else if is_page(&text) {
        PAGE
    } else if text.starts_with('{') || text.starts_with('[') {
        "this is JSON text, not the file: perhaps the answer of a server that did not give it; download it again"
    } else if text.trim().len() < 8 {
        return None; // too short to decide
    } else {
        "this is a text, not a safetensors file: perhaps the message of a server that did not give it; look into it"
    })
}

#[cfg(test)]
mod tests {
    use super::{for_safetensors, for_text};

    fn of(start: &[u8]) -> Option<&'static str> {
        for_safetensors(start, start.len() as u64)
    }

    #[test]
    fn told_by_how_they_begin() {
        let starts: [(&[u8], &str); 14] = [
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "Git LFS pointer"),
            (b"<!DOCTYPE html>\n<html>", "web page"),
            (b"\xef\xbb\xbf \n<HTML lang=\"en\">", "web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "web page"),
            (b"{\"error\": \"Unauthorized\"}", "JSON"),
            (b"Entry not found", "a text"),
            (b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl", "zip archive"),
            (b"\x80\x02}q\x00(X\x03\x00\x00\x00", "pickle"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle"),
            (b"\x80\x04\x95\x10\x00\x00\x00", "pickle"),
            (b"GGUF\x03\x00\x00\x00", "GGUF"),
            (b"\x1f\x8b\x08\x00", "gzip"),
            (b"\x89PNG\r\n\x1a\n", "image"),
        ];
        for (start, part) in starts {
            assert!(of(start).is_some_and(|what| what.contains(part)), "{part}: {:?}", of(start));
        }
    }

    #[test]
    fn texts_are_let_through_and_nothing_else() {
        for (start, part) in [
            (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"[..], "Git LFS pointer"),
            (b"\n<!DOCTYPE html>\n<html>", "web page"),
            (b"PK\x03\x04\x00\x00\x08\x08prompts.txt", "an archive"),
            (b"\x89PNG\r\n\x1a\n", "an image"),
            (b"\x40\x00\x00\x00\x00\x00\x00\x00{\"a\":", "a safetensors file"),
        ] {
            assert!(for_text(start, 100).is_some_and(|what| what.contains(part)), "{part}: {:?}", for_text(start, 100));
        }
        for text in [
            "",
            "{\"a\": 1}",
            "a red dog",
            "version 2 of a dog",
            "<3 a dog",
            "<headphones> on a table",
            "<body-style> car",
            "[model]\npath = \"a\"",
            "{\"a/b\": {\"caption\": \"c\"}}",
            "\u{feff}ü",
        ] {
            assert_eq!(for_text(text.as_bytes(), text.len() as u64), None, "{text}");
        }
    }

    /// The length 640 has the same first bytes as a pickle of protocol 2.
    #[test]
    fn safetensors_are_let_through() {
        for length in [2u64, 640, 0x4580, 0x9580] {
            let mut file = length.to_le_bytes().to_vec();
            file.resize(8 + length as usize, b' ');
            file[8] = b'{';
            assert_eq!(for_safetensors(&file[..file.len().min(super::LOOKED_AT)], file.len() as u64), None, "{length}");
        }
        assert_eq!(of(&[9, 1, 2, 3, 0, 0, 0, 0, 7, 200]), None, "nothing that is known");
    }
}
