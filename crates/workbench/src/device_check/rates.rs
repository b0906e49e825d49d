//! Speed of a device. These numbers are for comparing cards and dtypes, not bounds.

use super::Finding;
use std::time::{Duration, Instant};
use tch::{Cuda, Device, Kind, Tensor};

/// Each measurement takes this long, and has at least three repetitions.
const LONG_ENOUGH: Duration = Duration::from_millis(250);
const KINDS: [(&str, Kind); 3] = [("float32", Kind::Float), ("float16", Kind::Half), ("bfloat16", Kind::BFloat16)];

/// TFLOP/s of matrix products and of 3×3 convolutions like those of a UNet, in each dtype.
pub fn products(device: Device) -> Vec<Finding> {
    let _guard = tch::no_grad_guard();
    // large enough to use a GPU fully, small enough for a CPU to finish at once
    let (side, [batch, channels, width]) = if device.is_cuda() { (8192, [8, 640, 64]) } else { (512, [1, 128, 32]) };
    let rate = |kind: Kind, what: &str| {
        let normal = |shape: &[i64]| Tensor::f_randn(shape, (Kind::Float, device))?.f_to_kind(kind);
        let measure = || -> Result<f64, tch::TchError> {
            if what == "matrix product" {
                let (a, b) = (normal(&[side, side])?, normal(&[side, side])?);
                let once = per_second(device, || a.f_matmul(&b).map(drop))?;
                return Ok(once * 2.0 * (side as f64).powi(3));
            }
            let (x, w) = (normal(&[batch, channels, width, width])?, normal(&[channels, channels, 3, 3])?);
            let once = per_second(device, || x.f_conv2d(&w, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1).map(drop))?;
            Ok(once * 2.0 * (batch * width * width * channels * channels * 9) as f64)
        };
        measure().map_or_else(|e| torch_ext::first_line(&e), |rate| format!("{:.3}", rate / 1e12))
    };
    ["matrix product", "convolution"]
        .into_iter()
        .map(|what| {
            let each: Vec<String> = KINDS.iter().map(|(name, kind)| format!("{name} {}", rate(*kind, what))).collect();
            Finding::told(format!("{what}, TFLOP/s"), each.join(", "))
        })
        .collect()
}

/// GB/s between the host's pageable memory and the device.
pub fn copies(device: Device) -> Vec<Finding> {
    const BYTES: i64 = 256 << 20;
    let rate = |from: Device, to: Device| {
        let measure = || -> Result<f64, tch::TchError> {
            let source = Tensor::f_zeros([BYTES], (Kind::Uint8, from))?;
            let mut target = Tensor::f_zeros([BYTES], (Kind::Uint8, to))?;
            per_second(device, || target.f_copy_(&source))
        };
        measure().map_or_else(|e| torch_ext::first_line(&e), |rate| format!("{:.1}", rate * BYTES as f64 / 1e9))
    };
    let (there, back) = (rate(Device::Cpu, device), rate(device, Device::Cpu));
    vec![Finding::told("copies, GB/s", format!("to the device {there}, to the host {back}"))]
}

/// Repetitions per second, after one warm-up.
fn per_second(device: Device, mut work: impl FnMut() -> Result<(), tch::TchError>) -> Result<f64, tch::TchError> {
    let wait = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    work()?;
    wait();
    let (began, mut done) = (Instant::now(), 0);
    while done < 3 || began.elapsed() < LONG_ENOUGH {
        work()?;
        wait();
        done += 1;
    }
    Ok(f64::from(done) / began.elapsed().as_secs_f64())
}
