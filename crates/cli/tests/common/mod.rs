//! Fresh folders, the program run in them, and what it left there. The models are the parity fixtures of `models`.
#![allow(dead_code)] // every test file uses its own part

pub mod markdown;
pub mod page;

use models::tensors::{self, Tensors};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::BufReader,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tch::{Kind, Tensor};
use torch_ext::testing;

pub const SD1: &str = "pipeline_sd1";
pub const SDXL: &str = "pipeline_sdxl";

/// A run of a second: images of 32x32 pixels, four steps.
const RUN: &str = r#"output = "out"
seed = 3
[model]
path = "MODEL"
[captioner]
path = "CAPTIONER"
[prompts]
train = "prompts.txt"
[sampling]
sampler = "ddpm"
steps = 4
[replay]
tracked = 2
[lora]
rank = 2
[optimizer]
learning_rate = 1e-2
[train]
steps = 4
batch_size = 2
[samples]
count = 0
"#;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures").join(name)
}

/// A fresh folder, removed after the test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With `run.toml` and `prompts.txt`, on the fixtures where they lie.
    pub fn of_run() -> Self {
        let folder = Self::new();
        folder.write("run.toml", run(fixture(SD1).to_str().unwrap(), fixture("blip").to_str().unwrap()));
        folder.write("prompts.txt", "a red dog\na blue cat\na small green bird\n");
        folder
    }

    /// As [`Self::of_run`], on copies of the fixtures in `model` and `captioner`, to be altered.
    pub fn of_run_on_copies() -> Self {
        let folder = Self::of_run();
        folder.copy(SD1, "model");
        folder.copy("blip", "captioner");
        folder.write("run.toml", run("model", "captioner"));
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub fn copy(&self, of_fixture: &str, name: &str) {
        copy(&fixture(of_fixture), &self.path(name));
    }

    pub fn edit_text(&self, name: &str, edit: impl FnOnce(String) -> String) {
        self.write(name, edit(self.read(name)));
    }

    pub fn edit_json(&self, name: &str, key: &str, value: impl Into<Value>) {
        let mut json: Value = serde_json::from_str(&self.read(name)).unwrap();
        json[key] = value.into();
        self.write(name, json.to_string());
    }

    pub fn tensors(&self, name: &str) -> Tensors {
        tensors::read(&self.path(name)).unwrap().0
    }

    pub fn edit_tensors(&self, name: &str, edit: impl FnOnce(&mut Tensors)) {
        let mut all = self.tensors(name);
        edit(&mut all);
        self.write_tensors(name, all);
    }

    pub fn write_tensors(&self, name: &str, tensors: impl Into<Tensors>) {
        tensors::write(&self.path(name), &tensors.into(), Default::default()).unwrap();
    }

    /// Every file below a folder, by its path from there; a file alone has the empty path.
    pub fn bytes(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        files(&self.path(name))
            .into_iter()
            .map(|path| {
                let bytes = fs::read(&path).unwrap();
                (path.strip_prefix(self.path(name)).unwrap().to_owned(), bytes)
            })
            .collect()
    }

    /// Names in a folder, sorted; none where it does not exist.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return vec![] };
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The log of a run, every line of which must be JSON.
    pub fn events(&self, run: &str) -> Vec<Value> {
        let text = self.read(&format!("{run}/events.jsonl"));
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole: {text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
    }

    /// Nothing that was being written was left behind.
    #[track_caller]
    pub fn assert_no_leftovers(&self) {
        for path in files(self.0.path()) {
            let name = path.strip_prefix(self.0.path()).unwrap().display().to_string();
            assert!(!name.contains(".partial") && !name.contains(".tmp"), "left behind: {name}");
        }
    }

    /// The program in this folder, on one thread: tests run beside each other.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comat"));
        command.args(words).current_dir(self.0.path()).env("OMP_NUM_THREADS", "1").env("RUST_BACKTRACE", "0");
        command.env("RUST_LOG", "warn"); // what is told on the way is tested by itself
        command.env("CUDA_VISIBLE_DEVICES", visible(&testing::device_name()));
        if on_a_device() {
            command.env("NVIDIA_TF32_OVERRIDE", "0"); // tolerances are those of the CPU, as in `testing::device`
        }
        command.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", self.path("hub")); // no test needs the network
        command
    }

    pub fn comat(&self, words: &[&str]) -> Done {
        self.command(words).output().unwrap().into()
    }

    /// `comat train --config run.toml`, and words: `key=value` is a setting.
    pub fn train(&self, words: &str) -> Done {
        self.comat(&train_words(words))
    }

    /// `comat trace --config run.toml --noise noise.safetensors`, and words: `key=value` is a setting.
    pub fn trace(&self, words: &str) -> Done {
        let mut all = vec!["trace", "--noise", "noise.safetensors"];
        all.extend(&train_words(words)[1..]);
        self.comat(&all)
    }

    /// `comat generate` with a fixture's model, prompts and words.
    pub fn generate(&self, model: &str, prompts: &[&str], words: &str) -> Done {
        let model = fixture(model);
        let words = generate_words(model.to_str().unwrap(), prompts, words);
        self.comat(&words)
    }

    /// Starts the program without waiting for it.
    pub fn start(&self, words: &[&str]) -> Running {
        self.start_in(words, &[])
    }

    /// As [`Self::start`], with variables in its environment.
    pub fn start_in(&self, words: &[&str], variables: &[(&str, String)]) -> Running {
        let mut command = self.command(words);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running(child)
    }

    /// What the files below a folder take on a tmpfs, which counts in pages.
    pub fn kib_on_disk(&self, folder: &str) -> usize {
        let below = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        let (mut kib, mut rest) = (0, below(&self.path(folder)));
        while let Some(path) = rest.pop() {
            if path.is_dir() {
                rest.extend(below(&path));
            } else {
                kib += fs::metadata(&path).unwrap().len().div_ceil(4096) as usize * 4;
            }
        }
        kib
    }

    /// Runs the program while `disk` is a file system of so many KiB, and copies `disk` to `disk.after`. `None` where
    /// mounting is not allowed.
    pub fn on_small_disk(&self, kib: usize, words: &[&str]) -> Option<Done> {
        fs::create_dir_all(self.path("disk")).unwrap();
        let mount = format!("mount -t tmpfs -o size={kib}k none disk");
        let unshare = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c", script]).current_dir(self.0.path());
            command
        };
        if !unshare(&mount).output().is_ok_and(|done| done.status.success()) {
            eprintln!("skipped: no file system can be mounted here");
            return None;
        }
        let _ = fs::remove_dir_all(self.path("disk.after"));
        let program = self.command(words);
        let mut command = unshare(&format!("{mount}; \"$0\" \"$@\"; code=$?; cp -a disk disk.after; exit $code"));
        command.arg(program.get_program()).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        Some(command.output().unwrap().into())
    }

    /// Runs the program with so many KiB of address space.
    pub fn with_address_space(&self, kib: usize, words: &[&str]) -> Done {
        let program = self.command(words);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {kib} && exec \"$0\" \"$@\"")]).current_dir(self.0.path());
        command.arg(program.get_program()).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.output().unwrap().into()
    }
}

