//! CUDA is found at run time, so that one binary serves machines with and without a GPU.

use crate::{Result, check};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::c_char;

unsafe extern "C" {
    fn ext_allow_tf32(allow: bool) -> *mut c_char;
    fn ext_allow_tf32_convolutions(allow: bool) -> *mut c_char;
    fn ext_set_deterministic(on: bool) -> *mut c_char;
    fn ext_cuda_flags(out: *mut bool) -> *mut c_char;
}

/// Brings the CUDA half of libtorch into this process. Call it first thing in `main`: libtorch looks for its CUDA
/// hooks once, at first use, and remembers the answer.
///
/// The library is looked up along this program's rpath, or taken from the file that `LIBTORCH_CUDA` names; its own
/// dependencies (cuBLAS, cuDNN, NCCL...) are found along *its* rpath, so it must lie in the layout of its wheel.
/// An error means only that this is a CPU installation.
pub fn load() -> std::result::Result<(), libloading::Error> {
    let path = std::env::var_os("LIBTORCH_CUDA").unwrap_or("libtorch_cuda.so".into());
    // SAFETY: the library's initialisers register operators, nothing else; no symbol is taken from it here.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL)? };
    std::mem::forget(library); // its static registrations must stay valid until the process ends
    Ok(())
}

/// Lets float32 matrix products on the GPU use TF32 (10 bits of mantissa). Convolutions do so by libtorch's own default.
pub fn allow_tf32(allow: bool) -> Result<()> {
    // SAFETY: sets a flag of libtorch's global context.
    check(unsafe { ext_allow_tf32(allow) })
}

/// As [`allow_tf32`], for convolutions.
pub fn allow_tf32_convolutions(allow: bool) -> Result<()> {
    // SAFETY: sets a flag of libtorch's global context.
    check(unsafe { ext_allow_tf32_convolutions(allow) })
}

/// The same bits for the same work every time; an operator that has no such algorithm fails, and names itself. Otherwise cuDNN tries
/// its algorithms for each new shape, and takes the fastest.
pub fn set_deterministic(on: bool) -> Result<()> {
    // SAFETY: sets flags of libtorch's global context.
    check(unsafe { ext_set_deterministic(on) })
}

/// How CUDA computes in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    /// Of libtorch's own kernels, and of cuDNN's.
    pub deterministic: (bool, bool),
    /// Whether cuDNN tries its algorithms and takes the fastest.
    pub benchmark: bool,
    /// Whether matrix products and convolutions may use TF32.
    pub tf32: (bool, bool),
}

/// Those that are set, with or without a GPU.
pub fn flags() -> Result<Flags> {
    let mut all = [false; 5];
    // SAFETY: it writes five of them.
    check(unsafe { ext_cuda_flags(all.as_mut_ptr()) })?;
    let [kernels, cudnn, benchmark, products, convolutions] = all;
    Ok(Flags { deterministic: (kernels, cudnn), benchmark, tf32: (products, convolutions) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags are there without a GPU, too.
    #[test]
    fn flags_can_be_set_and_taken_back() {
        assert_eq!(flags().unwrap().tf32, (false, true), "as PyTorch begins");
        for on in [true, false] {
            allow_tf32(on).unwrap();
            allow_tf32_convolutions(!on).unwrap();
            set_deterministic(on).unwrap();
            let expected = Flags { deterministic: (on, on), benchmark: !on, tf32: (on, !on) };
            assert_eq!(flags().unwrap(), expected);
        }
    }
}
