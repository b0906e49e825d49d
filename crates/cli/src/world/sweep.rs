//! `comat world sweep`

use crate::{
    args::shared::{Engine, at_least_one},
    console::Console,
    fetch, share,
};
use anyhow::{Result, bail};
use clap::Args as Group;
use diffusion::{pipeline::Overrides, settings::Location};
use laboratory::sweep::{self, Request};
use scenes::{
    judging::{self, Question},
    prompts::{self, Split},
};
use std::path::PathBuf;

/// Prompts on which the guidance is chosen if no file is given: their number and their seed.
const CHOOSING: (usize, u64) = (100, 99);

/// Compare base model and LoRA over guidance scales, each at its best
///
/// Draws held-out prompts at every guidance scale with the base model and with each LoRA, and judges the images. Each side's
/// best guidance is chosen on other prompts (--choose-on); the difference between base and LoRA there is what fine-tuning
/// is worth. Several LoRA files are several trainings of one recipe, and intervals then hold what trainings differ by. The
/// folder receives sweep.md (tables), sweep.json, and the judgements of each cell: what is drawn is not drawn again, so stop
/// it with Ctrl-C and go on with the same command.
#[derive(Group)]
pub struct Sweep {
    /// Model folder in diffusers layout
    #[arg(long, value_name = "DIR", default_value = "weights/world/sd", value_parser = share::model)]
    model: Location,
    /// LoRA file; several are trainings of one recipe. Without one, the base model alone is drawn
    #[arg(long, value_name = "FILE")]
    lora: Vec<PathBuf>,
    /// What the recipe is called in the tables
    #[arg(long, default_value = "tuned")]
    name: String,
    /// Guidance scales; 1 is no guidance
    #[arg(long, value_name = "SCALES", value_delimiter = ',', value_parser = scale, default_value = "1,1.5,2,3,4,5,7")]
    guidance: Vec<f64>,
    /// Prompts that are drawn and judged, .jsonl or .txt
    #[arg(long, value_name = "FILE", default_value = "configs/world/held_out.jsonl", value_parser = share::path)]
    prompts: PathBuf,
    /// Prompts on which the guidance is chosen [default: 100 prompts of the training split, seed 99]
    #[arg(long, value_name = "FILE")]
    choose_on: Option<PathBuf>,
    /// Only the first N of either prompts, for a quick look
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Images of each prompt, each with noise of its own
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    count: usize,
    /// From which the images' own seeds are made
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// DDIM steps
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_one)]
    steps: usize,
    /// Images drawn at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one)]
    batch: usize,
    /// Folder for the results; made when it does not exist
    #[arg(long, value_name = "DIR", default_value = "runs/sweep")]
    out: PathBuf,
    #[command(flatten)]
    engine: Engine,
}

fn scale(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(scale) if scale.is_finite() && scale >= 0.0 => Ok(scale),
        Ok(_) => Err("must be a number of at least 0".into()),
        Err(e) => Err(format!("{e}")),
    }
}

pub fn run(args: Sweep, console: &Console) -> Result<()> {
    let limit = args.limit.unwrap_or(usize::MAX);
    let first = |mut questions: Vec<Question>| {
        questions.truncate(limit);
        questions
    };
    let (choosing, chosen_on) = match &args.choose_on {
        Some(path) => (judging::questions(path)?, path.display().to_string()),
        None => {
            let (count, seed) = CHOOSING;
            let made = prompts::make(Split::Train, count, seed).into_iter().filter_map(Question::made);
            (made.collect(), format!("of the training split, seed {seed}"))
        }
    };
    let request = Request {
        questions: first(judging::questions(&args.prompts)?),
        choosing: first(choosing),
        loras: args.lora,
        name: args.name,
        guidances: args.guidance,
        chosen_on,
        count: args.count,
        seed: args.seed,
        steps: args.steps,
        batch: args.batch,
        out: args.out,
    };
    if let Some(missing) = request.loras.iter().find(|path| !path.is_file()) {
        bail!("--lora {}: there is no such file", missing.display());
    }
    let pipeline = fetch::pipeline(args.model, None, None, Overrides::default(), &args.engine, console)?;
    console.stop_on_ctrl_c(
        "Stopping; what is drawn of this cell is lost, finished cells stay, and the same command goes on.",
    );
    let bar = |name: &str| console.count(name, "denoising steps");
    let sweep = sweep::run(pipeline, &request, &bar, &console.interrupt)?;
    say!("{sweep}\nwritten to {}", request.out.join("sweep.md").display());
    Ok(())
}
