//! Safe functions for the parts of libtorch that `tch` does not cover.
//!
//! ```
//! use tch::Tensor;
//! let x = Tensor::from_slice(&[1f32, 2.]).set_requires_grad(true);
//! let cotangent = Tensor::from_slice(&[1f32, 10.]);
//! let grads = torch_ext::vjp(&[&(&x * 3.0)], &[&x], &[&cotangent]).unwrap();
//! assert_eq!(Vec::<f32>::try_from(grads[0].as_ref().unwrap()).unwrap(), [3., 30.]);
//! ```

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod autograd;
pub mod clock;
mod conv2d;
pub mod count;
pub mod cuda;
mod functions;
mod group;
mod group_norm;
mod linear;
pub mod lists;
pub mod memory;
pub mod nccl;
pub mod parallel;
mod random;
pub mod signals;
pub mod testing;
pub mod version;

pub use autograd::{vjp, vjp_and_keep};
pub use conv2d::{KeptWeights, conv2d};
pub use group::{Group, Store};
pub use group_norm::group_norm_silu;
pub use linear::linear;
pub use parallel::Shared;
pub use random::Generator;

use std::ffi::{CStr, c_char, c_int, c_void};
use tch::{TchError, Tensor};
use torch_sys::C_tensor;

type Result<T> = std::result::Result<T, TchError>;

/// Turns the error text of an entry point (null: none) into a `TchError`.
fn check(message: *mut c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a text for us to free.
    Err(TchError::Torch(unsafe { owned(message) }))
}

/// # Safety
/// A NUL-terminated text from strdup that nobody else frees.
unsafe fn owned(text: *mut c_char) -> String {
    // SAFETY: as above.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        free(text.cast());
        copy
    }
}

unsafe extern "C" {
    fn free(ptr: *mut c_void);
    fn _exit(code: c_int) -> !;
}

/// Ends the process from any thread. `std::process::exit` takes libtorch down first, which crashes where another thread
/// is computing.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: the process ends here; nothing of it is used any more.
    unsafe { _exit(code) }
}

/// A list of tensors as the shim takes it. The pointers live as long as the tensors do.
fn pointers(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|t| t.as_ptr()).collect()
}

/// Calls an entry point whose last argument receives a new tensor.
fn new_tensor(call: impl FnOnce(*mut *mut C_tensor) -> *mut c_char) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    check(call(&mut out))?;
    // SAFETY: on success the shim has written a tensor that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// The first line of a libtorch error: what follows it is a C++ backtrace.
pub fn first_line(error: &TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
