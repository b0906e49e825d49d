//! The binary `comat`: arguments in, one function per verb.

#[macro_use]
mod console;
mod args;
mod doctor;
mod entities;
mod evaluate;
mod fetch;
mod lora;
mod paths;
mod prepare;
mod processes;
mod report;
mod segment;
mod verbs;
mod world;

use args::{Args, Verb};
use std::process::ExitCode;

fn main() -> ExitCode {
    let _ = torch_ext::cuda::load(); // before anything else touches libtorch; an error only means: no GPU here
    let args = Args::typed();
    models::config::be_strict(args.strict);
    console::one_line_for_panics();
    let console = console::Console::new();
    if let Some(count) = args.verb.processes().filter(|count| *count > 1) {
        return processes::run(count, &console);
    }
    let result = match args.verb {
        Verb::Train(args) => verbs::train(args, &console),
        Verb::Plan(args) => verbs::plan(args, &console),
        Verb::Prepare(args) => prepare::run(args, &console),
        Verb::Generate(args) => verbs::generate(args, &console),
        Verb::Evaluate(args) => evaluate::run(*args, &console),
        Verb::Latents(args) => verbs::latents(args, &console),
        Verb::Trace(args) => verbs::trace(args, &console),
        Verb::Entities(args) => entities::run(args),
        Verb::Segment(args) => segment::run(args, &console),
        Verb::Attention(args) => verbs::attention(args, &console),
        Verb::Report(args) => report::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Lora(verb) => lora::run(verb, &console),
        Verb::World(verb) => world::run(verb, &console),
    };
    console::exit_code(result)
}
