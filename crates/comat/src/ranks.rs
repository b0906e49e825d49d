//! Many processes, one run: each computes a share of every batch, and they add up what they found (data parallelism).
//!
//! Ranks have the same configuration and the same frozen networks; rank 0 leads: it alone writes. Only sums travel, as tensors
//! on the CPU over Gloo. A process that is alone does the same without sending anything.

mod launch;
mod slurm;

pub use launch::Launch;

use crate::config::{Config, Train, Where};
use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};
use std::{ops::Range, time::Duration};
use tch::{Device, Kind, Tensor};
use torch_ext::{Group, Store, first_line};

/// This process, and the others.
pub struct World {
    pub rank: usize,
    pub size: usize,
    /// Which of this machine's processes it is.
    local: usize,
    timeout: Duration,
    /// `None` where there are no others. The store is kept as long: another rank may still be looking into it.
    group: Option<(Group, Store)>,
}

impl World {
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, local: 0, timeout: Duration::MAX, group: None }
    }

    /// Comes together with the others, if there are any (see [`Launch::of_environment`]).
    ///
    /// # Errors
    /// One that does not come within the timeout.
    pub fn join(timeout: Duration) -> Result<Self> {
        let Some(launch) = Launch::of_environment()? else { return Ok(Self::alone()) };
        let Launch { rank, size, local, host, port, serves, prefix } = launch;
        let me = format!("rank {rank} of {size}");
        let store = if serves { Store::serve(port, timeout) } else { Store::connect(&host, port, timeout) };
        let store = store.map_err(|e| {
            let what = if serves { "cannot listen at" } else { "cannot reach rank 0 (or torchrun) at" };
            anyhow!("{me}: {what} {host}:{port}: {}", cause(&first_line(&e)))
        })?;
        let group = Group::join(&store, &prefix, rank, size).map_err(|e| {
            let (why, seconds) = (cause(&first_line(&e)), timeout.as_secs_f64());
            anyhow!("{me}: the ranks did not come together at {host}:{port} within {seconds} s (ranks.timeout): {why}")
        })?;
        let group = (group, store);
        Ok(Self { rank, size, local, timeout, group: Some(group) })
    }

    /// Whether this is the rank that writes.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    pub fn is_alone(&self) -> bool {
        self.size == 1
    }

    /// What this rank does of a number of things, which all ranks have in the same order. It may be nothing.
    pub fn share(&self, total: usize) -> Range<usize> {
        total * self.rank / self.size..total * (self.rank + 1) / self.size
    }

    /// The most samples that a rank has in one trajectory of the training.
    pub fn at_a_time(&self, train: &Train) -> usize {
        (train.batch_size * train.accumulation).div_ceil(self.size).min(train.batch_size)
    }

    /// The device of this rank, where `auto` and `cuda` leave it open: one GPU each, in turn.
    pub fn place(&self, device: Where) -> Where {
        let gpus = if tch::Cuda::is_available() { tch::Cuda::device_count() as usize } else { 0 };
        match (device, self.local % gpus.max(1)) {
            (Where::Auto | Where::Cuda(0), gpu) if gpu > 0 => Where::Cuda(gpu),
            _ => device,
        }
    }

    /// Replaces the buffers, on every rank, by their sums over the ranks, and returns every rank's figures: one message.
    ///
    /// # Errors
    /// Another rank is gone, or was not heard of within the timeout. The buffers are as they were.
    pub fn exchange(&self, buffers: &mut [&mut Tensor], figures: &[f64]) -> Result<Vec<Vec<f64>>> {
        if self.is_alone() {
            return Ok(vec![figures.to_vec()]);
        }
        let double = buffers.iter().any(|buffer| buffer.kind() == Kind::Double);
        let kind = if double { Kind::Double } else { Kind::Float };
        let travels = |t: &Tensor| t.detach().to_device(Device::Cpu).to_kind(kind).flatten(0, -1);
        let table = Table { ranks: self.size, columns: figures.len() };
        let mut parts: Vec<Tensor> = buffers.iter().map(|buffer| travels(buffer)).collect();
        parts.push(travels(&table.with_row(self.rank, figures)));
        let mut flat = Tensor::cat(&parts, 0);
        self.run(|group| group.sum(&mut flat))?;
        let mut start = 0;
        for buffer in buffers.iter_mut() {
            let length = buffer.numel() as i64;
            let summed = flat.narrow(0, start, length).view_as(buffer);
            tch::no_grad(|| buffer.copy_(&summed));
            start += length;
        }
        table.rows(&flat.narrow(0, start, flat.size()[0] - start))
    }

    /// Whether one of the ranks says yes.
    pub fn any(&self, yes: bool) -> Result<bool> {
        Ok(self.exchange(&mut [], &[f64::from(yes)])?.iter().any(|row| row[0] > 0.0))
    }

    /// Waits for all ranks.
    pub fn barrier(&self) -> Result<()> {
        self.run(|group| group.barrier())
    }

    /// First the first process of every machine, then the others: for what the first one leaves on the disk.
    pub fn one_before_the_others<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.local == 0 {
            let done = work()?;
            self.barrier()?;
            return Ok(done);
        }
        self.barrier()?;
        work()
    }

    /// Rank 0's values, on every rank.
    pub fn copy_of_first(&self, tensor: &mut Tensor) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let mut copy = tensor.detach().to_device(Device::Cpu).contiguous();
        self.run(|group| group.broadcast(&mut copy, 0))?;
        tch::no_grad(|| tensor.copy_(&copy));
        Ok(())
    }

    /// Rank 0's text, on every rank.
    pub fn text_of_first(&self, text: &str) -> Result<String> {
        let mut length = Tensor::from(text.len() as i64);
        self.copy_of_first(&mut length)?;
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(length.int64_value(&[]) as usize, 0);
        let mut bytes = Tensor::from_slice(&bytes);
        self.copy_of_first(&mut bytes)?;
        String::from_utf8(Vec::try_from(&bytes)?).context("a text of rank 0")
    }

    /// All rows, where every rank has those of its [`World::share`]; on the CPU.
    pub fn gather(&self, rows: &Tensor, total: usize) -> Result<Tensor> {
        let rows = rows.to_device(Device::Cpu);
        if self.is_alone() {
            return Ok(rows);
        }
        let mine = self.share(total);
        let shape = [&[total as i64], &rows.size()[1..]].concat();
        let mut all = Tensor::zeros(shape, (rows.kind(), Device::Cpu));
        all.narrow(0, mine.start as i64, mine.len() as i64).copy_(&rows);
        self.run(|group| group.sum(&mut all))?;
        Ok(all)
    }

    /// Refuses ranks that would not compute the same: another configuration, other prompts, another version of the program.
    pub fn check_same(&self, config: &Config) -> Result<()> {
        let prompts = std::fs::read(&config.prompts.train).unwrap_or_default(); // whoever needs them says what is wrong
        let text = format!("{} {} {:?}", env!("CARGO_PKG_VERSION"), toml::to_string(config)?, prompts);
        let digest = Sha256::digest(text).iter().take(5).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let all = self.exchange(&mut [], &[digest as f64])?;
        match all.iter().position(|row| row != &all[0]) {
            Some(other) => bail!(
                "rank {}: rank {other} has another configuration, other training prompts or another version of comat than rank 0",
                self.rank
            ),
            None => Ok(()),
        }
    }

    fn run(&self, work: impl FnOnce(&Group) -> Result<(), tch::TchError>) -> Result<()> {
        let Some((group, _)) = &self.group else { return Ok(()) };
        work(group).map_err(|e| {
            let (rank, size, why) = (self.rank, self.size, first_line(&e));
            let why = match why.contains("Timed out") {
                true => format!("another rank was not heard of for {} s (ranks.timeout)", self.timeout.as_secs_f64()),
                false => format!("another rank is gone ({})", cause(&why)),
            };
            anyhow::anyhow!(
                "rank {rank} of {size}: {why}; nothing is written, --resume goes on from the last checkpoint"
            )
        })
    }
}

