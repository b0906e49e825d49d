use crate::{Result, new_tensor};
use std::{ffi::c_char, marker::PhantomData, ptr};
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn ext_conv2d(
        x: *const C_tensor,
        w: *const C_tensor,
        bias: *const C_tensor,
        stride: i64,
        padding: i64,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn ext_conv3x3_keep_weights(begin: bool);
}

/// A convolution: `[b, in, h, w]`, weights `[out, in, k, k]`, bias `[out]` → `[b, out, h', w']`.
///
/// On the CPU, in float32, and where that is faster: with k = 3, stride 1 and padding 1 by Winograd's method (as cuDNN does on a
/// GPU), whose result differs by some 1e-6 of the largest value; with few pixels as one product of matrices. By libtorch
/// otherwise, and where gradients at the weights are wanted. The two ways of its own have no second derivative.
///
/// # Errors
/// The errors of libtorch: shapes, types or devices that do not fit.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride: i64, padding: i64) -> Result<Tensor> {
    let bias = bias.map_or(ptr::null(), Tensor::as_ptr);
    // SAFETY: the tensors outlive the call; a null bias means no bias.
    new_tensor(|out| unsafe { ext_conv2d(x.as_ptr(), weight.as_ptr(), bias, stride, padding, out) })
}

/// While it lives, [`conv2d`] keeps for this thread (and in [`crate::parallel::map`] from it) what it computes from small
/// weights alone, for the next call with the same weights: four times their size, at most 64 MiB. For repeated passes
/// without gradients; the weights must not be changed in place.
pub struct KeptWeights(PhantomData<*const ()>);

impl KeptWeights {
    pub fn new() -> Self {
        // SAFETY: it counts, on this thread.
        unsafe { ext_conv3x3_keep_weights(true) };
        Self(PhantomData)
    }
}

impl Default for KeptWeights {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for KeptWeights {
    fn drop(&mut self) {
        // SAFETY: as above; the type cannot leave its thread.
        unsafe { ext_conv3x3_keep_weights(false) };
    }
}
