//! The device that the tests of all crates use.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::cuda;
use std::{env, sync::Once};
use tch::Device;

/// Names the device of the tests: `cpu` (the default), `cuda` or `cuda:N`.
pub const VARIABLE: &str = "COMAT_TEST_DEVICE";

/// The device name from [`VARIABLE`], or `cpu`.
pub fn device_name() -> String {
    env::var(VARIABLE).ok().filter(|name| !name.is_empty()).unwrap_or("cpu".into())
}

/// The device of the tests. On a GPU float32 is not rounded to TF32, so that the tolerances are those of the CPU.
///
/// # Panics
/// If the variable names no device, or one that is not there: tests on another device would prove nothing.
pub fn device() -> Device {
    static READY: Once = Once::new();
    let name = device_name();
    let Some(device) = parse(&name) else { panic!("{VARIABLE} is `{name}`; there are cpu, cuda and cuda:N") };
    if let Device::Cuda(index) = device {
        READY.call_once(|| {
            let opened = if tch::Cuda::is_available() { Ok(()) } else { cuda::load() };
            if let Err(error) = opened {
                panic!("{VARIABLE} is `{name}`, but libtorch's CUDA half cannot be opened: {error}");
            }
            cuda::allow_tf32(false).and(cuda::allow_tf32_convolutions(false)).expect("flags of libtorch");
        });
        let count = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
        assert!((index as i64) < count, "{VARIABLE} is `{name}`, but libtorch sees {count} CUDA devices");
    }
    device
}

fn parse(name: &str) -> Option<Device> {
    match name {
        "cpu" => Some(Device::Cpu),
        "cuda" => Some(Device::Cuda(0)),
        _ => name.strip_prefix("cuda:")?.parse().ok().map(Device::Cuda),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(["cpu", "cuda", "cuda:3"].map(parse), [Device::Cpu, Device::Cuda(0), Device::Cuda(3)].map(Some));
        assert_eq!(["", "cuda:x", "tpu"].map(parse), [None; 3]);
    }
}
