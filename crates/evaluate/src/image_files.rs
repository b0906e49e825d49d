//! File names of a benchmark's images: where new images go, and which prompts the images of a folder belong to.

use crate::prompts::{Prompt, Task};
use anyhow::{Context, Result, bail};
use benchmarks::{
    geneval,
    records::{Benchmark, Subject},
    t2i_compbench::protocol,
};
use images::Image;
use models::{Error, text::composed};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Extensions of images that are read; new images are PNG.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// Columns and rows of an image that holds all images of a prompt, as DPG-Bench's own programs write them: `2x2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    pub columns: usize,
    pub rows: usize,
}

impl FromStr for Grid {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const MOST: usize = 16;
        let sides = text.split_once(['x', 'X']).and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match sides {
            Some((columns @ 1..=MOST, rows @ 1..=MOST)) if columns * rows > 1 => Ok(Self { columns, rows }),
            _ => Err(format!("`{text}` is not a number of columns and rows, such as 2x2 (at most {MOST}x{MOST})")),
        }
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}x{}", self.columns, self.rows)
    }
}

impl Grid {
    fn count(self) -> u64 {
        (self.columns * self.rows) as u64
    }

    /// The image of a cell, counted along the rows.
    fn cut(self, image: &Image, cell: u64) -> Result<Image> {
        let (Image { width, height, pixels }, cell) = (image, cell as usize);
        if width % self.columns != 0 || height % self.rows != 0 {
            bail!("{width}x{height} pixels cannot be cut into {self} images; is it such a grid (--grid)?");
        }
        let (w, h) = (width / self.columns, height / self.rows);
        let (left, top) = (cell % self.columns * w, cell / self.columns * h);
        let rows = (top..top + h).map(|y| &pixels[(y * width + left) * 3..][..w * 3]);
        Ok(Image { width: w, height: h, pixels: rows.flatten().copied().collect() })
    }
}

/// An existing image of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Index of the prompt.
    pub prompt: usize,
    /// Number of the image among the prompt's images, from 0.
    pub index: u64,
    /// Relative to the folder.
    pub file: PathBuf,
    /// If the file holds several images: `index` is then the number of the cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
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
    /// Lists the images of a folder; other files are ignored. `grid`: what the files `ID.png` hold, if not one image.
    ///
    /// # Errors
    /// A folder that cannot be read; GenEval metadata that belong to other prompts.
    pub fn open(folder: &'a Path, benchmark: Benchmark, prompts: &'a [Prompt], grid: Option<Grid>) -> Result<Self> {
        let mut found = match benchmark {
            Benchmark::T2iCompbench => of_t2i_compbench(folder, prompts)?,
            Benchmark::Geneval => of_geneval(folder, prompts)?,
            Benchmark::Tifa | Benchmark::Dsg | Benchmark::Dpg => by_id(folder, prompts, grid, benchmark)?,
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
            asked: None,
        }
    }

    /// Digest of what a task asks about an image.
    pub fn asked(&self, found: &Found, task: &Task) -> String {
        let text = match task {
            // asks what the others ask
            Task::SecondOpinion => format!("{:?}", self.prompt(found).tasks),
            task => format!("{task:?}"),
        };
        models::digest(text.as_bytes())
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
    /// The bytes of the file; of an image of a grid, those of a PNG with it alone.
    pub bytes: Vec<u8>,
}

