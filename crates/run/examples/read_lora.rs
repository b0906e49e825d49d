//! What a LoRA file of any program holds, layer by layer, without its model.
//!
//!     cargo run --release -p run --example read_lora -- style.safetensors

use anyhow::{Context, Result};
use models::lora::{AdapterFile, Delta};
use std::path::Path;

/// A line for each layer: its name, what is added to it (`LoRA`, `LoHa`, …), and the rank where it has one.
pub fn lines(file: &Path) -> Result<Vec<String>> {
    let changes = AdapterFile::read(file)?.changes()?;
    let line = |(name, change): (&models::lora::Name, &models::lora::Change)| match &change.delta {
        Some(Delta::LowRank(pair)) => format!("{} {} of rank {}", name.dotted(), change.kind(), pair.rank()),
        _ => format!("{} {}", name.dotted(), change.kind()),
    };
    Ok(changes.iter().map(line).collect())
}

fn main() -> Result<()> {
    let file = std::env::args().nth(1).context("name a file: read_lora style.safetensors")?;
    for line in lines(Path::new(&file))? {
        println!("{line}");
    }
    Ok(())
}
