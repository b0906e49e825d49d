//! How a LoRA is named: a file, a folder with one, or an id of the hub; with its strength.

use super::{HubOf, paths};
use anyhow::{Result, bail};
use hub::{Id, Layout, Progress};
use models::Error;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    str::FromStr,
};

/// What was typed for a LoRA: `FILE`, `FOLDER`, `OWNER/NAME` or `OWNER/NAME@REVISION:FILE`, and the file that it is. Written out, it is
/// what was typed.
///
/// It stands for a path: the one that was typed, or after [`Adapter::fetch`] that of the file.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "PathBuf")]
#[schemars(inline)]
pub struct Adapter {
    typed: PathBuf,
    file: Option<PathBuf>,
    commit: Option<String>,
}

impl Adapter {
    /// Finds the file in a folder, or fetches it. A path that exists takes precedence over an id. Logs the commit that
    /// an id refers to.
    ///
    /// # Errors
    /// What is neither; a folder or repository without a LoRA, or with several; errors of fetching it.
    pub fn fetch(&mut self, hub: HubOf, progress: &dyn Progress) -> Result<()> {
        hub::refuse_url(&self.typed)?;
        if self.typed.is_dir() {
            self.file = Some(in_folder(&self.typed, None)?);
        } else if let Some(id) = id(&self.typed) {
            let fetched = hub()?.fetch(&id, Layout::Adapter, progress)?;
            tracing::info!("{id}: commit {} in {}", fetched.commit, fetched.folder.display());
            self.file = Some(in_folder(&fetched.folder, id.file.as_deref())?);
            self.commit = Some(fetched.commit);
        } else if !self.typed.exists() {
            bail!("{}: {}", self.typed.display(), paths::not_there(&self.typed));
        }
        Ok(())
    }

    /// The commit that a hub id referred to when it was fetched.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }
}

/// The LoRA in a folder: the file of that name, or the usual one. In a training run's folder it is the result, or the
/// newest checkpoint if that is newer.
fn in_folder(folder: &Path, name: Option<&str>) -> Result<PathBuf> {
    if let Some(name) = name {
        return Ok(folder.join(name));
    }
    if let Some(inside) = of_run(folder) {
        tracing::info!("{}: a training run; its LoRA is in {}", folder.display(), inside.display());
        return in_folder(&inside, None);
    }
    if let Some(file) = average(folder) {
        tracing::info!("{}: a checkpoint of a run with [preference]; its LoRA is ema.safetensors", folder.display());
        return Ok(file);
    }
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut names: Vec<String> = entries.flatten().map(name).collect();
    // LoRAs in folders of this one are only named
    for inside in names.clone() {
        let entries = fs::read_dir(folder.join(&inside)).into_iter().flatten().flatten();
        names.extend(entries.map(|entry| format!("{inside}/{}", name(entry))));
    }
    names.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.contains(&"model_index.json") {
        bail!("{} is a model's folder, not a LoRA", folder.display());
    }
    match hub::adapter(&names, None) {
        Ok(name) => Ok(folder.join(name)),
        Err(why) => bail!("the folder {} {why}", folder.display()),
    }
}

/// The path of the LoRA in a training run's folder.
fn of_run(folder: &Path) -> Option<PathBuf> {
    if !folder.join("events.jsonl").exists() {
        return None;
    }
    let finished = folder.join("adapter");
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse::<u64>().ok();
    let checkpoints =
        fs::read_dir(folder.join("checkpoints")).into_iter().flatten().flatten().map(|entry| entry.path());
    let whole = checkpoints.filter(|path| path.join("adapter.safetensors").exists());
    let newest = whole.filter_map(|path| Some((step(&path)?, path))).max().map(|(_, path)| path);
    // a finished run that was resumed has newer checkpoints; a file without a LoRA is no result
    let written = |file: PathBuf| fs::metadata(file).and_then(|file| file.modified()).ok();
    let result = written(finished.join("pytorch_lora_weights.safetensors"));
    match newest {
        Some(newest) if result < written(newest.join("adapter.safetensors")) => Some(newest),
        _ => result.map(|_| finished),
    }
}

/// The running average in a checkpoint, where that is what the run makes.
fn average(folder: &Path) -> Option<PathBuf> {
    let file = folder.join("ema.safetensors");
    let config: toml::Table = fs::read_to_string(folder.join("config.toml")).ok()?.parse().ok()?;
    (config.get("preference")?.is_table() && folder.join("adapter.safetensors").exists() && file.exists())
        .then_some(file)
}

