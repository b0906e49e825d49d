//! Against functions that stand in for NCCL and CUDA: what is called, in which order, and what becomes of failures.

use super::*;
use std::{cell::RefCell, ffi::c_void, ptr::dangling_mut};

/// How the stand-ins behave on this thread, and what was called.
#[derive(Default)]
struct Stand {
    called: Vec<String>,
    /// How often NCCL and then the stream say that they are not done yet.
    busy: [usize; 2],
    /// What NCCL says of itself, when it is not busy.
    state: c_int,
    version: c_int,
}

thread_local!(static STAND: RefCell<Stand> = RefCell::default());

fn with<T>(work: impl FnOnce(&mut Stand) -> T) -> T {
    STAND.with(|stand| work(&mut stand.borrow_mut()))
}

fn called(what: impl Into<String>) -> c_int {
    with(|stand| stand.called.push(what.into()));
    SUCCESS
}

fn take_busy(of: usize) -> bool {
    with(|stand| {
        let busy = stand.busy[of] > 0;
        stand.busy[of] = stand.busy[of].saturating_sub(1);
        busy
    })
}

unsafe extern "C" fn version(out: *mut c_int) -> c_int {
    // SAFETY: a number of the caller.
    unsafe { *out = with(|stand| stand.version) };
    SUCCESS
}

unsafe extern "C" fn unique_id(out: *mut UniqueId) -> c_int {
    // SAFETY: an id of the caller.
    unsafe { (*out).0[127] = 9 };
    SUCCESS
}

unsafe extern "C" fn init(out: *mut *mut Comm, size: c_int, id: UniqueId, rank: c_int, _: *mut CommConfig) -> c_int {
    // SAFETY: a pointer of the caller.
    unsafe { *out = dangling_mut() };
    called(format!("init {rank} of {size}, id …{}", id.0[127]));
    IN_PROGRESS
}

/// Two ranks with the same values: every number doubles.
unsafe extern "C" fn all_reduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind: c_int,
    operation: c_int,
    _: *mut Comm,
    stream: Stream,
) -> c_int {
    assert!(from == to.cast_const() && (kind, operation) == (FLOAT32, SUM) && stream.is_null());
    // SAFETY: so many floats, as the caller says.
    unsafe { std::slice::from_raw_parts_mut(to.cast::<f32>(), count) }.iter_mut().for_each(|x| *x *= 2.0);
    called(format!("sum of {count}"));
    IN_PROGRESS
}

unsafe extern "C" fn broadcast(
    _: *const c_void,
    _: *mut c_void,
    count: usize,
    kind: c_int,
    root: c_int,
    _: *mut Comm,
    _: Stream,
) -> c_int {
    assert_eq!(kind, UINT8);
    called(format!("{count} bytes of {root}"))
}

unsafe extern "C" fn async_error(_: *mut Comm, out: *mut c_int) -> c_int {
    // SAFETY: a number of the caller.
    unsafe { *out = if take_busy(0) { IN_PROGRESS } else { with(|stand| stand.state) } };
    called("state")
}

unsafe extern "C" fn abort(_: *mut Comm) -> c_int {
    called("abort")
}

unsafe extern "C" fn error_string(code: c_int) -> *const c_char {
    if code == 6 { c"remote process exited or there was a network error" } else { c"something else" }.as_ptr()
}

unsafe extern "C" fn last_error(_: *mut Comm) -> *const c_char {
    c"\nsocket closed\nmore".as_ptr()
}

unsafe extern "C" fn set_device(_: c_int) -> c_int {
    called("device")
}

unsafe extern "C" fn stream_query(_: Stream) -> c_int {
    called("stream");
    if take_busy(1) { CUDA_NOT_READY } else { SUCCESS }
}

unsafe extern "C" fn bus_id_of(_: *mut c_char, _: c_int, _: c_int) -> c_int {
    SUCCESS
}

fn nccl(stand: Stand) -> Result<Nccl> {
    with(|it| *it = stand);
    let calls =
        NcclCalls { version, unique_id, init, all_reduce, broadcast, async_error, abort, error_string, last_error };
    Nccl::with(calls)
}

