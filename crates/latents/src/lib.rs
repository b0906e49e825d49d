//! Latents of the original model, one sample for every prompt that a run reaches: the discriminator's real examples.
//! They are generated once, and runs can share them.
//!
//! A folder holds `latents.json` and shards `NNNNN.safetensors` with a tensor `latents` `[n, C, h, w]` in float16. A
//! shard is listed in the index once it is complete, so sampling that was stopped continues after the last one.

mod origin;
mod pace;

pub use origin::Origin;

use anyhow::{Context, Result, bail};
use config::Config;
use diffusion::{denoiser::Denoiser, pipeline::Pipeline, random, trajectory};
use indicatif::ProgressBar;
use models::write_text;
use models::{Error, schedule::Sampler, tensors};
use pace::Pace;
use ranks::{ProcessGroup, interrupt::Interrupt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};
use torch_ext::Generator;

/// Latents per shard.
const SHARD: usize = 256;
const INDEX: &str = "latents.json";

#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(flatten)]
    origin: Origin,
    shards: Vec<Shard>,
}

#[derive(Serialize, Deserialize)]
struct Shard {
    file: String,
    sha256: String,
    /// Prompts in the order of the rows.
    prompts: Vec<String>,
}

/// A folder of latents.
pub struct Store {
    folder: PathBuf,
    index: Index,
    values: Vec<Tensor>,
    /// Shard and row of a prompt.
    rows: HashMap<String, (usize, i64)>,
}

impl Store {
    fn new(folder: &Path, origin: Origin) -> Self {
        let index = Index { origin, shards: vec![] };
        Self { folder: folder.to_owned(), index, values: vec![], rows: HashMap::new() }
    }

    /// Opens a folder, which need not exist yet. Every shard is checked against its digest.
    ///
    /// # Errors
    /// Latents of another model, or sampled in another way; a shard that is missing or damaged.
    pub fn open(folder: &Path, origin: Origin) -> Result<Self> {
        let path = folder.join(INDEX);
        let mut store = Self::new(folder, origin);
        if !path.exists() {
            return Ok(store);
        }
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let index: Index = serde_json::from_str(&text)
            .map_err(|e| Error::file(&path, e.to_string()))
            .context("latents can be made again: delete their folder, and run the same command")?;
        let differences = index.origin.differences(&store.index.origin);
        if !differences.is_empty() {
            bail!(
                "{}: the latents in it are {}; choose another folder (fidelity.latents), or delete this one",
                folder.display(),
                differences.join("; ")
            );
        }
        for shard in index.shards {
            let file = folder.join(&shard.file);
            let values = read(&file, &shard, store.index.origin.shape)
                .context("latents can be made again: delete their folder, and run the same command")?;
            store.add(shard, values);
        }
        Ok(store)
    }

    /// The latents that a run has so far.
    pub fn of_run(config: &Config, pipeline: &Pipeline) -> Result<Self> {
        Self::open(&folder(config), Origin::of(config, pipeline)?)
    }

    /// Opens rank 0's latents on every rank; only rank 0 needs access to the folder.
    pub fn of_first(folder: &Path, origin: Origin, group: &ProcessGroup) -> Result<Self> {
        let leads = group.leads();
        let mut store = if leads { Self::open(folder, origin)? } else { Self::new(folder, origin) };
        if group.is_alone() {
            return Ok(store);
        }
        let index: Index = serde_json::from_str(&group.text_of_first(&serde_json::to_string(&store.index)?)?)?;
        let differences = index.origin.differences(&store.index.origin);
        if !differences.is_empty() {
            bail!("rank {}: rank 0 has latents {}", group.rank, differences.join("; "));
        }
        for (i, shard) in index.shards.into_iter().enumerate() {
            let mut values = match store.values.get(i) {
                Some(values) => values.shallow_clone(),
                None => store.index.origin.blank(shard.prompts.len()),
            };
            group.copy_of_first(&mut values)?;
            if !leads {
                store.add(shard, values);
            }
        }
        Ok(store)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn add(&mut self, shard: Shard, values: Tensor) {
        for (row, prompt) in shard.prompts.iter().enumerate() {
            self.rows.entry(prompt.clone()).or_insert((self.values.len(), row as i64));
        }
        self.index.shards.push(shard);
        self.values.push(values);
    }

    /// Prompts without latents so far, each once.
    pub fn missing<'a>(&self, prompts: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let mut seen = HashSet::new();
        prompts.into_iter().filter(|prompt| !self.rows.contains_key(*prompt) && seen.insert(*prompt)).collect()
    }

