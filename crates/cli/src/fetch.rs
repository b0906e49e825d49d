//! Fetches models that are named by an id of the hub, with a progress bar, before anything is opened.

use crate::{args::shared::Engine, console::Console, share};
use anyhow::{Context, Result};
use config::{self, Config};
use diffusion::{
    pipeline::{Overrides, Pipeline, is_single_file},
    settings::{Adapter, Location, Scaled},
};
use hub::{Hub, Layout, Progress, Settings};
use indicatif::ProgressBar;
use std::path::PathBuf;

/// Fetches all models of a configuration.
pub fn config(config: &mut Config, console: &Console) -> Result<()> {
    let bar = bar(console)?;
    config.fetch(&hub, &bar)
}

/// Fetches a model that an option names.
pub fn option(
    option: &'static str,
    location: &mut Location,
    layout: Layout,
    variant: Option<&str>,
    console: &Console,
) -> Result<()> {
    let bar = bar(console)?;
    location.fetch(layout, variant, &hub, &bar).context(option)
}

/// Fetches the model of `--model`, and a tokenizer if the model is a single file.
pub fn model(
    location: &mut Location,
    variant: Option<&str>,
    tokenizer: &mut Option<Location>,
    console: &Console,
) -> Result<()> {
    let bar = bar(console)?;
    location.fetch(Layout::Diffusion, variant, &hub, &bar).context("--model")?;
    config::fetch_tokenizer(location, tokenizer, &hub, &bar)
}

/// Finds or fetches the file of an adapter that is named by a folder or an id.
/// `option`: the one that names it, for errors.
pub fn adapter(option: Option<&'static str>, adapter: &mut Adapter, console: &Console) -> Result<()> {
    let bar = bar(console)?;
    let fetched = adapter.fetch(&hub, &bar);
    match option {
        Some(option) => fetched.context(option),
        None => fetched,
    }
}

/// The files of `--lora`, each with its strength times `factor`.
pub fn loras(named: &[Scaled], factor: f64, console: &Console) -> Result<Vec<(PathBuf, f64)>> {
    let file = |Scaled { adapter, scale }: &Scaled| {
        let mut adapter = share::adapter(adapter);
        self::adapter(Some("--lora"), &mut adapter, console)?;
        Ok((adapter.to_path_buf(), scale * factor))
    };
    named.iter().map(file).collect()
}

fn hub() -> hub::Result<Hub> {
    Ok(Hub::new(Settings::from_env()?))
}

fn bar(console: &Console) -> Result<Bar> {
    Ok(Bar(console.bar("fetch", "{msg} {bytes}/{total_bytes} · {bytes_per_sec} · ETA {eta}")?))
}

/// One progress bar for all files, one after the other. Ctrl-C needs no handling: downloaded parts stay, and the next
/// call continues them.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn file(&self, name: &str, size: u64) {
        self.0.set_length(size);
        self.0.set_message(name.to_owned());
        self.0.reset();
    }

    fn at(&self, bytes: u64) {
        if self.0.position() == 0 && bytes > 1 << 20 {
            self.0.reset_eta(); // bytes of an earlier attempt say nothing about the speed
        }
        self.0.set_position(bytes);
    }

    fn end(&self) {}
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Fetches the model if necessary, and opens it.
pub fn pipeline(
    mut model: Location,
    variant: Option<&str>,
    mut tokenizer: Option<Location>,
    overrides: Overrides,
    engine: &Engine,
    console: &Console,
) -> Result<Pipeline> {
    self::model(&mut model, variant, &mut tokenizer, console)?;
    if let Some(given) = tokenizer.as_ref().filter(|_| !is_single_file(&model)) {
        tracing::warn!("no effect: --tokenizer {}; a model in a folder has its own", given.typed().display());
    }
    Pipeline::open_at(&model, variant, tokenizer.as_deref(), overrides, engine.precision(), engine.device.device()?)
}
