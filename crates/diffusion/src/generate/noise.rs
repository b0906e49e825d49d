//! The initial noise of images: drawn from their seeds, or read from a file.

use anyhow::{Result, bail};
use models::{Error, schedule::Sampler, tensors};
use std::path::{Path, PathBuf};
use tch::Tensor;
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

impl Noise<'_> {
    pub fn seeded(seeds: impl Iterator<Item = u64>, shape: [i64; 3]) -> Result<Self> {
        Ok(Self::Seeded { streams: seeds.map(Generator::seeded).collect::<Result<_, _>>()?, shape })
    }

    pub fn start(&mut self) -> Result<Tensor> {
        match self {
            Self::Given { given, first, rows } => Ok(given.start.narrow(0, *first, *rows)),
            Self::Seeded { .. } => self.step(0),
        }
    }

    pub fn step(&mut self, step: usize) -> Result<Tensor> {
        match self {
            Self::Given { given: Given { steps: Some(z), .. }, first, rows } => {
                Ok(z.get(step as i64).narrow(0, *first, *rows))
            }
            Self::Given { given, .. } => bail!("{}: there is no tensor z in it", given.path.display()),
            Self::Seeded { streams, shape } => {
                let rows = streams.iter_mut().map(|s| s.randn(shape.as_slice())).collect::<Result<Vec<_>, _>>()?;
                Ok(Tensor::stack(&rows, 0))
            }
        }
    }
}
