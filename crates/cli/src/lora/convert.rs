//! `comat lora convert`: converts a LoRA file to another format.

use crate::{console::Console, fetch};
use anyhow::{Result, bail};
use clap::{Args as Group, ValueEnum};
use diffusion::settings::{Adapter, Dtype};
use models::{
    Error,
    lora::{
        AdapterFile,
        convert::{self, Options, Target},
    },
};
use std::{fs, path::PathBuf};

/// Write a LoRA in another format
///
/// Metadata stay. Matrices are copied bit for bit, unless --dtype or --scale ask for others; diffusers' format has no
/// alpha, so alpha / rank goes into the up matrices there. LoHa, LoKr and full differences go into kohya's format alone, as LyCORIS
/// names them; DoRA also into PEFT's.
#[derive(Group)]
pub struct Convert {
    /// LoRA: a file, a folder with one, or OWNER/NAME[:FILE] of the hub
    #[arg(value_name = "FILE|DIR|ID")]
    pub file: Adapter,
    /// diffusers; peft; or kohya, which ComfyUI, A1111, SD.Next and InvokeAI read
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: Format,
    /// Where to write (safetensors)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// float32, float16, bfloat16 or float64; that of the file when absent
    #[arg(long)]
    pub dtype: Option<Dtype>,
    /// Strength that is built into the new file: the LoRA's update times this factor
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, allow_negative_numbers = true)]
    pub scale: f64,
    /// Leave out the adapters of text encoders
    #[arg(long)]
    pub unet_only: bool,
    /// Replace a file that exists
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    Diffusers,
    Peft,
    Kohya,
}

pub fn run(mut args: Convert, console: &Console) -> Result<()> {
    if !args.scale.is_finite() {
        bail!("--scale is {}, it must be a number", args.scale);
    }
    if args.out.is_dir() {
        bail!("--out {} is a folder; name a file in it", args.out.display());
    }
    let ending = args.out.extension().unwrap_or_default().to_ascii_lowercase();
    if ending != "safetensors" && ending != "sft" {
        bail!("--out {}: is written as safetensors; let the name end in .safetensors", args.out.display());
    }
    if args.out.exists() && !args.overwrite {
        bail!("{} exists already; choose another --out, or pass --overwrite", args.out.display());
    }
    fetch::adapter(None, &mut args.file, console)?;
    let file = AdapterFile::read(&args.file)?;
    let target = match args.to {
        Format::Diffusers => Target::Diffusers,
        Format::Peft => Target::Peft,
        Format::Kohya => Target::Kohya,
    };
    let options = Options { kind: args.dtype.map(Dtype::kind), factor: args.scale, unet_only: args.unet_only };
    if let Some(folder) = args.out.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    convert::convert(&file, target, options, &args.out)?;
    if let Some(text) = file.left_out() {
        say!("{text}");
    }
    say!("written to {}", args.out.display());
    Ok(())
}
