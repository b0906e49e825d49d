//! Time and memory of child processes.

use crate::command::line;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a program prints; failure is an error.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("could not start `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", line(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One run of a program, or the medians of several.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Wall time.
    pub seconds: f64,
    /// Highest resident set in MiB, by the kernel's own high-water mark; NaN where the system does not tell (not Linux)
    /// or the program was over too soon to be asked.
    pub peak_mib: f64,
}

impl Measured {
    /// Runs the command to its end; its standard output is thrown away, failure is an error.
    pub fn of(command: &mut Command) -> Result<Self> {
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

    pub fn median(runs: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| median(runs.iter().map(field).filter(|value| !value.is_nan()).collect());
        Self { seconds: of(|run| run.seconds), peak_mib: of(|run| run.peak_mib) }
    }
}

/// The middle value, or the mean of the two in the middle; NaN of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::program;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
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