/// Reads a found image of a folder.
///
/// # Errors
/// A file that is no image, or not the grid that it should be.
pub fn open(folder: &Path, found: &Found) -> Result<Opened> {
    let path = folder.join(&found.file);
    let mut bytes = fs::read(&path).map_err(Error::io(&path))?;
    let digest = models::digest(&bytes);
    let mut image = Image::decode(&bytes).with_context(|| format!("{} cannot be read", path.display()))?;
    let seed = images::texts(&bytes).ok().and_then(|texts| texts.get("seed")?.parse().ok());
    if let Some(grid) = found.grid {
        image = grid.cut(&image, found.index).with_context(|| path.display().to_string())?;
        bytes = image.to_png()?;
    }
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

/// How a text appears in the name of a file: composed, as macOS does not write it, and without slashes.
fn in_names(text: &str) -> String {
    composed(text).replace('/', "_")
}

/// Finds `color/a red dog_000012.png`, also in `color/samples`; a single category without a folder may lie right in
/// the folder, or in `samples`. The number after the prompt tells prompts with the same
/// text apart, and which of the prompt's ten images it is. If a file of a prompt has a number that does not fit, the
/// images of that prompt are counted in the order of their numbers.
fn of_t2i_compbench(folder: &Path, prompts: &[Prompt]) -> Result<Vec<Found>> {
    let mut categories: Vec<&str> = prompts.iter().map(|p| p.category.as_str()).collect();
    categories.dedup();
    let is_only = categories.len() == 1;
    let mut all = vec![];
    for category in categories {
        let mut by_text = HashMap::<String, Vec<usize>>::new();
        for (i, prompt) in prompts.iter().enumerate().filter(|(_, p)| p.category == category) {
            // only up to the first `_`, which is where the file name is cut
            let text = in_names(&prompt.text);
            by_text.entry(text.split('_').next().unwrap_or(&text).to_owned()).or_default().push(i);
        }
        let mut files = BTreeMap::<usize, Vec<(u64, PathBuf)>>::new();
        let is_flat = is_only && !folder.join(category).is_dir();
        let place = Path::new(if is_flat { "" } else { category });
        for place in [place.to_owned(), place.join("samples")] {
            for file in files_of(&folder.join(&place))? {
                let Some((text, number)) = file.to_str().and_then(protocol::parse_file_name) else { continue };
                let Some(same) = by_text.get(&composed(&text)) else { continue };
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
                Found { prompt, index, file, grid: None }
            }));
        }
    }
    Ok(all)
}

