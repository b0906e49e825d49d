//! The file of scores. One image is appended at a time, so a scoring that is stopped loses no finished image.

use super::{Image, Key, Line, Subject};
use crate::files::{self, io_error};
use anyhow::{Result, bail};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

/// Beginning of every line.
const BEGINNING: &[u8] = br#"{"benchmark":"#;

/// A file of scores that is open for appending.
pub struct Log {
    path: PathBuf,
    file: File,
    done: BTreeSet<Key>,
}

/// Content of a file of scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// The images in the order of the file.
    pub images: Vec<Image>,
    /// Why the end of the file is ignored, if it is: the scoring was stopped while it wrote.
    pub warning: Option<String>,
    /// Number of bytes of the file that hold finished images.
    whole: usize,
}

/// Reads the finished images of a file. A last image that is cut off is dropped, with a warning.
///
/// # Errors
/// A file that cannot be read; a line in another format, other than a cut last line; an image that occurs twice, or one
/// before the last that is not finished.
pub fn read(path: &Path) -> Result<Images> {
    // by bytes: a cut may split a character
    let bytes = fs::read(path).map_err(io_error(path))?;
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    let mut read = Images { images: vec![], warning: None, whole: 0 };
    let (mut open, mut seen) = (Vec::<Line>::new(), BTreeSet::new());
    let mut place = 0;
    for (i, bytes) in lines.iter().enumerate() {
        let (number, is_last) = (i + 1, i + 1 == lines.len());
        place += bytes.len();
        if is_last && !bytes.ends_with(b"\n") {
            // an end that does not begin like our lines is not ours to remove
            if !bytes.iter().zip(BEGINNING).all(|(a, b)| a == b) {
                return Err(files::at(path, number, "not a line of scores"));
            }
            read.warning =
                Some(files::at(path, number, "the line is cut off; its image will be scored again").to_string());
            return Ok(read);
        }
        let Ok(text) = std::str::from_utf8(bytes) else { return Err(files::at(path, number, "not valid UTF-8")) };
        open.push(files::parse(path, number, text.trim_end())?);
        if open.len() < open[0].parts && open.last().is_some_and(|line| line.part.saturating_add(1) < line.parts) {
            continue;
        }
        let image = Image::from_lines(std::mem::take(&mut open)).map_err(|e| files::at(path, number, e))?;
        if !seen.insert(image.key()) {
            let (metric, Subject { index, prompt, .. }) = (image.metric(), image.subject());
            bail!(files::at(path, number, format!("{metric}, image {index} of `{prompt}`: it is there twice")));
        }
        read.images.push(image);
        read.whole = place;
    }
    if let Some(line) = open.last() {
        let message = format!("the last image has {} of {} lines; it will be scored again", open.len(), line.parts);
        read.warning = Some(files::at(path, lines.len(), message).to_string());
    }
    Ok(read)
}

