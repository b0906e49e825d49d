//! Sends events to the standard input of another program. It may be slow, hang or end: the run never waits for it.

use anyhow::{Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Number of events that may wait in the queue.
const WAITING: usize = 1024;

/// How long the program may take, after the run is over, to read the waiting events, and then to end.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Pipe {
    /// Name for messages.
    name: String,
    child: Child,
    /// `None` once the run is over.
    queue: Option<SyncSender<String>>,
    /// Result of the last write; available when the writer thread has ended.
    outcome: Receiver<io::Result<()>>,
    /// Number of events that were sent, and of those that the program's pipe has accepted.
    sent: u64,
    taken: Arc<AtomicU64>,
    warned: bool,
    patience: Duration,
}

impl Pipe {
    /// Starts the program. `COMAT_RUN` holds the run's folder; the program's output goes to standard error.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn start(words: &[String], run: &Path) -> Result<Self> {
        let (name, arguments) = words.split_first().ok_or_else(|| anyhow!("logging.command is empty"))?;
        if let Some(word) =
            words.iter().find(|word| ["|", "||", "&&", ";", ">", ">>", "<", "&"].contains(&word.as_str()))
        {
            bail!("logging.command: no shell is started, so `{word}` would be a word like any other; write sh -c '…'");
        }
        let mut command = Command::new(name);
        command.args(arguments).env("COMAT_RUN", std::path::absolute(run).unwrap_or_else(|_| run.to_owned()));
        command.stdin(Stdio::piped()).stdout(io::stderr());
        command.process_group(0); // Ctrl-C must not stop the program, so that it receives the last events
        let mut child = torch_ext::signals::spawn(&mut command).map_err(|e| {
            anyhow!("logging.command: cannot start `{name}`: {e}; name a program by its path, or one that is in PATH")
        })?;
        let (queue, waiting) = sync_channel(WAITING);
        let (tell, outcome) = channel();
        let taken = Arc::new(AtomicU64::new(0));
        if let Some(input) = child.stdin.take() {
            let taken = taken.clone();
            thread::Builder::new().name("logging.command".into()).spawn(move || {
                let _ = tell.send(pass_on(&waiting, input, &taken));
            })?;
        }
        let queue = Some(queue);
        Ok(Self { name: name.clone(), child, queue, outcome, sent: 0, taken, warned: false, patience: PATIENCE })
    }

    /// Sends a line. Lines are lost if the program is too slow, or after it has ended.
    pub fn write(&mut self, line: String) {
        let Some(queue) = &self.queue else { return };
        self.sent += 1;
        let trouble = match queue.try_send(line) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => "does not keep up with the run; what it is too slow for is lost".to_owned(),
            Err(TrySendError::Disconnected(_)) => match self.status(Duration::ZERO) {
                Some(status) => format!("has ended ({status}); it receives nothing more"),
                None => "has closed its standard input; it receives nothing more".to_owned(),
            },
        };
        if !self.warned {
            self.warned = true;
            tracing::warn!("logging.command: `{}` {trouble}. The run goes on", self.name);
        }
    }

    /// Events that did not reach the program.
    pub fn lost(&self) -> u64 {
        self.sent - self.taken.load(Ordering::SeqCst)
    }

    /// The program's exit status, if it ends within `patience`.
    fn status(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(20)),
                status => return status.ok().flatten(),
            }
        }
    }

    /// Closes the program's input and waits a little. A program that has read everything may continue on its own; one
    /// that has not is killed.
    fn close(&mut self) {
        if self.queue.take().is_none() {
            return;
        }
        let name = &self.name;
        let is_stuck = self.outcome.recv_timeout(self.patience).is_err();
        if is_stuck {
            tracing::warn!("logging.command: `{name}` does not read its standard input; it is stopped");
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        }
        let status = self.status(self.patience);
        let name = &self.name;
        match status {
            Some(status) if !status.success() && !is_stuck => {
                tracing::warn!("logging.command: `{name}` ended with an error ({status})");
            }
            Some(_) => {}
            None => {
                tracing::info!("logging.command: `{name}` is still at work on what it has read; it goes on by itself")
            }
        }
        let (lost, sent) = (self.lost(), self.sent);
        if lost > 0 {
            tracing::warn!(
                "logging.command: {lost} of {sent} events did not reach `{name}`; all of them are in events.jsonl"
            );
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.close();
    }
}

/// Writes lines until there are no more, or the program stops reading.
fn pass_on(waiting: &Receiver<String>, mut input: ChildStdin, taken: &AtomicU64) -> io::Result<()> {
    for line in waiting {
        input.write_all(line.as_bytes())?;
        taken.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn pipe(script: &str, folder: &Path) -> Pipe {
        let words = ["sh", "-c", script].map(str::to_owned);
        let mut pipe = Pipe::start(&words, folder).unwrap();
        pipe.patience = Duration::from_secs(1);
        pipe
    }

    /// Waits until a condition holds, at most ten seconds.
    fn until(mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn the_program_reads_every_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut pipe = pipe("cat > \"$COMAT_RUN/seen\"", folder.path());
        pipe.patience = PATIENCE;
        (0..500).for_each(|i| pipe.write(format!("line {i}\n")));
        pipe.close();
        let seen = fs::read_to_string(folder.path().join("seen")).unwrap();
        assert_eq!((seen.lines().count(), seen.ends_with("line 499\n"), pipe.lost()), (500, true, 0));
    }

    #[test]
    fn one_that_does_not_read_costs_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut pipe = pipe("sleep 60; true", folder.path());
        let (began, line) = (Instant::now(), "x".repeat(999) + "\n");
        (0..5000).for_each(|_| pipe.write(line.clone()));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(pipe.warned);
        pipe.close();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(pipe.child.try_wait().unwrap().is_some(), "it is stopped");
        assert!((3000..5000).contains(&pipe.lost()), "{}", pipe.lost());
    }

    #[test]
    fn one_that_ends_loses_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let mut pipe = pipe("read line; exit 3", folder.path());
        pipe.write("first\n".into());
        until(|| pipe.child.try_wait().unwrap().is_some());
        pipe.write("second\n".into()); // the writer thread sees that the program has ended
        until(|| {
            pipe.write("more\n".into());
            pipe.warned
        });
        pipe.close();
        assert_eq!(pipe.taken.load(Ordering::SeqCst), 1);
        assert!(pipe.lost() >= 2);
    }

    #[test]
    fn one_that_cannot_start_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let words = ["no-such-program".to_owned(), "x".into()];
        let error = Pipe::start(&words, folder.path()).err().unwrap().to_string();
        assert!(error.starts_with("logging.command: cannot start `no-such-program`: No such file"), "{error}");
        assert!(error.contains("in PATH"), "{error}");
    }
}