    /// One row per prompt, `[B, C, h, w]` in float32.
    pub fn of(&self, prompts: &[&str]) -> Result<Tensor> {
        let row = |prompt: &&str| match self.rows.get(*prompt) {
            Some((shard, row)) => Ok(self.values[*shard].get(*row).to_kind(Kind::Float)),
            None => bail!("{}: there are no latents of `{prompt}`; run `comat latents` again", self.folder.display()),
        };
        Ok(Tensor::stack(&prompts.iter().map(row).collect::<Result<Vec<_>>>()?, 0))
    }

    /// A message with the size of the latents of this many prompts, and the free disk space.
    pub fn plan(&self, prompts: usize) -> String {
        let size = self.index.origin.bytes() * prompts as u64;
        format!("{prompts} latents of {:?} for {}, {}", self.index.origin.shape, self.folder.display(), megabytes(size))
    }

    /// Samples the missing latents; every rank samples its share of each shard.
    #[allow(clippy::too_many_arguments)]
    pub fn make(
        &mut self,
        pipeline: &mut Pipeline,
        sampler: &Sampler,
        prompts: &[&str],
        mut pace: Pace,
        bar: &ProgressBar,
        interrupt: &Interrupt,
        group: &ProcessGroup,
    ) -> Result<()> {
        let prompts = self.missing(prompts.iter().copied());
        if group.leads() {
            self.make_room(prompts.len())?;
        }
        bar.set_prefix("latents");
        bar.set_length(prompts.len() as u64);
        let network = pipeline.network(&pipeline.weights)?;
        for prompts in prompts.chunks(SHARD) {
            let mut rows = vec![self.index.origin.blank(0)];
            let mut mine = &prompts[group.share(prompts.len())];
            while !mine.is_empty() {
                let (now, later) = mine.split_at(pace.samples.min(mine.len()));
                let device = pipeline.device;
                rows.push(
                    pace.watch(device, now.len(), || self.sample(pipeline, network.as_ref(), sampler, now, interrupt))?,
                );
                bar.inc((now.len() * group.size) as u64);
                mine = later;
            }
            let values = group.gather(&Tensor::cat(&rows, 0), prompts.len());
            let values = values.or_else(|e| interrupt.check().map_err(Into::into).and(Err(e)))?; // other ranks stopped
            self.write(values, prompts, group)?;
        }
        Ok(())
    }

    fn make_room(&self, prompts: usize) -> Result<()> {
        models::make_folder(&self.folder)?;
        let needed = self.index.origin.bytes() * prompts as u64;
        let free = fs4::available_space(&self.folder).map_err(Error::io(&self.folder))?;
        if needed > free {
            bail!("{}: {} are needed, {} are free", self.folder.display(), megabytes(needed), megabytes(free));
        }
        Ok(())
    }

