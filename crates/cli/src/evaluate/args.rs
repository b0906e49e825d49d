//! Command-line arguments of `comat evaluate`.

use crate::args::shared::{Engine, OverrideArgs, SamplingArgs, TimedRanks, at_least_one, strength, unit_interval};
use benchmarks::records::Benchmark;
use clap::{Args as Group, ValueEnum};
use diffusion::settings::{Location, Scaled};
use evaluate::image_files::Grid;
use std::path::PathBuf;

/// Score a model, a LoRA, or images that exist, on a benchmark
///
/// With --model the benchmark's images are drawn into OUT/base, and with --lora into OUT/lora too, from the same seeds;
/// with --images those of a folder are scored as they are. Every question and answer goes into scores.jsonl beside the
/// images, the table into table.txt and table.json (of a part, by --categories or --limit, into a file of its own:
/// table.color.first-10.txt). If it is stopped, the same command continues; nothing is drawn or scored twice.
///
/// CLIP's cosine is always in the table beside the benchmark's own metric: BLIP-VQA is of the family that CoMat is rewarded by.
#[derive(Group)]
pub struct Evaluate {
    /// The benchmark
    #[arg(long, value_name = "NAME")]
    pub bench: Bench,
    /// Folder of the benchmark's prompt files, or the file
    #[arg(long, value_name = "DIR|FILE")]
    pub prompts: PathBuf,
    /// Only these categories, as color,shape
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    pub categories: Vec<String>,
    /// Only the first N prompts of each category
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit: Option<usize>,
    /// Score the images of this folder; their names must be those of the benchmark
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "lora", "out"])]
    pub images: Option<PathBuf>,
    /// Compare with the images of this folder, instead of drawing the base model's
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Cut the images ID.png of --images and --base into so many columns and rows: 2x2 for those of DPG-Bench's own
    /// programs
    #[arg(long, value_name = "COLUMNSxROWS")]
    pub grid: Option<Grid>,
    #[command(flatten, next_help_heading = "Images to draw")]
    pub draw: DrawArgs,
    #[command(flatten, next_help_heading = "How they are drawn")]
    pub sampling: SamplingArgs,
    #[command(flatten, next_help_heading = "Judges (only those that are needed are opened, or fetched)")]
    pub judges: JudgeArgs,
    #[command(flatten, next_help_heading = "Computing")]
    pub engine: Engine,
    #[command(flatten)]
    pub ranks: TimedRanks,
}

/// What is drawn.
#[derive(Group)]
pub struct DrawArgs {
    /// Model folder in diffusers layout, one .safetensors file, or an id of the hub
    #[arg(long, value_name = "DIR|ID", required_unless_present = "images", requires = "out")]
    pub model: Option<Location>,
    /// Variant of the weight files, such as fp16, where it exists
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// For a model in a single file: folder with CLIP's tokenizer, or an id [default: openai/clip-vit-large-patch14]
    #[arg(long, value_name = "DIR|ID")]
    pub tokenizer: Option<Location>,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    /// LoRA with its strength (1 when absent): a file, a folder with one, or OWNER/NAME[:FILE] of the hub; can be given
    /// several times
    #[arg(long, value_name = "FILE|DIR|ID[:SCALE]", requires = "model")]
    pub lora: Vec<Scaled>,
    /// Strength of all LoRAs, times that of each
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = strength, allow_negative_numbers = true, requires = "lora")]
    pub lora_scale: f64,
    /// Folder of the evaluation; made when it does not exist
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// One image of each prompt from each of these, as 42-51 or 1,2,7 [default: 42-51 for t2i-compbench, 42-45 for
    /// geneval and dpg, else 42]
    #[arg(long, value_name = "N-N,N,…", value_parser = seeds)]
    pub seeds: Option<Seeds>,
    /// Images drawn at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    pub batch: usize,
}

/// Who scores. Only those are opened, or fetched, that are needed.
#[derive(Group)]
pub struct JudgeArgs {
    /// BLIP that answers questions, for attributes, tifa, dsg and dpg
    #[arg(long, value_name = "DIR|ID", default_value = "Salesforce/blip-vqa-capfilt-large")]
    pub vqa: Location,
    /// CLIP; for geneval it also tells colours
    #[arg(long, value_name = "DIR|ID", default_value = "openai/clip-vit-large-patch14")]
    pub clip: Location,
    /// Grounding DINO, for positions, counts and geneval
    #[arg(long, value_name = "DIR|ID", default_value = "IDEA-Research/grounding-dino-base")]
    pub detector: Location,
    /// Minimum confidence of the detector, 0 to 1
    #[arg(long, value_name = "SCORE", default_value_t = 0.35, value_parser = unit_interval)]
    pub detector_threshold: f64,
    /// Sentence embedder that maps a free answer to one of the choices, for tifa
    #[arg(long, value_name = "DIR|ID", default_value = "sentence-transformers/all-mpnet-base-v2")]
    pub sentences: Location,
    /// Ask a network behind an OpenAI-compatible endpoint too: http://HOST/v1 (key in COMAT_ENDPOINT_KEY)
    #[arg(long, value_name = "URL", requires = "endpoint_model")]
    pub endpoint: Option<String>,
    /// The endpoint's model
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub endpoint_model: Option<String>,
    /// Seconds that an answer of the endpoint may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub endpoint_timeout: u64,
    /// How often a failed request is repeated
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub endpoint_retries: u32,
    /// Questions to the endpoint under way at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    pub endpoint_parallel: usize,
    /// Images that are scored at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pub score_batch: usize,
}

/// The benchmarks, as they are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    #[value(name = "t2i-compbench")]
    T2iCompbench,
    Tifa,
    Dsg,
    Dpg,
    Geneval,
}

impl Bench {
    pub fn benchmark(self) -> Benchmark {
        match self {
            Self::T2iCompbench => Benchmark::T2iCompbench,
            Self::Tifa => Benchmark::Tifa,
            Self::Dsg => Benchmark::Dsg,
            Self::Dpg => Benchmark::Dpg,
            Self::Geneval => Benchmark::Geneval,
        }
    }

    /// Default seeds: one per image, as many per prompt as the benchmark's authors draw.
    pub fn seeds(self) -> Vec<u64> {
        match self {
            Self::T2iCompbench => (42..52).collect(),
            Self::Geneval | Self::Dpg => (42..46).collect(),
            Self::Tifa | Self::Dsg => vec![42],
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Seeds(pub Vec<u64>);

fn seeds(text: &str) -> Result<Seeds, String> {
    /// A longer range is taken for a typing mistake.
    const MOST: u64 = 10_000;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("`{text}` is not a seed"));
    let mut all = vec![];
    for part in text.split(',') {
        match part.split_once('-') {
            None => all.push(number(part)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first || last - first >= MOST {
                    return Err(format!("`{part}` is not a range of up to {MOST} seeds, the smaller first"));
                }
                all.extend(first..=last);
            }
        }
    }
    let mut distinct = all.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < all.len() { Err("a seed is there twice".into()) } else { Ok(Seeds(all)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_seeds() {
        let of = |text| seeds(text).map(|seeds| seeds.0);
        assert_eq!(of("42-45"), Ok(vec![42, 43, 44, 45]));
        assert_eq!(of("7, 1-2"), Ok(vec![7, 1, 2]));
        for wrong in ["", "a", "3-1", "1,1", "1-3,2", "-1", "0-18446744073709551615"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
