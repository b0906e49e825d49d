//! Data parallelism: each of many processes computes a share of every batch, and their results are summed.
//!
//! All ranks have the same configuration and the same frozen networks. Only rank 0 writes files. Only sums are sent:
//! over Gloo as tensors on the CPU, or, if every rank has a GPU of its own, large ones over NCCL. A single process does
//! the same without sending anything.

mod backend;
pub mod interrupt;
mod launch;
mod loss;
mod slurm;
mod table;
mod waiting;

pub use launch::Launch;
pub use loss::Terms;

use anyhow::{Context, Result, anyhow, bail};
use backend::Reducer;
use loss::{Loss, cause};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{ops::Range, time::Duration};
use table::Table;
use tch::{Device, Kind, Tensor};
use torch_ext::{Group, Store, first_line};

/// How large buffers, such as gradients, go from rank to rank. Everything else goes over Gloo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Gloo, until NCCL has been seen to work between two GPUs.
    #[default]
    Auto,
    /// Through the memory of the CPU.
    Gloo,
    /// From GPU to GPU. Every rank needs a GPU of its own and the NCCL library; without them it is an error.
    Nccl,
}

/// This process and the other ranks.
pub struct ProcessGroup {
    pub rank: usize,
    pub size: usize,
    /// Number of this process among those on its machine.
    local: usize,
    terms: Terms,
    /// `None` if this is the only process. The store is kept alive, since another rank may still be reading from it.
    group: Option<(Group, Store)>,
    /// The transport from GPU to GPU, if there is one (see [`ProcessGroup::choose_backend`]).
    direct: Option<Box<dyn Reducer>>,
}

impl ProcessGroup {
    pub fn alone() -> Self {
        let terms = Terms { timeout: Duration::MAX, setting: "", hint: "", interrupt: None };
        Self { rank: 0, size: 1, local: 0, terms, group: None, direct: None }
    }

    /// Connects to the other ranks, if there are any (see [`Launch::of_environment`]).
    ///
    /// # Errors
    /// A rank that does not connect within the timeout.
    pub fn join(terms: Terms) -> Result<Self> {
        let timeout = terms.timeout;
        let Some(launch) = Launch::of_environment()? else { return Ok(Self::alone()) };
        waiting::until_together(&launch, timeout, terms.setting, || Self::meet(&launch, &terms)).map(|group| {
            let Launch { rank, size, local, .. } = launch;
            Self { rank, size, local, terms, group: Some(group), direct: None }
        })
    }

    fn meet(launch: &Launch, terms: &Terms) -> Result<(Group, Store)> {
        let Launch { rank, size, host, port, serves, prefix, .. } = launch;
        let (rank, size, port, serves, timeout) = (*rank, *size, *port, *serves, terms.timeout);
        let me = format!("rank {rank} of {size}");
        let store = if serves { Store::serve(port, timeout) } else { Store::connect(host, port, timeout) };
        let store = store.map_err(|e| {
            let what = if serves { "cannot listen at" } else { "cannot reach rank 0 (or torchrun) at" };
            anyhow!("{me}: {what} {host}:{port}: {}", cause(&first_line(&e)))
        })?;
        let group = Group::join(&store, prefix, rank, size).map_err(|e| {
            let (why, seconds, setting) = (cause(&first_line(&e)), timeout.as_secs_f64(), terms.setting);
            anyhow!("{me}: the ranks did not come together at {host}:{port} within {seconds} s ({setting}): {why}")
        })?;
        Ok((group, store))
    }

