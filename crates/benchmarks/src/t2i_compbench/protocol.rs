//! Prompts, seeds and file names (T2I-CompBench, GORS_finetune/inference_eval.py).

use crate::files;
use anyhow::{Result, bail};
use std::path::Path;

pub const IMAGES_PER_PROMPT: u64 = 10;
/// Number of DDIM steps of the published images.
pub const STEPS: usize = 30;
const FIRST_SEED: u64 = 42;

/// Reads the prompts of a file, in order: the text before a tab. Empty lines are skipped.
///
/// # Errors
/// A file that cannot be read or has no prompts.
pub fn read_prompts(path: &Path) -> Result<Vec<String>> {
    let text = files::read(path)?;
    let prompts = text.lines().map(|line| line.split('\t').next().unwrap_or(line));
    files::not_empty(path, prompts.filter(|p| !p.trim().is_empty()).map(str::to_owned).collect(), "prompts")
}

/// The seed of a prompt's `image`-th image, from 0: 42, 43, …, the same for every prompt.
pub fn seed(image: u64) -> u64 {
    FIRST_SEED.wrapping_add(image)
}

/// The number of an image in its category; the images of a prompt have consecutive numbers.
pub fn index(prompt: u64, image: u64) -> u64 {
    prompt.saturating_mul(IMAGES_PER_PROMPT).saturating_add(image)
}

/// File name of an image: `a red book_000012.png`.
///
/// # Errors
/// A prompt that cannot be read back from the name, or that is too long for a file name.
pub fn file_name(prompt: &str, index: u64) -> Result<String> {
    if let Some(mark) = prompt.chars().find(|c| matches!(c, '_' | '/' | '\0')) {
        bail!("`{prompt}` cannot be in the name of a file of T2I-CompBench: there is a {mark:?} in it");
    }
    let name = format!("{prompt}_{index:06}.png");
    if name.len() > 255 {
        bail!("`{prompt}` is too long for the name of a file ({} bytes of at most 255)", name.len());
    }
    Ok(name)
}

/// Prompt and index of a file name: the text before the first `_`, and the number after the last. `None` for other
/// names.
pub fn parse_file_name(name: &str) -> Option<(String, u64)> {
    let (prompt, _) = name.split_once('_')?;
    let (_, rest) = name.rsplit_once('_')?;
    let (number, _) = rest.split_once('.')?;
    Some((prompt.to_owned(), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        assert_eq!(file_name("a red dog.", 12).unwrap(), "a red dog._000012.png");
        assert_eq!(parse_file_name("a red dog._000012.png"), Some(("a red dog.".into(), 12)));
        assert_eq!(parse_file_name("a_b_1234567.png"), Some(("a".into(), 1_234_567))); // cut at the first `_`
        for other in ["grid.png", "a dog_1", "a dog_x.png", "_"] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
        assert!(file_name("a_dog", 0).unwrap_err().to_string().contains("'_'"));
        assert!(file_name("a/b", 0).is_err());
        assert!(file_name(&"x".repeat(245), 0).unwrap_err().to_string().contains("256 bytes"));
    }

    #[test]
    fn seeds_and_indices() {
        assert_eq!((seed(0), seed(9)), (42, 51));
        assert_eq!((index(0, 3), index(2, 0), index(299, 9)), (3, 20, 2999));
    }

    #[test]
    fn prompts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("color_val.txt");
        std::fs::write(&path, "a red dog\tcolor\r\n\na cat").unwrap();
        assert_eq!(read_prompts(&path).unwrap(), ["a red dog", "a cat"]);
        std::fs::write(&path, "\n\t\n").unwrap();
        assert!(read_prompts(&path).unwrap_err().to_string().contains("no prompts"));
    }
}
