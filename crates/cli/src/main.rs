//! The binary `comat`: arguments in, one function per verb.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

#[macro_use]
mod console;
mod args;
mod card;
mod demo;
mod doctor;
#[cfg(test)]
mod documented;
mod entities;
mod evaluate;
mod fetch;
mod init;
mod lora;
mod paths;
mod prepare;
mod preset;
mod processes;
mod prompts;
mod report;
mod segment;
mod share;
mod shell;
mod signal;
mod syntax;
mod threads;
mod verbs;
mod world;

use args::{Args, Verb};
use console::Console;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::typed();
    if args.verb.computes() {
        threads::wait_briefly();
    }
    let _ = torch_ext::cuda::load(); // before anything else touches libtorch; an error only means: no GPU here
    models::config::be_strict(args.strict);
    console::one_line_for_panics();
    let console = Console::new(args.loudness());
    if let Some(count) = args.verb.processes().filter(|count| *count > 1) {
        return processes::run(count, &console);
    }
    console::exit_code(dispatch(args.verb, &console))
}

fn dispatch(verb: Verb, console: &Console) -> anyhow::Result<()> {
    match verb {
        Verb::Demo(args) => demo::run(args, console),
        Verb::Init(args) => init::run(args, console),
        Verb::Config(args) => preset::run(&args),
        Verb::Train(args) => verbs::train(args, console),
        Verb::Plan(args) => verbs::plan(args, console),
        Verb::Prepare(args) => prepare::run(args, console),
        Verb::Generate(args) => verbs::generate(args, console),
        Verb::Evaluate(args) => evaluate::run(*args, console),
        Verb::Latents(args) => verbs::latents(args, console),
        Verb::Trace(args) => verbs::trace(args, console),
        Verb::Signal(args) => signal::run(args, console),
        Verb::Prompts(args) => prompts::run(&args),
        Verb::Entities(args) => entities::run(args),
        Verb::Segment(args) => segment::run(args, console),
        Verb::Attention(args) => verbs::attention(args, console),
        Verb::Report(args) => report::run(args, console),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Completions(args) => shell::completions(&args),
        Verb::Man(args) => shell::man(&args),
        Verb::Lora(verb) => lora::run(verb, console),
        Verb::World(verb) => world::run(verb, console),
    }
}