/// That of the second of two ranks, on tensors of the CPU.
fn communicator(stand: Stand) -> Result<Communicator> {
    let cuda = CudaCalls { set_device, stream_query, bus_id: bus_id_of, error_string };
    let nccl = nccl(Stand { version: 22_809, ..stand })?;
    Communicator::with(nccl, cuda, nccl.unique_id()?, 1, 2, Device::Cpu, Duration::from_millis(50))
}

fn history() -> String {
    with(|stand| std::mem::take(&mut stand.called)).join(", ")
}

#[test]
fn no_library() {
    let error = Nccl::open_as("libnccl-that-nobody-has.so").err().unwrap().to_string();
    assert!(error.starts_with("NCCL cannot be opened: ") && error.contains("libnccl-that-nobody-has.so"), "{error}");
    let other = Nccl::open_as("libm.so.6").err().unwrap().to_string();
    assert!(other.contains("ncclGetVersion"), "{other}");
}

#[test]
fn versions() {
    assert_eq!(nccl(Stand { version: 22_809, ..Stand::default() }).unwrap().version(), "2.28.9");
    let old = nccl(Stand { version: 21_108, ..Stand::default() }).err().unwrap();
    assert_eq!(old.to_string(), "NCCL 2.11.8 is too old, it must be 2.14 or later");
}

#[test]
fn everything_is_waited_for() {
    let ranks = communicator(Stand { busy: [2, 0], ..Stand::default() }).unwrap();
    assert_eq!(history(), "init 1 of 2, id …9, state, state, state");
    with(|stand| stand.busy = [1, 2]);
    let mut tensor = Tensor::from_slice(&[1f32, 2., 3.]);
    ranks.sum(&mut tensor).unwrap();
    assert_eq!(Vec::<f32>::try_from(&tensor).unwrap(), [2., 4., 6.]);
    // once NCCL is busy, twice the stream; NCCL is asked again at last
    assert_eq!(history(), "sum of 3, state, state, stream, state, stream, state, stream, state");
    ranks.broadcast(&mut Tensor::zeros([5], (Kind::BFloat16, Device::Cpu)), 0).unwrap();
    assert_eq!(history(), "10 bytes of 0, state, stream, state");
    drop(ranks);
    assert_eq!(history(), "abort");
}

#[test]
fn what_hangs_is_given_up() {
    assert_eq!(communicator(Stand { busy: [usize::MAX, 0], ..Stand::default() }).err(), Some(Error::Timeout));
    assert!(history().ends_with("state, abort"));
    let ranks = communicator(Stand::default()).unwrap();
    with(|stand| stand.busy = [0, usize::MAX]);
    let mut tensor = Tensor::from_slice(&[1f32]);
    let since = Instant::now();
    assert_eq!(ranks.sum(&mut tensor), Err(Error::Timeout));
    assert!(since.elapsed() < Duration::from_secs(5) && history().ends_with("stream, abort"));
    let error = ranks.sum(&mut tensor).unwrap_err().to_string();
    assert_eq!((error.as_str(), history().as_str()), ("NCCL was given up after an earlier failure", ""));
    drop(ranks);
    assert_eq!(history(), "", "aborted once");
}

#[test]
fn what_fails_is_given_up() {
    let ranks = communicator(Stand::default()).unwrap();
    history();
    with(|stand| stand.state = 6);
    let error = ranks.sum(&mut Tensor::from_slice(&[1f32])).unwrap_err().to_string();
    assert_eq!(error, "NCCL: remote process exited or there was a network error: socket closed");
    assert_eq!(history(), "sum of 1, state, abort");
}

#[test]
fn tensors_that_cannot_travel() {
    let ranks = communicator(Stand::default()).unwrap();
    history();
    let refused = |mut tensor: Tensor| ranks.sum(&mut tensor).unwrap_err().to_string();
    assert!(refused(Tensor::ones([2, 3], (Kind::Float, Device::Cpu)).tr()).starts_with("[3, 2] on Cpu is not"));
    assert!(refused(Tensor::ones([2], (Kind::Half, Device::Cpu))).contains("not Half"));
    assert_eq!(history(), "");
}
