//! Finds the files that are shipped with the program (presets and the miniature world), from any working folder.

use anyhow::{Result, bail};
use config::{self, Config};
use diffusion::settings::{Adapter, Location, paths};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Environment variable that names the folder of the shipped files, if it is not one of the usual folders.
pub const VARIABLE: &str = "COMAT_SHARE";

/// The folder with `configs/` and `weights/`: the folder that COMAT_SHARE names, a folder beside the binary
/// (`bin/comat` and `share/` or `share/comat/`), or the checkout that the binary was built in.
pub fn folder() -> Option<PathBuf> {
    let whole = |folder: &PathBuf| folder.join("configs/world.toml").exists();
    if let Some(named) = env::var_os(VARIABLE) {
        return Some(PathBuf::from(named)).filter(whole);
    }
    let binary = env::current_exe().and_then(fs::canonicalize).ok();
    let prefix = binary.as_deref().and_then(Path::parent).and_then(Path::parent);
    let beside = prefix.into_iter().flat_map(|prefix| [prefix.join("share"), prefix.join("share/comat")]);
    beside.chain(option_env!("COMAT_CHECKOUT").map(PathBuf::from)).find(whole)
}

/// What to do if [`folder`] finds nothing.
pub fn advice() -> String {
    format!("set {VARIABLE} to the folder that holds configs/ and weights/world/ of comat")
}

/// Expands `~` and variables. A relative path that does not exist but is shipped becomes that of the shipped file.
pub fn path(text: &str) -> Result<PathBuf, String> {
    Ok(shipped(&paths::expanded(Path::new(text))?))
}

/// Like [`path`], for a model. Ids of the hub are left as they are.
pub fn model(text: &str) -> Result<Location, String> {
    Ok(path(text)?.into())
}

/// Like [`path`], for a LoRA. Ids of the hub are left as they are.
pub fn adapter(named: &Adapter) -> Adapter {
    let found = shipped(named);
    if found == **named { named.clone() } else { found.into() }
}

fn shipped(path: &Path) -> PathBuf {
    if path.is_absolute() || path.as_os_str().is_empty() || path.exists() {
        return path.to_owned();
    }
    folder().map(|share| share.join(path)).filter(|found| found.exists()).unwrap_or_else(|| path.to_owned())
}

/// Reads a configuration: a file, or a preset by its name. Shipped files that it names are found from any working
/// folder.
pub fn config(file: &Path, settings: &[String]) -> Result<Config> {
    let mut config =
        config::read_with(&preset(file)?, settings, folder().map(|share| share.join("configs")).as_deref())?;
    let rewards = config.rewards.iter_mut().map(|reward| &mut reward.path);
    for model in [&mut config.model.path, &mut config.captioner.path].into_iter().chain(rewards) {
        let found = shipped(model.typed());
        if found != model.typed() {
            *model = found.into();
        }
    }
    config.lora.init.0.iter_mut().for_each(|scaled| scaled.adapter = adapter(&scaled.adapter));
    let prompts = &mut config.prompts;
    prompts.train = shipped(&prompts.train);
    prompts.validation = prompts.validation.as_deref().map(shipped);
    // the files that presets name are made by `comat prompts`
    let held_out = "prompts/held_out.jsonl";
    let is_missing = |file: &Path, name: &str| file == Path::new(name) && !file.exists();
    if is_missing(&prompts.train, "prompts/train.jsonl") {
        let option = if Path::new(held_out).exists() { String::new() } else { format!(" --held-out {held_out}") };
        bail!(
            "{train}: no such file or folder; `comat prompts --out {train}{option}` makes prompts to train on, or write your own",
            train = prompts.train.display(),
        );
    }
    if config.validation.judge.is_none() && prompts.validation.as_deref().is_some_and(|file| is_missing(file, held_out))
    {
        tracing::warn!(
            "{held_out} is not there, so there is no validation; `comat prompts --held-out {held_out} --overwrite` makes it and \
             prompts/train.jsonl anew, or name a file of your own by prompts.validation"
        );
        prompts.validation = None;
    }
    Ok(config)
}

/// The file of a configuration that is given by its path or by the name of a preset.
pub fn preset(file: &Path) -> Result<PathBuf> {
    let name = file.to_str().filter(|name| !name.contains(['/', '\\', '.']));
    let Some(name) = name.filter(|_| !file.exists()) else { return Ok(shipped(file)) };
    let found = folder().map(|share| share.join("configs").join(name).with_extension("toml"));
    match found {
        Some(found) if found.exists() => Ok(found),
        Some(_) => bail!("{name}: no such file, and no preset of that name; presets are {}", presets().join(", ")),
        None => bail!("{name}: no such file, and presets are not found; {}", advice()),
    }
}

/// Names of the presets.
pub fn presets() -> Vec<String> {
    let entries = folder().and_then(|share| fs::read_dir(share.join("configs")).ok()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "toml"));
    let mut names: Vec<String> = paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}
