//! `comat world …`: the built-in miniature world.

mod ablate;
mod judge;
mod pretrain;
mod prompts;
mod render;
mod report;
mod sharpness;
mod sweep;

use crate::console::Console;
use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum World {
    Render(render::Render),
    Prompts(prompts::Prompts),
    Judge(judge::Judge),
    Report(report::Report),
    Pretrain(pretrain::Pretrain),
    Sharpness(sharpness::Sharpness),
    Ablate(ablate::Ablate),
    Sweep(Box<sweep::Sweep>),
}

pub fn run(verb: World, console: &Console) -> Result<()> {
    match verb {
        World::Render(args) => render::run(args, console),
        World::Prompts(args) => prompts::run(&args),
        World::Judge(args) => judge::run(&args, console),
        World::Report(args) => report::run(args),
        World::Pretrain(args) => pretrain::run(args, console),
        World::Sharpness(args) => sharpness::run(&args, console),
        World::Ablate(args) => ablate::run(args, console),
        World::Sweep(args) => sweep::run(*args, console),
    }
}
