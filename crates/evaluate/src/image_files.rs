//! File names of a benchmark's images: where new images go, and which prompts the images of a folder belong to.

use crate::prompts::{Prompt, Task};
use anyhow::{Context, Result, bail};
use benchmarks::{
    geneval,
    records::{Benchmark, Subject},
    t2i_compbench::protocol,
};
use images::Image;
use models::Error;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

/// Extensions of images that are read; new images are PNG.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// An existing image of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Index of the prompt.
    pub prompt: usize,
    /// Number of the image among the prompt's images, from 0.
    pub index: u64,
    /// Relative to the folder.
    pub file: PathBuf,
}

/// The images of a benchmark's prompts in a folder.
pub struct Gallery<'a> {
    pub folder: &'a Path,
    pub benchmark: Benchmark,
    pub prompts: &'a [Prompt],
    /// Sorted by the images' index, then in the order of the prompts.
    pub found: Vec<Found>,
}

impl<'a> Gallery<'a> {
    /// Lists the images of a folder; other files are ignored.
    ///
    /// # Errors
    /// A folder that cannot be read; GenEval metadata that belong to other prompts.
    pub fn open(folder: &'a Path, benchmark: Benchmark, prompts: &'a [Prompt]) -> Result<Self> {
        let mut found = match benchmark {
            Benchmark::T2iCompbench => of_t2i_compbench(folder, prompts)?,
            Benchmark::Geneval => of_geneval(folder, prompts)?,
            Benchmark::Tifa | Benchmark::Dsg | Benchmark::Dpg => by_id(folder, prompts)?,
        };
        found.sort_by_key(|f| (f.index, f.prompt));
        Ok(Self { folder, benchmark, prompts, found })
    }

    pub fn prompt(&self, found: &Found) -> &'a Prompt {
        &self.prompts[found.prompt]
    }

    /// What is known about an image without opening it.
    pub fn subject(&self, found: &Found) -> Subject {
        let prompt = self.prompt(found);
        Subject {
            benchmark: self.benchmark,
            category: prompt.category.clone(),
            kind: prompt.kind,
            prompt_id: prompt.id.clone(),
            prompt: prompt.text.clone(),
            index: found.index,
            seed: None,
            // the same on every system
            file: found.file.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/"),
            digest: None,
        }
    }

    /// Each image with each task of its prompt.
    pub fn tasks(&self) -> impl Iterator<Item = (&Found, &'a Task)> {
        self.found.iter().flat_map(|found| self.prompt(found).tasks.iter().map(move |task| (found, task)))
    }
}

/// An image that was read for scoring.
pub struct Opened {
    pub image: Image,
    /// The seed in the image's metadata, if any.
    pub seed: Option<u64>,
    /// See [`models::digest`].
    pub digest: String,
    /// The bytes of the file.
    pub bytes: Vec<u8>,
}

/// # Errors
/// A file that is no image.
pub fn open(path: &Path) -> Result<Opened> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let digest = models::digest(&bytes);
    let image = Image::decode(&bytes).with_context(|| format!("{} cannot be read", path.display()))?;
    let seed = images::texts(&bytes).ok().and_then(|texts| texts.get("seed")?.parse().ok());
    Ok(Opened { image, seed, digest, bytes })
}

/// The path of a prompt's `index`-th image (from 0), relative to the folder.
///
/// # Errors
/// A prompt or an id that cannot be a file name.
pub fn path(benchmark: Benchmark, prompt: &Prompt, index: u64) -> Result<PathBuf> {
    Ok(match benchmark {
        Benchmark::T2iCompbench => {
            if index >= protocol::IMAGES_PER_PROMPT {
                let most = protocol::IMAGES_PER_PROMPT;
                bail!("T2I-CompBench numbers at most {most} images of a prompt; give at most as many seeds");
            }
            let name = protocol::file_name(&prompt.text, protocol::index(prompt.number, index))?;
            Path::new(&prompt.category).join(name)
        }
        Benchmark::Geneval => geneval::image_path(prompt.number, index),
        Benchmark::Tifa | Benchmark::Dsg | Benchmark::Dpg => {
            if prompt.id.is_empty() || prompt.id.contains(['/', '\\', '\0']) || prompt.id.len() > 200 {
                bail!("no file can be called by the id `{}`", prompt.id);
            }
            format!("{}_{index:02}.png", prompt.id).into()
        }
    })
}

