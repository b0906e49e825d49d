//! `comat lora merge`: a model with LoRAs in it.

use crate::{console::Console, fetch};
use anyhow::Result;
use clap::Args as Group;
use diffusion::{
    merge::{self, Surviving},
    settings::{Dtype, Location},
};
use hub::Layout;
use std::path::{Path, PathBuf};
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
    /// LoRA file, and how much of it to add (1 when absent); can be given several times
    #[arg(long, value_name = "FILE[:SCALE]", required = true, value_parser = scaled)]
    pub lora: Vec<(PathBuf, f64)>,
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
        loras: args.lora,
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

/// A path may have a colon in it: what follows the last one is a scale if it is a number, and no file has the whole name.
fn scaled(text: &str) -> Result<(PathBuf, f64), String> {
    if Path::new(text).exists() {
        return Ok((text.into(), 1.0));
    }
    match text.rsplit_once(':').map(|(path, scale)| (path, scale.parse::<f64>())) {
        Some((path, Ok(scale))) if scale.is_finite() => Ok((path.into(), scale)),
        Some((_, Ok(_))) => Err("the scale must be a finite number".into()),
        _ => Ok((text.into(), 1.0)),
    }
}
