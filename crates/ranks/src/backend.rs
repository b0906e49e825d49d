//! Transport of tensors between ranks: over Gloo, which always works, or over NCCL from GPU to GPU, if every rank has a
//! GPU of its own.

use super::{ProcessGroup, loss::Loss};
use crate::Backend;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::{fs, time::Duration};
use tch::{Device, Kind, Tensor};
use torch_ext::{
    Group,
    nccl::{self, Communicator, Nccl},
};

/// How long NCCL may take to connect the ranks; seconds are usual. A rank where it failed waits for the others in the
/// meantime.
const MEETING: Duration = Duration::from_secs(300);

/// Sums and copies tensors, on all ranks at once and in the same order. After an error the tensor's contents are
/// undefined.
pub trait Reducer {
    /// The device that its tensors must be on.
    fn device(&self) -> Device;
    fn name(&self) -> &'static str;
    /// The sum over the ranks, on every rank, identical to the bit.
    fn sum(&self, tensor: &mut Tensor) -> Result<(), Loss>;
    /// Rank 0's values, on every rank.
    fn copy_of_first(&self, tensor: &mut Tensor) -> Result<(), Loss>;
}

impl Reducer for Group {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn name(&self) -> &'static str {
        "gloo"
    }

    fn sum(&self, tensor: &mut Tensor) -> Result<(), Loss> {
        Ok(Group::sum(self, tensor)?)
    }

    fn copy_of_first(&self, tensor: &mut Tensor) -> Result<(), Loss> {
        Ok(self.broadcast(tensor, 0)?)
    }
}

impl Reducer for Communicator {
    fn device(&self) -> Device {
        Communicator::device(self)
    }

    fn name(&self) -> &'static str {
        "nccl"
    }

    fn sum(&self, tensor: &mut Tensor) -> Result<(), Loss> {
        Ok(Communicator::sum(self, tensor)?)
    }

    fn copy_of_first(&self, tensor: &mut Tensor) -> Result<(), Loss> {
        Ok(self.broadcast(tensor, 0)?)
    }
}

/// What a rank needs to use NCCL.
struct NcclSupport {
    library: Nccl,
    /// NCCL's unique id, from rank 0.
    id: [u8; 128],
    /// Identifies the GPU among those of all machines.
    place: f64,
}

impl NcclSupport {
    fn of(device: Device, leads: bool) -> Result<Self> {
        let Device::Cuda(gpu) = device else { bail!("it computes on the CPU") };
        let library = Nccl::open()?;
        let id = if leads { library.unique_id()? } else { [0; 128] };
        Ok(Self { library, id, place: place(&machine()?, &nccl::bus_id(gpu)?) })
    }
}

/// An identifier of the machine; the same in all its containers.
fn machine() -> Result<String> {
    const ID: &str = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(ID).context(ID)
}

/// An identifier of a GPU: above zero, and an integer that a message can hold exactly.
fn place(machine: &str, bus_id: &str) -> f64 {
    let digest = Sha256::digest(format!("{machine} {bus_id}"));
    digest.iter().take(5).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)) as f64 + 1.0
}

/// Why these ranks cannot use NCCL, from their GPUs' identifiers; 0: NCCL is not available on the rank.
fn obstacle(places: &[f64]) -> Option<String> {
    if let Some(rank) = places.iter().position(|place| *place == 0.0) {
        return Some(format!("rank {rank} cannot use NCCL"));
    }
    let shared = |(rank, place): (usize, &f64)| Some((places[..rank].iter().position(|p| p == place)?, rank));
    let (first, second) = places.iter().enumerate().find_map(shared)?;
    Some(format!("ranks {first} and {second} share a GPU"))
}