/// Finds `color/a red dog_000012.png`, also in `color/samples`. The number after the prompt tells prompts with the same
/// text apart, and which of the prompt's ten images it is. If a file of a prompt has a number that does not fit, the
/// images of that prompt are counted in the order of their numbers.
fn of_t2i_compbench(folder: &Path, prompts: &[Prompt]) -> Result<Vec<Found>> {
    let mut categories: Vec<&str> = prompts.iter().map(|p| p.category.as_str()).collect();
    categories.dedup();
    let mut all = vec![];
    for category in categories {
        let mut by_text = HashMap::<&str, Vec<usize>>::new();
        for (i, prompt) in prompts.iter().enumerate().filter(|(_, p)| p.category == category) {
            // only up to the first `_`, which is where the file name is cut
            by_text.entry(prompt.text.split('_').next().unwrap_or(&prompt.text)).or_default().push(i);
        }
        let mut files = BTreeMap::<usize, Vec<(u64, PathBuf)>>::new();
        for place in [Path::new(category).to_owned(), Path::new(category).join("samples")] {
            for file in files_of(&folder.join(&place))? {
                let Some((text, number)) = file.to_str().and_then(protocol::parse_file_name) else { continue };
                let Some(same) = by_text.get(text.as_str()) else { continue };
                let of = |i: &&usize| prompts[**i].number == number / protocol::IMAGES_PER_PROMPT;
                let prompt = *same.iter().find(of).unwrap_or(&same[0]);
                files.entry(prompt).or_default().push((number, place.join(file)));
            }
        }
        for (prompt, mut files) in files {
            files.sort();
            let of = |number: u64| number / protocol::IMAGES_PER_PROMPT == prompts[prompt].number;
            let by_number = files.iter().all(|(number, _)| of(*number));
            all.extend((0..).zip(files).map(|(place, (number, file))| {
                let index = if by_number { number % protocol::IMAGES_PER_PROMPT } else { place };
                Found { prompt, index, file }
            }));
        }
    }
    Ok(all)
}

/// Finds `ID_00.png`, `ID_01.png`, …, or a single `ID.png`.
fn by_id(folder: &Path, prompts: &[Prompt]) -> Result<Vec<Found>> {
    let places: HashMap<&str, usize> = prompts.iter().enumerate().map(|(i, p)| (p.id.as_str(), i)).collect();
    let mut all = BTreeMap::new();
    for file in files_of(folder)? {
        let Some(stem) = file.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let numbered = || {
            let (id, index) = stem.rsplit_once('_')?;
            Some((*places.get(id)?, index.parse().ok()?))
        };
        let Some((prompt, index)) = places.get(stem).map(|place| (*place, 0)).or_else(numbered) else { continue };
        if let Some(other) = all.insert((prompt, index), file.clone()) {
            let (other, file) = (other.display(), file.display());
            bail!("{}: {other} and {file} are the same image of `{}`", folder.display(), prompts[prompt].id);
        }
    }
    Ok(all.into_iter().map(|((prompt, index), file)| Found { prompt, index, file }).collect())
}

/// Finds `00003/samples/0001.png` beside `00003/metadata.jsonl`.
fn of_geneval(folder: &Path, prompts: &[Prompt]) -> Result<Vec<Found>> {
    let places: HashMap<u64, usize> = prompts.iter().enumerate().map(|(i, p)| (p.number, i)).collect();
    let mut all = vec![];
    for there in geneval::scan(folder)? {
        let Some(&prompt) = places.get(&there.number) else { continue };
        if there.metadata.prompt != prompts[prompt].text {
            bail!(
                "{}: prompt {:05} is `{}` there, but `{}` in the prompt file; is it another benchmark's?",
                folder.display(),
                there.number,
                there.metadata.prompt,
                prompts[prompt].text
            );
        }
        let relative = |path: PathBuf| path.strip_prefix(folder).map(Path::to_owned).unwrap_or(path);
        all.extend(there.images.into_iter().map(|(index, path)| Found { prompt, index, file: relative(path) }));
    }
    Ok(all)
}

