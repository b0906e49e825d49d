//! Batch size for sampling latents.

use anyhow::Result;
use config::Config;
use ranks::ProcessGroup;
use tch::Device;
use torch_ext::memory;

/// Batch size that fully uses any GPU.
const ENOUGH: usize = 32;
/// Share of a GPU's free memory that is used; the allocator needs some of the rest.
const SHARE: f64 = 0.8;

/// Batch size for sampling. On a GPU the first batch shows how much memory a sample needs; the rest is sampled in
/// larger batches.
pub struct Pace {
    pub samples: usize,
    /// The largest batch size.
    most: usize,
}

impl Pace {
    pub(super) fn of(config: &Config, device: Device, group: &ProcessGroup) -> Self {
        let in_training = group.at_a_time(config.train.batch_size, config.train.accumulation).max(1);
        match (config.fidelity.as_ref().map_or(0, |fidelity| fidelity.latents_batch), device) {
            (0, Device::Cpu) => Self { samples: in_training, most: in_training },
            (0, _) => Self { samples: in_training, most: ENOUGH.max(in_training) },
            (samples, _) => Self { samples, most: samples },
        }
    }

    /// Runs `work` on a batch of this many samples; the first batch sets the batch size.
    pub(super) fn watch<T>(&mut self, device: Device, samples: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.samples == self.most {
            return work();
        }
        memory::reset_peak(device);
        let before = memory::peak(device);
        let free = memory::free(device);
        let done = work()?;
        if let (Some(before), Some(peak), Some(free)) = (before, memory::peak(device), free) {
            self.grow(samples, peak.saturating_sub(before), free);
        }
        self.most = self.samples;
        Ok(done)
    }

    /// Grows the batch size to what fits into `free` bytes, given that `samples` samples took `taken` bytes.
    fn grow(&mut self, samples: usize, taken: u64, free: u64) {
        let each = (taken as f64 / samples.max(1) as f64).max(1.0);
        self.samples = ((free as f64 * SHARE / each) as usize).clamp(self.samples, self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_as_far_as_memory_allows() {
        let after = |taken, free| {
            let mut pace = Pace { samples: 4, most: 32 };
            pace.grow(4, taken, free);
            pace.samples
        };
        assert_eq!(after(4_000, 20_000), 16, "1000 each, and 16,000 of 20,000 are used");
        assert_eq!(after(4_000, 1_000_000), 32);
        assert_eq!(after(4_000, 2_000), 4, "what was done once can be done again");
        assert_eq!(after(0, 0), 4);
    }
}
