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
const STEPS: usize = 5;

/// Seconds of a step's parts, in the mean over the steps of a run but the first.
struct Step {
    whole: f64,
    /// Of the sums over the ranks, without waiting for the slower one.
    message: f64,
    /// What rank 0 waited for the other.
    waiting: f64,
}

pub fn ranks(bench: &Bench) -> Result<()> {
    println!("  {BATCH} samples a step on the miniature world, T 10, K 10, rank 16, float32, one thread a process");
    let (mut gains, mut ceilings, mut messages, mut waits) = (vec![], vec![], vec![], vec![]);
    for run in 0..bench.runs {
        let alone = of_runs(vec![train(bench, "alone", BATCH, 0, None)?], bench, &["alone"])?;
        // two that know nothing of each other: what the machine allows
        let apart = ["left", "right"];
        let both = [(apart[0], 0), (apart[1], 1)].map(|(name, core)| train(bench, name, BATCH / 2, core, None));
        let apart = of_runs(both.into_iter().collect::<Result<_>>()?, bench, &apart)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let two = [0, 1].map(|rank| train(bench, "two", BATCH, rank, Some(port)));
        let two = of_runs(two.into_iter().collect::<Result<_>>()?, bench, &["two"])?;
        let slower = apart.iter().map(|step| step.whole).fold(0.0, f64::max);
        println!(
            "  {run}: one process {:.3} s, two apart {slower:.3} s, two ranks {:.3} s a step; of it message {:.4} s, waiting {:.3} s",
            alone[0].whole, two[0].whole, two[0].message, two[0].waiting
        );
        gains.push(alone[0].whole / two[0].whole);
        ceilings.push(alone[0].whole / slower);
        messages.push(100.0 * two[0].message / two[0].whole);
        waits.push(100.0 * two[0].waiting / two[0].whole);
    }
    println!(
        "  two ranks are {:.2} times as fast as one process; two processes apart {:.2} times (medians of {} runs)",
        median(gains),
        median(ceilings),
        bench.runs
    );
    println!("  of a step {:.2} % is the message, {:.1} % waiting for the other rank", median(messages), median(waits));
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
    let steps: Vec<&str> = events.lines().filter(|line| line.starts_with("{\"event\":\"step\"")).skip(1).collect();
    let mean = |of: &dyn Fn(&str) -> f64| steps.iter().map(|step| of(step)).sum::<f64>() / steps.len() as f64;
    let waited = |step: &str| match numbers(step, "seconds_ranks")[..] {
        [first, second] => (second - first).max(0.0),
        _ => 0.0,
    };
    let adding_up = |step: &str| numbers(step, "seconds_adding_up").first().copied().unwrap_or(0.0);
    let step = Step {
        whole: mean(&|step| numbers(step, "seconds").first().copied().unwrap_or(f64::NAN)),
        message: mean(&|step| (adding_up(step) - waited(step)).max(0.0)),
        waiting: mean(&waited),
    };
    if step.whole.is_nan() { bail!("no seconds in the log") } else { Ok(step) }
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
        assert_eq!((step.whole, step.message, step.waiting), (3.0, 0.25, 0.25));
        assert!(logged("").is_err());
    }
}
