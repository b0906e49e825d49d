//! Limits how long CPU threads spin while they wait for each other. OpenMP's threads spin between two parallel regions.
//! By default they spin so long that, on a machine with other work, a spinning thread occupies a core while the thread
//! that it waits for has none: drawing took up to 26 times as long (`cargo xtask bench loaded`). libgomp reads the
//! limit before `main`, so the program sets it and starts itself again.

use std::{env, fs, os::unix::process::CommandExt, process::Command, thread};

/// Iterations that a waiting thread spins before it sleeps. This number costs nothing on an idle machine and little on
/// a busy one.
const ROUNDS: &str = "2000";
/// Environment variables that set how threads wait. If the user has set one, nothing is changed.
const CHOSEN: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];
/// Load, as a share of the cores, from which on a machine counts as busy.
const BUSY: f64 = 0.3;

/// Restarts the program with a short spin time. Returns if the user has set how threads wait, or if the restart fails.
pub fn wait_briefly() {
    if cfg!(target_os = "linux")
        && CHOSEN.iter().all(|name| env::var_os(name).is_none())
        && let Ok(program) = env::current_exe()
    {
        let mut arguments = env::args_os();
        let mut again = Command::new(program);
        again.env(CHOSEN[0], ROUNDS);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        let _ = again.args(arguments).exec(); // returns only if it failed; the program then runs unchanged
    }
}

/// A notice if other programs keep the processor busy: how many of its cores, and what to expect.
pub fn busy() -> Option<String> {
    let cores = thread::available_parallelism().ok()?.get();
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    notice(load.split(' ').next()?.parse().ok()?, cores)
}

fn notice(load: f64, cores: usize) -> Option<String> {
    (load >= BUSY * cores as f64).then(|| {
        format!("other programs kept {load:.1} of {cores} cores busy in the last minute: times will vary and be longer")
    })
}

#[cfg(test)]
mod tests {
    use super::notice;

    #[test]
    fn a_machine_is_busy_from_a_third_of_its_cores_on() {
        assert_eq!(notice(0.2, 2), None);
        let said = notice(1.5, 2).unwrap();
        assert!(said.starts_with("other programs kept 1.5 of 2 cores busy"), "{said}");
        assert_eq!(notice(1.5, 16), None);
    }
}