/// Finds `ID_00.png`, `ID_01.png`, …, or a single `ID.png`, which is one image or a grid of them.
fn by_id(folder: &Path, prompts: &[Prompt], grid: Option<Grid>, benchmark: Benchmark) -> Result<Vec<Found>> {
    let places: HashMap<String, usize> = prompts.iter().enumerate().map(|(i, p)| (in_names(&p.id), i)).collect();
    let (mut all, mut single) = (BTreeMap::new(), vec![]);
    for file in files_of(folder)? {
        let Some(stem) = file.file_stem().and_then(|stem| stem.to_str()).map(composed) else { continue };
        let numbered = || {
            let (id, index) = stem.rsplit_once('_')?;
            Some((*places.get(id)?, index.parse().ok()?))
        };
        let whole = places.get(&stem).copied();
        let Some((prompt, index)) = whole.map(|place| (place, 0)).or_else(numbered) else { continue };
        let grid = grid.filter(|_| whole.is_some());
        if whole.is_some() && grid.is_none() {
            single.push(file.clone());
        }
        for cell in 0..grid.map_or(1, Grid::count) {
            if let Some((other, _)) = all.insert((prompt, index + cell), (file.clone(), grid)) {
                let (other, file) = (other.display(), file.display());
                bail!("{}: {other} and {file} are the same image of `{}`", folder.display(), prompts[prompt].id);
            }
        }
    }
    if let (Benchmark::Dpg, Some(first)) = (benchmark, single.first()) {
        tracing::warn!(
            "{}: {} images have no index ({} is not ID_00.png) and are scored as one image each; if they are grids, as \
             DPG-Bench's own programs write them, have them cut: --grid 2x2",
            folder.display(),
            single.len(),
            first.display()
        );
    }
    Ok(all.into_iter().map(|((prompt, index), (file, grid))| Found { prompt, index, file, grid }).collect())
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
        all.extend(there.images.into_iter().map(|(index, path)| Found {
            prompt,
            index,
            file: relative(path),
            grid: None,
        }));
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
        let all = Gallery::open(folder, benchmark, prompts, None).unwrap().found;
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
        let error = Gallery::open(folder.path(), Benchmark::Tifa, &prompts, None).err().unwrap().to_string();
        assert!(error.contains("are the same image of `coco_2`"), "{error}");
        assert_eq!(found(&folder.path().join("none"), Benchmark::Dsg, &prompts), []);
    }

    /// As the benchmark's own program draws one category: without a folder for it.
    #[test]
    fn a_flat_folder_of_one_category() {
        let prompts = [prompt("0", "color", "a cat", 0), prompt("0", "color", "a cow", 1)];
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["a cat_000000.png", "samples/a cow_000010.png"]);
        let expected = [(0, 0, "a cat_000000.png".into()), (1, 0, "samples/a cow_000010.png".into())];
        assert_eq!(found(folder.path(), Benchmark::T2iCompbench, &prompts), expected);
        let two = [prompt("0", "color", "a cat", 0), prompt("0", "shape", "a cow", 0)];
        assert_eq!(found(folder.path(), Benchmark::T2iCompbench, &two), []);
        touch(folder.path(), &["color/a cat_000001.png"]);
        let own = [(0, 1, "color/a cat_000001.png".into())];
        assert_eq!(found(folder.path(), Benchmark::T2iCompbench, &prompts), own, "its own folder counts");
    }

    /// As macOS writes an accent, and with `_` for a slash.
    #[test]
    fn names_in_another_form() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["color/a cafe\u{301}_000000.png", "color/a red_blue dog_000010.png"]);
        let prompts = [prompt("0", "color", "a caf\u{e9}", 0), prompt("0", "color", "a red/blue dog", 1)];
        let all = found(folder.path(), Benchmark::T2iCompbench, &prompts);
        assert_eq!(all.iter().map(|(prompt, ..)| *prompt).collect::<Vec<_>>(), [0, 1]);
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["cafe\u{301}.png", "a_b_01.png"]);
        let prompts = [prompt("caf\u{e9}", "x", "a", 0), prompt("a/b", "x", "b", 1)];
        let all = found(folder.path(), Benchmark::Dsg, &prompts);
        assert_eq!(all.iter().map(|(prompt, index, _)| (*prompt, *index)).collect::<Vec<_>>(), [(0, 0), (1, 1)]);
    }

    #[test]
    fn grids_are_cut() {
        let grid: Grid = "2x2".parse().unwrap();
        for wrong in ["2", "0x2", "1x1", "2x17", "ax2", ""] {
            assert!(wrong.parse::<Grid>().is_err(), "{wrong}");
        }
        let folder = tempfile::tempdir().unwrap();
        let prompts = [prompt("a", "", "a", 0), prompt("b", "", "b", 1)];
        let colours: Vec<Image> =
            (0..4).map(|i| Image { width: 3, height: 2, pixels: [i * 50; 18].to_vec() }).collect();
        let mut whole = Image::white(6, 4);
        for (i, image) in colours.iter().enumerate() {
            whole.paste(i % 2 * 3, i / 2 * 2, image);
        }
        whole.save(&folder.path().join("a.png"), &[]).unwrap();
        colours[1].save(&folder.path().join("b_02.png"), &[]).unwrap();
        let gallery = Gallery::open(folder.path(), Benchmark::Dpg, &prompts, Some(grid)).unwrap();
        let mut seen = vec![];
        for found in &gallery.found {
            let opened = open(folder.path(), found).unwrap();
            assert_eq!(Image::decode(&opened.bytes).unwrap(), opened.image, "what an endpoint sees");
            seen.push((found.prompt, found.index, opened.image));
        }
        seen.sort_by_key(|(prompt, index, _)| (*prompt, *index));
        let of = |i: usize| colours[i].clone();
        assert_eq!(seen, [(0, 0, of(0)), (0, 1, of(1)), (0, 2, of(2)), (0, 3, of(3)), (1, 2, of(1))]);
        let whole = Gallery::open(folder.path(), Benchmark::Dpg, &prompts, None).unwrap();
        assert_eq!(whole.found.len(), 2, "without the option, one image");
        let odd = Found { prompt: 0, index: 0, file: "b_02.png".into(), grid: Some(grid) };
        let error = format!("{:#}", open(folder.path(), &odd).err().unwrap());
        assert!(error.contains("b_02.png") && error.contains("3x2 pixels cannot be cut into 2x2"), "{error}");
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
