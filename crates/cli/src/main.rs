//! The binary `comat`: parses the arguments and calls the function of the verb.

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
mod text;
mod threads;
mod verbs;
mod world;

use args::Args;
use console::Console;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::typed();
    if args.verb.computes() {
        threads::restart_prepared();
    }
    torch_ext::memory::keep_freed();
    let _ = torch_ext::cuda::load(); // before any other use of libtorch; an error only means that there is no GPU
    models::config::be_strict(args.strict);
    console::one_line_for_panics();
    let console = Console::new(args.loudness());
    if let Some(count) = args.verb.processes().filter(|count| *count > 1) {
        return processes::run(count, &console);
    }
    let _ = torch_ext::signals::keep_to_one_thread(); // an error leaves signals as they are
    console::exit_code(verbs::dispatch(args.verb, &console))
}
