//! `cargo xtask VERB`: sets the machine up, runs the tests, the demo and the benchmarks.

mod bench;
mod command;
mod demo;
mod docs;
mod fixtures;
mod kill;
mod lint;
mod setup;
mod test;
mod wheel;
mod workspace;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;
use workspace::Workspace;

/// Sets the machine up; runs the tests, the demo and the benchmarks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Setup(SetupArgs),
    Test(TestArgs),
    /// Check the formatting and run clippy, warnings counted as errors
    Lint,
    Demo(DemoArgs),
    /// Renew the pages that are made from the code: settings and their schema, help, errors
    Docs,
    Wheel(WheelArgs),
    Bench(BenchArgs),
    Fixtures(FixturesArgs),
    Kill(KillArgs),
}

/// Put libtorch 2.11.0 under ./libtorch (0.5 GB; once)
///
/// The files come out of the wheels on PyPI, every one pinned by its SHA-256. pip is only
/// the downloader: nothing is installed into Python. A second run finds the set-up complete
/// and returns at once. The verbs that build call this one.
///
/// Needs python3 with pip and a C++ compiler. Environment variables:
///   PIP                   another pip command, as in PIP="python3.12 -m pip"
///   CXX                   another C++ compiler than c++
///   LIBTORCH              your own libtorch, an absolute path; nothing is downloaded
///   LIBTORCH_USE_PYTORCH  the PyTorch that python3 imports, whatever LIBTORCH says
///
/// With --cuda it is the build for CUDA 13.0: NVIDIA driver 580 or newer, cards of compute
/// capability 7.5 or newer. For an older driver, name another build of torch 2.11.
#[derive(Args)]
#[command(verbatim_doc_comment)]
struct SetupArgs {
    /// With NVIDIA's libraries, to run on GPUs (3.8 GB); replaces a set-up made for the CPU
    #[arg(long)]
    cuda: bool,
}

/// Set up, then run the tests of the whole workspace
///
/// Without arguments the tests that meet a device most run once more on a stand-in for a GPU.
///
/// What follows `--` goes to `cargo test`: `cargo xtask test -- -p models`, `cargo xtask test -- some_name`. A second
/// `--` reaches the test programs: `cargo xtask test -- -- --nocapture`.
#[derive(Args)]
struct TestArgs {
    /// On a device that stands in for a GPU, which shows what CUDA would refuse (crates/stand-in)
    #[arg(long)]
    stand_in: bool,
    /// Arguments of `cargo test`; with -p or --package only those packages are tested
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CARGO TEST ARGUMENTS")]
    args: Vec<String>,
}

/// Set up, build, and train on the built-in miniature world: comat demo
///
/// What follows goes to `comat demo`: `cargo xtask demo --quick`.
#[derive(Args)]
struct DemoArgs {
    /// Arguments of comat demo
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMAT DEMO ARGUMENTS")]
    args: Vec<String>,
}

/// Build a wheel for pip: the program, its presets and the miniature world, to run with the user's own torch 2.11
///
/// Writes DIR/comat-VERSION-py3-none-PLATFORM.whl, completions for shells and man pages beside it.
#[derive(Args)]
struct WheelArgs {
    /// Where to write
    #[arg(long, value_name = "DIR", default_value = "target/wheel")]
    out: std::path::PathBuf,
    /// Also try it: install it into a fresh environment with a torch 2.11 made of ./libtorch, and run doctor, demo and a training there
    #[arg(long)]
    check: bool,
}

/// Measure speed and memory with the release build
#[derive(Args)]
struct BenchArgs {
    /// Benchmarks to run, by name; all of them without a name
    names: Vec<String>,
    /// How often each side of a comparison is run; the medians are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Compare the ratios with those in docs/benchmarks.json: name what is worse, exit with 1 if something is
    #[arg(long)]
    check: bool,
    /// Write the ratios into docs/benchmarks.json
    #[arg(long)]
    keep: bool,
}

/// Write the parity fixtures anew with diffusers and transformers
///
/// Makes a Python environment with tools/reference/requirements.txt under target/reference-venv (about 7 GB with PyTorch;
/// once), then runs tools/reference/fixtures.py. The fixtures are part of the repository: only needed to change them.
#[derive(Args)]
struct FixturesArgs {
    /// Arguments of fixtures.py: the names of the fixtures to write; all of them without a name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME")]
    args: Vec<String>,
}

/// Kill a small training at random moments, resume it until it ends, and compare it with one that was not killed
///
/// Validation, samples and checkpoints are on. Weights, moments, exported LoRAs, samples and latents have to be the same bytes, and
/// what validation found the same numbers.
#[derive(Args)]
struct KillArgs {
    /// How many kills there are in all
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Where the moments are drawn from [default: another one each time; it is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// A comat that is built already [default: the release build, which is made]
    #[arg(long, value_name = "FILE")]
    comat: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match verb {
        Verb::Setup(args) => setup::run(&workspace, args.cuda),
        Verb::Test(args) => test::run(&workspace, args.stand_in, &args.args),
        Verb::Lint => lint::run(&workspace),
        Verb::Docs => docs::run(&workspace),
        Verb::Demo(args) => demo::run(&workspace, &args.args),
        Verb::Wheel(args) => wheel::run(&workspace, &args),
        Verb::Bench(args) => bench::run(&workspace, &args.names, args.runs, args.keep, args.check),
        Verb::Fixtures(args) => fixtures::run(&workspace, &args.args),
        Verb::Kill(args) => kill::run(&workspace, args.times, args.seed, args.comat.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_of_cargo_test_come_through() {
        let args = |line: &str| match Cli::try_parse_from(line.split(' ')).unwrap().verb {
            Verb::Test(test) => test.args.join(" "),
            _ => unreachable!(),
        };
        assert_eq!(args("xtask test"), "");
        assert_eq!(args("xtask test -- -p models"), "-p models");
        assert_eq!(args("xtask test -p models"), "-p models");
        assert_eq!(args("xtask test -- -- --nocapture"), "-- --nocapture");
        assert_eq!(args("xtask test name -- --nocapture"), "name -- --nocapture");
    }
}
