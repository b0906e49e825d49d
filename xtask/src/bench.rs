//! `cargo xtask bench`: speed and memory of the release build. One function per benchmark, listed in `BENCHMARKS`.

use crate::command::{line, program};
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a benchmark gets to work with.
struct Bench {
    /// The release build of `comat`.
    comat: PathBuf,
    /// The workspace's top folder.
    root: PathBuf,
    /// Runs of each side of a comparison.
    runs: u32,
}

type Benchmark = fn(&Bench) -> Result<()>;

const BENCHMARKS: &[(&str, Benchmark)] = &[("start", start)];

/// Builds the release binary and runs the benchmarks named, or all.
pub fn run(workspace: &Workspace, names: &[String], runs: u32) -> Result<ExitCode> {
    let chosen = choose(names)?;
    setup::ensure(workspace, false)?;
    let bench = Bench { comat: workspace.release_build()?, root: workspace.root().to_path_buf(), runs };
    for (name, benchmark) in chosen {
        println!("{name}");
        benchmark(&bench).with_context(|| format!("benchmark {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How long the program takes to come up with libtorch loaded.
fn start(bench: &Bench) -> Result<()> {
    bench.measure([("comat --version", bench.comat(&["--version"]))])
}

impl Bench {
    /// `comat` with these arguments, run in the workspace's top folder.
    fn comat(&self, args: &[&str]) -> Command {
        let mut comat = program(&self.comat);
        comat.args(args).current_dir(&self.root);
        comat
    }

    /// Runs the named commands in turn, A B A B …, so that a slow spell of the machine meets all of them alike; prints
    /// the medians and, from the second command on, their ratio to the first.
    fn measure<const N: usize>(&self, mut commands: [(&str, Command); N]) -> Result<()> {
        let mut measured = [const { vec![] }; N];
        for _ in 0..self.runs {
            for ((_, command), runs) in commands.iter_mut().zip(&mut measured) {
                runs.push(Measured::of(command)?);
            }
        }
        let medians = measured.map(|runs| Measured::median(&runs));
        let width = commands.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (number, ((name, _), median)) in commands.iter().zip(&medians).enumerate() {
            print!("  {name:width$}  {:9.3} s  {:8.1} MiB", median.seconds, median.peak_mib);
            if number > 0 {
                let first = &medians[0];
                let (time, memory) = (median.seconds / first.seconds, median.peak_mib / first.peak_mib);
                print!("  {time:.3} × the time, {memory:.3} × the memory");
            }
            println!();
        }
        println!("  (medians of {} runs each; the memory is the peak resident set)", self.runs);
        Ok(())
    }
}

/// One run of a program, or the medians of several.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Wall time.
    seconds: f64,
    /// Highest resident set in MiB, by the kernel's own high-water mark; NaN where the system does not tell (not Linux)
    /// or the program was over too soon to be asked.
    peak_mib: f64,
}

impl Measured {
    /// Runs the command to its end; its standard output is thrown away, failure is an error.
    fn of(command: &mut Command) -> Result<Self> {
        let start = Instant::now();
        let mut child =
            command.stdout(Stdio::null()).spawn().with_context(|| format!("could not start `{}`", line(command)))?;
        let status_file = format!("/proc/{}/status", child.id());
        let mut peak_mib = f64::NAN;
        // The mark only ever rises, so the last look misses at most what the last hundredth of the time added.
        let status = loop {
            if let Some(peak) = peak_resident_mib(Path::new(&status_file)) {
                peak_mib = peak_mib.max(peak);
            }
            match child.try_wait()? {
                Some(status) => break status,
                None => sleep((start.elapsed() / 100).clamp(Duration::from_micros(200), Duration::from_millis(5))),
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        if !status.success() {
            bail!("`{}` failed ({status})", line(command));
        }
        Ok(Self { seconds, peak_mib })
    }

    fn median(runs: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| median(runs.iter().map(field).filter(|value| !value.is_nan()).collect());
        Self { seconds: of(|run| run.seconds), peak_mib: of(|run| run.peak_mib) }
    }
}

/// The middle value, or the mean of the two in the middle; NaN of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// `VmHWM:   123456 kB` of a /proc/PID/status file; None once the process is over.
fn peak_resident_mib(status_file: &Path) -> Option<f64> {
    let status = fs::read_to_string(status_file).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    let mib = kib.trim().parse::<f64>().ok()? / 1024.0;
    (mib > 0.0).then_some(mib) // nothing yet just after the start
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
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = choose(&["start".into(), "nothing".into()]).unwrap_err().to_string();
        assert!(error.starts_with("there is no benchmark nothing; there are: start"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn time_and_memory_of_a_child() {
        // 64 MiB held in a shell variable
        let script = "x=$(head -c 67108864 /dev/zero | tr '\\0' x); sleep 0.2";
        let measured = Measured::of(program("sh").args(["-c", script])).unwrap();
        assert!(measured.seconds >= 0.2, "{measured:?}");
        assert!((64.0..1024.0).contains(&measured.peak_mib), "{measured:?}");
        assert!(Measured::of(program("sh").args(["-c", "exit 3"])).is_err());
    }
}
