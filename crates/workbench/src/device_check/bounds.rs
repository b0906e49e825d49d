//! How far a device may be from float64 on the CPU: five to ten times the largest that a CPU came to (float32: values 6e-7, gradients 7e-6;
//! float16: 1e-3 and 1e-2; bfloat16: 2e-2 and 3e-2). TF32, whose mantissa is float16's, has its bounds.

use tch::{Device, Kind};

pub struct Bounds {
    pub name: &'static str,
    pub kind: Kind,
    /// float32 with its factors rounded to 10 bits, in matrix products and convolutions.
    pub tf32: bool,
    /// Of latents, image and loss.
    pub values: f64,
    pub gradients: f64,
}

const ALL: [Bounds; 4] = [
    Bounds { name: "float32", kind: Kind::Float, tf32: false, values: 1e-5, gradients: 1e-4 },
    Bounds { name: "TF32", kind: Kind::Float, tf32: true, values: 1e-2, gradients: 5e-2 },
    Bounds { name: "float16", kind: Kind::Half, tf32: false, values: 1e-2, gradients: 5e-2 },
    Bounds { name: "bfloat16", kind: Kind::BFloat16, tf32: false, values: 1e-1, gradients: 2e-1 },
];

/// The precisions of a device.
pub fn of(device: Device) -> impl Iterator<Item = &'static Bounds> {
    ALL.iter().filter(move |bounds| device.is_cuda() || !bounds.tf32)
}
