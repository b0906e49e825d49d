//! Versions of libtorch.

use crate::owned;
use std::ffi::c_char;

unsafe extern "C" {
    fn ext_torch_version() -> *mut c_char;
    fn ext_cpu_capability() -> *mut c_char;
}

/// As `2.11.0`; of the headers that this program was built with.
pub fn torch() -> String {
    // SAFETY: a fresh text.
    unsafe { owned(ext_torch_version()) }
}

/// The instructions that libtorch's kernels use here: `AVX512`, `AVX2`, `DEFAULT`, …
pub fn cpu_capability() -> String {
    // SAFETY: a fresh text.
    unsafe { owned(ext_cpu_capability()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions() {
        assert!(super::torch().starts_with("2.11."), "{}", super::torch());
        assert!(!super::cpu_capability().is_empty());
    }
}
