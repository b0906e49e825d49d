//! How far a device may be from float64 on the CPU: five times what was measured, rounded up.

use tch::{Device, Kind};

pub struct Bounds {
    pub name: &'static str,
    pub kind: Kind,
    /// float32 with its factors rounded to 10 bits, in matrix products and convolutions.
    pub tf32: bool,
    pub loss: f64,
    pub latents: f64,
    pub gradients: f64,
}

const ALL: [Bounds; 4] = [
    Bounds { name: "float32", kind: Kind::Float, tf32: false, loss: 1e-5, latents: 1e-5, gradients: 1e-4 },
    Bounds { name: "TF32", kind: Kind::Float, tf32: true, loss: 1e-2, latents: 1e-2, gradients: 1e-1 },
    Bounds { name: "float16", kind: Kind::Half, tf32: false, loss: 1e-2, latents: 1e-2, gradients: 1e-1 },
    Bounds { name: "bfloat16", kind: Kind::BFloat16, tf32: false, loss: 1e-1, latents: 1e-1, gradients: 5e-1 },
];

/// The precisions of a device.
pub fn of(device: Device) -> impl Iterator<Item = &'static Bounds> {
    ALL.iter().filter(move |bounds| device.is_cuda() || !bounds.tf32)
}
