//! `run.toml`: everything that a run depends on.

mod anchor;
mod attention;
mod changes;
mod extends;
mod fetching;
mod fidelity;
mod logging;
mod memory;
mod micro_batch;
mod mixed;
mod networks;
mod one_or_more;
mod parse;
mod preference;
mod ranks;
pub mod reference;
mod replay;
mod rewards;
mod training;
mod watching;

use anyhow::{Result, bail};
use diffusion::settings::paths;
use diffusion::settings::{above_zero, counts, in_range};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use ::ranks::Backend;
pub use anchor::Anchor;
pub use attention::{Attention, Form, Segmenter};
pub use changes::changed_settings;
pub use diffusion::settings::{Adapter, Dtype, HubOf, Location, SamplerKind, Sampling, Scaled, Where};
pub use fetching::fetch_tokenizer;
pub use fidelity::Fidelity;
pub use images::Size;
pub use logging::Logging;
pub use memory::{Keep, Memory};
pub use micro_batch::{MicroBatch, pieces};
pub use mixed::Mixed;
pub use networks::{Captioner, Model, Reduction};
pub use one_or_more::OneOrMore;
pub use parse::{parse_table, read, read_with};
pub use preference::Preference;
pub use ranks::Ranks;
pub use replay::{Mode, Policy, Replay};
pub use rewards::{Reward, RewardKind};
pub use training::{Checkpoints, Lora, Optimizer, Prodigy, RateSchedule, Rule, Train};
pub use watching::{Judge, SamplePrompts, Samples, Validation};

/// The most that a rank can be: no layer of these networks has use for more.
const MOST_RANK: i64 = 4096;

/// The settings of a run. Paths are relative to the folder that the program is started in; `~`, `$NAME` and `${NAME}` in them mean what
/// they mean to a shell.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Settings of comat")]
pub struct Config {
    /// Another configuration file, or the name of a preset, whose settings are used where this file has none. Sections
    /// are merged key by key; `attention = false` (or `anchor`, `fidelity`, `mixed`, `preference`) leaves an optional section out. A
    /// relative path begins at this file's folder.
    #[serde(default, skip_serializing)]
    pub extends: Option<String>,
    /// The run's own folder: log, samples, checkpoints, the finished LoRA. It is made where it does not exist.
    #[serde(deserialize_with = "paths::one")]
    pub output: PathBuf,
    /// Seed of all random numbers of the run: the order of the prompts, noise, tracked steps, the first weights of the LoRA.
    #[serde(default)]
    pub seed: u64,
    pub model: Model,
    pub captioner: Captioner,
    /// There can be several of this section, or none.
    #[serde(default, rename = "reward", skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<Reward>,
    pub prompts: Prompts,
    #[serde(default)]
    pub sampling: Sampling,
    #[serde(default)]
    pub replay: Replay,
    /// Optional: without this section there is no anchor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
    /// Optional: without this section the run follows the gradient of its rewards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<Preference>,
    /// Optional: without this section there are no losses on attention maps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    /// Optional: without this section there is no discriminator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// Optional: without this section the run trains on prompts alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixed: Option<Mixed>,
    #[serde(default)]
    pub lora: Lora,
    #[serde(default)]
    pub optimizer: Optimizer,
    #[serde(default)]
    pub train: Train,
    #[serde(default)]
    pub checkpoints: Checkpoints,
    #[serde(default)]
    pub samples: Samples,
    #[serde(default)]
    pub validation: Validation,
    #[serde(default, skip_serializing_if = "Ranks::is_default")]
    pub ranks: Ranks,
    #[serde(default)]
    pub memory: Memory,
    #[serde(default)]
    pub logging: Logging,
}

/// What is trained on.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// File with the training prompts: `.txt`, a prompt a line, `.jsonl`, an object with the key `prompt` a line, or `.json`, `.csv` or `.tsv`.
    #[serde(deserialize_with = "paths::one")]
    pub train: PathBuf,
    /// File with held-out prompts, which the run never trains on; `[validation]` measures on them.
    #[serde(default, deserialize_with = "paths::maybe", skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// Name of a field of the training prompts, such as `category`: the samples take each of its values in turn, so that
    /// prompts of a rare one are used more often. Default: all prompts are used equally often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    /// The largest number of chunks of 75 tokens that a long prompt is cut into, as A1111, ComfyUI and sd-scripts do. 1: the prompt ends
    /// after 75 tokens, as in diffusers.
    #[schemars(range(min = 1, max = 6), extend("default" = 1))]
    #[serde(default = "Prompts::one_chunk", skip_serializing_if = "Prompts::is_one")]
    pub chunks: usize,
}

impl Prompts {
    /// Contexts of all lengths up to it have a common one that is not out of reach.
    pub const MOST_CHUNKS: usize = 6;

    fn one_chunk() -> usize {
        1
    }

    fn is_one(chunks: &usize) -> bool {
        *chunks == 1
    }

    fn check(&self) -> Result<()> {
        match self.chunks {
            1..=Self::MOST_CHUNKS => Ok(()),
            chunks => bail!("prompts.chunks is {chunks}, it must be from 1 to {}", Self::MOST_CHUNKS),
        }
    }
}

impl Config {
    /// Refuses values that no run can have.
    pub fn check(&self) -> Result<()> {
        self.prompts.check()?;
        self.captioner.check()?;
        rewards::check(&self.rewards)?;
        self.sampling.check()?;
        self.check_sampler()?;
        self.replay.check(self.preference.is_none().then_some(&self.sampling))?;
        self.anchor.iter().try_for_each(Anchor::check)?;
        self.check_preference()?;
        self.attention.iter().try_for_each(Attention::check)?;
        self.fidelity.iter().try_for_each(Fidelity::check)?;
        self.mixed.iter().try_for_each(Mixed::check)?;
        self.lora.check()?;
        self.optimizer.check()?;
        self.train.check()?;
        self.samples.check()?;
        self.validation.check(&self.prompts)?;
        self.ranks.check()?;
        self.memory.tiling()?;
        self.logging.check()?;
        Ok(())
    }

    /// Whether the decoder's graph is kept when so many samples are decoded.
    pub fn keeps_decoder(&self, samples: usize) -> bool {
        let (memory, pieces) = (&self.memory, self.captioner.micro_batch.samples());
        let whole = pieces == 0 || pieces >= samples;
        // preferences need no gradient from it
        self.preference.is_none()
            && memory.keep_decoder.keeps()
            && whole
            && memory.vae_tile.is_none()
            && !memory.offload
    }

    /// Refuses a sampler whose trajectories are not replayed.
    fn check_sampler(&self) -> Result<()> {
        let sampler = self.sampling.sampler;
        if sampler.trains() {
            return Ok(());
        }
        let same = if sampler == SamplerKind::EulerA { " (ddpm takes the same steps)" } else { "" };
        bail!(
            "sampling.sampler is {sampler}, which draws images but does not train; train with one of {}{same} (samples.sampler is that of the samples)",
            SamplerKind::names(SamplerKind::trains)
        )
    }

    /// Refuses ranks that would not compute the same.
    ///
    /// # Errors
    /// A rank with another configuration, other prompts or another version of the program.
    pub fn check_same(&self, ranks: &::ranks::ProcessGroup) -> Result<()> {
        let prompts = std::fs::read(&self.prompts.train).unwrap_or_default(); // whoever needs them says what is wrong
        let text = format!("{} {} {prompts:?}", env!("CARGO_PKG_VERSION"), toml::to_string(self)?);
        ranks.check_same("configuration, other training prompts or another version of comat", text.as_bytes())
    }
}
