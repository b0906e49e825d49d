//! What the stand-in does as CUDA does. Each test runs itself again in a process with the library.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use std::{env, process::Command};
use tch::{Device, Kind, Tensor};
use torch_ext::count::Operators;

const GPU: Device = Device::Cuda(0);

/// Whether this is the process with the library; if not, one is started for the test, and has to pass it.
fn inside(test: &str) -> bool {
    if env::var_os(stand_in::PRELOAD).is_some() {
        return true;
    }
    let mut again = Command::new(env::current_exe().unwrap());
    again.args([test, "--exact", "--nocapture"]).env(stand_in::PRELOAD, stand_in::library());
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn numbers(size: &[i64]) -> Tensor {
    let count: i64 = size.iter().product();
    (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.37).sin().reshape(size)
}

fn same(one: &Tensor, other: &Tensor) -> bool {
    let difference = (one.to_device(Device::Cpu) - other.to_device(Device::Cpu)).abs().max().double_value(&[]);
    one.size() == other.size() && difference < 1e-6
}

#[test]
fn it_computes_what_the_cpu_does() {
    if !inside("it_computes_what_the_cpu_does") {
        return;
    }
    assert!(tch::Cuda::is_available() && tch::Cuda::device_count() == 2);
    let (image, kernel) = (numbers(&[2, 4, 6, 6]), numbers(&[8, 4, 3, 3]));
    let compute = |device: Device| {
        let (image, kernel) = (image.to_device(device), kernel.to_device(device).set_requires_grad(true));
        let folded = image
            .conv2d::<Tensor>(&kernel, None, [1, 1], [1, 1], [1, 1], 1)
            .group_norm::<Tensor>(2, None, None, 1e-5, true);
        let rows = folded.silu().flatten(2, -1).transpose(1, 2);
        let mixed = Tensor::scaled_dot_product_attention::<Tensor>(&rows, &rows, &rows, None, 0.0, false, None, false);
        let picked =
            mixed.index_select(1, &Tensor::from_slice(&[3i64, 0, 7]).to_device(device)).topk(3, -1, true, true).0;
        let loss = picked.square().sum(Kind::Float);
        assert_eq!(loss.device(), device);
        let gradient = Tensor::run_backward(&[&loss], &[&kernel], false, false).remove(0);
        assert_eq!(gradient.device(), device);
        (picked.detach(), gradient)
    };
    let ((values, gradient), (expected, expected_gradient)) = (compute(GPU), compute(Device::Cpu));
    assert!(same(&values, &expected) && same(&gradient, &expected_gradient));
}

#[test]
fn views_and_changes_in_place_reach_the_same_memory() {
    if !inside("views_and_changes_in_place_reach_the_same_memory") {
        return;
    }
    let mut all = Tensor::zeros([3, 4], (Kind::Float, GPU));
    let mut row = all.select(0, 1).narrow(0, 1, 2);
    let _ = row.fill_(5.0);
    let _ = all.g_add_(&Tensor::ones([4], (Kind::Float, GPU)));
    assert_eq!(Vec::<f32>::try_from(all.view([-1])).unwrap(), [1., 1., 1., 1., 1., 6., 6., 1., 1., 1., 1., 1.]);
    all.copy_(&numbers(&[3, 4]));
    assert!(same(&all.transpose(0, 1).contiguous(), &numbers(&[3, 4]).transpose(0, 1)));
}

#[test]
fn tensors_on_different_devices_are_refused() {
    if !inside("tensors_on_different_devices_are_refused") {
        return;
    }
    let (here, there, other) = (numbers(&[3]), numbers(&[3]).to_device(GPU), numbers(&[3]).to_device(Device::Cuda(1)));
    let fails = |work: &dyn Fn() -> Result<Tensor, tch::TchError>| {
        work().err().is_some_and(|e| e.to_string().contains("Expected all tensors to be on the same device"))
    };
    assert!(fails(&|| here.f_add(&there)), "the CPU and a GPU");
    assert!(fails(&|| there.f_add(&here)), "a GPU and the CPU");
    assert!(fails(&|| there.f_mul(&other)), "two GPUs");
    assert!(fails(&|| Tensor::f_cat(&[&there, &here], 0)), "in a list");
    assert!(there.f_index_select(0, &Tensor::from_slice(&[0i64])).is_err(), "an index on the host");
    assert!(there.f_add(&Tensor::from(1.0f32)).is_ok(), "a number on the host is taken, as CUDA does");
}

#[test]
fn copies_and_values_that_are_read_are_counted() {
    if !inside("copies_and_values_that_are_read_are_counted") {
        return;
    }
    let counted = Operators::start().unwrap();
    let x = numbers(&[4]).to_device(GPU);
    let _ = counted.take();
    let sum = (&x * 2.0).sum(Kind::Float);
    assert!(counted.take().is_empty(), "nothing waits");
    let _ = sum.double_value(&[]);
    let _ = x.to_device(Device::Cpu);
    let seen = counted.take();
    assert!(seen["aten::_local_scalar_dense"] == 1 && seen["copy to the host"] >= 1, "{seen:?}");
}

#[test]
fn memory_is_known() {
    if !inside("memory_is_known") {
        return;
    }
    let before = torch_ext::memory::free(GPU).unwrap();
    torch_ext::memory::reset_peak(GPU);
    let held = Tensor::zeros([1 << 20], (Kind::Float, GPU));
    assert_eq!(before - torch_ext::memory::free(GPU).unwrap(), 4 << 20);
    drop(held);
    assert_eq!(torch_ext::memory::free(GPU).unwrap(), before);
    assert!(torch_ext::memory::peak(GPU).unwrap() >= 4 << 20);
}
