//! `cargo xtask bench`: speed and memory of the release build. One function per benchmark, listed in `BENCHMARKS`.

mod kept;
mod loaded;
mod measure;
mod ranks;
mod tracked;

use crate::command::{must, program};
use crate::fixtures;
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use kept::Ratios;
use measure::{Measured, median, output};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What a benchmark gets to work with.
struct Bench<'a> {
    workspace: &'a Workspace,
    /// The release build of `comat`.
    comat: PathBuf,
    /// Runs of each side of a comparison.
    runs: u32,
    /// What was found so far.
    ratios: Ratios,
}

type Benchmark = fn(&Bench) -> Result<()>;

const BENCHMARKS: &[(&str, Benchmark)] = &[
    ("start", start),
    ("memory", memory),
    ("tracked", tracked::tracked),
    ("iteration", iteration),
    ("ranks", ranks::ranks),
    ("loaded", loaded::loaded),
];

const MODEL: &str = "weights/world/sd";
const CAPTIONER: &str = "weights/world/blip";
const PROMPTS: &str = "configs/world/train.jsonl";

/// Builds the release binary and runs the benchmarks named, or all. `keep` writes their ratios into [`kept::FILE`]; `check` fails
/// where one is worse than it is there.
pub fn run(workspace: &Workspace, names: &[String], runs: u32, keep: bool, check: bool) -> Result<ExitCode> {
    let chosen = choose(names)?;
    setup::ensure(workspace, false)?;
    let bench = Bench { workspace, comat: workspace.build("release", &[])?, runs, ratios: Ratios::default() };
    for (name, benchmark) in chosen {
        println!("{name}");
        benchmark(&bench).with_context(|| format!("benchmark {name}"))?;
    }
    let path = workspace.root().join(kept::FILE);
    if check {
        let (lines, worse) = bench.ratios.compare(&path)?;
        lines.iter().for_each(|line| println!("{line}"));
        if worse > 0 {
            println!("{worse} of {} ratios are worse than in {}", lines.len(), kept::FILE);
            return Ok(ExitCode::FAILURE);
        }
    }
    if keep {
        bench.ratios.keep(&path)?;
        println!("kept in {}", kept::FILE);
    }
    Ok(ExitCode::SUCCESS)
}

/// How long the program takes to come up with libtorch loaded.
fn start(bench: &Bench) -> Result<()> {
    let mut runs = vec![];
    for _ in 0..bench.runs {
        runs.push(Measured::of(&mut bench.comat(&["--version"]))?);
    }
    let median = Measured::median(&runs);
    println!("  comat --version  {:.3} s  {:.1} MiB (medians of {} runs)", median.seconds, median.peak_mib, bench.runs);
    Ok(())
}

/// Peak memory of one training iteration on the miniature world, over steps, tracked steps and micro-batches.
fn memory(bench: &Bench) -> Result<()> {
    const BATCH: usize = 16;
    println!("  peak resident set of one iteration, {BATCH} samples, in MiB");
    let row = |t: usize, k: usize, micro: usize, mode: &str| -> Result<()> {
        let noise = bench.noise(BATCH, t)?;
        let settings = [
            format!("sampling.steps={t}"),
            format!("replay.tracked={k}"),
            format!("replay.micro_batch={micro}"),
            format!("captioner.micro_batch={micro}"),
            format!("replay.mode={mode}"),
        ];
        let text = output(&mut bench.trace(&noise, &settings, 1)?)?;
        let micro = if micro == 0 { "whole".to_owned() } else { micro.to_string() };
        println!("  T {t:2}  K {k:2}  micro-batch {micro:5}  {mode:8}  {:6.0}", number_after(&text, "peak memory")?);
        Ok(())
    };
    for t in [10, 20, 50] {
        for k in [1, 5, 10] {
            row(t, k, 4, "chained")?;
        }
    }
    row(50, 5, 4, "detached")?;
    for micro in [0, 8, 2, 1] {
        row(20, 5, micro, "chained")?;
    }
    Ok(())
}

/// One training iteration here and in PyTorch: the same noise, the same adapter, in turn.
fn iteration(bench: &Bench) -> Result<()> {
    const REPEAT: usize = 5;
    let (steps, tracked, batch) = (25, 5, 8);
    let noise = bench.noise(batch, steps)?;
    for mode in ["detached", "chained"] {
        let settings = [
            format!("sampling.steps={steps}"),
            format!("replay.tracked={tracked}"),
            format!("replay.mode={mode}"),
            "lora.rank=16".to_owned(),
        ];
        let mut theirs = bench.pytorch(&noise, steps, tracked, mode, REPEAT)?;
        let mut ours = bench.trace(&noise, &settings, REPEAT)?;
        let (mut seconds, mut mib, mut phases) = ([vec![], vec![]], [vec![], vec![]], [vec![], vec![], vec![], vec![]]);
        for _ in 0..bench.runs {
            for (side, command, memory) in [(0, &mut ours, "peak memory"), (1, &mut theirs, "peak resident set")] {
                let text = output(command)?;
                seconds[side].push(number_after(&text, "iteration")?);
                mib[side].push(number_after(&text, memory)?);
                if side == 0 {
                    let of_it =
                        text.lines().find(|line| line.starts_with("of it")).context("there is no line `of it`")?;
                    for (phase, word) in phases.iter_mut().zip(["trajectory", "decode", "caption", "replay"]) {
                        phase.push(number_after(of_it, word)?);
                    }
                }
            }
        }
        let over = |of: &[Vec<f64>; 2]| of[0].iter().zip(&of[1]).map(|(ours, theirs)| ours / theirs).collect();
        let (times, memories): (Vec<f64>, Vec<f64>) = (over(&seconds), over(&mib));
        bench.ratios.add(&format!("iteration {mode}, seconds over PyTorch's"), &times);
        bench.ratios.add(&format!("iteration {mode}, memory over PyTorch's"), &memories);
        let ratio = median(times);
        let [ours, theirs] = seconds.map(median);
        let [our_mib, their_mib] = mib.map(median);
        let phases = phases.map(median);
        println!("  {mode}, T {steps}, K {tracked}, {batch} samples, guidance 4, float32:");
        println!("    comat    {ours:7.3} s  {our_mib:6.0} MiB");
        println!("    PyTorch  {theirs:7.3} s  {their_mib:6.0} MiB");
        println!(
            "    of ours  trajectory {:.3} s, decoder {:.3} s, captioner {:.3} s, replay {:.3} s",
            phases[0], phases[1], phases[2], phases[3]
        );
        println!("    ratio    {ratio:7.3} (median of {} pairs, each the median of {REPEAT} iterations)", bench.runs);
    }
    Ok(())
}

