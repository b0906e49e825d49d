//! This process's rank and the process group's address, as the launcher sets them in the environment.

use super::slurm;
use anyhow::{Result, anyhow, bail};
use std::{env, str::FromStr};

/// One process of a run. Ranks count from 0 over all machines, `local` on each machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    pub rank: usize,
    pub size: usize,
    pub local: usize,
    /// Address of the store through which the ranks find each other.
    pub host: String,
    pub port: u16,
    /// Whether this process runs the store; otherwise the launcher or another rank does.
    pub serves: bool,
    /// Separates this start from earlier ones that used the same store.
    pub prefix: String,
}

impl Launch {
    /// Reads the variables of torchrun (or set by hand), or of Slurm's srun; `None` if this is the only process.
    ///
    /// # Errors
    /// Variables that are incomplete or contradict each other.
    pub fn of_environment() -> Result<Option<Self>> {
        Self::of(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    pub(super) fn of(var: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let found = match (var("RANK"), var("WORLD_SIZE")) {
            (None, None) => slurm::launch(&var)?,
            (Some(_), Some(_)) => Some(torchrun(&var)?),
            (set, _) => {
                let (set, missing) = if set.is_some() { ("RANK", "WORLD_SIZE") } else { ("WORLD_SIZE", "RANK") };
                bail!(
                    "{set} is set in the environment, but {missing} is not; several processes need both, MASTER_ADDR and \
                     MASTER_PORT (torchrun sets them all), one needs none"
                )
            }
        };
        if let Some(Self { rank, size, .. }) = found
            && rank >= size
        {
            bail!("rank {rank} of {size}: ranks count from 0 (RANK and WORLD_SIZE, or Slurm's variables)");
        }
        Ok(found.filter(|launch| launch.size > 1))
    }
}

/// torchrun's variables. If they are set by hand, the first four are enough.
fn torchrun(var: &impl Fn(&str) -> Option<String>) -> Result<Launch> {
    let rank = required(var, "RANK")?;
    let size = required(var, "WORLD_SIZE")?;
    let agent_serves = var("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|set| set.eq_ignore_ascii_case("true"));
    Ok(Launch {
        rank,
        size,
        local: number(var, "LOCAL_RANK")?.unwrap_or(rank),
        host: if size > 1 { required(var, "MASTER_ADDR")? } else { String::new() },
        port: if size > 1 { required(var, "MASTER_PORT")? } else { 0 },
        serves: rank == 0 && !agent_serves,
        prefix: format!("comat/{}", number::<u32>(var, "TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0)),
    })
}

pub(super) fn required<T: FromStr>(var: &impl Fn(&str) -> Option<String>, name: &str) -> Result<T> {
    number(var, name)?.ok_or_else(|| anyhow!("{name} is not set in the environment, but RANK and WORLD_SIZE are"))
}

pub(super) fn number<T: FromStr>(var: &impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<T>> {
    let Some(text) = var(name) else { return Ok(None) };
    Ok(Some(text.trim().parse().map_err(|_| anyhow!("{name} is `{text}` in the environment, which cannot be"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &str) -> Result<Option<Launch>> {
        let all: Vec<(&str, &str)> = set.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
        Launch::of(|name| all.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    const BY_HAND: &str = "RANK=1 WORLD_SIZE=4 MASTER_ADDR=10.0.0.1 MASTER_PORT=29400";

    #[test]
    fn alone() {
        for set in ["", "MASTER_ADDR=a MASTER_PORT=1", "RANK=0 WORLD_SIZE=1", "LOCAL_RANK=3", "SLURM_JOB_ID=3"] {
            assert_eq!(of(set).unwrap(), None, "{set}");
        }
    }

    #[test]
    fn by_hand_and_by_torchrun() {
        let launch = of(BY_HAND).unwrap().unwrap();
        assert_eq!((launch.rank, launch.size, launch.local, launch.serves), (1, 4, 1, false));
        assert_eq!((launch.host.as_str(), launch.port, launch.prefix.as_str()), ("10.0.0.1", 29400, "comat/0"));
        assert!(of(&BY_HAND.replace("RANK=1", "RANK=0")).unwrap().unwrap().serves);
        let agent = "TORCHELASTIC_USE_AGENT_STORE=True TORCHELASTIC_RESTART_COUNT=2 LOCAL_RANK=0";
        let launch = of(&format!("{} {agent}", BY_HAND.replace("RANK=1", "RANK=0"))).unwrap().unwrap();
        assert_eq!((launch.serves, launch.local, launch.prefix.as_str()), (false, 0, "comat/2"));
        let inside_slurm = format!("{BY_HAND} SLURM_STEP_ID=0 SLURM_JOB_ID=1 SLURM_PROCID=0 SLURM_NTASKS=2");
        assert_eq!(of(&inside_slurm).unwrap().unwrap().rank, 1, "torchrun, started by srun");
    }

    #[test]
    fn half_set_and_wrong() {
        for (set, said) in [
            ("RANK=1", "RANK is set in the environment, but WORLD_SIZE is not"),
            ("WORLD_SIZE=2", "WORLD_SIZE is set in the environment, but RANK is not"),
            ("RANK=0 WORLD_SIZE=2 MASTER_PORT=1", "MASTER_ADDR is not set"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a", "MASTER_PORT is not set"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000", "MASTER_PORT is `70000`"),
            ("RANK=-1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1", "RANK is `-1`"),
            ("RANK=2 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1", "rank 2 of 2"),
            ("RANK=1 WORLD_SIZE=1", "rank 1 of 1"),
        ] {
            let error = of(set).unwrap_err().to_string();
            assert!(error.contains(said), "{set}: {error}");
        }
    }
}