    /// Samples each prompt from a random stream of its own, so that its latents do not depend on the others.
    fn sample(
        &self,
        pipeline: &mut Pipeline,
        network: &dyn models::network::Network,
        sampler: &Sampler,
        prompts: &[&str],
        interrupt: &Interrupt,
    ) -> Result<Tensor> {
        let Origin { sampling, size, shape, seed, .. } = &self.index.origin;
        let stream = |prompt: &&str| {
            let digest = Sha256::digest(format!("{seed} latents {prompt}"));
            Generator::seeded(digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte)))
        };
        let streams = prompts.iter().map(stream).collect::<Result<Vec<_>, _>>()?;
        let (start, noise) = random::noise(sampler, streams, *shape, (Kind::Float, pipeline.device))?;
        let guidance = sampling.guidance();
        let negative = (!sampling.negative_prompt.is_empty()).then_some(sampling.negative_prompt.as_str());
        let text = pipeline.text.guided(prompts, negative, guidance.is_on(), (size.height, size.width))?;
        let denoiser = Denoiser { network, guidance, kind: pipeline.kind };
        let start = sampler.start(start);
        let predict = denoiser.conditioned_on(&text);
        let none = BTreeSet::new();
        let walked = trajectory::walk(predict, sampler, start, &none, noise, || Ok(interrupt.check()?))?;
        let latents = walked.latents.to_device(Device::Cpu).to_kind(Kind::Half);
        if latents.isfinite().all().int64_value(&[]) == 0 {
            bail!("the latents of `{}` are not finite numbers; try another model.dtype", prompts.join("`, `"));
        }
        Ok(latents)
    }

    /// Rank 0 writes the shard to disk; all ranks keep it in memory.
    fn write(&mut self, values: Tensor, prompts: &[&str], group: &ProcessGroup) -> Result<()> {
        let file = format!("{:05}.safetensors", self.index.shards.len());
        let path = self.folder.join(&file);
        let values = values.contiguous();
        if !group.leads() {
            let prompts = prompts.iter().map(|p| (*p).to_owned()).collect();
            self.add(Shard { file, sha256: String::new(), prompts }, values);
            return Ok(());
        }
        let all = tensors::Tensors::from([("latents".to_owned(), values.shallow_clone())]);
        tensors::write(&path, &all, HashMap::new())?;
        let prompts = prompts.iter().map(|p| (*p).to_owned()).collect();
        self.add(Shard { file, sha256: digest(&path)?, prompts }, values);
        Ok(write_text(&self.folder.join(INDEX), &serde_json::to_string_pretty(&self.index)?)?)
    }
}

/// The folder of a run's latents.
fn folder(config: &Config) -> PathBuf {
    let named = config.fidelity.as_ref().and_then(|fidelity| fidelity.latents.clone());
    named.unwrap_or_else(|| config.output.join("latents"))
}

/// Opens the latents that a run needs, those of `prompts`, and generates the missing ones. A longer run adds to those
/// of a shorter one.
///
/// # Errors
/// The same as [`Store::open`]; too little free disk space; errors of sampling.
pub fn complete(
    config: &Config,
    pipeline: &mut Pipeline,
    prompts: &[&str],
    bar: &ProgressBar,
    interrupt: &Interrupt,
    group: &ProcessGroup,
) -> Result<Store> {
    let mut store = Store::of_first(&folder(config), Origin::of(config, pipeline)?, group)?;
    let missing = store.missing(prompts.iter().copied()).len();
    if missing > 0 {
        tracing::info!("the original model samples {}", store.plan(missing));
        let sampling = &config.sampling;
        let sampler = pipeline.noise_path.sampler(sampling.sampler, sampling.steps, sampling.eta)?;
        let pace = Pace::of(config, pipeline.device, group);
        store.make(pipeline, &sampler, prompts, pace, bar, interrupt, group)?;
    }
    Ok(store)
}

fn read(path: &Path, shard: &Shard, shape: [i64; 3]) -> Result<Tensor> {
    let (mut tensors, _) = tensors::read(path)?;
    let expected = [&[shard.prompts.len() as i64], shape.as_slice()].concat();
    let values = match tensors.remove("latents") {
        Some(values) if values.size() == expected => values,
        _ => return Err(Error::file(path, format!("there is no tensor latents {expected:?} in it")).into()),
    };
    if digest(path)? != shard.sha256 {
        return Err(Error::file(path, "is not what was written; it was changed or damaged").into());
    }
    Ok(values)
}

fn digest(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(path).map_err(Error::io(path))?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(Error::io(path))? {
            0 => break,
            read => hasher.update(&piece[..read]),
        }
    }
    Ok(models::hex(&hasher.finalize()))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
