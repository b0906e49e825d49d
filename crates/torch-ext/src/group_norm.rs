use crate::{Result, new_tensor};
use std::ffi::c_char;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn ext_group_norm_silu(
        x: *const C_tensor,
        groups: i64,
        weight: *const C_tensor,
        bias: *const C_tensor,
        eps: f64,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// Group norm, then SiLU: `[b, c, h, w]`, weight and bias `[c]` → `[b, c, h, w]`.
///
/// On CPUs with AVX2 and in float32 in one pass that keeps nothing between the two; by libtorch otherwise, and where
/// gradients at weight or bias are wanted. It has no second derivative there.
///
/// # Errors
/// The errors of libtorch: shapes, types or devices that do not fit.
pub fn group_norm_silu(x: &Tensor, groups: i64, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    // SAFETY: the tensors outlive the call.
    new_tensor(|out| unsafe { ext_group_norm_silu(x.as_ptr(), groups, weight.as_ptr(), bias.as_ptr(), eps, out) })
}
