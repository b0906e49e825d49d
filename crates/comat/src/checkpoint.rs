//! Everything that is needed to go on exactly where a run stopped, in a folder that is whole or not there.

use crate::discriminator::Discriminator;
use anyhow::{Result, bail, ensure};
use config::{Config, Rule};
use models::{
    Error,
    lora::{self, Lora, Trainable},
    tensors::{self, Tensors},
    weights::Weights,
};
use optim::{Ema, Stateful, Updater};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};
use tch::{Device, Kind, Tensor};

const ADAPTER: &str = "adapter.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const DISCRIMINATOR: &str = "discriminator.safetensors";
const DISCRIMINATOR_OPTIMIZER: &str = "discriminator.optimizer.safetensors";
const EMA: &str = "ema.safetensors";
const STATE: &str = "state.json";
/// In the metadata of moments: whose they are.
const RULE: &str = "optimizer";
/// What the name of a checkpoint ends in while another one of the same step takes its place.
const REPLACED: &str = ".replaced";
/// What the name of a folder that is not whole ends in.
const PARTIAL: &str = ".partial";
const LATEST_PARTIAL: &str = "latest.partial";

/// Besides tensors: random draws depend on seed and step alone, so these numbers are all of the random state too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done, those that were skipped among them.
    pub step: u64,
    /// Steps skipped so far, and how many of them were the last ones, since something was not finite.
    #[serde(default)]
    pub skipped: u64,
    #[serde(default)]
    pub skipped_in_a_row: u64,
    pub seed: u64,
    /// Prompts seen in one epoch, and a digest of them: another file would be another order.
    pub prompts: String,
    pub version: String,
}

impl State {
    /// Refuses to go on with other prompts or another seed: the draws would not be those of one run.
    pub fn check(&self, seed: u64, prompts: &str, path: &Path) -> Result<()> {
        if self.seed != seed {
            bail!("{}: the run was started with seed {}, the configuration says {seed}", path.display(), self.seed);
        }
        if self.prompts != prompts {
            bail!(
                "{}: the training prompts (or prompts.balance) have changed since the run was started; start another run",
                path.display()
            );
        }
        Ok(())
    }
}

pub struct Checkpoint {
    pub state: State,
    pub adapter: Trainable,
    pub optimizer: Updater,
}

/// What a run has learned so far.
pub struct Parts<'a> {
    pub adapter: &'a Trainable,
    pub optimizer: &'a Updater,
    pub discriminator: Option<&'a Discriminator>,
    pub ema: Option<&'a Ema>,
}

/// Writes `ROOT/step-N` and points `ROOT/latest` to it, then removes all but the newest `keep` (0: none is removed).
pub fn save(root: &Path, state: &State, parts: &Parts, config: &Config) -> Result<PathBuf> {
    let Parts { adapter, optimizer, discriminator, ema } = *parts;
    let name = format!("step-{}", state.step);
    let (partial, folder) = (root.join(partial_name(&name)), root.join(&name));
    let latest = root.join(LATEST_PARTIAL);
    let write = || -> Result<()> {
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(Error::io(&partial))?;
        }
        models::make_folder(&partial)?;
        lora::write_peft(&adapter.lora, &partial.join(ADAPTER))?;
        tensors::write(&partial.join(OPTIMIZER), &moments(adapter, optimizer), metadata(optimizer))?;
        if let Some(Discriminator { trained, optimizer, skipped, .. }) = discriminator {
            let values = trained.parameters().into_iter().map(|(key, t)| (key, t.detach())).collect();
            tensors::write(&partial.join(DISCRIMINATOR), &values, HashMap::new())?;
            let mut metadata = metadata(optimizer);
            metadata.insert("skipped".into(), skipped.to_string());
            tensors::write(&partial.join(DISCRIMINATOR_OPTIMIZER), &moments(trained, optimizer), metadata)?;
        }
        if let Some(ema) = ema {
            lora::write_peft(&ema.lora(adapter), &partial.join(EMA))?;
        }
        models::write_text(&partial.join("config.toml"), &toml::to_string(config)?)?;
        models::write_text(&partial.join(STATE), &serde_json::to_string_pretty(state)?)?;
        models::write_text(&latest, &name)?; // all that needs room on the disk is written now
        let before = root.join(format!("{name}{REPLACED}"));
        if folder.exists() {
            // the same step, saved again after a resume: until the new one is there, the old one is found by this name
            if before.exists() {
                fs::remove_dir_all(&before).map_err(Error::io(&before))?;
            }
            fs::rename(&folder, &before).map_err(Error::io(&folder))?;
        }
        fs::rename(&partial, &folder).map_err(Error::io(&folder))?;
        fs::rename(&latest, root.join("latest")).map_err(Error::io(root))?;
        models::sync_folder(root)?;
        if before.exists() {
            fs::remove_dir_all(&before).map_err(Error::io(&before))?;
        }
        Ok(())
    };
    if let Err(error) = write() {
        let _ = (fs::remove_dir_all(&partial), fs::remove_file(&latest));
        return Err(
            error.context(format!("checkpoint {} was not written; earlier ones are untouched", folder.display()))
        );
    }
    remove_old(root, config.checkpoints.keep, &folder)?;
    Ok(folder)
}