impl ProcessGroup {
    /// Uses NCCL for the tensors of this rank's GPU from now on, if the setting says so. The ranks agree on it over
    /// Gloo, so that no rank waits in NCCL for one that cannot use it. The default is Gloo, until NCCL has been seen to
    /// work between two GPUs.
    ///
    /// # Errors
    /// NCCL is configured and a rank cannot use it; another rank is gone.
    pub fn choose_backend(&mut self, backend: Backend, device: Device) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        if backend != Backend::Nccl {
            if backend == Backend::Auto && self.leads() && device.is_cuda() {
                tracing::info!(
                    "gradients travel through the CPU (Gloo); ranks.backend = \"nccl\" is the way from GPU to GPU"
                );
            }
            return Ok(());
        }
        match self.meet_over_nccl(device)? {
            Ok((ranks, version)) => {
                if self.leads() {
                    tracing::info!("gradients travel over NCCL {version}");
                }
                self.direct = Some(Box::new(ranks));
            }
            Err(why) => bail!(
                "rank {} of {}: ranks.backend is nccl, but {why}; every rank needs a GPU of its own and libnccl.so.2, which \
                 `cargo xtask setup --cuda` installs (ranks.backend = \"gloo\" needs neither)",
                self.rank,
                self.size
            ),
        }
        Ok(())
    }

    /// The transport between the ranks' devices, for the log; `None` if there is only one rank.
    pub fn backend(&self) -> Option<&'static str> {
        let (group, _) = self.group.as_ref()?;
        Some(self.direct.as_deref().unwrap_or(group).name())
    }

    /// The communicator and NCCL's version, or why there is none. Every rank gets the same outcome.
    fn meet_over_nccl(&self, device: Device) -> Result<Result<(Communicator, String), String>> {
        let mine = NcclSupport::of(device, self.leads());
        let places = self.column(mine.as_ref().map_or(0.0, |means| means.place))?;
        let means = match (mine, obstacle(&places)) {
            (Ok(means), None) => means,
            (Ok(_), Some(why)) => return Ok(Err(why)),
            (Err(own), _) => return Ok(Err(format!("rank {} cannot use NCCL: {own:#}", self.rank))),
        };
        let mut id = Tensor::from_slice(&means.id);
        self.copy_of_first(&mut id)?;
        let id: Vec<u8> = Vec::try_from(&id)?;
        let id = id.try_into().map_err(|_| anyhow::anyhow!("rank 0's id of NCCL is not whole"))?;
        let limit = self.terms.timeout.min(MEETING);
        let joined = Communicator::join(means.library, id, self.rank, self.size, device, limit);
        let failed = self.first_that(joined.is_err())?;
        let ranks = match (joined, failed) {
            (Ok(ranks), None) => ranks,
            (Err(own), _) => return Ok(Err(format!("rank {} does not reach the others: {own}", self.rank))),
            (Ok(_), Some(rank)) => return Ok(Err(format!("rank {rank} does not reach the others by NCCL"))),
        };
        Ok(match self.first_that(!self.adds_up(&ranks))? {
            None => Ok((ranks, means.library.version())),
            Some(rank) => Err(format!("a sum of known numbers came out wrong on rank {rank}")),
        })
    }

    /// Whether a reducer gives correct results for numbers that are known on every rank; tested before a run uses it.
    pub(super) fn adds_up(&self, reducer: &dyn Reducer) -> bool {
        const LENGTH: i64 = 10_007; // not a round number
        // integers that float32 adds exactly, for thousands of ranks
        let numbers = |factor: usize| Tensor::arange(LENGTH, (Kind::Float, Device::Cpu)).fmod(1000) * factor as i64;
        let factor = |rank: usize| rank % 4 + 1;
        let mine = || numbers(factor(self.rank)).to_device(reducer.device());
        let is = |tensor: &Tensor, factor| tensor.to_device(Device::Cpu).equal(&numbers(factor));
        let mut tensor = mine();
        let sum = reducer.sum(&mut tensor).is_ok() && is(&tensor, (0..self.size).map(factor).sum());
        let mut tensor = mine();
        let copy = reducer.copy_of_first(&mut tensor).is_ok() && is(&tensor, factor(0));
        sum && copy
    }

    fn first_that(&self, failed: bool) -> Result<Option<usize>> {
        Ok(self.column(f64::from(failed))?.iter().position(|failed| *failed > 0.0))
    }

    /// Every rank's number, on all ranks.
    fn column(&self, mine: f64) -> Result<Vec<f64>> {
        Ok(self.exchange(&mut [], &[mine])?.into_iter().map(|row| row[0]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_in_the_way() {
        let places = ["0000:0f:00.0", "0000:10:00.0"].map(|bus| place("a", bus));
        assert!(places.iter().all(|place| *place > 0.0) && place("b", "0000:0f:00.0") != places[0]);
        assert_eq!(obstacle(&places), None);
        assert_eq!(obstacle(&[3.0, 0.0, 3.0]).unwrap(), "rank 1 cannot use NCCL");
        assert_eq!(obstacle(&[3.0, 4.0, 5.0, 4.0]).unwrap(), "ranks 1 and 3 share a GPU");
    }
}
