//! `comat world sharpness`: measures how often the captioner prefers the true caption.

use crate::{console::Console, share};
use anyhow::Result;
use clap::{Args as Group, value_parser};
use diffusion::settings::Where;
use laboratory::pretrain::{Stack, Watch, sharpness};
use std::path::PathBuf;

/// Measure how often the captioner prefers a true caption to a wrong one
///
/// On new renders, on renders that the diffusion model has redrawn from up to half-way, and on images of held-out prompts,
/// drawn from noise. Only images count of which the judge knows with certainty what they show, and that have two objects which
/// differ in shape, colour and texture.
#[derive(Group)]
pub struct Sharpness {
    /// The stack's folder, with sd/ and blip/
    #[arg(long, value_name = "DIR", default_value = "weights/world", value_parser = share::path)]
    pub stack: PathBuf,
    /// Images of each sort
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u64).range(1..))]
    pub count: u64,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: Where,
}

pub fn run(args: &Sharpness, console: &Console) -> Result<()> {
    let stack = Stack::open(&args.stack, args.device.device()?)?;
    console.stop_on_ctrl_c("Stopping.");
    let bar = console.count("sharpness", "· {msg}")?;
    let watch = Watch { bar: &bar, interrupt: &console.interrupt };
    let report = sharpness::measure(&stack, args.count, args.seed, &watch)?;
    bar.finish_and_clear();
    say!("The true caption is the likelier one, against one with");
    for (what, rates) in [("renders", report.renders), ("redrawn", report.redrawn), ("drawn", report.drawn)] {
        say!("  {what:8} {rates}");
    }
    Ok(())
}
