//! `comat world ablate`

use crate::{console::Console, fetch};
use anyhow::Result;
use clap::Args as Group;
use laboratory::ablation::{Ablation, Plan};
use std::path::PathBuf;

/// Train with parts of the method left out, from several seeds, and compare what the runs draw
///
/// Hours. The folder receives a run for each variant and seed, the images that each draws, and after every training
/// ablation.md (a table), ablation.svg and ablation.json of what there is so far. What is done is not done again: stop it
/// with Ctrl-C and go on with the same command.
#[derive(Group)]
pub struct Ablate {
    /// What to train, and how to look at it (TOML)
    #[arg(long, value_name = "FILE", default_value = "configs/world/ablation.toml")]
    plan: PathBuf,
    /// Folder for everything; made when it does not exist
    #[arg(long, value_name = "DIR", default_value = "runs/ablation")]
    out: PathBuf,
    /// Train only this variant; can be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

pub fn run(args: Ablate, console: &Console) -> Result<()> {
    let Ablate { plan, out, only } = args;
    console.stop_on_ctrl_c("Stopping; the same command goes on. Ctrl-C once more stops at once.");
    let ablation = Ablation {
        plan: Plan::read(&plan)?,
        out: out.clone(),
        fetch: &|config| fetch::config(config, console),
        bar: &|name| console.count(name, "· {msg}"),
        interrupt: &console.interrupt,
    };
    let table = ablation.run(&only)?;
    say!("{table}\nwritten to {}", out.join("ablation.md").display());
    Ok(())
}