impl Bench<'_> {
    /// `comat` with these arguments, run in the workspace's top folder.
    fn comat(&self, args: &[&str]) -> Command {
        let mut comat = program(&self.comat);
        comat.args(args).current_dir(self.workspace.root());
        comat
    }

    /// One iteration on the miniature world from a noise file.
    fn trace(&self, noise: &Path, settings: &[String], repeat: usize) -> Result<Command> {
        let mut trace = self.comat(&["trace", "--config", "configs/world.toml", "--repeat", &repeat.to_string()]);
        trace.arg("--noise").arg(noise).arg("--out").arg(self.scratch("ours.safetensors")?);
        // what is measured stays the same when the demo's settings change
        trace.args([
            "--set",
            "sampling.guidance_scale=4.0",
            "--set",
            "replay.policy=grid",
            "--set",
            "replay.max_cotangent=0",
            // two more passes in each tracked step, which PyTorch's side does not have
            "--set",
            "anchor=false",
        ]);
        settings.iter().for_each(|setting| _ = trace.args(["--set", setting]));
        Ok(trace)
    }

    /// The same in PyTorch, with an adapter of rank 16.
    fn pytorch(&self, noise: &Path, steps: usize, tracked: usize, mode: &str, repeat: usize) -> Result<Command> {
        let mut python = program(fixtures::python(self.workspace)?);
        python.current_dir(self.workspace.root()).args(["-B", "tools/reference/iteration.py"]);
        python.args([
            "--model",
            MODEL,
            "--captioner",
            CAPTIONER,
            "--prompts",
            PROMPTS,
            "--rank",
            "16",
            "--alpha",
            "16",
        ]);
        python.args(["--steps", &steps.to_string(), "--tracked", &tracked.to_string(), "--tracked-start", "0"]);
        python.args(["--guidance-scale", "4.0", "--mode", mode, "--dtype", "float32", "--repeat", &repeat.to_string()]);
        python.arg("--noise").arg(noise).arg("--out").arg(self.scratch("theirs.safetensors")?);
        Ok(python)
    }

    /// A noise file for a batch, made once.
    fn noise(&self, batch: usize, steps: usize) -> Result<PathBuf> {
        let path = self.scratch(&format!("noise-{batch}-{steps}.safetensors"))?;
        if !path.exists() {
            let mut python = program(fixtures::python(self.workspace)?);
            python.arg("-B").arg("tools/reference/noise.py").arg(MODEL).arg("--out").arg(&path);
            must(
                python
                    .args(["--batch", &batch.to_string(), "--steps", &steps.to_string()])
                    .current_dir(self.workspace.root()),
            )?;
        }
        Ok(path)
    }

    fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.workspace.root().join("target/bench");
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(folder.join(name))
    }
}

/// The last number that follows a word in a program's output.
fn number_after(text: &str, word: &str) -> Result<f64> {
    let (_, rest) = text.rsplit_once(word).with_context(|| format!("there is no `{word}` in the output:\n{text}"))?;
    let number: String = rest.trim_start().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    number.parse().with_context(|| format!("no number follows `{word}` in the output:\n{text}"))
}

fn choose(names: &[String]) -> Result<Vec<(&'static str, Benchmark)>> {
    if names.is_empty() {
        return Ok(BENCHMARKS.to_vec());
    }
    let mut chosen = vec![];
    for name in names {
        match BENCHMARKS.iter().find(|(known, _)| known == name) {
            Some(benchmark) => chosen.push(*benchmark),
            None => {
                let known: Vec<_> = BENCHMARKS.iter().map(|(known, _)| *known).collect();
                bail!("there is no benchmark {name}; there are: {}", known.join(", "));
            }
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_refused() {
        let error = choose(&["start".into(), "nothing".into()]).unwrap_err().to_string();
        assert!(error.starts_with("there is no benchmark nothing; there are: start"), "{error}");
    }

    #[test]
    fn numbers_in_output() {
        assert_eq!(number_after("iteration 1 s\nmedian: iteration 3.25 s (of 5)", "iteration").unwrap(), 3.25);
        assert!(number_after("nothing", "iteration").is_err());
    }
}
