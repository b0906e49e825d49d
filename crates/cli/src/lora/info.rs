//! `comat lora info`: shows the contents of a LoRA file.

use crate::{
    console::{Console, print},
    fetch,
    text::counted,
};
use anyhow::Result;
use clap::Args as Group;
use diffusion::settings::Adapter;
use models::lora::{
    AdapterFile,
    info::{Block, Info as Figures, Part},
};
use std::fmt::Display;

/// Show what a LoRA file holds
///
/// Format, base model, and for each block of each network its layers, ranks and the norm of what is added to its weights.
#[derive(Group)]
pub struct Info {
    /// LoRA: a file, a folder with one, or OWNER/NAME[:FILE] of the hub
    #[arg(value_name = "FILE|DIR|ID")]
    pub file: Adapter,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(mut args: Info, console: &Console) -> Result<()> {
    fetch::adapter(None, &mut args.file, console)?;
    let figures = Figures::of(&AdapterFile::read(&args.file)?)?;
    if args.json {
        return print(format_args!("{}\n", serde_json::to_string_pretty(&figures)?));
    }
    print(format_args!("{}", readable(&figures)))
}

fn readable(of: &Figures) -> String {
    let base = match (&of.base, of.text_width, &of.base_by_metadata) {
        (Some(base), Some(width), _) => format!("{base} (text of width {width})"),
        (Some(base), None, _) => format!("{base} (metadata)"),
        (None, Some(width), None) => format!("unknown (text of width {width})"),
        (None, Some(width), Some(said)) => format!("unknown (text of width {width}; the metadata say {said})"),
        (None, None, _) => "unknown".into(),
    };
    let mut text = String::new();
    let mut line = |name: &str, value: String| text += &format!("{name:12}{value}\n");
    line("format", of.formats.join("; "));
    line("kinds", of.kinds.iter().copied().collect::<Vec<_>>().join("; "));
    line("base model", base);
    line("parameters", format!("{} in {}", of.parameters, of.dtypes.join(", ")));
    line("size", format!("{} bytes", of.size));
    line("sha256", of.sha256.clone());
    line("of tensors", of.tensors_sha256.clone());
    if !of.foreign.is_empty() {
        let first = &of.foreign[0];
        line("not read", format!("{} keys, the first is {first} (`comat lora check` says why)", of.foreign.len()));
    }
    if let Some(what) = of.looks_like {
        line("looks like", what.into());
    }
    if !of.embeddings.is_empty() {
        line("embeddings", format!("{} (not layers: they are left out)", of.embeddings.join(", ")));
    }
    for part in &of.networks {
        text += &network(part);
    }
    if !of.metadata.is_empty() {
        text += "\nmetadata\n";
    }
    for (key, value) in &of.metadata {
        text += &format!("  {key}: {}\n", shortened(value));
    }
    text
}

fn network(part: &Part) -> String {
    let width = part.blocks.iter().map(|b| b.block.len()).max().unwrap_or(0).max("block".len());
    let mut text = format!(
        "\n{}: {}, rank {}, alpha {}\n  {:width$} {:>7} {:>11} {:>10}  rank\n",
        part.network,
        counted(part.layers, "layer"),
        listed(&part.ranks),
        listed(&part.alphas),
        "block",
        "layers",
        "parameters",
        "norm",
    );
    for Block { block, layers, parameters, ranks, norm } in &part.blocks {
        let norm = norm.map_or("not finite".into(), |norm| format!("{norm:.4}"));
        text += &format!("  {block:width$} {layers:>7} {parameters:>11} {norm:>10}  {}\n", listed(ranks));
    }
    text
}

fn listed<T: Display>(values: &[T]) -> String {
    const SHOWN: usize = 6;
    let mut text = values.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if values.len() > SHOWN {
        text += &format!(" and {} more", values.len() - SHOWN);
    }
    text
}

/// Cuts a long value, since some metadata hold the tags of a whole training set.
fn shortened(value: &str) -> String {
    const SHOWN: usize = 160;
    let value = value.replace('\n', " ");
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({} characters; --json has all)", &value[..end], value.chars().count()),
        None => value,
    }
}
