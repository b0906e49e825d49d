//! Largest deviation of a device from float64 on the CPU: five to ten times the largest that was seen on CPUs (float32:
//! values 6e-7, gradients 7e-6; float16: 1e-3 and 1e-2; bfloat16: 2e-2 and 4e-2, at dL/d image). TF32 has the bounds of
//! float16, since its mantissa has the same size.

use tch::{Device, Kind};

pub struct Bounds {
    pub name: &'static str,
    pub kind: Kind,
    /// float32 with factors rounded to 10 bits of mantissa, in matrix products and convolutions.
    pub tf32: bool,
    /// Bound for latents, image and loss.
    pub values: f64,
    pub gradients: f64,
}

const ALL: [Bounds; 4] = [
    Bounds { name: "float32", kind: Kind::Float, tf32: false, values: 1e-5, gradients: 1e-4 },
    Bounds { name: "TF32", kind: Kind::Float, tf32: true, values: 1e-2, gradients: 5e-2 },
    Bounds { name: "float16", kind: Kind::Half, tf32: false, values: 1e-2, gradients: 5e-2 },
    Bounds { name: "bfloat16", kind: Kind::BFloat16, tf32: false, values: 1e-1, gradients: 2e-1 },
];

/// The precisions that a device is checked in.
pub fn of(device: Device) -> impl Iterator<Item = &'static Bounds> {
    ALL.iter().filter(move |bounds| device.is_cuda() || !bounds.tf32)
}
