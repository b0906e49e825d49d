//! What libgomp and the C library read from the environment before `main`; the program sets it and starts itself again.
//!
//! OpenMP's threads spin between two parallel regions. By default they spin so long that, on a machine with other work, a
//! spinning thread occupies a core while the thread that it waits for has none: drawing took up to 26 times as long
//! (`cargo xtask bench loaded`). And large tensors are in fresh memory each, which the system hands out in pages of 4 KiB
//! unless it is asked for huge ones: a step of SD 1.5 takes a million of them, and a quarter of its time.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::process::CommandExt,
    process::Command,
    thread,
};

const SPIN_COUNT: &str = "GOMP_SPINCOUNT";
/// Iterations that a waiting thread spins before it sleeps. This number costs nothing on an idle machine and little on
/// a busy one.
const ROUNDS: &str = "2000";
/// Environment variables that set how threads wait. If the user has set one, nothing is changed.
const CHOSEN: [&str; 2] = [SPIN_COUNT, "OMP_WAIT_POLICY"];

/// Settings of the C library, `NAME=VALUE` with colons between them.
const TUNABLES: &str = "GLIBC_TUNABLES";
const HUGE_PAGES: &str = "glibc.malloc.hugetlb";

/// Load, as a share of the cores, from which on a machine counts as busy.
const BUSY: f64 = 0.3;

/// Restarts the program with a short spin time and huge pages. Returns if the user has set both, or if the restart
/// fails.
pub fn restart_prepared() {
    let mut missing = vec![];
    if CHOSEN.iter().all(|name| env::var_os(name).is_none()) {
        missing.push((SPIN_COUNT, OsString::from(ROUNDS)));
    }
    missing.extend(with_huge_pages(env::var_os(TUNABLES).as_deref()).map(|tunables| (TUNABLES, tunables)));
    if cfg!(target_os = "linux")
        && !missing.is_empty()
        && let Ok(program) = env::current_exe()
    {
        let mut arguments = env::args_os();
        let mut again = Command::new(program);
        again.envs(missing);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        let _ = again.args(arguments).exec(); // returns only if it failed; the program then runs unchanged
    }
}

/// The C library's settings with huge pages added; `None` if they say something of them already.
fn with_huge_pages(tunables: Option<&OsStr>) -> Option<OsString> {
    let given = tunables.unwrap_or_default();
    if given.to_string_lossy().contains(HUGE_PAGES) {
        return None;
    }
    let mut all = given.to_owned();
    all.push(if given.is_empty() { "" } else { ":" });
    all.push(format!("{HUGE_PAGES}=1"));
    Some(all)
}

/// A notice if other programs keep the processor busy: how many of its cores, and what to expect.
pub fn busy() -> Option<String> {
    let cores = thread::available_parallelism().ok()?.get();
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    notice(load.split(' ').next()?.parse().ok()?, cores)
}

fn notice(load: f64, cores: usize) -> Option<String> {
    (load >= BUSY * cores as f64).then(|| {
        let load = load.min(cores as f64); // more of them wait than can run
        format!("other programs kept {load:.1} of {cores} cores busy in the last minute: times will vary and be longer")
    })
}

#[cfg(test)]
mod tests {
    use super::{notice, with_huge_pages};
    use std::ffi::OsStr;

    #[test]
    fn settings_of_the_c_library_are_kept() {
        let with = |given: Option<&str>| with_huge_pages(given.map(OsStr::new)).map(|all| all.into_string().unwrap());
        assert_eq!(with(None).unwrap(), "glibc.malloc.hugetlb=1");
        assert_eq!(with(Some("glibc.malloc.arena_max=1")).unwrap(), "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1");
        assert_eq!(with(Some("glibc.malloc.hugetlb=0")), None);
        assert_eq!(with(with(None).as_deref()), None, "the program is not started for ever");
    }

    #[test]
    fn a_machine_is_busy_from_a_third_of_its_cores_on() {
        assert_eq!(notice(0.2, 2), None);
        let said = notice(1.5, 2).unwrap();
        assert!(said.starts_with("other programs kept 1.5 of 2 cores busy"), "{said}");
        assert_eq!(notice(1.5, 16), None);
    }
}
