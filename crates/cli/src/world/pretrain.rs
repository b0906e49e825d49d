//! `comat world pretrain`: trains the networks of the miniature world.

use crate::{console::Console, share};
use ::diffusion::settings::Where;
use anyhow::{Result, bail};
use clap::{Args as Group, ValueEnum, value_parser};
use laboratory::pretrain::{
    Stack, Watch, captioner,
    diffusion::{self, Lesson},
    vae,
};
use scenes::wording::Faults;
use std::path::PathBuf;

/// Train the miniature stack from scratch: first vae, then diffusion, then captioner
///
/// Writes ordinary diffusers and transformers folders, DIR/sd and DIR/blip, in float16. Ctrl-C saves; the same command
/// goes on from there.
#[derive(Group)]
pub struct Pretrain {
    /// What to train; everything when absent
    pub part: Option<Part>,
    /// The stack's folder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Optimiser steps, in place of the recipe's
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Begin with the weights of another stack. With PART diffusion: its diffusion model, and its autoencoder if --out has none. With
    /// PART captioner: its captioner, which then also learns colours that have no name, as preferences need it
    #[arg(long, value_name = "DIR", value_parser = share::path)]
    pub from: Option<PathBuf>,
    /// diffusion: how wrong its captions are
    #[arg(long, value_enum, default_value_t = Captions::Web)]
    pub captions: Captions,
    /// diffusion: images a step
    #[arg(long, value_name = "N", default_value_t = diffusion::BATCH, value_parser = value_parser!(u64).range(1..=65_536))]
    pub batch: u64,
    /// diffusion: highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = diffusion::LEARNING_RATE, value_parser = rate)]
    pub learning_rate: f64,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: Where,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Captions {
    /// As the web has them: swapped, missing and invented objects
    Web,
    /// Complete and true
    True,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate < 1.0 => Ok(rate),
        _ => Err("must be between 0 and 1".to_owned()),
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Part {
    Vae,
    Diffusion,
    Captioner,
}

impl Part {
    /// The part that must be trained first, and the path of its weights in the stack's `sd` folder.
    fn needs(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Vae => None,
            Self::Diffusion => Some(("vae", "vae/diffusion_pytorch_model.safetensors")),
            Self::Captioner => Some(("diffusion", "unet/diffusion_pytorch_model.safetensors")),
        }
    }
}

pub fn run(args: Pretrain, console: &Console) -> Result<()> {
    let stack = Stack::create(&args.out, args.device.device()?)?;
    if stack.device.is_cuda() {
        torch_ext::cuda::allow_tf32(true)?;
        tch::Cuda::cudnn_set_benchmark(true);
    }
    console.stop_on_ctrl_c("Stopping after this step; it is saved.");
    let parts = args.part.map_or(vec![Part::Vae, Part::Diffusion, Part::Captioner], |part| vec![part]);
    let of_captioner = args.from.as_ref().filter(|_| args.part == Some(Part::Captioner));
    for part in parts {
        let (name, recipe) = match part {
            Part::Vae => ("vae", vae::STEPS),
            Part::Diffusion => ("diffusion", diffusion::STEPS),
            Part::Captioner if of_captioner.is_some() => ("captioner", captioner::REPAINTED_STEPS),
            Part::Captioner => ("captioner", captioner::STEPS),
        };
        if let (Part::Diffusion, Some(from)) = (part, &args.from) {
            stack.take_autoencoder(&Stack::open(from, stack.device)?)?;
        }
        if let Some((first, weights)) = part.needs()
            && !(part == Part::Captioner
                && (of_captioner.is_some() || args.steps.is_some_and(|steps| steps <= captioner::FIRST_CYCLE)))
            && !stack.sd(weights).exists()
        {
            let folder = args.out.display();
            bail!(
                "{folder}: {name} needs the trained {first}; `comat world pretrain {first} --out {folder}` comes first"
            );
        }
        let bar = console.count(name, "· {msg}")?;
        let watch = Watch { bar: &bar, interrupt: &console.interrupt };
        let steps = args.steps.unwrap_or(recipe);
        match part {
            Part::Vae => {
                let error = vae::run(&stack, steps, args.seed, &watch)?;
                say!("vae: a pixel of a new image is off by {error:.4} on average (of 1)");
            }
            Part::Diffusion => {
                let lesson = Lesson {
                    steps,
                    batch: args.batch,
                    learning_rate: args.learning_rate,
                    seed: args.seed,
                    faults: match args.captions {
                        Captions::Web => Faults::WEB,
                        Captions::True => Faults::NONE,
                    },
                    from: args.from.clone(),
                };
                diffusion::run(&stack, &lesson, &watch)?;
            }
            Part::Captioner => {
                let lesson = captioner::Lesson { steps, seed: args.seed, from: of_captioner.cloned() };
                captioner::run(&stack, &lesson, &watch)?;
            }
        }
        bar.finish_and_clear();
    }
    Ok(())
}
