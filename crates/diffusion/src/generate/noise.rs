//! The initial noise of images: drawn from their seeds, or read from a file.

use crate::random;
use anyhow::{Result, bail};
use models::{Error, schedule::Sampler, tensors};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use torch_ext::Generator;

/// Noise from a file, to reproduce another program's run.
pub struct Given {
    path: PathBuf,
    pub start: Tensor,
    pub steps: Option<Tensor>,
}

impl Given {
    pub fn read(path: &Path, sampler: &Sampler) -> Result<Self> {
        let (mut tensors, _) = tensors::read(path)?;
        let start =
            tensors.remove("x_T").ok_or_else(|| Error::file(path, "there is no tensor x_T [B, C, h, w] in it"))?;
        let given = Self { path: path.to_owned(), start, steps: tensors.remove("z") };
        if given.start.dim() != 4 || given.start.numel() == 0 {
            return Err(Error::file(path, format!("x_T {:?} is not [B, C, h, w]", given.start.size())).into());
        }
        match &given.steps {
            None if sampler.is_stochastic() => Err(Error::file(
                path,
                "there is no tensor z [T, B, C, h, w] in it, which a stochastic sampler needs (--sampler ddim needs none)",
            )
            .into()),
            Some(z) if sampler.is_stochastic() && z.size() != [&[sampler.len() as i64][..], &given.start.size()].concat() => {
                Err(Error::file(path, format!("z {:?} is not {} steps of x_T {:?}", z.size(), sampler.len(), given.start.size())).into())
            }
            _ => Ok(given),
        }
    }

    /// Checks that the latents are for this number of images and this latent shape.
    pub fn check(&self, images: usize, shape: [i64; 3]) -> Result<()> {
        let size = self.start.size();
        if size[0] != images as i64 || size[1..] != shape {
            let message = format!("x_T {size:?} does not fit {images} images of latents {shape:?}");
            return Err(Error::file(&self.path, message).into());
        }
        Ok(())
    }
}

/// Source of a batch's noise: a file, or each image's own seed, drawn as `torch.Generator().manual_seed(seed)` does.
pub(super) enum Noise<'a> {
    Given { given: &'a Given, first: i64, rows: i64 },
    Seeded { streams: Vec<Generator>, shape: [i64; 3] },
}

/// Noise of a step, `[B, C, h, w]`. It must be requested in order.
type OfSteps<'a> = Box<dyn FnMut(usize) -> Result<Tensor> + 'a>;

impl<'a> Noise<'a> {
    pub fn seeded(seeds: impl Iterator<Item = u64>, shape: [i64; 3]) -> Result<Self> {
        Ok(Self::Seeded { streams: seeds.map(Generator::seeded).collect::<Result<_, _>>()?, shape })
    }

    /// The initial noise and that of the steps, on the device; that of all steps is copied at once.
    pub fn ready(self, sampler: &Sampler, (kind, device): (Kind, Device)) -> Result<(Tensor, OfSteps<'a>)> {
        match self {
            Self::Given { given, first, rows } => {
                let here = |t: Tensor| t.to_device(device).to_kind(kind);
                let steps = given.steps.as_ref().filter(|_| sampler.is_stochastic());
                let steps = steps.map(|z| here(z.narrow(1, first, rows)));
                let next = move |step: usize| match &steps {
                    Some(z) => Ok(z.get(step as i64)),
                    None => bail!("{}: there is no tensor z in it", given.path.display()),
                };
                Ok((here(given.start.narrow(0, first, rows)), Box::new(next)))
            }
            Self::Seeded { streams, shape } => {
                let (start, next) = random::noise(sampler, streams, shape, (kind, device))?;
                Ok((start, Box::new(next)))
            }
        }
    }
}
