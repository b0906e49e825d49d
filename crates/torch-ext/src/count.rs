//! Counts the operators for which the host waits for the device, or copies to it or from it.
//!
//! On the CPU nothing waits, but the operators are the same, so the counts for a GPU can be taken without one.

use crate::{Result, check, owned};
use std::{
    collections::BTreeMap,
    ffi::c_char,
    sync::{Mutex, MutexGuard, PoisonError},
};

unsafe extern "C" {
    fn ext_count_start(handle: *mut u64) -> *mut c_char;
    fn ext_count_stop(handle: u64);
    fn ext_count_take() -> *mut c_char;
}

static ONE: Mutex<()> = Mutex::new(());

/// Counts in all threads of this process until it is dropped. Only one exists at a time: creating another waits for it.
pub struct Operators {
    handle: u64,
    _alone: MutexGuard<'static, ()>,
}

impl Operators {
    pub fn start() -> Result<Self> {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut handle = 0;
        // SAFETY: it writes a number; the callback is a function of the shim.
        check(unsafe { ext_count_start(&mut handle) })?;
        Ok(Self { handle, _alone: alone })
    }

    /// Counts since the start or the last call, by name: operators that read a value (`aten::_local_scalar_dense`,
    /// `aten::nonzero`, …), `copy to the device` and `copy to the host`. Names that did not occur are absent.
    pub fn take(&self) -> BTreeMap<String, u64> {
        // SAFETY: a fresh text.
        let text = unsafe { owned(ext_count_take()) };
        text.lines()
            .filter_map(|line| {
                let (count, name) = line.split_once(' ')?;
                Some((name.to_owned(), count.parse().ok()?))
            })
            .collect()
    }
}

impl Drop for Operators {
    fn drop(&mut self) {
        // SAFETY: the handle is of ext_count_start, and given back once.
        unsafe { ext_count_stop(self.handle) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;

    #[test]
    fn values_that_are_read_are_counted() {
        let x = Tensor::from_slice(&[1f32, 0., 2.]);
        let counted = Operators::start().unwrap();
        let y = (&x * 3.0).relu().sum(tch::Kind::Float);
        assert_eq!(counted.take(), BTreeMap::new(), "nothing is read");
        assert_eq!((y.double_value(&[]), x.double_value(&[2])), (9.0, 2.0));
        let _ = x.nonzero();
        let expected = [("aten::_local_scalar_dense", 2), ("aten::nonzero", 1)];
        assert_eq!(counted.take(), expected.map(|(name, count)| (name.to_owned(), count)).into());
        assert_eq!(counted.take(), BTreeMap::new());
        drop(counted);
        let _ = x.double_value(&[0]);
        assert_eq!(Operators::start().unwrap().take(), BTreeMap::new());
    }
}
