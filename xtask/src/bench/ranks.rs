//! Two processes on a core each beside one on one core: the same batch, in turn.

use super::{Bench, median};
use crate::command::{line, program};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    net::TcpListener,
    process::{Command, Stdio},
};

const BATCH: usize = 16;
const STEPS: usize = 6;

/// Seconds of a step.
#[derive(Clone, Copy)]
struct Step {
    whole: f64,
    /// Of the sum over the ranks, without waiting for the slower one.
    message: f64,
    /// What rank 0 waited for the other.
    waiting: f64,
}

/// The step that was disturbed least: other work on the machine only ever makes a step longer.
fn least(steps: impl IntoIterator<Item = Step>) -> Result<Step> {
    steps.into_iter().min_by(|a, b| a.whole.total_cmp(&b.whole)).context("no step was measured")
}

pub fn ranks(bench: &Bench) -> Result<()> {
    println!("  {BATCH} samples a step on the miniature world, T 10, K 10, rank 16, float32, one thread a process");
    let (mut alone, mut apart, mut two) = (vec![], vec![], vec![]);
    for _ in 0..bench.runs {
        alone.push(least(of_runs(vec![train(bench, "alone", BATCH, 0, None)?], bench, &["alone"])?)?);
        // two that know nothing of each other: what the machine allows
        let names = ["left", "right"];
        let both = [(names[0], 0), (names[1], 1)].map(|(name, core)| train(bench, name, BATCH / 2, core, None));
        apart.push(least(of_runs(both.into_iter().collect::<Result<_>>()?, bench, &names)?)?);
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let both = [0, 1].map(|rank| train(bench, "two", BATCH, rank, Some(port)));
        two.push(least(of_runs(both.into_iter().collect::<Result<_>>()?, bench, &["two"])?)?);
        let seconds = [&alone, &apart, &two].map(|steps| steps.last().map_or(f64::NAN, |step| step.whole));
        println!(
            "  one process {:.3} s, two apart {:.3} s, two ranks {:.3} s a step",
            seconds[0], seconds[1], seconds[2]
        );
    }
    let times: Vec<f64> = two.iter().zip(&alone).map(|(two, alone)| two.whole / alone.whole).collect();
    bench.ratios.add("two ranks, a step over that of one process", &times);
    let messages: Vec<f64> = two.iter().map(|step| 100.0 * step.message / step.whole).collect();
    let waiting: Vec<f64> = two.iter().map(|step| 100.0 * step.waiting / step.whole).collect();
    let (alone, apart, two) = (least(alone)?, least(apart)?, least(two)?);
    println!(
        "  two ranks are {:.2} times as fast as one process, two processes apart {:.2} times (least of {} runs)",
        alone.whole / two.whole,
        alone.whole / apart.whole,
        bench.runs
    );
    println!("  of such a step {:.2} % is the message, {:.1} % waiting (medians)", median(messages), median(waiting));
    Ok(())
}

/// A run pinned to a core; with a port, that rank of two.
fn train(bench: &Bench, name: &str, batch: usize, core: usize, port: Option<u16>) -> Result<Command> {
    let output = bench.scratch(&format!("ranks-{name}"))?;
    let mut train = program("taskset");
    train.args(["-c", &core.to_string()]).arg(&bench.comat).args(["train", "--config", "configs/world.toml"]);
    for setting in [
        format!("output={}", output.display()),
        format!("train.batch_size={batch}"),
        format!("train.steps={STEPS}"),
        "samples.count=0".into(),
        "validation.count=1".into(),
        "checkpoints.every=0".into(),
    ] {
        train.args(["--set", &setting]);
    }
    train.current_dir(bench.workspace.root()).env("OMP_NUM_THREADS", "1");
    if let Some(port) = port {
        train.env("RANK", core.to_string()).env("WORLD_SIZE", "2").env("GLOO_SOCKET_IFNAME", "lo");
        train.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    }
    Ok(train)
}

/// Starts all commands at once; then what their logs say.
fn of_runs(commands: Vec<Command>, bench: &Bench, names: &[&str]) -> Result<Vec<Step>> {
    for name in names {
        let folder = bench.scratch(&format!("ranks-{name}"))?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
    }
    let mut running = vec![];
    for mut command in commands {
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        running.push((line(quiet), quiet.spawn().with_context(|| format!("could not start `{}`", line(quiet)))?));
    }
    for (line, mut child) in running {
        let status = child.wait()?;
        if !status.success() {
            bail!("`{line}` failed ({status})");
        }
    }
    names
        .iter()
        .map(|name| logged(&fs::read_to_string(bench.scratch(&format!("ranks-{name}"))?.join("events.jsonl"))?))
        .collect()
}

fn logged(events: &str) -> Result<Step> {
    let steps = events.lines().filter(|line| line.starts_with("{\"event\":\"step\"")).skip(1);
    least(steps.map(|step| {
        let number = |key: &str| numbers(step, key).first().copied().unwrap_or(0.0);
        let waiting = match numbers(step, "seconds_ranks")[..] {
            [first, second] => (second - first).max(0.0),
            _ => 0.0,
        };
        Step { whole: number("seconds"), message: (number("seconds_adding_up") - waiting).max(0.0), waiting }
    }))
}

/// A number, or a list of them, by its key in a line of JSON.
fn numbers(line: &str, key: &str) -> Vec<f64> {
    let Some((_, rest)) = line.split_once(&format!("\"{key}\":")) else { return vec![] };
    let end = if rest.starts_with('[') { rest.find(']') } else { rest.find([',', '}']) };
    let list = rest[..end.unwrap_or(rest.len())].trim_start_matches('[');
    list.split(',').filter_map(|number| number.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs() {
        let step = |s: f64| {
            format!("{{\"event\":\"step\",\"seconds\":{s},\"seconds_ranks\":[1.0,1.25],\"seconds_adding_up\":0.5}}\n")
        };
        let step = logged(&(step(9.0) + &step(2.0) + &step(4.0))).unwrap();
        assert_eq!((step.whole, step.message, step.waiting), (2.0, 0.25, 0.25));
        assert!(logged("").is_err());
    }
}