/// Whether the program computes on a GPU.
pub fn on_a_device() -> bool {
    testing::device_name() != "cpu"
}

/// The text of `run.toml`. On a GPU only such a run repeats itself to the byte.
fn run(model: &str, captioner: &str) -> String {
    let deterministic = if on_a_device() { "\ndeterministic = true" } else { "" };
    RUN.replace("\"MODEL\"", &format!("\"{model}\"{deterministic}")).replace("CAPTIONER", captioner)
}

/// The GPU that the program finds, as it takes what it finds where it is told nothing; empty: none.
fn visible(device: &str) -> &str {
    match device.split_once(':') {
        Some((_, number)) => number,
        None if device == "cuda" => "0",
        None => "",
    }
}

pub fn train_words(words: &str) -> Vec<&str> {
    let mut all = vec!["train", "--config", "run.toml"];
    for word in words.split_whitespace() {
        if word.contains('=') && !word.starts_with("--") {
            all.push("--set");
        }
        all.push(word);
    }
    all
}

pub fn generate_words<'a>(model: &'a str, prompts: &[&'a str], words: &'a str) -> Vec<&'a str> {
    let mut all = vec!["generate", "--model", model];
    prompts.iter().for_each(|prompt| all.extend(["--prompt", prompt]));
    all.extend(words.split_whitespace());
    all
}

/// The program under way.
pub struct Running(Child);

impl Running {
    /// Waits until something is so, at most half a minute.
    #[track_caller]
    pub fn until(&mut self, what: &str, is_so: impl FnMut() -> bool) {
        self.until_for(30, what, is_so);
    }

    #[track_caller]
    pub fn until_for(&mut self, seconds: u64, what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            let ended = self.0.try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}) before {what}");
            assert!(began.elapsed() < Duration::from_secs(seconds), "no {what} in {seconds} s");
            sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.0.id(), name);
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    pub fn wait(self) -> Done {
        self.0.wait_with_output().unwrap().into()
    }
}

pub fn signal(process: u32, name: &str) {
    let kill = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap();
    assert!(kill.success());
}

/// How the program ended, and what it said.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Done {
    /// It did what it was asked, without a complaint.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == Some(0) && self.stderr.is_empty(), "{self:#?}");
        self
    }

    /// It failed with one line that holds all these parts.
    #[track_caller]
    pub fn error(self, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(1), "{self:#?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:#?}");
        assert!(self.stderr.starts_with("comat: error: "), "{self:#?}");
        self.says(parts)
    }

    /// It refused what was typed, as the argument parser does.
    #[track_caller]
    pub fn usage(self, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(2), "{self:#?}");
        self.says(parts)
    }

    #[track_caller]
    fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in: {}", self.stderr);
        }
        for word in ["panicked", "should not happen", "backtrace", ".rs:"] {
            assert!(!self.stderr.contains(word), "{}", self.stderr);
        }
        self
    }
}

/// It did what it was asked; what it says on the way is no complaint.
#[track_caller]
pub fn fine(done: Done) -> Done {
    assert_eq!(done.code, Some(0), "{done:#?}");
    done
}

/// An image as a file holds it.
pub struct Image {
    pub width: u32,
    pub height: u32,
    pub pixels: Vec<u8>,
    pub texts: BTreeMap<String, String>,
}

impl Image {
    /// Reads the whole file, as a proof that it is whole.
    pub fn open(path: &Path) -> Self {
        Self::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn read(path: &Path) -> Result<Self, png::DecodingError> {
        let mut reader = png::Decoder::new(BufReader::new(fs::File::open(path)?)).read_info()?;
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels)?;
        reader.finish()?;
        let texts = reader.info().utf8_text.iter().map(|t| (t.keyword.clone(), t.get_text().unwrap())).collect();
        Ok(Self { width: frame.width, height: frame.height, pixels, texts })
    }

    /// Largest difference of a pixel, in levels of 255.
    pub fn difference(&self, other: &Image) -> u8 {
        assert_eq!((self.width, self.height), (other.width, other.height));
        self.pixels.iter().zip(&other.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }
}

/// Largest difference over the largest expected value.
pub fn relative_error(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.size(), expected.size());
    let (got, expected) = (got.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    (&got - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[])
}

fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect()
}

fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}
