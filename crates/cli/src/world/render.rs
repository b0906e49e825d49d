//! `comat world render`: draws images of the miniature world, with masks and captions.

use crate::{args::shared::at_least_one, console::Console, text::counted};
use anyhow::Result;
use clap::Args as Group;
use scenes::{dataset, prompts::Category};
use std::path::PathBuf;

/// Draw scenes: images, masks of their objects, captions
///
/// Writes NNNNNN.png, NNNNNN.mask-K.png for the K-th object (white where it covers a pixel) and scenes.jsonl, a line for
/// each scene: its file, what is in it, captions, masks. The same seed draws the same scenes.
#[derive(Group)]
pub struct Render {
    /// Scenes to draw
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one)]
    pub count: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Scenes as prompts of a category ask for them: color, shape, texture, spatial or complex; any scenes when absent
    #[arg(long, value_name = "NAME")]
    pub category: Option<Category>,
    /// Folder for the files; made when it does not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    pub overwrite: bool,
}

pub fn run(args: Render, console: &Console) -> Result<()> {
    let Render { count, seed, category, out, overwrite } = args;
    let request = dataset::Request { count, seed, category, out, overwrite };
    console.stop_on_ctrl_c("Stopping; files that are there are whole.");
    let bar = console.count("render", "scenes")?;
    dataset::write(&request, &bar, &console.interrupt)?;
    bar.finish_and_clear();
    say!("{} in {}", counted(count, "scene"), request.out.display());
    Ok(())
}
