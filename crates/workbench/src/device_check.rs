//! Checks that a device computes the same as the CPU, and measures its speed (`comat doctor --check`).

mod bounds;
mod iteration;
mod rates;

use anyhow::{Result, bail};
use bounds::{Bounds, of};
use comat::session::Session;
use config::{Size, Where};
use iteration::{Computed, Iteration};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use torch_ext::{
    cuda, memory,
    nccl::{Communicator, Nccl},
};

/// The result of one check.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub what: String,
    pub found: String,
    /// The largest allowed value; `None`: the value is reported, but not judged.
    pub bound: Option<String>,
    pub verdict: Verdict,
    /// What to do if the check failed.
    pub advice: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    /// A value without a bound.
    Told,
}

impl Finding {
    fn told(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), found: found.into(), bound: None, verdict: Verdict::Told, advice: None }
    }

    fn judged(what: impl Into<String>, found: impl Into<String>, bound: impl Into<String>, passed: bool) -> Self {
        let verdict = if passed { Verdict::Passed } else { Verdict::Failed };
        Self { what: what.into(), found: found.into(), bound: Some(bound.into()), verdict, advice: None }
    }

    fn or(self, advice: &'static str) -> Self {
        let advice = (self.verdict == Verdict::Failed).then_some(advice);
        Self { advice, ..self }
    }
}

const WRONG: &str = "results on the device differ from those of the CPU: do not train on it. Another build of libtorch or another driver may help; \
                     please report it with this table";
const HALF: &str = "train in another dtype on this device; please report it with this table";
const RANDOM: &str = "the same computation gives different bits each time, although model.deterministic is on: runs cannot be repeated exactly; please \
                      report it with this table";
const NCCL: &str = "ranks.backend = \"gloo\" needs no NCCL; cargo xtask setup --cuda installs libnccl.so.2";

/// The settings of the checks.
pub struct Check {
    world: PathBuf,
    device: Device,
    /// A change to the networks on the device before they compute; tests use it to make a check fail.
    alter: fn(&Session),
}

impl Check {
    /// `world` is the folder of the miniature world's networks, with `sd` and `blip` in it.
    ///
    /// # Errors
    /// It is not that folder, or there is no such device.
    pub fn new(world: &Path, device: Where) -> Result<Self> {
        if let Some(part) = ["sd", "blip"].iter().find(|part| !world.join(part).is_dir()) {
            bail!(
                "{}: no folder {part} in it; the check computes with the miniature world's networks, which come with the source (weights/world): \
                 name the folder with --world",
                world.display()
            );
        }
        Ok(Self { world: world.to_owned(), device: device.device()?, alter: |_| {} })
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// Runs all checks; `tell` is called with each finding as soon as it is known.
    ///
    /// # Errors
    /// The networks cannot be opened, or the CPU cannot compute with them. A failure of the device is a finding, not an
    /// error.
    pub fn run(&self, mut tell: impl FnMut(&Finding) -> Result<()>) -> Result<Vec<Finding>> {
        let mut all = vec![];
        let mut found = |findings: Vec<Finding>| -> Result<()> {
            findings.iter().try_for_each(&mut tell)?;
            all.extend(findings);
            Ok(())
        };
        let exact = Iteration::new(&self.world, Device::Cpu, Kind::Double).compute(None, |_| {})?;
        for precision in of(self.device) {
            found(self.precision(precision, &exact))?;
        }
        for (name, kind) in [("float32", Kind::Float), ("bfloat16", Kind::BFloat16)] {
            found(vec![self.determinism(name, kind)])?;
        }
        found(rates::products(self.device))?;
        if self.device.is_cuda() {
            found(rates::copies(self.device))?;
            found(vec![nccl(self.device)])?;
        }
        let free =
            memory::free(self.device).map_or("unknown".into(), |b| format!("{:.1} GiB", b as f64 / 2f64.powi(30)));
        found(vec![Finding::told("free memory", free)])?;
        Ok(all)
    }

    fn precision(&self, bounds: &Bounds, exact: &Computed) -> Vec<Finding> {
        let computed = self.with_tf32(bounds.tf32, || {
            Iteration { tf32: bounds.tf32, ..Iteration::new(&self.world, self.device, bounds.kind) }
                .compute(Some(exact), self.alter)
        });
        let advice = if bounds.kind == Kind::Float { WRONG } else { HALF };
        let computed = match computed {
            Ok(computed) => computed,
            Err(error) => {
                let what = format!("{}: an iteration", bounds.name);
                return vec![Finding::judged(what, format!("{error:#}"), "it runs", false).or(advice)];
            }
        };
        let errors = computed.errors(exact);
        let values = errors.values.map(|error| (error, bounds.values));
        let gradients = errors.gradients.map(|error| (error, bounds.gradients));
        values
            .into_iter()
            .chain(gradients)
            .map(|((what, error), most)| {
                let what = format!("{}: {what}", bounds.name);
                // false for NaN
                Finding::judged(what, format!("{error:.1e}"), format!("{most:.0e}"), error <= most).or(advice)
            })
            .collect()
    }

    /// In bfloat16, too: attention has kernels that float32 has not.
    fn determinism(&self, name: &str, kind: Kind) -> Finding {
        let twice = || -> Result<bool> {
            let size = Some(Size { width: 80, height: 48 }); // not the captioner's own: the image is resized
            let iteration = Iteration { deterministic: true, size, ..Iteration::new(&self.world, self.device, kind) };
            Ok(iteration.compute(None, self.alter)?.equals(&iteration.compute(None, self.alter)?))
        };
        let (found, same) = match twice() {
            Ok(same) => (if same { "the same bits" } else { "other bits" }.to_owned(), same),
            Err(error) => (format!("{error:#}"), false),
        };
        if self.device.is_cuda() {
            let _ = cuda::set_deterministic(false);
        }
        Finding::judged(format!("{name}: twice the same"), found, "the same bits", same).or(RANDOM)
    }

    /// Runs `work` with TF32 convolutions on or off; afterwards libtorch's default is restored.
    fn with_tf32<T>(&self, tf32: bool, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.device.is_cuda() {
            return work();
        }
        cuda::allow_tf32_convolutions(tf32)?;
        let done = work();
        cuda::allow_tf32_convolutions(true)?;
        cuda::allow_tf32(false)?;
        done
    }
}

/// Tests NCCL with a communicator of this process alone.
fn nccl(device: Device) -> Finding {
    // one GPU does without it
    let library = match Nccl::open() {
        Ok(library) => library,
        Err(error) => return Finding::told("NCCL with itself", format!("not tried: {error}; {NCCL}")),
    };
    let alone = || -> Result<(String, bool)> {
        let ranks =
            Communicator::join(library, library.unique_id()?, 0, 1, device, std::time::Duration::from_secs(60))?;
        let numbers = Tensor::arange(1000, (Kind::Float, Device::Cpu));
        let mut sum = numbers.to_device(device);
        ranks.sum(&mut sum)?;
        Ok((library.version(), sum.to_device(Device::Cpu).equal(&numbers)))
    };
    match alone() {
        Ok((version, true)) => Finding::judged("NCCL with itself", version, "the sum is right", true),
        Ok((version, false)) => {
            Finding::judged("NCCL with itself", format!("{version}: a wrong sum"), "the sum is right", false).or(NCCL)
        }
        Err(error) => Finding::judged("NCCL with itself", format!("{error:#}"), "the sum is right", false).or(NCCL),
    }
}

#[cfg(test)]
mod tests;
