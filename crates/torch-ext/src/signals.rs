//! Signals that ask a program to end (Ctrl-C), kept from the threads that compute.
//!
//! Some of oneDNN's kernels for AVX-512 use the stack pointer as an ordinary register. A signal handler that is called there
//! writes its frame to wherever that points, and the process dies of it, now or later ("corrupted size vs. prev_size").

use nix::sys::signal::{SigSet, Signal};
use std::{
    io,
    process::{Child, Command},
    thread,
};

fn asking_to_end() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// From now on one thread, which is started here and does nothing else, receives them; this thread and those that it starts
/// do not. For the main thread, before any other is started: libtorch keeps the threads that it once started.
///
/// # Errors
/// The system's.
pub fn keep_to_one_thread() -> io::Result<()> {
    let wait = || {
        loop {
            thread::park();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(asking_to_end().thread_block()?)
}

/// Starts a program that receives them as usual; otherwise it would inherit from this thread that it does not.
///
/// # Errors
/// Those of [`Command::spawn`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let start = || {
        asking_to_end().thread_unblock()?;
        command.spawn()
    };
    thread::scope(|scope| scope.spawn(start).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
