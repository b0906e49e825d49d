//! `comat lora …`: inspects, converts, merges and checks LoRA files, also those of other programs.

mod check;
mod convert;
mod info;
mod merge;

use crate::console::Console;
use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum Lora {
    Info(info::Info),
    Convert(convert::Convert),
    Merge(merge::Merge),
    Check(check::Check),
}

pub fn run(verb: Lora, console: &Console) -> Result<()> {
    match verb {
        Lora::Info(args) => info::run(args, console),
        Lora::Convert(args) => convert::run(args, console),
        Lora::Merge(args) => merge::run(args, console),
        Lora::Check(args) => check::run(args, console),
    }
}
