use crate::{Result, new_tensor};
use std::{ffi::c_char, ptr};
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn ext_linear(
        x: *const C_tensor,
        w: *const C_tensor,
        bias: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// A linear layer: `[…, in]`, weights `[out, in]`, bias `[out]` → `[…, out]`.
///
/// libtorch multiplies float32 matrices with MKL, which uses AVX-512 on Intel's CPUs alone; on AMD's from Zen 5 on oneDNN
/// does it here, in half the time. Elsewhere, and for tiny matrices, it is libtorch's own. By oneDNN it has no second
/// derivative.
///
/// # Errors
/// The errors of libtorch: shapes, types or devices that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let bias = bias.map_or(ptr::null(), Tensor::as_ptr);
    // SAFETY: the tensors outlive the call; a null bias means no bias.
    new_tensor(|out| unsafe { ext_linear(x.as_ptr(), weight.as_ptr(), bias, out) })
}
