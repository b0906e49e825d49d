//! Work for several CPU threads at once, each with its own rows of a batch.
//!
//! libtorch cuts every operator for its threads and waits for all of them at its end. Where a batch has rows enough, each
//! thread computes some of them through a whole network instead, and they wait for each other once.

use crate::{Result, check};
use std::{
    any::Any,
    ffi::{c_char, c_void},
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Mutex, PoisonError},
};
use tch::{Device, TchError, Tensor};

unsafe extern "C" {
    fn ext_threads() -> i64;
    fn ext_parallel(parts: i64, work: unsafe extern "C" fn(*const c_void, usize), data: *const c_void) -> *mut c_char;
}

/// A tensor that several threads may read at once.
pub struct Shared(Tensor);

// SAFETY: libtorch counts a tensor's references atomically, and reading from several threads is allowed. Operators that change
// values take `&mut Tensor`, which is not given out; those that do so through a shared reference (`lists`, a shallow clone)
// are for tensors that one thread owns, as its sums of gradients, never for what a network or a loss holds.
unsafe impl Sync for Shared {}

impl Shared {
    /// The same tensors again; nothing is copied.
    pub fn all(tensors: &[&Tensor]) -> Vec<Self> {
        tensors.iter().map(|tensor| Self::from(*tensor)).collect()
    }
}

impl Deref for Shared {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.0
    }
}

impl From<Tensor> for Shared {
    fn from(tensor: Tensor) -> Self {
        Self(tensor)
    }
}

impl From<&Tensor> for Shared {
    fn from(tensor: &Tensor) -> Self {
        Self(tensor.shallow_clone())
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Start and length of the rows that each thread gets, of `rows`. All rows are one piece where there are fewer rows than
/// threads, on a GPU, and inside of [`map`].
pub fn pieces(rows: i64, device: Device) -> Vec<(i64, i64)> {
    // SAFETY: it takes nothing.
    let threads = if device == Device::Cpu { unsafe { ext_threads() } } else { 1 };
    let count = if rows < threads { 1 } else { threads };
    let start = |piece: i64| rows * piece / count;
    (0..count).map(|piece| (start(piece), start(piece + 1) - start(piece))).collect()
}

/// [`pieces`] of at most `most` rows at once (0: all); each inner list is one call of [`map`].
pub fn groups(rows: i64, most: usize, device: Device) -> Vec<Vec<(i64, i64)>> {
    let most = if most == 0 { rows } else { most as i64 }.max(1);
    let group = |first: i64| {
        let pieces = pieces(most.min(rows - first), device).into_iter();
        pieces.map(|(start, length)| (first + start, length)).collect()
    };
    (0..rows).step_by(most as usize).map(group).collect()
}

/// The same rows of a tensor.
pub fn cut(tensor: &Tensor) -> Vec<Tensor> {
    let pieces = pieces(tensor.size()[0], tensor.device());
    pieces.into_iter().map(|(start, length)| tensor.narrow(0, start, length)).collect()
}

/// Applies a function of rows to the rows of a tensor, some of them on each thread, and joins what it returns.
///
/// # Errors
/// Errors of the function; rows that cannot be joined.
pub fn over_rows<E: From<TchError> + Send>(
    tensor: &Tensor,
    work: impl Fn(&Tensor) -> std::result::Result<Tensor, E> + Sync,
) -> std::result::Result<Tensor, E> {
    let results = map(cut(tensor), |rows| work(&rows))?.into_iter().collect::<std::result::Result<Vec<_>, E>>()?;
    Ok(joined(results)?)
}

/// Joins tensors along their rows.
///
/// # Errors
/// Tensors that do not fit.
pub fn joined(mut parts: Vec<Tensor>) -> Result<Tensor> {
    match (parts.len(), parts.pop()) {
        (1, Some(all)) => Ok(all),
        (_, last) => Tensor::f_cat(&parts.into_iter().chain(last).collect::<Vec<_>>(), 0),
    }
}

/// Applies `work` to every part, on libtorch's threads; the results are in the order of the parts. On each thread libtorch's
/// operators then use that thread alone, and gradients are enabled or not as for the caller. A single part is done as
/// usual. A panic goes on in the caller.
///
/// # Errors
/// The errors of libtorch's threads themselves.
pub fn map<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Sync) -> Result<Vec<R>> {
    if parts.len() <= 1 {
        return Ok(parts.into_iter().map(work).collect());
    }
    let parts: Vec<Mutex<Slot<T, R>>> = parts.into_iter().map(|part| Mutex::new(Slot::Waits(part))).collect();
    let one = |index: usize| {
        let mut slot = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        if let Slot::Waits(part) = std::mem::replace(&mut *slot, Slot::Taken) {
            *slot = match catch_unwind(AssertUnwindSafe(|| work(part))) {
                Ok(result) => Slot::Done(result),
                Err(panic) => Slot::Panicked(panic),
            };
        }
    };
    run(parts.len(), &one)?;
    let result = |slot: Mutex<Slot<T, R>>| match slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Slot::Done(result) => Ok(result),
        Slot::Panicked(panic) => resume_unwind(panic),
        Slot::Waits(_) | Slot::Taken => Err(TchError::Kind("a part of parallel work was not done".into())),
    };
    parts.into_iter().map(result).collect()
}