/// Names of the images in a folder; empty if the folder does not exist.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(vec![]);
    }
    let mut names = vec![];
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = PathBuf::from(entry.map_err(Error::io(folder))?.file_name());
        let ending = name.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
        if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(id: &str, category: &str, text: &str, number: u64) -> Prompt {
        Prompt { id: id.into(), category: category.into(), kind: None, text: text.into(), number, tasks: vec![] }
    }

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), "").unwrap();
        }
    }

    fn found(folder: &Path, benchmark: Benchmark, prompts: &[Prompt]) -> Vec<(usize, u64, String)> {
        let all = Gallery::open(folder, benchmark, prompts).unwrap().found;
        all.into_iter().map(|f| (f.prompt, f.index, f.file.display().to_string())).collect()
    }

    #[test]
    fn new_images_are_found_again() {
        for benchmark in [Benchmark::T2iCompbench, Benchmark::Tifa, Benchmark::Dsg, Benchmark::Dpg, Benchmark::Geneval]
        {
            let folder = tempfile::tempdir().unwrap();
            let prompts = [prompt("coco_1", "color", "a dog.", 0), prompt("coco_2", "color", "a dog.", 1)];
            let mut expected = vec![];
            for (index, place) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let path = path(benchmark, &prompts[place], index).unwrap();
                touch(folder.path(), &[path.to_str().unwrap()]);
                expected.push((place, index, path.display().to_string()));
                if benchmark == Benchmark::Geneval {
                    let metadata = r#"{"tag": "x", "prompt": "a dog."}"#;
                    let file = folder.path().join(format!("{place:05}/metadata.jsonl"));
                    fs::write(file, metadata).unwrap();
                }
            }
            assert_eq!(found(folder.path(), benchmark, &prompts), expected, "{benchmark}");
        }
    }

    #[test]
    fn images_of_others() {
        let folder = tempfile::tempdir().unwrap();
        touch(
            folder.path(),
            &[
                "color/samples/a red dog_000004.jpg",
                "color/samples/a red dog_000005.png",
                "color/a cat_1234567.png",
                "color/grid.png",
                "color/a bird_000001.png",
                "color/a cat_000001.txt",
                "color/a cow_000021.png",
                "color/a cow_000029.png",
            ],
        );
        let prompts = ["a cat", "a red dog", "a cow"];
        let prompts: Vec<Prompt> = (0..).zip(prompts).map(|(n, text)| prompt("0", "color", text, n)).collect();
        assert_eq!(
            found(folder.path(), Benchmark::T2iCompbench, &prompts),
            [
                (0, 0, "color/a cat_1234567.png".into()),
                (1, 0, "color/samples/a red dog_000004.jpg".into()),
                (1, 1, "color/samples/a red dog_000005.png".into()),
                (2, 1, "color/a cow_000021.png".into()), // by its number: the first image does not exist
                (2, 9, "color/a cow_000029.png".into()),
            ]
        );
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["coco_301091.png", "coco_2_1.png", "coco_9.png"]);
        let prompts = [prompt("coco_301091", "coco", "a", 0), prompt("coco_2", "coco", "b", 1)];
        assert_eq!(
            found(folder.path(), Benchmark::Tifa, &prompts),
            [(0, 0, "coco_301091.png".into()), (1, 1, "coco_2_1.png".into()),]
        );
        touch(folder.path(), &["coco_2_01.png"]);
        let error = Gallery::open(folder.path(), Benchmark::Tifa, &prompts).err().unwrap().to_string();
        assert!(error.contains("are the same image of `coco_2`"), "{error}");
        assert_eq!(found(&folder.path().join("none"), Benchmark::Dsg, &prompts), []);
    }

    #[test]
    fn names_that_no_file_can_have() {
        let error = |benchmark, id: &str, text: &str, index| {
            path(benchmark, &prompt(id, "color", text, 0), index).unwrap_err().to_string()
        };
        assert!(error(Benchmark::T2iCompbench, "0", "a/b", 0).contains("cannot be in the name"));
        assert!(error(Benchmark::T2iCompbench, "0", "a dog", 10).contains("at most 10 images"));
        assert!(error(Benchmark::Dsg, "../x", "a dog", 0).contains("no file can be called"));
    }
}
