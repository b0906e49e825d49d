//! Fixtures made by `tools/reference/fixtures.py`, and how outputs are held against them.
#![allow(dead_code)] // every test file uses its own part

use models::tensors::{self, Tensors};
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

pub use torch_ext::testing::device;

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The inputs and expected outputs of a fixture, on the device of the tests.
pub fn io(name: &str) -> Tensors {
    let (all, _) = tensors::read(&fixture(name).join("io.safetensors")).unwrap();
    all.into_iter().map(|(key, tensor)| (key, tensor.to_device(device()))).collect()
}

/// Largest difference over the largest expected value.
pub fn relative_error(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.size(), expected.size());
    let [got, expected] = [got, expected].map(|t| t.to_device(Device::Cpu).to_kind(Kind::Double));
    (&got - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[])
}

#[track_caller]
pub fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    let error = relative_error(got, expected);
    println!("{what}: relative error {error:.1e}");
    assert!(error <= tolerance, "{what}: relative error {error:e}, at most {tolerance:e} allowed"); // false for NaN
}
