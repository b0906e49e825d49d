use crate::{Result, check, pointers};
use std::ffi::c_char;
use tch::{TchError, Tensor};
use torch_sys::C_tensor;

unsafe extern "C" {
    fn ext_vjp(
        outputs: *const *const C_tensor,
        grad_outputs: *const *const C_tensor,
        n_outputs: usize,
        inputs: *const *const C_tensor,
        n_inputs: usize,
        retain: bool,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// The vector-Jacobian product `sum_k cotangents[k] . d outputs[k] / d inputs[i]`, for every `i`.
///
/// Inputs may be leaves or any tensor inside the graph; `.grad` fields are not touched. The graph is freed.
/// `None` means that no output depends on that input. Fails when a cotangent's shape is not its output's, or when
/// no output carries a graph.
pub fn vjp(outputs: &[&Tensor], inputs: &[&Tensor], cotangents: &[&Tensor]) -> Result<Vec<Option<Tensor>>> {
    run(outputs, inputs, cotangents, false)
}

/// As [`vjp`], but the graph stays: another product can be taken from it.
pub fn vjp_and_keep(outputs: &[&Tensor], inputs: &[&Tensor], cotangents: &[&Tensor]) -> Result<Vec<Option<Tensor>>> {
    run(outputs, inputs, cotangents, true)
}

fn run(outputs: &[&Tensor], inputs: &[&Tensor], cotangents: &[&Tensor], retain: bool) -> Result<Vec<Option<Tensor>>> {
    if outputs.len() != cotangents.len() {
        return Err(TchError::Shape(format!("{} outputs but {} cotangents", outputs.len(), cotangents.len())));
    }
    let mut grads = vec![std::ptr::null_mut(); inputs.len()];
    // SAFETY: every list outlives the call and has the length passed with it; `grads` starts as null pointers.
    check(unsafe {
        ext_vjp(
            pointers(outputs).as_ptr(),
            pointers(cotangents).as_ptr(),
            outputs.len(),
            pointers(inputs).as_ptr(),
            inputs.len(),
            retain,
            grads.as_mut_ptr(),
        )
    })?;
    // SAFETY: what is not null is a tensor that the shim made for us.
    Ok(grads.into_iter().map(|p| (!p.is_null()).then(|| unsafe { Tensor::from_ptr(p) })).collect())
}
