use crate::{Result, check, new_tensor};
use std::ffi::c_char;
use tch::Tensor;
use torch_sys::C_tensor;

#[repr(C)]
struct CGenerator {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn ext_generator_new(seed: u64, out: *mut *mut CGenerator) -> *mut c_char;
    fn ext_generator_free(g: *mut CGenerator);
    fn ext_randn(g: *mut CGenerator, shape: *const i64, dims: usize, out: *mut *mut C_tensor) -> *mut c_char;
    fn ext_randint(g: *mut CGenerator, low: i64, high: i64, out: *mut i64) -> *mut c_char;
}

/// A seeded stream of random numbers on the CPU, the same as Python's `torch.Generator().manual_seed(seed)` gives.
///
/// Values are drawn on the CPU and moved, so that results do not depend on the device.
pub struct Generator(*mut CGenerator);

// SAFETY: the handle owns its generator; methods that change it take `&mut self`.
unsafe impl Send for Generator {}

impl Generator {
    pub fn seeded(seed: u64) -> Result<Self> {
        let mut out = std::ptr::null_mut();
        // SAFETY: `out` receives a generator that this handle then owns.
        check(unsafe { ext_generator_new(seed, &mut out) })?;
        Ok(Self(out))
    }

    /// Standard normal values, float32, on the CPU.
    pub fn randn(&mut self, shape: &[i64]) -> Result<Tensor> {
        // SAFETY: pointer and length describe `shape`.
        new_tensor(|out| unsafe { ext_randn(self.0, shape.as_ptr(), shape.len(), out) })
    }

    /// A whole number in `low..high`.
    pub fn below(&mut self, low: i64, high: i64) -> Result<i64> {
        let mut out = 0;
        // SAFETY: `out` is written on success only.
        check(unsafe { ext_randint(self.0, low, high, &mut out) })?;
        Ok(out)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // SAFETY: made by ext_generator_new and freed once.
        unsafe { ext_generator_free(self.0) }
    }
}
