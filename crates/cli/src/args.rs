//! What can be typed.

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
use config::{self, SamplerKind};
use diffusion::{
    pipeline::{Overrides, Precision},
    settings::{Adapter, Dtype, Location, Sampling, Scaled, Where},
};
use images::Size;
use models::schedule::Prediction;
use ranks::{Terms, interrupt::Interrupt};
use std::{path::PathBuf, time::Duration};
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
    /// Say more: a line a step
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Only warnings and errors, and what the command answers
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Refuse keys that are not known in the configurations of models, rather than warn of them
    #[arg(long, global = true)]
    pub strict: bool,
}

impl Args {
    /// What was typed; in every path `~` and variables as a shell reads them.
    pub fn typed() -> Self {
        let matches = paths::expanding(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
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
    /// Whether it computes for longer than the program needs to start.
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

    /// How many processes the work is to be shared by, where that was asked for.
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

/// Work that several processes share
#[derive(Group)]
pub struct Ranks {
    /// Share the work among N processes on this machine, one GPU each; over machines: torchrun or srun (docs/parallel.md)
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub processes: Option<usize>,
}

/// Work that several processes share, of a verb without a configuration
#[derive(Group)]
pub struct TimedRanks {
    #[command(flatten)]
    pub ranks: Ranks,
    /// How long processes wait for each other, before the work is given up: longer than a download of one of them
    #[arg(long, value_name = "SECONDS", default_value_t = config::Ranks::default().timeout, value_parser = timeout)]
    pub ranks_timeout: f64,
}

impl TimedRanks {
    /// `way_out`: what is left of work that was given up, and how it goes on.
    pub fn terms(&self, way_out: &'static str, interrupt: &Interrupt) -> Terms {
        Terms {
            timeout: Duration::from_secs_f64(self.ranks_timeout),
            setting: "--ranks-timeout",
            way_out,
            interrupt: Some(interrupt.clone()),
        }
    }
}

fn timeout(text: &str) -> Result<f64, String> {
    let most = config::Ranks::LONGEST;
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= most => Ok(seconds),
        Ok(_) => Err(format!("must be above 0 and at most {most}")),
        Err(e) => Err(format!("{e}")),
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
    /// What there is, as 24GB; propose micro-batches that fit into it
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
    /// Prompt file: .txt (a prompt a line) or .jsonl
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

/// A model, and a LoRA for it
#[derive(Group)]
pub struct Source {
    /// Model folder in diffusers layout, one .safetensors file, or an id of the hub: OWNER/NAME, OWNER/NAME@REVISION
    #[arg(long, value_name = "DIR|ID", value_parser = share::model)]
    pub model: Location,
    /// Weights of a variant, such as fp16, where there are such
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// For a model in a single file: folder with CLIP's tokenizer, or an id [default: openai/clip-vit-large-patch14]
    #[arg(long, value_name = "DIR|ID")]
    pub tokenizer: Option<Location>,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    /// LoRA with its strength (1 when absent): a file, a folder with one, or OWNER/NAME[:FILE] of the hub; can be given
    /// several times
    #[arg(long, value_name = "FILE|DIR|ID[:SCALE]")]
    pub lora: Vec<Scaled>,
    /// Strength of all LoRAs, times that of each
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = strength, allow_negative_numbers = true, requires = "lora")]
    pub lora_scale: f64,
}

/// How a model is read, where that is not as its files say
#[derive(Group, Clone, Copy)]
pub struct OverrideArgs {
    /// What the UNet predicts, where the files do not say or say wrongly: epsilon, v_prediction or sample
    #[arg(long, value_name = "NAME")]
    pub prediction_type: Option<Prediction>,
    /// Whether the noise leaves nothing of the image at the last timestep, where the files do not say or say wrongly
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub rescale_betas_zero_snr: Option<bool>,
    /// Which of the text encoders' layers the UNet sees, from the end: 1 is the last [default: 1 for SD1 and SD2, 2 for SDXL]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub clip_skip: Option<usize>,
    /// Cut prompts of more than 75 tokens into up to N chunks, as A1111, ComfyUI and sd-scripts do, not off [default: 1]
    #[arg(long, value_name = "N", value_parser = chunks)]
    pub chunks: Option<usize>,
}

fn chunks(text: &str) -> Result<usize, String> {
    from_one_to(config::Prompts::MOST_CHUNKS, text)
}

impl From<OverrideArgs> for Overrides {
    fn from(args: OverrideArgs) -> Self {
        let OverrideArgs { prediction_type, rescale_betas_zero_snr, clip_skip, chunks } = args;
        Self { prediction_type, rescale_betas_zero_snr, clip_skip, chunks: chunks.filter(|n| *n > 1) }
    }
}

/// How images are drawn
#[derive(Group, Clone)]
pub struct SamplingArgs {
    /// Sampling steps
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    pub steps: usize,
    /// ddim, ddpm, euler, euler_a, dpm++_2m or dpm++_2m_karras
    #[arg(long, value_name = "NAME", default_value = "ddim")]
    pub sampler: SamplerKind,
    /// Noise of the ddim sampler: 0 (none) to 1
    #[arg(long, default_value_t = 0.0)]
    pub eta: f64,
    /// Classifier-free guidance; 1 and below are none
    #[arg(long, value_name = "SCALE", default_value_t = 7.5)]
    pub guidance_scale: f64,
    /// Rescale guided images to the contrast of unguided ones (0 to 1), against over-exposure
    #[arg(long, value_name = "PHI", default_value_t = 0.0)]
    pub guidance_rescale: f64,
    /// What the images should not show
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative_prompt: String,
    /// WIDTHxHEIGHT in pixels, or one number for a square; the model's own size when absent
    #[arg(long)]
    pub size: Option<Size>,
}

impl SamplingArgs {
    pub fn checked(self) -> anyhow::Result<Sampling> {
        let sampling = Sampling {
            sampler: self.sampler,
            steps: self.steps,
            eta: self.eta,
            guidance_scale: self.guidance_scale,
            guidance_rescale: self.guidance_rescale,
            negative_prompt: self.negative_prompt,
            size: self.size,
        };
        sampling.check()?;
        Ok(sampling)
    }
}

/// Show where each word of a prompt looks, over the image
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
    /// Prompt file: .txt (a prompt a line) or .jsonl
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

/// Sample the original model's latents of the prompts that a run with [fidelity] comes to
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
/// For holding these numbers against another implementation. Writes x_0, image, loss, loss.caption, tracked, and
/// grad.KEY for every adapter matrix by its PEFT key. The prompts are the first B of the training file.
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

/// Where and how to compute
#[derive(Group)]
pub struct Engine {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: Where,
    /// float32, float16, bfloat16 or float64
    #[arg(long, default_value = "float32")]
    pub dtype: Dtype,
    /// Precision of the VAE [default: --dtype; float32 where it is known to overflow in float16]
    #[arg(long, value_name = "DTYPE")]
    pub vae_dtype: Option<Dtype>,
}

impl Engine {
    pub fn precision(&self) -> Precision {
        Precision { networks: self.dtype.kind(), vae: self.vae_dtype.map(Dtype::kind) }
    }
}

fn up_to_a_million(text: &str) -> Result<usize, String> {
    from_one_to(1_000_000, text)
}

fn from_one_to(most: usize, text: &str) -> Result<usize, String> {
    at_least_one(text).and_then(|n| if n <= most { Ok(n) } else { Err(format!("must be at most {most}")) })
}

/// -1 is a random seed to other programs.
fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|e| match text.starts_with('-') {
        true => "must be 0 or more; there is no random seed, the same seed gives the same image".into(),
        false => format!("{e}"),
    })
}

fn strength(text: &str) -> Result<f64, String> {
    diffusion::settings::strength(text.parse().map_err(|e| format!("{e}"))?)
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}
