//! Memory in bytes: peak usage of this process or a GPU, and free memory.

use crate::{Result, check};
use std::{
    ffi::{c_char, c_int},
    fs,
};
use tch::Device;

unsafe extern "C" {
    fn ext_cuda_memory(device: c_int, out: *mut i64) -> *mut c_char;
    fn ext_cuda_free_memory(device: c_int, out: *mut i64) -> *mut c_char;
    fn ext_cuda_reset_peak(device: c_int) -> *mut c_char;
    fn ext_release_free_memory();
    fn ext_keep_freed_memory();
}

/// Peak memory since the start or the last [`reset_peak`]: tensors of the GPU, or the resident set of this process.
/// `None` if the system does not tell.
pub fn peak(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(index) => cuda(index).ok().map(|[_, peak]| peak as u64),
        _ => value_in("/proc/self/status", "VmHWM:"),
    }
}

/// From now on up to 256 MiB of freed memory stay with this process between two tensors, which spares the system the
/// clearing of new pages. For the begin of a program; [`reset_peak`] returns what is kept.
pub fn keep_freed() {
    // SAFETY: it takes nothing, and sets two numbers of the C library.
    unsafe { ext_keep_freed_memory() };
}

/// Starts a new measurement for [`peak`]. On the CPU, freed memory is returned to the system first, so that it does not
/// count: the allocator would keep gigabytes of it.
pub fn reset_peak(device: Device) {
    match device {
        // SAFETY: the shim checks the allocator; the index is only looked up.
        Device::Cuda(index) => _ = check(unsafe { ext_cuda_reset_peak(index as c_int) }),
        _ => {
            // SAFETY: it takes nothing and touches only what is free.
            unsafe { ext_release_free_memory() };
            _ = fs::write("/proc/self/clear_refs", "5"); // Linux: resets the peak resident set
        }
    }
}

/// Free memory: of a GPU, or of the host without swapping out other programs. `None` if the system does not tell.
pub fn free(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(index) => {
            let mut out = 0;
            // SAFETY: the shim writes one number.
            check(unsafe { ext_cuda_free_memory(index as c_int, &mut out) }).ok()?;
            Some(out as u64)
        }
        _ => value_in("/proc/meminfo", "MemAvailable:"),
    }
}

/// Bytes held by tensors of a GPU now, and at peak.
fn cuda(index: usize) -> Result<[i64; 2]> {
    let mut out = [0; 2];
    // SAFETY: the shim writes two numbers.
    check(unsafe { ext_cuda_memory(index as c_int, out.as_mut_ptr()) })?;
    Ok(out)
}

/// A value of such a file, which counts in KiB.
fn value_in(file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}