    /// Whether this is the rank that writes.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    pub fn is_alone(&self) -> bool {
        self.size == 1
    }

    /// This rank's part of `total` things, which all ranks have in the same order. It may be empty.
    pub fn share(&self, total: usize) -> Range<usize> {
        total * self.rank / self.size..total * (self.rank + 1) / self.size
    }

    /// Largest number of samples that a rank has in one trajectory of the training.
    pub fn at_a_time(&self, batch_size: usize, accumulation: usize) -> usize {
        (batch_size * accumulation).div_ceil(self.size).min(batch_size)
    }

    /// The GPU of this rank, assigned in turn; `None` on a machine without GPUs.
    pub fn gpu(&self) -> Option<usize> {
        let gpus = if tch::Cuda::is_available() { tch::Cuda::device_count() as usize } else { 0 };
        self.local.checked_rem(gpus)
    }

    /// Replaces the buffers on every rank by their sums over the ranks, and returns every rank's numbers.
    ///
    /// Over Gloo that is one message. With NCCL the numbers are first sent in a message of their own over Gloo: that
    /// finds a missing rank without waiting on a GPU.
    ///
    /// # Errors
    /// Another rank is gone, or did not answer within the timeout. The buffers are unchanged.
    pub fn exchange(&self, buffers: &mut [&mut Tensor], figures: &[f64]) -> Result<Vec<Vec<f64>>> {
        if self.is_alone() {
            return Ok(vec![figures.to_vec()]);
        }
        let double = buffers.iter().any(|buffer| buffer.kind() == Kind::Double);
        let kind = if double { Kind::Double } else { Kind::Float };
        let table = Table { ranks: self.size, columns: figures.len() };
        let mut row = table.with_row(self.rank, figures);
        let Some(direct) = self.direct.as_deref().filter(|_| !buffers.is_empty()) else {
            let mut flat = flat(buffers.iter().map(|buffer| &**buffer).chain([&row]), kind, Device::Cpu);
            self.run(|group| Reducer::sum(group, &mut flat))?;
            return table.rows(&spread(&flat, buffers));
        };
        let mut flat = flat(buffers.iter().map(|buffer| &**buffer), kind, direct.device());
        self.run(|group| Reducer::sum(group, &mut row))?;
        direct.sum(&mut flat).map_err(|loss| self.lost(loss))?;
        _ = spread(&flat, buffers);
        table.rows(&row)
    }

    /// Whether any of the ranks says yes.
    pub fn any(&self, yes: bool) -> Result<bool> {
        Ok(self.exchange(&mut [], &[f64::from(yes)])?.iter().any(|row| row[0] > 0.0))
    }

    /// Waits for all ranks.
    pub fn barrier(&self) -> Result<()> {
        self.run(|group| Ok(group.barrier()?))
    }

    /// Runs `work` on the first process of every machine, then on the others; for work whose result the first one
    /// leaves on the disk.
    pub fn first_rank_first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.local == 0 {
            let done = work()?;
            self.barrier()?;
            return Ok(done);
        }
        self.barrier()?;
        work()
    }

    /// Copies rank 0's values to every rank.
    pub fn copy_of_first(&self, tensor: &mut Tensor) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let direct = self.direct.as_deref().filter(|direct| direct.device() == tensor.device());
        let mut copy = tensor.detach().to_device(direct.map_or(Device::Cpu, Reducer::device)).contiguous().copy();
        match direct {
            None => self.run(|group| group.copy_of_first(&mut copy))?,
            Some(direct) => {
                self.barrier()?;
                direct.copy_of_first(&mut copy).map_err(|loss| self.lost(loss))?;
            }
        }
        tch::no_grad(|| tensor.copy_(&copy));
        Ok(())
    }

    /// Runs `look` on rank 0, and returns its result or its error on every rank. The others do not look themselves,
    /// since a network file system may still show them an older state of a folder.
    pub fn of_first<T: Serialize + DeserializeOwned>(&self, look: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_alone() {
            return look();
        }
        if self.leads() {
            let seen = look();
            self.text_of_first(&serde_json::to_string(&seen.as_ref().map_err(|e| format!("{e:#}")))?)?;
            return seen;
        }
        let seen: Result<T, String> = serde_json::from_str(&self.text_of_first("")?)?;
        seen.map_err(|why| anyhow!("rank {} of {}: rank 0 says: {why}", self.rank, self.size))
    }

    /// Copies rank 0's text to every rank.
    pub fn text_of_first(&self, text: &str) -> Result<String> {
        let mut length = Tensor::from(text.len() as i64);
        self.copy_of_first(&mut length)?;
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(length.int64_value(&[]) as usize, 0);
        let mut bytes = Tensor::from_slice(&bytes);
        self.copy_of_first(&mut bytes)?;
        String::from_utf8(Vec::try_from(&bytes)?).context("a text of rank 0")
    }

    /// All rows, on the CPU; every rank passes those of its [`ProcessGroup::share`].
    pub fn gather(&self, rows: &Tensor, total: usize) -> Result<Tensor> {
        let rows = rows.to_device(Device::Cpu);
        if self.is_alone() {
            return Ok(rows);
        }
        let mine = self.share(total);
        let shape = [&[total as i64], &rows.size()[1..]].concat();
        let mut all = Tensor::zeros(shape, (rows.kind(), Device::Cpu));
        all.narrow(0, mine.start as i64, mine.len() as i64).copy_(&rows);
        self.run(|group| Reducer::sum(group, &mut all))?;
        Ok(all)
    }

    /// Checks that all ranks have the same text. `what` names the text in the error.
    ///
    /// # Errors
    /// A rank has another text.
    pub fn check_same(&self, what: &str, text: &[u8]) -> Result<()> {
        let digest = Sha256::digest(text).iter().take(5).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let all = self.exchange(&mut [], &[digest as f64])?;
        match all.iter().position(|row| row != &all[0]) {
            Some(other) => bail!("rank {}: rank {other} has another {what} than rank 0", self.rank),
            None => Ok(()),
        }
    }

    fn run(&self, work: impl FnOnce(&Group) -> Result<(), Loss>) -> Result<()> {
        let Some((group, _)) = &self.group else { return Ok(()) };
        work(group).map_err(|loss| self.lost(loss))
    }

    fn lost(&self, loss: Loss) -> anyhow::Error {
        self.terms.error(self.rank, self.size, loss)
    }
}

/// All tensors concatenated in a copy, so that an error in transport does not change them.
fn flat<'a>(buffers: impl Iterator<Item = &'a Tensor>, kind: Kind, device: Device) -> Tensor {
    let travels = |t: &Tensor| t.detach().to_device(device).to_kind(kind).flatten(0, -1);
    Tensor::cat(&buffers.map(travels).collect::<Vec<_>>(), 0)
}

/// Fills the buffers in turn, and returns the rest.
fn spread(flat: &Tensor, buffers: &mut [&mut Tensor]) -> Tensor {
    let mut start = 0;
    for buffer in buffers.iter_mut() {
        let length = buffer.numel() as i64;
        let values = flat.narrow(0, start, length).view_as(buffer);
        tch::no_grad(|| buffer.copy_(&values));
        start += length;
    }
    flat.narrow(0, start, flat.size()[0] - start)
}

#[cfg(test)]
mod tests;
