//! AdamW for a whole network.

use super::{AdamW, clipping};
use anyhow::Result;
use config::Optimizer;
use tch::Tensor;

/// Weights that a network computes with, each with a master copy that AdamW updates. The copy has a wider precision,
/// since bfloat16 cannot represent a small step, and may be on another device. Every tensor is handled separately, so
/// no flat copy of the network is needed.
pub struct Masters(Vec<Master>);

struct Master {
    /// A leaf of the graph.
    leaf: Tensor,
    value: Tensor,
    /// Sum of the gradients since the last step, in the value's precision and on its device.
    gradient: Option<Tensor>,
    adamw: AdamW,
}

impl Masters {
    /// Leaves of the graph, each with its master copy. The two may share memory.
    pub fn new(pairs: impl IntoIterator<Item = (Tensor, Tensor)>, config: &Optimizer) -> Self {
        let master = |(leaf, value): (Tensor, Tensor)| {
            let adamw = AdamW::new(config.clone(), &value);
            Master { leaf, value, gradient: None, adamw }
        };
        Self(pairs.into_iter().map(master).collect())
    }

    pub fn leaves(&self) -> Vec<&Tensor> {
        self.0.iter().map(|master| &master.leaf).collect()
    }

    /// Adds a gradient for each leaf, and moves it to the master's device; `None` adds nothing.
    pub fn add(&mut self, gradients: Vec<Option<Tensor>>) {
        for (master, gradient) in self.0.iter_mut().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let gradient = gradient.to_device(master.value.device()).to_kind(master.value.kind());
            master.gradient = Some(match master.gradient.take() {
                None => gradient,
                Some(sum) => sum + gradient,
            });
        }
    }

    /// One update with the mean of `count` added gradients, scaled to norm `most` if its norm is larger. Returns the
    /// norm before. If that is not finite, nothing is updated.
    ///
    /// # Errors
    /// The same as [`AdamW::step`].
    pub fn step(&mut self, count: usize, most: f64, learning_rate: f64) -> Result<f64> {
        let squares = self.0.iter().filter_map(|m| Some(m.gradient.as_ref()?.norm().double_value(&[]).powi(2)));
        let norm = squares.sum::<f64>().sqrt() / count as f64;
        let factor = clipping(norm, most) / count as f64;
        for Master { leaf, value, gradient, adamw } in &mut self.0 {
            let Some(gradient) = gradient.take().filter(|_| norm.is_finite()) else { continue };
            adamw.step(value, &(gradient * factor), learning_rate)?;
            if leaf.data_ptr() != value.data_ptr() {
                tch::no_grad(|| leaf.copy_(value));
            }
        }
        Ok(norm)
    }

    /// The master copies, in the order of the leaves. Everything else is dropped.
    pub fn into_values(self) -> impl Iterator<Item = Tensor> {
        self.0.into_iter().map(|master| master.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn one(kind: Kind) -> Masters {
        let value = Tensor::ones([3], (Kind::Float, Device::Cpu));
        let leaf = value.to_kind(kind).detach().set_requires_grad(true);
        Masters::new([(leaf, value)], &Optimizer { weight_decay: 0.0, ..Default::default() })
    }

    fn step(masters: &mut Masters, gradients: &[f64]) -> f64 {
        for gradient in gradients {
            let gradient = masters.leaves()[0].full_like(*gradient);
            masters.add(vec![Some(gradient.detach())]);
        }
        masters.step(gradients.len(), 1.0, 1e-3).unwrap()
    }

    /// A step of 0.001 is lost on a bfloat16 near 1, whose next neighbour is 0.004 away; the sum of four steps is not.
    #[test]
    fn small_steps_add_up_in_half_precision() {
        let mut masters = one(Kind::BFloat16);
        let leaf = |masters: &Masters| masters.leaves()[0].double_value(&[0]);
        step(&mut masters, &[0.5]);
        assert_eq!(leaf(&masters), 1.0);
        for _ in 0..3 {
            step(&mut masters, &[0.5]);
        }
        assert_eq!(leaf(&masters), 1.0 - 1.0 / 256.0);
        let value = masters.into_values().next().unwrap().double_value(&[0]);
        assert!((value - 0.996).abs() < 1e-6, "{value}");
    }

    #[test]
    fn leaves_that_are_their_own_masters_follow() {
        let mut masters = one(Kind::Float);
        step(&mut masters, &[0.5]);
        assert!((masters.leaves()[0].double_value(&[0]) - 0.999).abs() < 1e-6);
        assert!(masters.leaves()[0].requires_grad());
    }

    /// The mean of two gradients is used; a gradient that is not finite changes nothing.
    #[test]
    fn the_norm_is_that_of_the_mean() {
        let mut masters = one(Kind::Float);
        assert!((step(&mut masters, &[1.0, 3.0]) - 2.0 * 3f64.sqrt()).abs() < 1e-6);
        let before = masters.leaves()[0].detach().copy();
        assert!(step(&mut masters, &[1.0, f64::NAN]).is_nan());
        assert_eq!(masters.leaves()[0].detach(), before);
    }
}