impl Log {
    /// Opens or creates a file, and returns the images in it. A last image that is cut off is removed.
    ///
    /// # Errors
    /// The same as [`read`]; a file that another process is writing to.
    pub fn open(path: &Path) -> Result<(Self, Images)> {
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(io_error(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{}: another scoring is writing to it", path.display()),
            // the file system has no locks
            Err(TryLockError::Error(_)) => {}
        }
        let read = read(path)?;
        file.set_len(read.whole as u64).map_err(io_error(path))?;
        let done = read.images.iter().map(Image::key).collect();
        Ok((Self { path: path.to_owned(), file, done }, read))
    }

    /// Whether this image is scored already.
    pub fn has(&self, key: &Key) -> bool {
        self.done.contains(key)
    }

    /// Appends an image, all its lines at once.
    ///
    /// # Errors
    /// An image that the file has already; a file that cannot be written.
    pub fn add(&mut self, image: &Image) -> Result<()> {
        let (metric, Subject { index, prompt, .. }) = (image.metric(), image.subject());
        if self.has(&image.key()) {
            bail!("{}: {metric}, image {index} of `{prompt}`: it is scored already", self.path.display());
        }
        let mut text = String::new();
        for line in image.lines() {
            text += &serde_json::to_string(line)?;
            text.push('\n');
        }
        self.file.write_all(text.as_bytes()).map_err(io_error(&self.path))?;
        self.done.insert(image.key());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Metric, image::tests::image};

    fn images() -> Vec<Image> {
        (0..3).map(|index| image(Metric::BlipVqa, "color", "dög", index, &[0.5, 0.25])).collect()
    }

    #[test]
    fn a_scoring_goes_on_from_wherever_it_was_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let (mut log, before) = Log::open(&path).unwrap();
        assert!(before.images.is_empty() && before.warning.is_none());
        for image in images() {
            assert!(!log.has(&image.key()));
            log.add(&image).unwrap();
        }
        assert!(log.add(&images()[0]).unwrap_err().to_string().contains("image 0 of `a dög`: it is scored already"));
        assert!(Log::open(&path).err().unwrap().to_string().contains("another scoring"));
        drop(log);
        let whole = fs::read(&path).unwrap();
        assert_eq!(read(&path).unwrap(), Images { images: images(), warning: None, whole: whole.len() });

        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut log, before) = Log::open(&path).unwrap();
            assert_eq!(before.warning.is_some(), before.whole != cut, "{cut}");
            assert_eq!(before.images, images()[..before.images.len()]);
            for image in images().iter().filter(|p| !before.images.contains(p)) {
                log.add(image).unwrap();
            }
            drop(log);
            assert_eq!(fs::read(&path).unwrap(), whole, "{cut}");
        }
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        // fractions from a linear congruential generator: floats that need all their digits
        let step = |x: &u64| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        let numbers: Vec<f64> =
            std::iter::successors(Some(1), step).take(1000).map(|x| x as f64 / u64::MAX as f64).collect();
        let written = image(Metric::Questions, "coco", "dog", 0, &numbers);
        Log::open(&path).unwrap().0.add(&written).unwrap();
        assert_eq!(read(&path).unwrap().images, [written]);
    }

    #[test]
    fn a_line_is_one_flat_object() {
        let line = serde_json::to_string(&images()[1].lines()[1]).unwrap();
        assert_eq!(
            line,
            r#"{"benchmark":"t2i-compbench","category":"color","prompt_id":"dög","prompt":"a dög","index":1,"seed":43,"file":"dög_000001.png","metric":"blip-vqa","part":1,"parts":2,"score":0.25}"#
        );
    }

    #[test]
    fn damage_elsewhere_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let lines: Vec<String> = images()
            .iter()
            .flat_map(|p| p.lines().to_vec())
            .map(|l| serde_json::to_string(&l).unwrap() + "\n")
            .collect();
        let error = |lines: &[&str]| {
            fs::write(&path, lines.concat()).unwrap();
            read(&path).unwrap_err().to_string()
        };
        let l = |i: usize| lines[i].as_str();
        assert!(error(&["my notes"]).contains("scores.jsonl:1: not a line of scores"));
        assert!(Log::open(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "my notes");
        assert!(error(&[l(0), "{\n", l(1)]).contains("scores.jsonl:2: EOF"));
        assert!(
            error(&[l(0), l(1), l(2), l(3), l(0), l(1)])
                .contains("scores.jsonl:6: blip-vqa, image 0 of `a dög`: it is there twice")
        );
        assert!(error(&[l(0), l(2), l(3)]).contains("scores.jsonl:2: blip-vqa, image 1 of `a dög`: it stands among"));
        assert!(error(&[l(1), l(2)]).contains("scores.jsonl:1: blip-vqa"));
        fs::write(&path, [lines[0].as_bytes(), b"\xff\n"].concat()).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("scores.jsonl:2: not valid UTF-8"));
        fs::write(&path, lines[..3].concat()).unwrap();
        let cut = read(&path).unwrap();
        assert!(cut.warning.unwrap().contains("scores.jsonl:3: the last image has 1 of 2 lines"));
        assert_eq!(cut.images.len(), 1);
        assert!(read(&folder.path().join("none")).unwrap_err().to_string().contains("no such file"));
    }
}
