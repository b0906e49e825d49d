//! Several processes: joins a process group, and implements `--processes N`, with which the program starts itself once
//! for every rank and supervises the ranks.

use crate::console::{self, Console};
use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ranks::{ProcessGroup, Terms, interrupt::Interrupt};
use std::{
    env,
    ffi::OsString,
    os::unix::process::{CommandExt, ExitStatusExt, parent_id},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};
use torch_ext::Store;

const OPTION: &str = "--processes";
/// Environment variable with the id of the process that started this one because of `--processes`.
const PARENT: &str = "COMAT_PARENT";
/// Time that the other ranks have to end by themselves after one has failed.
const GRACE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Connects to the other processes of this run, if there are any.
pub fn join(terms: Terms) -> Result<ProcessGroup> {
    end_with_parent()?;
    ProcessGroup::join(terms)
}

/// Runs this program with its own arguments as `count` ranks, and waits for them. Only rank 0 writes to standard
/// output. Ctrl-C is passed on to all ranks. The exit code is that of the first rank that failed, or 0.
pub fn run(count: usize, console: &Console) -> ExitCode {
    console.stop_silently_on_ctrl_c();
    match start(count, &without_option(env::args_os().skip(1)), &console.interrupt) {
        Ok(code) => code.into(),
        Err(error) => console::exit_code(Err(error.context(format!("{OPTION} {count}")))),
    }
}

fn start(count: usize, arguments: &[OsString], interrupt: &Interrupt) -> Result<u8> {
    if let Some(set) = ["RANK", "WORLD_SIZE"].into_iter().find(|name| env::var_os(name).is_some()) {
        bail!("{set} is set in the environment, so this is one of several processes already; leave {OPTION} out");
    }
    // more processes than can run at the same time would only wait for each other
    const FEW: usize = 8;
    let devices = tch::Cuda::device_count().max(0) as usize;
    let most = available_parallelism().map_or(1, |cores| cores.get()).max(devices).max(FEW);
    if count > most {
        bail!("this machine has work for {most} processes at most");
    }
    let store = Store::serve(0, Duration::from_secs(60))?;
    let mut ranks = Ranks(vec![]);
    for rank in 0..count {
        ranks.0.push(command(rank, count, store.port(), arguments)?.spawn().context("starting a process")?);
    }
    let (mut told, mut failed) = (false, None);
    loop {
        let ended = ranks.0.iter_mut().map(Child::try_wait).collect::<Result<Vec<_>, _>>()?;
        if failed.is_none() {
            let first = ended.iter().flatten().find(|status| !status.success());
            failed = first.map(|status| (code(status), Instant::now()));
        }
        match failed {
            None if ended.iter().all(Option::is_some) => return Ok(0),
            Some((code, since)) if ended.iter().all(Option::is_some) || since.elapsed() > GRACE => {
                return Ok(code); // dropping `ranks` kills the processes that are left
            }
            _ => {}
        }
        if interrupt.is_set() && !told {
            ranks.signal(Signal::SIGINT);
            told = true;
        }
        sleep(PAUSE);
    }
}

struct Ranks(Vec<Child>);

impl Ranks {
    fn signal(&self, signal: Signal) {
        for rank in &self.0 {
            let _ = kill(Pid::from_raw(rank.id() as i32), signal); // fails for a process that has ended; that is fine
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for rank in &mut self.0 {
            let _ = (rank.kill(), rank.wait());
        }
    }
}

fn command(rank: usize, count: usize, port: u16, arguments: &[OsString]) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(arguments).stdin(Stdio::null());
    if rank > 0 {
        command.stdout(Stdio::null());
    }
    command.process_group(0); // the terminal sends Ctrl-C to this process only, which passes it on
    command.env(PARENT, std::process::id().to_string());
    command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string()).env("WORLD_SIZE", count.to_string());
    command.env("MASTER_ADDR", "localhost").env("MASTER_PORT", port.to_string());
    command.env("TORCHELASTIC_USE_AGENT_STORE", "True"); // this process serves the store
    if cfg!(target_os = "linux") && env::var_os("GLOO_SOCKET_IFNAME").is_none() {
        command.env("GLOO_SOCKET_IFNAME", "lo");
    }
    if env::var_os("OMP_NUM_THREADS").is_none() {
        let threads = available_parallelism().map_or(1, |all| all.get() / count).max(1);
        command.env("OMP_NUM_THREADS", threads.to_string());
    }
    Ok(command)
}

/// Makes a rank end when the process that started it ends.
fn end_with_parent() -> Result<()> {
    let Ok(parent) = env::var(PARENT) else { return Ok(()) };
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if parent_id().to_string() != parent {
        bail!("the process that started this one is gone");
    }
    Ok(())
}

fn without_option(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, mut skip) = (vec![], false);
    for argument in arguments {
        let text = argument.to_string_lossy();
        let is_option = text == OPTION;
        let with_value = text.strip_prefix(OPTION).is_some_and(|rest| rest.starts_with('='));
        if !(skip || is_option || with_value) {
            kept.push(argument);
        }
        skip = is_option && !skip;
    }
    kept
}

/// The exit code as a shell reports it: 128 + the number of the signal for a killed process.
fn code(status: &ExitStatus) -> u8 {
    match status.code() {
        Some(code) => code.clamp(1, 255) as u8,
        None => 128 + status.signal().unwrap_or(0) as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_for_the_first_process_only() {
        let without = |line: &str| {
            let kept = without_option(line.split(' ').map(OsString::from));
            kept.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(without("train --processes 2 --config a.toml"), "train --config a.toml");
        assert_eq!(without("train --config a.toml --processes=2"), "train --config a.toml");
        assert_eq!(without("generate --prompt processes 2"), "generate --prompt processes 2");
    }
}