/// Removes what a run that was killed while it saved has left in `root`: half a checkpoint, one that another of the same step has
/// replaced, and those beyond the newest `keep` (0: none) but the one at `current`, which the run goes on from. Nobody may be writing there.
///
/// # Errors
/// What cannot be removed.
pub fn tidy(root: &Path, keep: usize, current: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    let current = &current.canonicalize().unwrap_or_else(|_| current.to_owned());
    for entry in fs::read_dir(root).map_err(Error::io(root))? {
        let path = entry.map_err(Error::io(root))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let half = name.starts_with(".step-") && name.ends_with(PARTIAL);
        let replaced = name.strip_suffix(REPLACED).is_some_and(|step| root.join(step).join(STATE).exists());
        if half || (replaced && !same(&path, current)) {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        } else if name == LATEST_PARTIAL {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    remove_old(root, keep, current)
}

/// Removes all but the newest `keep` checkpoints (0: none is removed) and `current`.
fn remove_old(root: &Path, keep: usize, current: &Path) -> Result<()> {
    let all = if keep > 0 { steps(root)? } else { vec![] };
    for (_, old) in all.iter().rev().skip(keep).filter(|(_, path)| !same(path, current)) {
        // under this name nobody takes what is left of it for a checkpoint, if the process is killed on the way
        let name = old.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let partial = root.join(partial_name(name));
        fs::rename(old, &partial).map_err(Error::io(old))?;
        fs::remove_dir_all(&partial).map_err(Error::io(&partial))?;
    }
    Ok(())
}

/// Whether both are there and lead to the same place, however they are written.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// What the folder of a checkpoint is called while it is not whole.
fn partial_name(name: &str) -> String {
    format!(".{name}{PARTIAL}")
}

/// Reads a checkpoint back onto a device.
pub fn load(path: &Path, weights: &Weights, config: &Config, kind: Kind, device: Device) -> Result<Checkpoint> {
    let state = path.join(STATE);
    let text = fs::read_to_string(&state).map_err(Error::io(&state))?;
    let state: State = serde_json::from_str(&text).map_err(|e| Error::file(&state, e.to_string()))?;
    let lora = Lora::read(&path.join(ADAPTER), weights)?;
    if let Some((layer, pair)) =
        lora.pairs().find(|(_, p)| p.rank() != config.lora.rank || p.alpha != config.lora.alpha())
    {
        bail!(
            "{}: {layer} has rank {} and alpha {}, the configuration says {} and {}; a run cannot change them on the way",
            path.display(),
            pair.rank(),
            pair.alpha,
            config.lora.rank,
            config.lora.alpha()
        );
    }
    let layers = weights.layers(&config.lora.targets).count();
    if lora.pairs().count() != layers {
        bail!("{}: it adapts {} layers, lora.targets name {layers}", path.display(), lora.pairs().count());
    }
    let adapter = lora.trainable(kind, device);
    let mut optimizer = Updater::new(&config.optimizer, &adapter.flat);
    let metadata = read_moments(&path.join(OPTIMIZER), &adapter, &mut optimizer)?;
    *optimizer.state_mut().updates = number(&metadata, "updates").unwrap_or(state.step); // older files: no step was skipped
    Ok(Checkpoint { state, adapter, optimizer })
}

/// Puts a discriminator back to where it was.
pub fn load_discriminator(path: &Path, discriminator: &mut Discriminator) -> Result<()> {
    let file = path.join(DISCRIMINATOR);
    if !file.exists() {
        bail!(
            "{}: it has no discriminator, since the run had no [fidelity] then; go on from a checkpoint that has one, without \
             [fidelity], or start another run",
            path.display()
        );
    }
    let (values, _) = tensors::read(&file)?;
    let values = flat_of(&file, "", &values, &discriminator.trained)?;
    tch::no_grad(|| discriminator.trained.flat.copy_(&values));
    let file = path.join(DISCRIMINATOR_OPTIMIZER);
    let metadata = read_moments(&file, &discriminator.trained, &mut discriminator.optimizer)?;
    let updates = number(&metadata, "updates");
    discriminator.optimizer.updates =
        updates.ok_or_else(|| Error::file(&file, "the number of updates is missing from its metadata"))?;
    discriminator.skipped = number(&metadata, "skipped").unwrap_or(0);
    Ok(())
}

/// Puts a running average back to where it was. A run that had none until now starts it from the adapter.
pub fn load_ema(path: &Path, weights: &Weights, adapter: &Trainable, ema: &mut Ema) -> Result<()> {
    let file = path.join(EMA);
    if file.exists() {
        let lora = Lora::read(&file, weights)?;
        ema.flat = lora.trainable(adapter.flat.kind(), adapter.flat.device()).flat;
        if ema.flat.size() != adapter.flat.size() {
            return Err(Error::file(&file, "is not of the adapter beside it").into());
        }
    }
    Ok(())
}

/// The metadata of a file of moments. That of AdamW does not name its rule.
fn metadata(optimizer: &dyn Stateful) -> HashMap<String, String> {
    let state = optimizer.state();
    let mut metadata = HashMap::from([("updates".to_owned(), state.updates.to_string())]);
    if optimizer.rule() != Rule::AdamW {
        metadata.insert(RULE.into(), optimizer.rule().name().into());
    }
    // as texts that are read back to the same numbers
    metadata.extend(state.numbers.iter().map(|(key, number)| ((*key).to_owned(), number.to_string())));
    metadata
}

fn number<T: FromStr>(metadata: &HashMap<String, String>, key: &str) -> Option<T> {
    metadata.get(key)?.parse().ok()
}

fn moments(trained: &Trainable, optimizer: &dyn Stateful) -> Tensors {
    let mut moments = Tensors::new();
    for (prefix, flat) in optimizer.state().tensors {
        let views = trained.views_of(flat);
        let keys = trained.parameters().into_iter().map(|(key, _)| format!("{prefix}.{key}"));
        moments.extend(keys.zip(views));
    }
    moments
}

/// Everything but the number of updates, which older files lack. Returns the file's metadata.
fn read_moments(file: &Path, trained: &Trainable, optimizer: &mut dyn Stateful) -> Result<HashMap<String, String>> {
    let (moments, metadata) = tensors::read(file)?;
    let (was, is) = (metadata.get(RULE).map_or(Rule::AdamW.name(), String::as_str), optimizer.rule().name());
    if was != is {
        bail!(
            "{}: it is of {was}, optimizer.kind says {is}; a run cannot change its optimizer on the way, start another run",
            file.display()
        );
    }
    let state = optimizer.state_mut();
    for (prefix, flat) in state.tensors {
        *flat = flat_of(file, &format!("{prefix}."), &moments, trained)?;
    }
    for (key, value) in state.numbers {
        let what = format!("{key} is missing from its metadata");
        *value = number(&metadata, key).ok_or_else(|| Error::file(file, what))?;
    }
    Ok(metadata)
}

/// A flat buffer like that of the trained weights, from a tensor for each of them.
fn flat_of(file: &Path, prefix: &str, tensors: &Tensors, trained: &Trainable) -> Result<Tensor> {
    let (device, kind) = (trained.flat.device(), trained.flat.kind());
    let parts = trained.parameters().into_iter().map(|(key, weight)| {
        let key = format!("{prefix}{key}");
        match tensors.get(&key) {
            Some(t) if t.size() == weight.size() => Ok(t.to_device(device).to_kind(kind).contiguous().view([-1])),
            Some(t) => Err(Error::file(file, format!("{key} has shape {:?}, expected {:?}", t.size(), weight.size()))),
            None => Err(Error::file(file, format!("{key} is missing"))),
        }
    });
    Ok(Tensor::cat(&parts.collect::<Result<Vec<_>, _>>()?, 0))
}

/// The checkpoint that `--resume latest` or `--resume DIR` means, where DIR may also be a run's folder, of which it is the latest;
/// `auto` is the latest, or none where there is none yet.
pub fn find(root: &Path, which: &str) -> Result<Option<PathBuf>> {
    if which != "latest" && which != "auto" {
        let path = PathBuf::from(which);
        if path.join("checkpoints").is_dir() {
            return find(&path.join("checkpoints"), "latest");
        }
        ensure!(path.join(STATE).exists(), "{}: no checkpoint there ({STATE} is missing)", path.display());
        return Ok(Some(path));
    }
    match fs::read_to_string(root.join("latest")).map(|name| root.join(name.trim())) {
        Ok(path) if path.join(STATE).exists() => Ok(Some(path)),
        // `latest` is only a hint; the folders are the truth
        _ => match steps(root)?.pop() {
            Some((_, path)) => Ok(Some(path)),
            None if which == "auto" => Ok(None),
            None => bail!(
                "{}: there is no checkpoint yet to resume from; start without --resume, or with --resume auto",
                root.display()
            ),
        },
    }
}

/// Complete checkpoints by step, oldest first; each step once.
pub fn steps(root: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !root.exists() {
        return Ok(vec![]);
    }
    let mut found = vec![];
    for entry in fs::read_dir(root).map_err(Error::io(root))? {
        let path = entry.map_err(Error::io(root))?.path();
        let step = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_prefix("step-"))
            .and_then(|n| n.strip_suffix(REPLACED).unwrap_or(n).parse().ok());
        if let (Some(step), true) = (step, path.join(STATE).exists()) {
            found.push((step, path));
        }
    }
    found.sort(); // `step-7` before `step-7.replaced`
    found.dedup_by_key(|(step, _)| *step);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_run_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let checkpoint = |name: &str, whole: bool| {
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(name).join("config.toml"), "").unwrap();
            if whole {
                fs::write(root.join(name).join(STATE), "{}").unwrap();
            }
        };
        for step in [2, 4, 6, 8] {
            checkpoint(&format!("step-{step}"), true);
        }
        checkpoint("step-8.replaced", true); // killed before it was removed
        checkpoint("step-9.replaced", true); // killed before the new one had its name: this is step 9
        checkpoint(".step-10.partial", false); // killed while it was written
        checkpoint(".step-1.partial", true); // killed while it was removed
        checkpoint("step-7", false); // of the user, or of an older version
        fs::write(root.join(LATEST_PARTIAL), "step-10").unwrap();
        fs::write(root.join("notes.txt"), "").unwrap();
        tidy(root, 2, &root.join("./step-4/../step-4/")).unwrap();
        assert_eq!(names(root), ["notes.txt", "step-4", "step-7", "step-8", "step-9.replaced"]); // not step-7: it is no checkpoint
        tidy(root, 0, &root.join("step-4")).unwrap(); // all are kept
        assert_eq!(names(root), ["notes.txt", "step-4", "step-7", "step-8", "step-9.replaced"]);
        tidy(&root.join("absent"), 2, root).unwrap();
    }
}