/// Parses `OWNER/NAME` or `OWNER/NAME@REVISION`, each optionally with `:FILE`. A path that exists is not an id.
fn id(path: &Path) -> Option<Id> {
    if path.exists() {
        return None;
    }
    let text = path.to_str()?;
    match text.split_once(':') {
        Some((_, "")) => None,
        Some((id, file)) => Some(Id { file: Some(file.to_owned()), ..Id::parse(id)? }),
        None => Id::parse(text),
    }
}

impl Deref for Adapter {
    type Target = Path;
    fn deref(&self) -> &Path {
        self.file.as_ref().unwrap_or(&self.typed)
    }
}

impl AsRef<Path> for Adapter {
    fn as_ref(&self) -> &Path {
        self
    }
}

/// Compares what was typed; where it was found does not matter.
impl PartialEq for Adapter {
    fn eq(&self, other: &Self) -> bool {
        self.typed == other.typed
    }
}

impl From<PathBuf> for Adapter {
    fn from(typed: PathBuf) -> Self {
        Self { typed, file: None, commit: None }
    }
}

impl From<Adapter> for PathBuf {
    fn from(adapter: Adapter) -> Self {
        adapter.typed
    }
}

/// Parses what a person typed; expands `~` and variables.
impl FromStr for Adapter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(paths::expanded(Path::new(text))?.into())
    }
}

impl TryFrom<String> for Adapter {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A LoRA and its strength: `FILE`, `FILE:0.8`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scaled {
    pub adapter: Adapter,
    pub scale: f64,
}

impl FromStr for Scaled {
    type Err = String;

    /// A path may contain a colon: what follows the last one is a strength only if it is a number and no file has the
    /// whole name.
    fn from_str(text: &str) -> Result<Self, String> {
        let whole = || Ok(Self { adapter: text.parse()?, scale: 1.0 });
        if paths::expanded(Path::new(text))?.exists() {
            return whole();
        }
        match text.rsplit_once(':').map(|(path, scale)| (path, scale.parse::<f64>())) {
            Some(("", _)) => Err("names no file before the colon".into()),
            Some((path, Ok(scale))) => Ok(Self { adapter: path.parse()?, scale: strength(scale)? }),
            _ => whole(),
        }
    }
}

/// Checks that a strength is plausible.
///
/// # Errors
/// Any other number, with an explanation.
pub fn strength(scale: f64) -> Result<f64, String> {
    const MOST: f64 = 1000.0;
    let is_meant = scale.abs() <= MOST; // false for NaN
    is_meant.then_some(scale).ok_or_else(|| format!("a strength must be from -{MOST} to {MOST}"))
}

impl TryFrom<String> for Scaled {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Written so that it is read as the same.
impl From<Scaled> for String {
    fn from(Scaled { adapter, scale }: Scaled) -> Self {
        let path = adapter.typed.display();
        if scale == 1.0 { path.to_string() } else { format!("{path}:{scale}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_run_stands_for_what_it_wrote_last() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        let write = |name: &str, minute: u64| {
            fs::create_dir_all(run.join(name).parent().unwrap()).unwrap();
            let file = fs::File::create(run.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute)).unwrap();
        };
        let found = || of_run(run).map(|path| path.strip_prefix(run).unwrap().display().to_string());
        write("checkpoints/step-9/adapter.safetensors", 1);
        assert_eq!(found(), None, "no run's folder");
        write("events.jsonl", 1);
        write("checkpoints/step-10/adapter.safetensors", 2);
        assert_eq!(found().unwrap(), "checkpoints/step-10");
        write("adapter/README.md", 3);
        assert_eq!(found().unwrap(), "checkpoints/step-10", "an adapter folder without a LoRA");
        write("adapter/pytorch_lora_weights.safetensors", 3);
        assert_eq!(found().unwrap(), "adapter");
        write("checkpoints/step-12/adapter.safetensors", 4); // resumed
        assert_eq!(found().unwrap(), "checkpoints/step-12");
    }

    #[test]
    fn a_checkpoint_of_preferences_stands_for_its_average() {
        let folder = tempfile::tempdir().unwrap();
        let step = folder.path().join("checkpoints/step-3");
        fs::create_dir_all(&step).unwrap();
        for name in ["adapter.safetensors", "ema.safetensors", "optimizer.safetensors"] {
            fs::write(step.join(name), "").unwrap();
        }
        fs::write(folder.path().join("events.jsonl"), "").unwrap();
        for (config, expected) in [
            ("[train]\nema = 0.9\n", "adapter.safetensors"),
            ("[preference]\nbeta = 1\n[train]\nema = 0.9\n", "ema.safetensors"),
        ] {
            fs::write(step.join("config.toml"), config).unwrap();
            for place in [folder.path(), &step] {
                assert_eq!(in_folder(place, None).unwrap(), step.join(expected), "{config}");
            }
        }
    }

