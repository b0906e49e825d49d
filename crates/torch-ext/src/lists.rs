//! Operators on many tensors at once, or many operators in one: a few kernel launches on a GPU instead of hundreds.

use crate::{Result, check, new_tensor, pointers};
use std::ffi::c_char;
use tch::{TchError, Tensor};
use torch_sys::C_tensor;

unsafe extern "C" {
    fn ext_add_to_all(sums: *const *const C_tensor, addends: *const *const C_tensor, n: usize) -> *mut c_char;
    fn ext_unscale(
        tensors: *const *const C_tensor,
        n: usize,
        factor: *const C_tensor,
        found: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn ext_adamw(
        values: *const C_tensor,
        gradient: *const C_tensor,
        mean: *const C_tensor,
        square: *const C_tensor,
        updates: u64,
        rate: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        epsilon: f64,
    ) -> *mut c_char;
}

/// Adds to each tensor its addend, in place and without a graph.
///
/// # Errors
/// If the lists differ in length, or tensors in shape.
pub fn add_to_all(sums: &[&Tensor], addends: &[&Tensor]) -> Result<()> {
    if sums.len() != addends.len() {
        return Err(TchError::Shape(format!("{} sums but {} addends", sums.len(), addends.len())));
    }
    if sums.is_empty() {
        return Ok(());
    }
    // SAFETY: both lists outlive the call and have the length passed with them.
    check(unsafe { ext_add_to_all(pointers(sums).as_ptr(), pointers(addends).as_ptr(), sums.len()) })
}

/// Multiplies all tensors (of one device) in place by a number `[1]` in float32. The result `[1]` stays on the device:
/// it is not 0 if one of their values is not finite.
///
/// # Errors
/// If libtorch refuses the arguments: other devices, a factor of another kind.
pub fn unscale(tensors: &[&Tensor], factor: &Tensor) -> Result<Tensor> {
    // SAFETY: the list outlives the call and has the length passed with it; the shim only reads the factor.
    new_tensor(|found| unsafe { ext_unscale(pointers(tensors).as_ptr(), tensors.len(), factor.as_ptr(), found) })
}

/// Parameters of AdamW.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub weight_decay: f64,
    pub epsilon: f64,
}

impl AdamW {
    /// One update in place, in a single pass over the memory. All tensors have the same shape, kind and device; `mean`
    /// and `square` are the running means of the gradient and of its square; `updates` counts this update too.
    ///
    /// # Errors
    /// If the tensors differ in shape, kind or device.
    pub fn step(
        &self,
        values: &mut Tensor,
        gradient: &Tensor,
        [mean, square]: [&mut Tensor; 2],
        updates: u64,
    ) -> Result<()> {
        let Self { learning_rate, betas: [beta1, beta2], weight_decay, epsilon } = *self;
        let [values, gradient] = [values.as_ptr(), gradient.as_ptr()];
        let [mean, square] = [mean.as_ptr(), square.as_ptr()];
        // SAFETY: the tensors outlive the call; the shim changes the numbers of three of them, which are borrowed for that.
        check(unsafe {
            ext_adamw(values, gradient, mean, square, updates, learning_rate, beta1, beta2, weight_decay, epsilon)
        })
    }
}
