//! NCCL: sums and copies between GPUs, without copies through the CPU.
//!
//! Nothing here blocks for ever: NCCL runs in non-blocking mode, and every operation is polled, and aborted if it fails
//! or exceeds the timeout.

#[cfg(test)]
mod tests;

use crate::functions::{Comm, CommConfig, CudaCalls, NcclCalls, Stream, UniqueId};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::{
    cell::Cell,
    ffi::{CStr, c_char, c_int},
    fmt,
    ptr::null_mut,
    thread::sleep,
    time::{Duration, Instant},
};
use tch::{Device, Kind, Tensor};

const LIBRARY: &str = "libnccl.so.2";
/// The first version with non-blocking calls.
const OLDEST: c_int = 21_400;
/// Pause between two polls.
const PAUSE: Duration = Duration::from_micros(100);

// Values of nccl.h and of cuda_runtime_api.h.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
const SUM: c_int = 0;
const UINT8: c_int = 1;
const FLOAT32: c_int = 7;
const FLOAT64: c_int = 8;
const CUDA_NOT_READY: c_int = 600;

#[derive(Debug, PartialEq)]
pub enum Error {
    /// Not complete within the timeout.
    Timeout,
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if let Self::Failed(why) = self { why } else { "it took longer than the timeout" })
    }
}

impl std::error::Error for Error {}

type Result<T> = std::result::Result<T, Error>;

fn failed<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Failed(why.into()))
}

/// The library.
#[derive(Clone, Copy)]
pub struct Nccl {
    calls: NcclCalls,
    version: c_int,
}

impl Nccl {
    /// Opens the library that `libtorch_cuda` loaded into this process, or one on the library path.
    ///
    /// # Errors
    /// If there is none, or it is too old.
    pub fn open() -> Result<Self> {
        Self::open_as(LIBRARY)
    }

    fn open_as(name: &str) -> Result<Self> {
        let missing = |e| Error::Failed(format!("NCCL cannot be opened: {}", reason(&e)));
        // SAFETY: its initialisers touch nothing of ours.
        let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }.map_err(missing)?;
        // SAFETY: it is never closed; NCCL keeps these functions as they are within its major version, which the name has.
        let calls = unsafe { NcclCalls::of(&library) }.map_err(missing)?;
        std::mem::forget(library); // its functions are called until the process ends
        Self::with(calls)
    }

    fn with(calls: NcclCalls) -> Result<Self> {
        let mut nccl = Self { calls, version: 0 };
        // SAFETY: it writes a number.
        let code = unsafe { (calls.version)(&mut nccl.version) };
        nccl.check(code, null_mut())?;
        match nccl.version < OLDEST {
            true => failed(format!("NCCL {} is too old, it must be 2.14 or later", nccl.version())),
            false => Ok(nccl),
        }
    }

    /// As `2.28.9`.
    pub fn version(&self) -> String {
        format!("{}.{}.{}", self.version / 10_000, self.version / 100 % 100, self.version % 100)
    }

    /// Identifies a communicator to its ranks: made by one of them, for all.
    pub fn unique_id(&self) -> Result<[u8; 128]> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: it writes the id.
        self.check(unsafe { (self.calls.unique_id)(&mut id) }, null_mut())?;
        Ok(id.0)
    }

    /// An error, unless the call succeeded or is in progress.
    fn check(&self, code: c_int, comm: *mut Comm) -> Result<()> {
        if matches!(code, SUCCESS | IN_PROGRESS) {
            return Ok(());
        }
        // SAFETY: both give texts that stay as long as the library, or null; a communicator may be null.
        let [what, more] = unsafe { [text((self.calls.error_string)(code)), text((self.calls.last_error)(comm))] };
        failed(if more.is_empty() { format!("NCCL: {what}") } else { format!("NCCL: {what}: {more}") })
    }
}

/// The system's error message; libloading's own only says that it failed.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// # Safety
/// Null, or a text that stays during the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// PCI address of a GPU, as `0000:0f:00.0`.
pub fn bus_id(gpu: usize) -> Result<String> {
    let cuda = cuda()?;
    let mut id = [0 as c_char; 32];
    // SAFETY: the length is that of the buffer.
    check_cuda(&cuda, unsafe { (cuda.bus_id)(id.as_mut_ptr(), id.len() as c_int, gpu as c_int) })?;
    // SAFETY: it wrote a text into the buffer, which was all zeros.
    Ok(unsafe { text(id.as_ptr()) })
}

fn cuda() -> Result<CudaCalls> {
    let missing = |e| Error::Failed(format!("CUDA's runtime is not in this process: {}", reason(&e)));
    CudaCalls::of_process().map_err(missing)
}

fn check_cuda(cuda: &CudaCalls, code: c_int) -> Result<()> {
    if code == SUCCESS {
        return Ok(());
    }
    // SAFETY: a text that stays as long as the library.
    failed(format!("CUDA: {}", unsafe { text((cuda.error_string)(code)) }))
}

/// This process among the ranks that sum together, each with its own GPU. All ranks must call the same methods in the
/// same order.
pub struct Communicator {
    nccl: Nccl,
    cuda: CudaCalls,
    device: Device,
    timeout: Duration,
    /// Null after a failure.
    comm: Cell<*mut Comm>,
}