    #[test]
    fn what_is_a_scale() {
        let of = |text: &str| {
            let Scaled { adapter, scale } = text.parse().unwrap();
            (PathBuf::from(adapter), scale)
        };
        let folder = tempfile::tempdir().unwrap();
        let [plain, colon] = ["a:b.safetensors", "c:0.5"].map(|name| folder.path().join(name).display().to_string());
        fs::write(&plain, "").unwrap();
        fs::write(&colon, "").unwrap();
        assert_eq!(of(&plain), (PathBuf::from(&plain), 1.0));
        assert_eq!(of(&format!("{plain}:-0.25")), (PathBuf::from(&plain), -0.25));
        assert_eq!(of(&colon), (PathBuf::from(&colon), 1.0), "a file of the whole name");
        assert_eq!(of(&format!("{colon}:2")), (PathBuf::from(&colon), 2.0));
        assert_eq!(of("gone.safetensors:1e-1"), ("gone.safetensors".into(), 0.1));
        assert_eq!(of("owner/name:file.safetensors:0.8"), ("owner/name:file.safetensors".into(), 0.8));
        let home = std::env::var("HOME").unwrap();
        for typed in ["~/gone.safetensors:0.5", "$HOME/gone.safetensors:0.5", "${HOME}/gone.safetensors:0.5"] {
            assert_eq!(of(typed), (Path::new(&home).join("gone.safetensors"), 0.5), "{typed}");
        }
        for scale in ["inf", "nan", "1e39", "-1001"] {
            assert!(format!("x:{scale}").parse::<Scaled>().unwrap_err().contains("from -1000 to 1000"), "{scale}");
        }
        assert!(":0.5".parse::<Scaled>().is_err());
    }

    #[test]
    fn ids_with_a_file() {
        let of = |text: &str| id(Path::new(text)).map(|id| (id.to_string(), id.file));
        assert_eq!(of("a/b"), Some(("a/b".into(), None)));
        assert_eq!(of("a/b:c/d.safetensors"), Some(("a/b".into(), Some("c/d.safetensors".into()))));
        assert_eq!(of("a/b@main:c.safetensors"), Some(("a/b@main".into(), Some("c.safetensors".into()))));
        for path in ["a/b.safetensors", "a", "a/b/c", "a/b:", "./a/b:c"] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn the_file_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let never = || -> hub::Result<hub::Hub> { panic!("the hub is asked") };
        let found = || {
            let mut adapter = Adapter::from(folder.path().to_owned());
            adapter.fetch(&never, &hub::Silent).map(|()| adapter.to_path_buf())
        };
        let error = found().unwrap_err().to_string();
        assert!(error.contains("has no LoRA in safetensors"), "{error}");
        let inside = folder.path().join("unet");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("adapter_model.safetensors"), "").unwrap();
        let error = found().unwrap_err().to_string();
        assert!(error.ends_with("has its LoRAs in unet/adapter_model.safetensors: name one of them"), "{error}");
        fs::remove_dir_all(inside).unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        write("b.safetensors");
        assert_eq!(found().unwrap(), folder.path().join("b.safetensors"));
        write("a.safetensors");
        let error = found().unwrap_err().to_string();
        assert!(error.ends_with("has a.safetensors, b.safetensors: name one of them"), "{error}");
        write("adapter_model.safetensors");
        assert_eq!(found().unwrap(), folder.path().join("adapter_model.safetensors"));
        // a run: its newest checkpoint, then its result
        write("events.jsonl");
        fs::create_dir_all(folder.path().join("checkpoints/step-11")).unwrap(); // incomplete
        for file in [
            "checkpoints/step-9/adapter.safetensors",
            "checkpoints/step-10/adapter.safetensors",
            "adapter/pytorch_lora_weights.safetensors",
        ] {
            fs::create_dir_all(folder.path().join(file).parent().unwrap()).unwrap();
            write(file);
            assert_eq!(found().unwrap(), folder.path().join(file));
        }
        fs::remove_file(folder.path().join("events.jsonl")).unwrap();
        write("model_index.json");
        assert!(found().unwrap_err().to_string().contains("is a model's folder"));
    }
}
