//! `comat lora check`: finds errors in a LoRA file.

use crate::{console::Console, fetch, share, text::counted};
use anyhow::{Result, bail};
use clap::Args as Group;
use diffusion::settings::{Adapter, Location};
use hub::Layout;
use models::{
    lora::{
        AdapterFile, Network,
        check::{self, Layers},
    },
    weights::layer_shapes,
};
use std::path::Path;

/// Look for everything that is wrong with a LoRA file
///
/// A line for each problem. Fails if one of them is an error; warnings alone are no failure.
#[derive(Group)]
pub struct Check {
    /// LoRA: a file, a folder with one, or OWNER/NAME[:FILE] of the hub
    #[arg(value_name = "FILE|DIR|ID")]
    pub file: Adapter,
    /// Model that its layers must fit: a folder in diffusers layout, or an id of the hub. Absent: the published model of its kind
    #[arg(long, value_name = "DIR|ID", value_parser = share::model)]
    pub model: Option<Location>,
}

pub fn run(mut args: Check, console: &Console) -> Result<()> {
    fetch::adapter(None, &mut args.file, console)?;
    if let Some(model) = &mut args.model {
        fetch::option("--model", model, Layout::Diffusion, None, console)?;
    }
    let model = args.model.as_ref().map(|model| layers(model)).transpose()?;
    let file = match &model {
        // the numbers in the original program's block names depend on the layers per block
        Some(model) => AdapterFile::read_for(&args.file, check::layers_per_block(model))?,
        None => AdapterFile::read(&args.file)?,
    };
    let problems = check::check(&file, model.as_ref())?;
    for problem in &problems {
        say!("{problem}");
    }
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = counted(problems.len() - errors, "warning");
    if errors > 0 {
        bail!("{}: {}, {warnings}", args.file.display(), counted(errors, "error"));
    }
    say!("{}: no errors, {warnings}", args.file.display());
    Ok(())
}

/// Layers of every network in a model folder that a LoRA can adapt.
fn layers(model: &Path) -> Result<Layers> {
    let (xl, _) = diffusion::family::stable_diffusion::class(model)?;
    let networks = [Network::UNet, Network::TextEncoder, Network::TextEncoder2];
    let networks = networks.into_iter().take(if xl { 3 } else { 2 });
    let of = |network: Network| {
        let stem = if network == Network::UNet { "diffusion_pytorch_model" } else { "model" };
        Ok((network, layer_shapes(&model.join(network.to_string()), stem)?))
    };
    networks.map(of).collect()
}