impl Communicator {
    /// Joins the other ranks of `0..size` that have this id.
    ///
    /// # Errors
    /// If a rank did not join within the timeout, or GPUs or machines cannot reach each other.
    pub fn join(
        nccl: Nccl,
        id: [u8; 128],
        rank: usize,
        size: usize,
        device: Device,
        timeout: Duration,
    ) -> Result<Self> {
        Self::with(nccl, cuda()?, id, rank, size, device, timeout)
    }

    fn with(
        nccl: Nccl,
        cuda: CudaCalls,
        id: [u8; 128],
        rank: usize,
        size: usize,
        device: Device,
        timeout: Duration,
    ) -> Result<Self> {
        let this = Self { nccl, cuda, device, timeout, comm: Cell::new(null_mut()) };
        this.select_device()?;
        let mut comm = null_mut();
        let mut config = CommConfig::without_blocking();
        // SAFETY: `comm` receives a communicator, which this value then owns; NCCL copies the configuration.
        let code = unsafe { (nccl.calls.init)(&mut comm, size as c_int, UniqueId(id), rank as c_int, &mut config) };
        this.comm.set(comm);
        this.finish(code, |this| this.is_settled())?;
        Ok(this)
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// Replaces the tensor (float32 or float64), on every rank, by the sum over the ranks: the same bits everywhere.
    ///
    /// # Errors
    /// If another rank is gone, or after the timeout. Then the tensor holds garbage, and this communicator is no longer
    /// usable.
    pub fn sum(&self, tensor: &mut Tensor) -> Result<()> {
        let kind = match tensor.kind() {
            Kind::Float => FLOAT32,
            Kind::Double => FLOAT64,
            other => return failed(format!("NCCL sums float32 and float64 here, not {other:?}")),
        };
        let (data, count) = (tensor.data_ptr(), tensor.numel());
        self.run(tensor, |calls, comm, stream| {
            // SAFETY: `run` has seen that `count` numbers of that kind lie there in memory order, and waits for the end.
            unsafe { (calls.all_reduce)(data, data, count, kind, SUM, comm, stream) }
        })
    }

    /// Replaces the tensor, on every rank, by that of `root`. Errors: the same as [`Self::sum`].
    pub fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        let (data, bytes) = (tensor.data_ptr(), tensor.numel() * tensor.kind().elt_size_in_bytes());
        self.run(tensor, |calls, comm, stream| {
            // SAFETY: as above, of bytes.
            unsafe { (calls.broadcast)(data, data, bytes, UINT8, root as c_int, comm, stream) }
        })
    }

    /// Enqueues work on libtorch's stream, after its pending computations, and waits for it. This program never sets a
    /// stream, so it is the legacy default stream, whose handle is null.
    fn run(&self, tensor: &Tensor, enqueue: impl FnOnce(&NcclCalls, *mut Comm, Stream) -> c_int) -> Result<()> {
        if !tensor.is_contiguous() || tensor.device() != self.device {
            let (size, device) = (tensor.size(), tensor.device());
            return failed(format!("{size:?} on {device:?} is not a contiguous tensor on {:?}", self.device));
        }
        if self.comm.get().is_null() {
            return failed("NCCL was given up after an earlier failure");
        }
        self.select_device()?;
        let code = enqueue(&self.nccl.calls, self.comm.get(), null_mut());
        // settled once more: a failure also empties the stream
        self.finish(code, |this| Ok(this.is_settled()? && this.is_stream_empty()? && this.is_settled()?))
    }

    /// Waits for what returned this code. After an error nothing is under way any more.
    fn finish(&self, code: c_int, is_done: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        let outcome = self.nccl.check(code, self.comm.get()).and_then(|()| {
            while !is_done(self)? {
                if began.elapsed() > self.timeout {
                    return Err(Error::Timeout);
                }
                sleep(PAUSE);
            }
            Ok(())
        });
        if outcome.is_err() {
            self.abort();
        }
        outcome
    }

    /// Whether NCCL has finished setting up.
    fn is_settled(&self) -> Result<bool> {
        let (comm, mut state) = (self.comm.get(), SUCCESS);
        // SAFETY: the communicator is there; the state is written.
        self.nccl.check(unsafe { (self.nccl.calls.async_error)(comm, &mut state) }, comm)?;
        self.nccl.check(state, comm)?;
        Ok(state == SUCCESS)
    }

    fn is_stream_empty(&self) -> Result<bool> {
        // SAFETY: null is the default stream of the current device.
        match unsafe { (self.cuda.stream_query)(null_mut()) } {
            CUDA_NOT_READY => Ok(false),
            code => check_cuda(&self.cuda, code).map(|()| true),
        }
    }

    /// A null stream is that of the thread's current device. All tensors of this process are on this one, so it may stay.
    fn select_device(&self) -> Result<()> {
        match self.device {
            // SAFETY: it takes a number.
            Device::Cuda(gpu) => check_cuda(&self.cuda, unsafe { (self.cuda.set_device)(gpu as c_int) }),
            _ => Ok(()),
        }
    }

    fn abort(&self) {
        let comm = self.comm.replace(null_mut());
        if !comm.is_null() {
            // SAFETY: made by `init`; nobody uses it any more.
            unsafe { (self.nccl.calls.abort)(comm) };
        }
    }
}

impl Drop for Communicator {
    /// All operations have been waited for. A regular destroy would wait for the other ranks once more.
    fn drop(&mut self) {
        self.abort();
    }
}
