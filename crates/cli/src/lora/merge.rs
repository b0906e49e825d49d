//! `comat lora merge`: adds LoRAs to the weights of a model.

use crate::{console::Console, fetch};
use anyhow::Result;
use clap::Args as Group;
use diffusion::{
    merge::{self, Surviving},
    settings::{Dtype, Location, Scaled},
};
use hub::Layout;
use std::path::PathBuf;
use tch::Kind;

/// Write a model folder with LoRAs added to its UNet and text encoders
///
/// Everything but the weights of the networks that a LoRA adapts is copied as it is. The new folder draws what the model draws with the LoRAs; in half
/// precision the sums are rounded, which --dtype float32 avoids.
#[derive(Group)]
pub struct Merge {
    /// Model folder in diffusers layout, or an id of the hub
    #[arg(long, value_name = "DIR|ID")]
    pub model: Location,
    /// LoRA with its strength (1 when absent): a file, a folder with one, or OWNER/NAME[:FILE] of the hub; can be given
    /// several times
    #[arg(long, value_name = "FILE|DIR|ID[:SCALE]", required = true)]
    pub lora: Vec<Scaled>,
    /// The new model folder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Precision of those networks' weights: float32, float16, bfloat16 or float64; that of the model when absent
    #[arg(long)]
    pub dtype: Option<Dtype>,
}

pub fn run(mut args: Merge, console: &Console) -> Result<()> {
    fetch::option("--model", &mut args.model, Layout::Diffusion, None, console)?;
    let request = merge::Request {
        model: args.model.to_path_buf(),
        loras: fetch::loras(&args.lora, 1.0, console)?,
        out: args.out,
        kind: args.dtype.map(Dtype::kind),
    };
    console.stop_on_ctrl_c("Stopping; nothing is left behind.");
    let merged = merge::run(&request, &console.interrupt)?;
    for file in merged.left_out {
        say!("left out, as it holds the model without the LoRA: {}", file.display());
    }
    if let Some(Surviving { kind, share }) = merged.surviving {
        let kind = if kind == Kind::Half { "float16" } else { "bfloat16" };
        say!("{:.1} % of the update survives the rounding to {kind}; --dtype float32 keeps all of it", 100.0 * share);
    }
    say!("written to {}", request.out.display());
    Ok(())
}
