//! The folders of images: `00000/metadata.jsonl` and `00000/samples/0000.png`, one folder for each prompt.

use super::Metadata;
use crate::files;
use anyhow::{Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A prompt and its images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    pub number: u64,
    pub metadata: Metadata,
    /// Numbers and paths of its images, in order.
    pub images: Vec<(u64, PathBuf)>,
}

/// Path of an image in the folder of the benchmark: `00003/samples/0001.png`.
pub fn image_path(prompt: u64, image: u64) -> PathBuf {
    Path::new(&format!("{prompt:05}")).join("samples").join(format!("{image:04}.png"))
}

/// Reads the prompts of a folder, in the order of their numbers. Entries whose name is not a number are ignored.
///
/// # Errors
/// A folder without prompts; a prompt without `metadata.jsonl` or `samples`, or with metadata in another format.
pub fn scan(root: &Path) -> Result<Vec<Folder>> {
    let folders = numbered(root, "")?.into_iter().filter(|(_, path)| path.is_dir()).map(|(number, path)| {
        let file = path.join("metadata.jsonl");
        let metadata: Metadata =
            serde_json::from_str(&files::read(&file)?).map_err(|e| files::at(&file, e.line(), e))?;
        metadata.check().map_err(|e| files::at(&file, 1, e))?;
        Ok(Folder { number, metadata, images: numbered(&path.join("samples"), ".png")? })
    });
    let folders: Vec<Folder> = folders.collect::<Result<_>>()?;
    if folders.is_empty() {
        bail!("{}: there are no folders 00000, 00001, … of prompts in it", root.display());
    }
    Ok(folders)
}

/// Numbers and paths of the entries whose name is a number followed by `ending`.
fn numbered(folder: &Path, ending: &str) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).map_err(files::io_error(folder))? {
        let path = entry.map_err(files::io_error(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let digits = name.and_then(|name| name.strip_suffix(ending)).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        if let Some(number) = digits.and_then(|digits| digits.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_and_their_images() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        assert!(scan(root.path()).unwrap_err().to_string().contains("no folders 00000"));
        let line =
            r#"{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}"#;
        for folder in ["00010", "00002", "grid"] {
            fs::create_dir_all(path(folder).join("samples")).unwrap();
            fs::write(path(folder).join("metadata.jsonl"), line).unwrap();
        }
        assert_eq!(image_path(2, 10), Path::new("00002/samples/0010.png"));
        for image in ["00002/samples/0010.png", "00002/samples/0003.png", "00002/samples/grid.png", "00002/grid.png"] {
            fs::write(path(image), "").unwrap();
        }
        let folders = scan(root.path()).unwrap();
        assert_eq!(folders.iter().map(|f| (f.number, f.images.len())).collect::<Vec<_>>(), [(2, 2), (10, 0)]);
        assert_eq!(folders[0].images[1], (10, root.path().join(image_path(2, 10))));
        assert_eq!(folders[0].metadata.prompt, "a photo of a dog");
        fs::write(path("00010/metadata.jsonl"), "{").unwrap();
        assert!(scan(root.path()).unwrap_err().to_string().contains("metadata.jsonl:1: EOF"));
        fs::remove_dir_all(path("00002/samples")).unwrap();
        assert!(scan(root.path()).unwrap_err().to_string().contains("samples: no such file or folder"));
    }
}
