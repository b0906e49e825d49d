//! Messages of a process while it waits for the others at the start: which ranks are missing, and where it waits.

use super::Launch;
use std::{
    env,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};
use torch_ext::Store;

/// Time until the first message, and between further ones.
const PATIENCE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

/// How long the store may take to answer which ranks are there.
const ANSWER: Duration = Duration::from_secs(2);

/// Runs `join`, which takes until all ranks are there. After some seconds the missing ranks are logged, at intervals.
pub fn until_together<T>(launch: &Launch, timeout: Duration, setting: &str, join: impl FnOnce() -> T) -> T {
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut patience = PATIENCE[0];
            while waiting.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                let seconds = timeout.as_secs_f64();
                tracing::warn!("{} (for {seconds} s at most: {setting}){}", waits_for(launch), hint());
                patience = PATIENCE[1];
            }
        });
        let joined = join();
        drop(done);
        joined
    })
}

fn waits_for(launch: &Launch) -> String {
    let Launch { rank, size, host, port, serves, prefix, .. } = launch;
    let reached = if *serves { "localhost" } else { host };
    let absent = Store::connect(reached, *port, ANSWER).and_then(|store| store.absent(prefix, *size));
    match absent {
        Ok(absent) if absent.is_empty() => format!("rank {rank} of {size} waits for the others at {host}:{port}"),
        Err(_) if *serves => format!("rank {rank} of {size} waits for the others at {host}:{port}"), // slow to answer
        Ok(absent) => {
            let names: Vec<String> = absent.iter().map(usize::to_string).collect();
            let ranks = if names.len() == 1 { "rank" } else { "ranks" };
            format!("rank {rank} of {size} waits for {ranks} {} at {host}:{port}", names.join(", "))
        }
        Err(_) => {
            format!("rank {rank} of {size} waits for rank 0 (or torchrun) at {host}:{port}, where nobody answers yet")
        }
    }
}

/// A hint: a shell that srun has started for a person is one task of several, too.
fn hint() -> &'static str {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    if is_set("SLURM_PTY_PORT") && !is_set("RANK") {
        ". This is a shell of srun --pty: its other tasks run nothing. To run alone in it: \
         env -u SLURM_STEP_ID -u SLURM_STEPID comat …"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missing_and_where() {
        let store = Store::serve(0, Duration::from_secs(60)).unwrap();
        let launch = |port: u16, serves| Launch {
            rank: 0,
            size: 3,
            local: 0,
            host: "localhost".into(),
            port,
            serves,
            prefix: "comat/0".into(),
        };
        let port = store.port();
        // the store may be slow to answer, on a busy machine
        let mut all = (0..15).map(|_| waits_for(&launch(port, true)));
        let said = all.find(|said| !said.contains("the others")).unwrap_or_default();
        assert_eq!(said, format!("rank 0 of 3 waits for ranks 0, 1, 2 at localhost:{port}"));
        let nobody = waits_for(&launch(1, false));
        assert_eq!(nobody, "rank 0 of 3 waits for rank 0 (or torchrun) at localhost:1, where nobody answers yet");
    }
}
