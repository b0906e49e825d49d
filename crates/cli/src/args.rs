//! Command-line arguments.

pub mod shared;
mod usage;

use crate::{
    console::Loudness,
    demo::Demo,
    doctor::Doctor,
    entities::Entities,
    evaluate::Evaluate,
    init::Init,
    lora::Lora,
    paths,
    prepare::Prepare,
    preset::Config,
    prompts::Prompts,
    report::Report,
    segment::Segment,
    share,
    shell::{Completions, Man},
    signal::Signal,
    world::World,
};
use clap::{Args as Group, CommandFactory, FromArgMatches, Parser, Subcommand};
use diffusion::settings::{Adapter, Location};
use shared::{Engine, Ranks, SamplingArgs, Source, TimedRanks, at_least_one, from_one_to, whole};
use std::{num::ParseIntError, path::PathBuf};
use workbench::plan::memory;

/// Teaches text-to-image diffusion models to draw what the prompt says.
///
/// CoMat fine-tunes a LoRA on the UNet of Stable Diffusion 1.x, 2.x or XL with prompts alone: a frozen captioner tells
/// how likely the prompt is, given the image.
#[derive(Parser)]
#[command(name = "comat", version, max_term_width = 100)]
#[command(after_help = "Start with: comat demo --quick")]
pub struct Args {
    #[command(subcommand)]
    pub verb: Verb,
    /// Print more: in training a line for each step
    #[arg(short, long, global = true, display_order = 900)]
    verbose: bool,
    /// Only warnings and errors, and what the command answers
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 901)]
    quiet: bool,
    /// Refuse keys that are not known in the configurations of models, rather than warn of them
    #[arg(long, global = true, display_order = 902)]
    pub strict: bool,
}

impl Args {
    /// Parses the command line. `~` and variables are expanded in every path, as a shell does. Ends the program where
    /// it cannot be parsed.
    pub fn typed() -> Self {
        let command = paths::expanding(Self::command());
        let parsed = command.clone().try_get_matches().and_then(|matches| Self::from_arg_matches(&matches));
        parsed.unwrap_or_else(|error| usage::exit(&error, &command))
    }

    pub fn loudness(&self) -> Loudness {
        match (self.quiet, self.verbose) {
            (true, _) => Loudness::Quiet,
            (_, true) => Loudness::Loud,
            _ => Loudness::Usual,
        }
    }
}

#[derive(Subcommand)]
pub enum Verb {
    Demo(Demo),
    Init(Init),
    Config(Config),
    Train(Train),
    Plan(Plan),
    Prepare(Prepare),
    Generate(Generate),
    Evaluate(Box<Evaluate>),
    Latents(Latents),
    Trace(Trace),
    Signal(Signal),
    Prompts(Prompts),
    Entities(Entities),
    Segment(Segment),
    Attention(Attention),
    Report(Report),
    Doctor(Doctor),
    Completions(Completions),
    Man(Man),
    /// LoRA files, for and from other programs: look into them, convert them, merge them into a model
    #[command(subcommand)]
    Lora(Lora),
    /// The built-in miniature world: 64x64 images of coloured, textured shapes
    #[command(subcommand)]
    World(World),
}

impl Verb {
    /// Whether the verb computes for longer than the program takes to start.
    pub fn computes(&self) -> bool {
        match self {
            Self::Demo(_) | Self::Train(_) | Self::Prepare(_) | Self::Generate(_) | Self::Evaluate(_) => true,
            Self::Latents(_)
            | Self::Trace(_)
            | Self::Signal(_)
            | Self::Segment(_)
            | Self::Attention(_)
            | Self::World(_) => true,
            Self::Doctor(doctor) => doctor.check,
            _ => false,
        }
    }

    /// Number of processes that share the work, if `--processes` was given.
    pub fn processes(&self) -> Option<usize> {
        match self {
            Self::Train(Train { ranks, .. })
            | Self::Generate(Generate { ranks: TimedRanks { ranks, .. }, .. })
            | Self::Latents(Latents { ranks, .. }) => ranks.processes,
            Self::Evaluate(evaluate) => evaluate.ranks.ranks.processes,
            _ => None,
        }
    }
}

/// Fine-tune a LoRA with prompts alone
///
/// The run's folder (`output` in the configuration) receives config.toml, events.jsonl, tensorboard/, samples/,
/// checkpoints/ and, at the end, adapter/ with the LoRA in two formats: pytorch_lora_weights.safetensors (diffusers) and NAME.safetensors
/// (kohya: ComfyUI, A1111). Ctrl-C gives up the step under way, saves what came before it and says how to go on.
#[derive(Group)]
pub struct Train {
    /// The run's configuration (TOML): a file, or a preset by its name, such as sd15
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: PathBuf,
    /// Change a setting, for example --set train.steps=100; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on from a checkpoint: the newest one, or the one in DIR; auto: the newest one, or anew where there is none yet
    #[arg(long, value_name = "latest|auto|DIR", num_args = 0..=1, default_missing_value = "latest")]
    pub resume: Option<String>,
    /// Print the resolved configuration, parameter counts, the plan and the memory that it needs, and stop
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub ranks: Ranks,
}

/// Say what a run would do, and how much memory it needs
///
/// Prints the resolved configuration and the plan. Then runs three small iterations with the run's own networks on its own
/// device, extends what they needed to the configured size and batch, phase by phase, and proposes micro-batches for --memory.
/// Nothing is written.
#[derive(Group)]
pub struct Plan {
    /// The run's configuration (TOML): a file, or a preset by its name, such as sd15
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: PathBuf,
    /// Change a setting, as for comat train; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Available memory, as 24GB; propose micro-batches that fit into it
    #[arg(long, value_name = "AMOUNT", value_parser = memory::parse)]
    pub memory: Option<f64>,
}

