//! Checks the memory for training a whole UNet.

use crate::plan::memory::gigabytes;
use anyhow::{Result, bail};
use diffusion::pipeline::wide;
use tch::{Device, Kind};

/// Rejects what is known not to fit. `weights`: their number; `kind`: the precision of the computation, on `device`.
///
/// # Errors
/// A device has less free memory than the optimiser or the gradients need there.
pub fn check(weights: i64, kind: Kind, device: Device, optimizer_on: Device) -> Result<()> {
    // a master copy, its gradient, and two moments
    let optimizer = 4 * weights * wide(kind).elt_size_in_bytes() as i64;
    // of one image, before they are summed; the weights themselves are in memory already
    let gradients = weights * kind.elt_size_in_bytes() as i64;
    let needed = match optimizer_on == device {
        true => vec![(device, optimizer + gradients)],
        false => vec![(device, gradients), (optimizer_on, optimizer)],
    };
    for (place, bytes) in needed {
        if let Some(free) = torch_ext::memory::free(place) {
            compare(weights, place, bytes as f64, free as f64)?;
        }
    }
    Ok(())
}

fn compare(weights: i64, place: Device, needed: f64, free: f64) -> Result<()> {
    if needed <= free {
        return Ok(());
    }
    let (place, way) = match place {
        Device::Cpu => ("the host's memory", "--tune lora needs little"),
        _ => ("the GPU", "--optimizer-on cpu takes most of it to the host's memory, --tune lora needs little"),
    };
    bail!(
        "tuning all {:.2} billion weights of the UNet needs {} of {place}, {} are free; {way}",
        weights as f64 / 1e9,
        gigabytes(needed),
        gigabytes(free)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_says_how_much_and_what_helps() {
        let of_sdxl = |place, needed| compare(2_567_463_684, place, needed, 24e9);
        assert!(of_sdxl(Device::Cpu, 24e9).is_ok());
        let gpu = of_sdxl(Device::Cuda(0), 46e9).unwrap_err().to_string();
        assert!(
            gpu.contains("2.57 billion") && gpu.contains("of the GPU") && gpu.contains("--optimizer-on cpu"),
            "{gpu}"
        );
        let host = of_sdxl(Device::Cpu, 41e9).unwrap_err().to_string();
        assert!(!host.contains("--optimizer-on") && host.contains("--tune lora"), "{host}");
    }

    #[test]
    fn more_than_any_machine_has_is_refused() {
        let error = check(1 << 50, Kind::Float, Device::Cpu, Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("the host's memory"), "{error}");
        check(1, Kind::Float, Device::Cpu, Device::Cpu).unwrap();
    }
}
