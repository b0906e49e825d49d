//! Trainable weights of one or more networks, as views of one flat buffer.

use anyhow::{Context, Result, bail};
use diffusion::random::{Purpose, stream};
use models::{
    tensors::{self, Tensors},
    weights::{Layout, Weights},
};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};
use tch::{Device, Kind, Tensor};

/// Initialisation of a network's weights.
#[derive(Debug, Clone, Copy)]
pub enum Init {
    /// Uniform within `±1/sqrt(inputs)`, PyTorch's default for convolutions and linear layers.
    Uniform,
    /// Normal with this standard deviation, as in transformers.
    Normal(f64),
}

pub struct Parameters {
    /// All values, float32 `[N]`
    pub flat: Tensor,
    /// A running average of `flat`, if one is kept.
    pub average: Tensor,
    /// `PART.KEY` → shape, in the order of the buffer
    shapes: Layout,
    /// Views of `flat` that take gradients, in the same order
    leaves: Vec<Tensor>,
}

impl Parameters {
    /// Initialises the networks of these names. The same seed gives the same weights on every device.
    pub fn fresh(parts: &[(&str, Layout, Init)], seed: u64, device: Device) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (part, layout, init) in parts {
            for (index, (key, shape)) in layout.iter().enumerate() {
                let mut draws = stream(seed, Purpose::Adapter, part.len() as u64, index as u64)?;
                values.insert(format!("{part}.{key}"), begin(key, shape, *init, || Ok(draws.randn(shape)?))?);
            }
        }
        let shapes: Layout = values.iter().map(|(key, t)| (key.clone(), t.size())).collect();
        let flat = Tensor::cat(&values.values().map(|t| t.flatten(0, -1)).collect::<Vec<_>>(), 0);
        Ok(Self::from_flat(flat.to_device(device), shapes))
    }

    /// Replaces a network's weights, values and average, by those of a file.
    ///
    /// # Errors
    /// A file that cannot be read, or belongs to another network.
    pub fn load(&mut self, part: &str, path: &Path) -> Result<()> {
        let (mut all, _) = tensors::read(path)?;
        let prefix = format!("{part}.");
        let (flat, average) = (&self.flat, &self.average);
        let targets = views(flat, &self.shapes).zip(views(average, &self.shapes));
        for ((key, value), (_, average)) in targets.filter(|((key, _), _)| key.starts_with(&prefix)) {
            let key = &key[prefix.len()..];
            let saved: Tensor =
                all.remove(key).with_context(|| format!("{}: there is no {key} in it", path.display()))?;
            if saved.size() != value.size() {
                bail!("{}: {key} has shape {:?}, expected {:?}", path.display(), saved.size(), value.size());
            }
            tch::no_grad(|| [value, average].into_iter().for_each(|mut to| to.copy_(&saved)));
        }
        Ok(())
    }

    fn from_flat(flat: Tensor, shapes: Layout) -> Self {
        let leaves = views(&flat, &shapes).map(|(_, view)| view.set_requires_grad(true)).collect();
        Self { average: flat.copy(), flat, shapes, leaves }
    }

    /// The weights of one network as they are trained.
    pub fn training(&self, part: &str) -> Result<Weights> {
        let pairs = self.shapes.keys().cloned().zip(self.leaves.iter().map(Tensor::shallow_clone));
        weights(pairs, part, self.flat.device())
    }

    /// The averaged weights of one network.
    pub fn averaged(&self, part: &str) -> Result<Weights> {
        weights(views(&self.average, &self.shapes), part, self.flat.device())
    }

    /// `dL/d flat`
    pub fn gradient(&self, loss: &Tensor) -> Result<Tensor> {
        let leaves: Vec<&Tensor> = self.leaves.iter().collect();
        let gradients = torch_ext::vjp(&[loss], &leaves, &[&loss.ones_like()])?;
        let flat: Vec<Tensor> = gradients
            .into_iter()
            .zip(&self.leaves)
            .map(|(gradient, leaf)| gradient.unwrap_or_else(|| leaf.zeros_like()).flatten(0, -1))
            .collect();
        Ok(Tensor::cat(&flat, 0))
    }

    /// Moves the average a step of `1 - decay` towards the values.
    pub fn follow(&mut self, decay: f64) {
        tch::no_grad(|| {
            let _ = self.average.lerp_(&self.flat, 1.0 - decay);
        });
    }

    /// Writes one network's averaged weights in float16.
    pub fn write(&self, part: &str, path: &Path) -> Result<()> {
        let all = part_of(views(&self.average, &self.shapes), part).map(|(key, t)| (key, t.to_kind(Kind::Half)));
        Ok(tensors::write(path, &all.collect::<Tensors>(), HashMap::from([("format".into(), "pt".into())]))?)
    }
}

fn begin(key: &str, shape: &[i64], init: Init, normal: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    let options = (Kind::Float, Device::Cpu);
    Ok(match (shape, init) {
        ([_], _) if key.ends_with("weight") => Tensor::ones(shape, options), // weight of a normalisation layer
        ([_], Init::Normal(_)) if key.ends_with("embedding") => normal()? * 0.02,
        ([_], _) => Tensor::zeros(shape, options),
        (_, Init::Normal(deviation)) => normal()? * deviation,
        ([_, inputs @ ..], Init::Uniform) => {
            // the same spread as the uniform distribution on ±1/sqrt(inputs)
            normal()? / (3.0 * inputs.iter().product::<i64>() as f64).sqrt()
        }
        ([], _) => Tensor::zeros(shape, options),
    })
}

fn views<'a>(flat: &'a Tensor, shapes: &'a Layout) -> impl Iterator<Item = (String, Tensor)> + 'a {
    let mut start = 0;
    shapes.iter().map(move |(key, shape)| {
        let length: i64 = shape.iter().product();
        start += length;
        (key.clone(), flat.detach().narrow(0, start - length, length).view(shape.as_slice()))
    })
}

fn part_of(all: impl Iterator<Item = (String, Tensor)>, part: &str) -> impl Iterator<Item = (String, Tensor)> {
    let prefix = format!("{part}.");
    all.filter_map(move |(key, t)| Some((key.strip_prefix(&prefix)?.to_owned(), t)))
}

fn weights(all: impl Iterator<Item = (String, Tensor)>, part: &str, device: Device) -> Result<Weights> {
    let tensors: Tensors = part_of(all, part).collect();
    Weights::new(tensors, part.into(), Kind::Float, device).context("trainable weights")
}