/// Draw images
///
/// Image i of a prompt is drawn from seed + i, as torch.Generator().manual_seed(seed + i) draws it, so diffusers makes
/// the same images. Every PNG carries its prompt, seed and settings in a text chunk.
#[derive(Group)]
pub struct Generate {
    #[command(flatten)]
    pub source: Source,
    /// A prompt; can be given several times
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    pub prompt: Vec<String>,
    /// Prompt file: .txt (a prompt a line), .jsonl, .json, .csv or .tsv
    #[arg(long, value_name = "FILE", value_parser = share::path)]
    pub prompts: Option<PathBuf>,
    /// Images of each prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = up_to_a_million)]
    pub count: usize,
    /// Seed of a prompt's first image
    #[arg(long, default_value_t = 0, value_parser = seed, allow_negative_numbers = true)]
    pub seed: u64,
    /// Give every image noise of its own: its seed is made from --seed, the prompt and i. To compare means over many prompts
    #[arg(long)]
    pub own_seeds: bool,
    /// Draw N candidates of each image, and keep the one for which the captioner finds the prompt likeliest. The candidates of
    /// a prompt's image i (from 0) have the seeds that its images iN to iN + N - 1 would have
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = up_to_a_million, requires = "captioner", conflicts_with = "init_latents")]
    pub best_of: usize,
    /// With --best-of: a BLIP captioner, as a folder in transformers layout or an id of the hub
    #[arg(long, value_name = "DIR|ID", requires = "best_of", value_parser = share::model)]
    pub captioner: Option<Location>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Images drawn at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    pub batch: usize,
    /// Folder for the images; made when it does not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Also write grid.png with all images
    #[arg(long)]
    pub grid: bool,
    /// Also write metadata.jsonl with the prompt of every image, so that the folder is a data set (Hugging Face's image folder)
    #[arg(long)]
    pub metadata: bool,
    /// Replace files that exist
    #[arg(long)]
    pub overwrite: bool,
    /// Go on where the same command was stopped: keep the images that it drew, and draw the others
    #[arg(long, conflicts_with_all = ["overwrite", "init_latents", "save_latents"])]
    pub resume: bool,
    /// Start from given noise: x_T [B,C,h,w]; for a stochastic sampler also z [T,B,C,h,w] (safetensors)
    #[arg(long, value_name = "FILE")]
    pub init_latents: Option<PathBuf>,
    /// Write the final latents x_0 [B,C,h,w] (safetensors)
    #[arg(long, value_name = "FILE")]
    pub save_latents: Option<PathBuf>,
    #[command(flatten)]
    pub engine: Engine,
    #[command(flatten)]
    pub ranks: TimedRanks,
}

/// Show the cross-attention map of each word of a prompt, beside the image
///
/// For every prompt a PNG: the image, then for each word the share of the cross-attention that it gets, from dark to
/// bright: the mean over all heads, layers (middle and way up) and denoising steps. With --lora a second row shows the
/// same seed with the LoRA, on the same scale.
#[derive(Group)]
pub struct Attention {
    #[command(flatten)]
    pub source: Source,
    /// A prompt; can be given several times
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    pub prompt: Vec<String>,
    /// Prompt file: .txt (a prompt a line), .jsonl, .json, .csv or .tsv
    #[arg(long, value_name = "FILE", value_parser = share::path)]
    pub prompts: Option<PathBuf>,
    /// Only these words, for example red,dog
    #[arg(long, value_name = "WORD,WORD,…", value_delimiter = ',')]
    pub words: Vec<String>,
    /// Seed of the image, as of `comat generate`
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Folder for the panels; made when it does not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub engine: Engine,
}

/// Sample the original model's latents for the prompts of a run with [fidelity]
///
/// They go into fidelity.latents, or into `latents` in the run's folder. `comat train` makes missing ones by itself; this
/// makes them beforehand. Run it again to go on where it was stopped.
#[derive(Group)]
pub struct Latents {
    /// The run's configuration (TOML): a file, or a preset by its name, such as sd15
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: PathBuf,
    /// Change a setting; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub ranks: Ranks,
}

/// Compute one training iteration on given noise and write everything it computes
///
/// For comparing these numbers with another implementation. Writes x_0, image, loss, loss.caption, tracked, and grad.KEY for every adapter
/// matrix by its PEFT key. The prompts are the first B of the training file.
#[derive(Group)]
pub struct Trace {
    /// The run's configuration (TOML): a file, or a preset by its name, such as sd15
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: PathBuf,
    /// Change a setting; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// x_T [B,C,h,w] and z [T,B,C,h,w]; optional: crop [B,2], tracked_start, a starting adapter (safetensors)
    #[arg(long, value_name = "FILE")]
    pub noise: PathBuf,
    /// Where to write (safetensors)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Starting adapter in a file of its own: a file, a folder with one, or OWNER/NAME[:FILE] of the hub
    #[arg(long, value_name = "FILE|DIR|ID")]
    pub lora: Option<Adapter>,
    /// First of the tracked steps
    #[arg(long, value_name = "N")]
    pub tracked_start: Option<usize>,
    /// Compute it N times and print the median time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub repeat: usize,
}

fn up_to_a_million(text: &str) -> Result<usize, String> {
    from_one_to(1_000_000, text)
}

/// Parses a seed. Other programs take -1 for a random seed; here it is an error.
fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|e: ParseIntError| match text.starts_with('-') {
        true => "must be 0 or more; there is no random seed, the same seed gives the same image".into(),
        false => whole(0, &e),
    })
}