enum Slot<T, R> {
    Waits(T),
    Taken,
    Done(R),
    Panicked(Box<dyn Any + Send>),
}

/// `work(i)` for all i below `parts`. It must not panic.
fn run<F: Fn(usize) + Sync>(parts: usize, work: &F) -> Result<()> {
    /// # Safety
    /// `data` is a `&F`.
    unsafe extern "C" fn call<F: Fn(usize)>(data: *const c_void, part: usize) {
        // SAFETY: as above.
        unsafe { (*data.cast::<F>())(part) }
    }
    // SAFETY: the call returns when all parts are done, so `work` outlives it; it is `Sync`, and does not unwind.
    check(unsafe { ext_parallel(parts as i64, call::<F>, (&raw const *work).cast()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn pieces_cover_all_rows_once() {
        for rows in 0..9 {
            let pieces = pieces(rows, Device::Cpu);
            assert_eq!(pieces.iter().map(|(_, length)| length).sum::<i64>(), rows);
            let mut next = 0;
            for (start, length) in &pieces {
                assert_eq!((*start, pieces.len() == 1 || *length > 0), (next, true));
                next += length;
            }
        }
        assert_eq!(pieces(7, Device::Cuda(0)), [(0, 7)]);
        assert_eq!(groups(7, 3, Device::Cuda(0)), [[(0, 3)], [(3, 3)], [(6, 1)]]);
        let all: Vec<(i64, i64)> = groups(70, 32, Device::Cpu).concat();
        assert!(
            all.iter()
                .scan(0, |next, (start, length)| Some(std::mem::replace(next, start + length)))
                .eq(all.iter().map(|r| r.0))
        );
        assert_eq!(all.iter().map(|(_, length)| length).sum::<i64>(), 70);
    }

    #[test]
    fn parts_see_the_modes_of_the_caller_and_one_thread() {
        let seen = |_: usize| {
            let x = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            // SAFETY: it takes nothing.
            ((&x * 2.0).requires_grad(), unsafe { ext_threads() }, tch::get_num_threads())
        };
        let threads = pieces(1 << 10, Device::Cpu).len();
        for (gradients, seen) in [(true, map(vec![0; 8], seen)), (false, tch::no_grad(|| map(vec![0; 8], seen)))] {
            for (with_graph, inner, libtorchs) in seen.unwrap() {
                assert_eq!((with_graph, inner), (gradients, 1), "of {threads} threads");
                assert!(libtorchs == 1 || threads == 1);
            }
        }
        assert_eq!(tch::get_num_threads() as usize, threads, "as before");
    }

    #[test]
    fn results_keep_their_order_and_gradients_are_right() {
        let weight = Tensor::from_slice(&[2.0, 3.0]).set_requires_grad(true);
        let shared = Shared::from(&weight);
        let gradient = |factor: f64| {
            let y = (&*shared * factor).square().sum(Kind::Double);
            let gradients = crate::vjp(&[&y], &[&shared], &[&y.ones_like()]).unwrap();
            Vec::<f64>::try_from(gradients[0].as_ref().unwrap()).unwrap()
        };
        let all = map((0..50).map(f64::from).collect(), gradient).unwrap();
        for (factor, gradient) in all.iter().enumerate() {
            let factor = (factor * factor) as f64;
            assert_eq!(*gradient, [4.0 * factor, 6.0 * factor]);
        }
    }

    #[test]
    fn a_panic_goes_on_in_the_caller() {
        let caught = catch_unwind(|| map(vec![1, 2, 3], |part| assert_ne!(part, 2, "the second part")));
        assert!(caught.is_err());
        assert_eq!(map(vec![1, 2], |part| part + 1).unwrap(), [2, 3]);
    }
}
