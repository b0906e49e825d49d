//! A CUDA device that is none: tests of what a GPU would be asked, on a machine without one.
//!
//! The library is preloaded into a process. libtorch for the CPU then sees two CUDA devices, whose tensors lie in the host's memory
//! and whose operators are the CPU's. As on CUDA, an operator whose tensors lie on different devices is refused; and copies
//! between host and device, and operators that read a value, are counted. With it the program and its tests take their ways for
//! `cuda:0`: `cargo xtask test --stand-in`, and `cargo xtask test` for the tests that meet a device most.
//!
//! It cannot show what only a GPU has: its kernels, streams, asserts on the device and speed.

use std::path::Path;

/// The variable by which the dynamic loader takes a library into a process.
pub const PRELOAD: &str = "LD_PRELOAD";
/// The variable that names a file which receives what was counted, as lines of a number and a name, when the process ends.
pub const LOG: &str = "STAND_IN_LOG";

/// The library to preload.
pub fn library() -> &'static Path {
    Path::new(env!("STAND_IN"))
}

/// Another library to preload. It writes down what a process has the system write to the disk, makes, renames and removes, as lines of
/// what, path and new path, with tabs between them.
pub fn witness() -> &'static Path {
    Path::new(env!("WITNESS"))
}

/// The variable that names the file which receives those lines.
pub const WITNESS_LOG: &str = "WITNESS_LOG";
