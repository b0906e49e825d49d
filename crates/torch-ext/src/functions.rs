//! C functions that are looked up at run time.

use libloading::{Error, os::unix::Library};
use std::ffi::{c_char, c_int, c_uint, c_void};

/// A table of functions by their C names.
macro_rules! functions {
    ($table:ident { $($name:ident = $symbol:literal: ($($argument:ty),*) -> $result:ty,)* }) => {
        #[derive(Clone, Copy)]
        pub struct $table {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $table {
            /// # Safety
            /// The library stays open, and its functions have the types of the header that is named above the table.
            pub unsafe fn of(library: &Library) -> Result<Self, Error> {
                // SAFETY: as above.
                unsafe { Ok(Self { $($name: *library.get($symbol)?,)* }) }
            }
        }
    };
}

/// The target of `ncclComm_t`.
#[repr(C)]
pub struct Comm {
    _private: [u8; 0],
}

/// `ncclUniqueId`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub [u8; 128]);

/// `ncclConfig_t` of NCCL 2.14. Later versions accept it: they check its size and version.
#[repr(C)]
pub struct CommConfig {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

impl CommConfig {
    /// Configures calls that return at once and are polled for completion.
    pub fn without_blocking() -> Self {
        Self { size: size_of::<Self>(), magic: 0xcafe_beef, version: 21_400, blocking: 0 }
    }
}

/// `cudaStream_t`
pub type Stream = *mut c_void;

// nccl.h
functions! {
    NcclCalls {
        version = "ncclGetVersion": (*mut c_int) -> c_int,
        unique_id = "ncclGetUniqueId": (*mut UniqueId) -> c_int,
        init = "ncclCommInitRankConfig": (*mut *mut Comm, c_int, UniqueId, c_int, *mut CommConfig) -> c_int,
        all_reduce = "ncclAllReduce": (*const c_void, *mut c_void, usize, c_int, c_int, *mut Comm, Stream) -> c_int,
        broadcast = "ncclBroadcast": (*const c_void, *mut c_void, usize, c_int, c_int, *mut Comm, Stream) -> c_int,
        async_error = "ncclCommGetAsyncError": (*mut Comm, *mut c_int) -> c_int,
        abort = "ncclCommAbort": (*mut Comm) -> c_int,
        error_string = "ncclGetErrorString": (c_int) -> *const c_char,
        last_error = "ncclGetLastError": (*mut Comm) -> *const c_char,
    }
}

// cuda_runtime_api.h
functions! {
    CudaCalls {
        set_device = "cudaSetDevice": (c_int) -> c_int,
        stream_query = "cudaStreamQuery": (Stream) -> c_int,
        bus_id = "cudaDeviceGetPCIBusId": (*mut c_char, c_int, c_int) -> c_int,
        error_string = "cudaGetErrorString": (c_int) -> *const c_char,
    }
}

impl CudaCalls {
    /// Functions of the runtime that `libtorch_cuda` loaded into this process; another runtime would have other
    /// streams.
    pub fn of_process() -> Result<Self, Error> {
        // SAFETY: what is global in a process stays open; the types are those of the header.
        unsafe { Self::of(&Library::this()) }
    }
}
