//! Processes that compute together, on one machine or on many: c10d's Gloo backend over a store on TCP.

use crate::{Result, check};
use std::{
    ffi::{CString, c_char, c_int},
    time::Duration,
};
use tch::{Device, TchError, Tensor};
use torch_sys::C_tensor;

#[repr(C)]
struct CStore {
    _private: [u8; 0],
}

#[repr(C)]
struct CGroup {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn ext_store_open(
        host: *const c_char,
        port: u16,
        serve: bool,
        timeout_ms: i64,
        out: *mut *mut CStore,
    ) -> *mut c_char;
    fn ext_store_port(s: *mut CStore) -> u16;
    fn ext_store_free(s: *mut CStore);
    fn ext_store_lacks(s: *mut CStore, prefix: *const c_char, rank: c_int, out: *mut bool) -> *mut c_char;
    fn ext_group_join(
        s: *mut CStore,
        prefix: *const c_char,
        rank: c_int,
        size: c_int,
        out: *mut *mut CGroup,
    ) -> *mut c_char;
    fn ext_group_free(g: *mut CGroup);
    fn ext_group_sum(g: *mut CGroup, t: *const C_tensor) -> *mut c_char;
    fn ext_group_broadcast(g: *mut CGroup, t: *const C_tensor, root: c_int) -> *mut c_char;
    fn ext_group_barrier(g: *mut CGroup) -> *mut c_char;
}

/// c10d's TCPStore: a small table on TCP, in which processes find each other.
pub struct Store(*mut CStore);

impl Store {
    /// Serves a store on this machine until it is dropped; port 0: any free port.
    pub fn serve(port: u16, timeout: Duration) -> Result<Self> {
        Self::open("localhost", port, true, timeout)
    }

    /// Connects to a store that is served elsewhere, or will be before the timeout.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        Self::open(host, port, false, timeout)
    }

    fn open(host: &str, port: u16, serve: bool, timeout: Duration) -> Result<Self> {
        let host = CString::new(host)?;
        let mut out = std::ptr::null_mut();
        // SAFETY: `host` outlives the call; `out` receives a store that this handle then owns.
        check(unsafe { ext_store_open(host.as_ptr(), port, serve, timeout.as_millis() as i64, &mut out) })?;
        Ok(Self(out))
    }

    /// The ranks of `0..size` that have not called [`Group::join`] with this prefix yet. To ask while waiting there,
    /// use a separately connected store.
    pub fn absent(&self, prefix: &str, size: usize) -> Result<Vec<usize>> {
        let prefix = CString::new(prefix)?;
        let lacks = |rank: usize| {
            let mut out = false;
            // SAFETY: store, prefix and `out` outlive the call.
            check(unsafe { ext_store_lacks(self.0, prefix.as_ptr(), rank as c_int, &mut out) })?;
            Ok(out.then_some(rank))
        };
        (0..size).filter_map(|rank| lacks(rank).transpose()).collect()
    }

    pub fn port(&self) -> u16 {
        // SAFETY: the handle is a store.
        unsafe { ext_store_port(self.0) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by ext_store_open and freed once; a group holds its own reference.
        unsafe { ext_store_free(self.0) }
    }
}

/// Membership of this process in a process group. All ranks must call the same methods in the same order.
///
/// Every method waits for the other ranks. It fails if one of them is gone, or after the store's timeout; then the
/// tensor holds garbage, and the group is no longer usable.
pub struct Group(*mut CGroup);

impl Group {
    /// Joins the other ranks of `0..size` that use this prefix in the store.
    ///
    /// # Errors
    /// If a rank did not join within the store's timeout.
    pub fn join(store: &Store, prefix: &str, rank: usize, size: usize) -> Result<Self> {
        let prefix = CString::new(prefix)?;
        let mut out = std::ptr::null_mut();
        // SAFETY: store and prefix outlive the call; `out` receives a group that this handle then owns.
        check(unsafe { ext_group_join(store.0, prefix.as_ptr(), rank as c_int, size as c_int, &mut out) })?;
        Ok(Self(out))
    }

    /// Replaces the tensor, on every rank, by the sum over the ranks: the same bits everywhere.
    pub fn sum(&self, tensor: &mut Tensor) -> Result<()> {
        plain(tensor)?;
        // SAFETY: the handle is a group, the tensor outlives the call, which waits for the end of the work.
        check(unsafe { ext_group_sum(self.0, tensor.as_ptr()) })
    }

    /// Replaces the tensor, on every rank, by that of `root`.
    pub fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        plain(tensor)?;
        // SAFETY: as above.
        check(unsafe { ext_group_broadcast(self.0, tensor.as_ptr(), root as c_int) })
    }

    /// Returns when every rank has called it.
    pub fn barrier(&self) -> Result<()> {
        // SAFETY: the handle is a group.
        check(unsafe { ext_group_barrier(self.0) })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by ext_group_join and freed once.
        unsafe { ext_group_free(self.0) }
    }
}

/// Gloo reads elements in memory order, and would silently mix up those of a strided view.
fn plain(tensor: &Tensor) -> Result<()> {
    match (tensor.is_contiguous(), tensor.device()) {
        (true, Device::Cpu) => Ok(()),
        (false, _) => Err(TchError::Shape(format!("{:?} is not contiguous", tensor.size()))),
        (_, device) => Err(TchError::Shape(format!("the tensor is on {device:?}, it must be on the CPU"))),
    }
}