/// Numbers of every rank, as a buffer whose sum over the ranks is all of them: a rank leaves the others' rows at zero. A number
/// is cut in two that float32 can hold, so that it arrives to 48 bits.
struct Table {
    ranks: usize,
    columns: usize,
}

impl Table {
    fn with_row(&self, rank: usize, figures: &[f64]) -> Tensor {
        let mut values = vec![0f32; self.ranks * self.columns * 2];
        for (column, figure) in figures.iter().enumerate() {
            let high = *figure as f32;
            let rest = (*figure - f64::from(high)) as f32;
            let at = (rank * self.columns + column) * 2;
            values[at] = high;
            values[at + 1] = if rest.is_finite() { rest } else { 0.0 };
        }
        Tensor::from_slice(&values)
    }

    fn rows(&self, buffer: &Tensor) -> Result<Vec<Vec<f64>>> {
        let values: Vec<f64> = Vec::try_from(&buffer.to_kind(Kind::Double))?;
        let figures: Vec<f64> = values.chunks(2).map(|parts| parts.iter().sum()).collect();
        Ok((0..self.ranks).map(|rank| figures[rank * self.columns..][..self.columns].to_vec()).collect())
    }
}

/// A message of c10d without its place in the source.
fn cause(line: &str) -> String {
    let line = line.strip_prefix("Internal torch error: ").unwrap_or(line);
    let place = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    place.filter(|(place, _)| place.contains(".cc:") || place.contains(".h:")).map_or(line, |(_, text)| text).to_owned()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// That knows its place, but nobody else.
    pub fn world(rank: usize, size: usize) -> World {
        World { rank, size, ..World::alone() }
    }

    #[test]
    fn shares_are_everything_once() {
        for (total, size) in [(4, 1), (4, 3), (2, 5), (0, 2), (7, 7), (100, 8)] {
            let shares: Vec<usize> = (0..size).flat_map(|rank| world(rank, size).share(total)).collect();
            assert_eq!(shares, (0..total).collect::<Vec<_>>(), "{total} among {size}");
            let lengths: Vec<usize> = (0..size).map(|rank| world(rank, size).share(total).len()).collect();
            assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{lengths:?}");
        }
    }

    #[test]
    fn figures_arrive_whole() {
        let table = Table { ranks: 3, columns: 2 };
        let rows = [[1.0 / 3.0, 12_345_678_901.0], [-2e-9, 0.0], [f64::NAN, f64::INFINITY]];
        let sum = rows.iter().enumerate().fold(Tensor::from(0f32), |sum, (rank, row)| sum + table.with_row(rank, row));
        let seen = table.rows(&sum).unwrap();
        for (row, seen) in rows.iter().zip(seen).take(2) {
            row.iter().zip(seen).for_each(|(a, b)| assert!((a - b).abs() <= a.abs() * 1e-14, "{a} {b}"));
        }
        assert!(table.rows(&sum).unwrap()[2][0].is_nan());
    }

    #[test]
    fn causes_are_without_their_place() {
        let line = "Internal torch error: [/a/third_party/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:3021";
        assert_eq!(cause(line), "Connection closed by peer [127.0.0.1]:3021");
        assert_eq!(cause("Internal torch error: no sign of rank 2"), "no sign of rank 2");
    }
}
