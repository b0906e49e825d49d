//! Slurm's variables, as set by `srun` for every task of a step.

use super::launch::{Launch, number};
use anyhow::{Context, Result, anyhow};

/// `None` outside of a step, or in a step with a single task. (A batch script also has SLURM_PROCID and SLURM_NTASKS,
/// but no step.)
pub fn launch(var: &impl Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
    let Some(step) = step(var)? else { return Ok(None) };
    let size = match number(var, "SLURM_STEP_NUM_TASKS")? {
        Some(tasks) => tasks,
        None => number(var, "SLURM_NTASKS")?.unwrap_or(1),
    };
    if size < 2 {
        return Ok(None);
    }
    let required = |name: &str| {
        number(var, name)?
            .ok_or_else(|| anyhow!("{name} is not set in the environment, though this is a step of Slurm"))
    };
    let rank: u64 = required("SLURM_PROCID")?;
    let job: u64 = required("SLURM_JOB_ID")?;
    let host = match var("MASTER_ADDR") {
        Some(host) => host,
        None => {
            let nodes = var("SLURM_STEP_NODELIST").or_else(|| var("SLURM_JOB_NODELIST"));
            let nodes = nodes.context("SLURM_STEP_NODELIST is not set in the environment; set MASTER_ADDR")?;
            first_host(&nodes).with_context(|| format!("the first host of `{nodes}` is not clear; set MASTER_ADDR"))?
        }
    };
    Ok(Some(Launch {
        rank: rank as usize,
        size,
        local: required("SLURM_LOCALID")? as usize,
        host,
        port: number(var, "MASTER_PORT")?.unwrap_or_else(|| port(job, step)),
        serves: rank == 0,
        prefix: "comat/0".into(),
    }))
}

fn step(var: &impl Fn(&str) -> Option<String>) -> Result<Option<u64>> {
    Ok(number(var, "SLURM_STEP_ID")?.or(number(var, "SLURM_STEPID")?))
}

/// A port that is the same for all tasks of a step, differs for most other steps of a machine, and lies below those
/// that operating systems assign.
fn port(job: u64, step: u64) -> u16 {
    const FIRST: u64 = 12_000;
    const PORTS: u64 = 20_000;
    (FIRST + (job.wrapping_mul(7) + step) % PORTS) as u16
}

/// The first host of a list such as `node[07-12,20],gpu-a`.
fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list.trim();
    while let Some((before, bracket)) = rest.split_once('[') {
        if before.contains(',') {
            break;
        }
        let (numbers, after) = bracket.split_once(']')?;
        host.push_str(before);
        host.push_str(numbers.split([',', '-']).next()?);
        rest = after;
    }
    host.push_str(rest.split(',').next()?);
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (list, first) in [
            ("node7", "node7"),
            ("alpha,beta", "alpha"),
            ("node[07-12,20],gpu-a", "node07"),
            ("node[3,5-9]", "node3"),
            ("gpu-a,node[1-2]", "gpu-a"),
            ("rack[2-3]n[001-016].cluster,x", "rack2n001.cluster"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
        }
        assert_eq!(first_host(""), None);
        assert_eq!(first_host("node[1"), None);
    }

    fn of(set: &str) -> Result<Option<Launch>> {
        let all: Vec<(&str, &str)> = set.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
        Launch::of(|name| all.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    /// Variables that a batch script has already.
    const BATCH: &str = "SLURM_JOB_ID=4711 SLURM_NTASKS=16 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=n[01-02]";

    #[test]
    fn a_task_of_a_step() {
        let step = "SLURM_STEP_ID=1 SLURM_STEP_NUM_TASKS=8 SLURM_STEP_NODELIST=n02";
        let task = BATCH.replace("PROCID=0", "PROCID=5").replace("LOCALID=0", "LOCALID=1");
        let launch = of(&format!("{task} {step}")).unwrap().unwrap();
        assert_eq!((launch.rank, launch.size, launch.local, launch.serves), (5, 8, 1, false));
        assert_eq!((launch.host.as_str(), launch.port), ("n02", 12_000 + (4711 * 7 + 1) % 20_000));
        let launch = of(&format!("{BATCH} SLURM_STEPID=0 MASTER_ADDR=here MASTER_PORT=99")).unwrap().unwrap();
        assert_eq!((launch.size, launch.host.as_str(), launch.port, launch.serves), (16, "here", 99, true));
    }

    #[test]
    fn no_step_of_several_tasks() {
        assert_eq!(of(BATCH).unwrap(), None, "a batch script");
        assert_eq!(of(&format!("{BATCH} SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1")).unwrap(), None);
        let error = of("SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_JOB_ID=1").unwrap_err().to_string();
        assert!(error.contains("SLURM_PROCID is not set"), "{error}");
    }
}
