//! AdamW (Loshchilov and Hutter 2019) and Prodigy on one flat buffer; all matrices of an adapter are views of it. AdamW
//! also on [`Masters`]. A running average of the values ([`Ema`]).

mod ema;
mod masters;
mod prodigy;
#[cfg(test)]
mod testing;
mod updater;

use anyhow::Result;
use config::{Optimizer, RateSchedule};
use models::lora::Trainable;
use std::f64::consts::PI;
use tch::Tensor;
use torch_ext::lists;

pub use ema::Ema;
pub use masters::Masters;
pub use prodigy::Prodigy;
pub use updater::{State, StateMut, Stateful, Updater};

/// The learning rate at a step, counted from 0, of a run of `total` steps.
pub fn learning_rate(config: &Optimizer, step: u64, total: u64) -> f64 {
    let decay = match config.decay_steps {
        0 => 1.0,
        steps => (total.saturating_sub(step) as f64 / steps as f64).min(1.0),
    };
    if step < config.warmup_steps {
        return config.learning_rate * decay * (step + 1) as f64 / (config.warmup_steps + 1) as f64;
    }
    let rest = total.saturating_sub(config.warmup_steps).max(1);
    let progress = ((step - config.warmup_steps) as f64 / rest as f64).min(1.0);
    config.learning_rate
        * decay
        * match config.schedule {
            RateSchedule::Constant => 1.0,
            RateSchedule::Linear => 1.0 - progress,
            RateSchedule::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        }
}

/// A gradient buffer of the adapter's size, with a view of it for every matrix.
pub struct Gradients {
    pub flat: Tensor,
    views: Vec<Tensor>,
    /// If enabled: the sampler's steps that were replayed, in that order, and the gradient sum before each of them.
    steps: Option<Vec<(usize, Tensor)>>,
}

impl Gradients {
    pub fn zeros(adapter: &Trainable) -> Self {
        let flat = adapter.flat.zeros_like();
        Self { views: adapter.views_of(&flat), flat, steps: None }
    }

    /// An empty sum over the same matrices.
    pub fn zeros_like(&self) -> Self {
        let flat = self.flat.zeros_like();
        let mut start = 0;
        let view = |view: &Tensor| {
            let count = view.numel() as i64;
            start += count;
            flat.narrow(0, start - count, count).view_as(view)
        };
        Self { views: self.views.iter().map(view).collect(), flat, steps: None }
    }

    /// Adds what another sum over the same matrices has, which is empty then.
    pub fn take(&mut self, other: &mut Self) {
        let _ = self.flat.g_add_(&other.flat);
        let _ = other.flat.zero_();
    }

    /// Also records what each replayed step adds ([`Gradients::of_steps`]), at the cost of a copy of the buffer for
    /// each.
    pub fn step_by_step(self) -> Self {
        Self { steps: Some(vec![]), ..self }
    }

    /// The gradients added from now on belong to this step of the sampler.
    pub fn begin(&mut self, step: usize) {
        if let Some(steps) = &mut self.steps {
            steps.push((step, self.flat.copy()));
        }
    }

    /// The gradient that each replayed step has added, flat, in the order of the replay (the last step of the
    /// trajectory first).
    pub fn of_steps(&self) -> Vec<(usize, Tensor)> {
        let steps = self.steps.as_deref().unwrap_or_default();
        let after = steps.iter().skip(1).map(|(_, sum)| sum).chain([&self.flat]);
        steps.iter().zip(after).map(|((step, before), after)| (*step, after - before)).collect()
    }

    /// Adds one gradient for each matrix; `None` adds nothing.
    ///
    /// # Errors
    /// A gradient of another shape.
    pub fn add(&mut self, grads: &[Option<Tensor>]) -> Result<()> {
        let (sums, addends): (Vec<&Tensor>, Vec<&Tensor>) =
            self.views.iter().zip(grads).filter_map(|(view, grad)| Some((view, grad.as_ref()?))).unzip();
        Ok(lists::add_to_all(&sums, &addends)?)
    }

    /// One view for each matrix, in the order of `Lora::parameters`.
    pub fn views(&self) -> &[Tensor] {
        &self.views
    }

    pub fn scale(&mut self, factor: f64) {
        let _ = self.flat.g_mul_scalar_(factor);
    }

    /// Scales the gradient to norm `most` if its norm is larger; returns the norm before.
    pub fn clip(&mut self, most: f64) -> f64 {
        let norm = self.flat.norm().double_value(&[]);
        match clipping(norm, most) {
            1.0 => {}
            factor => self.scale(factor),
        }
        norm
    }
}

/// The factor that clips a gradient of this norm.
fn clipping(norm: f64, most: f64) -> f64 {
    if norm > most { most / (norm + 1e-6) } else { 1.0 }
}

pub struct AdamW {
    config: Optimizer,
    /// Running means of the gradient and of its square, flat.
    pub mean: Tensor,
    pub square: Tensor,
    /// Updates made so far.
    pub updates: u64,
}

impl AdamW {
    /// For a buffer with the shape of these values.
    pub fn new(config: Optimizer, values: &Tensor) -> Self {
        Self { config, mean: values.zeros_like(), square: values.zeros_like(), updates: 0 }
    }

    /// One update of the values, in place.
    ///
    /// # Errors
    /// Values that are not contiguous, or a gradient of another size or kind.
    pub fn step(&mut self, values: &mut Tensor, gradient: &Tensor, learning_rate: f64) -> Result<()> {
        let Optimizer { betas, weight_decay, epsilon, .. } = self.config;
        self.updates += 1;
        let rule = lists::AdamW { learning_rate, betas, weight_decay, epsilon };
        Ok(rule.step(values, gradient, [&mut self.mean, &mut self.square], self.updates)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(schedule: RateSchedule, warmup_steps: u64) -> Optimizer {
        Optimizer { learning_rate: 1.0, schedule, warmup_steps, ..Default::default() }
    }

    #[test]
    fn rates() {
        let rates = |c: &Optimizer| (0..=8).map(|s| learning_rate(c, s, 8)).collect::<Vec<_>>();
        assert_eq!(rates(&config(RateSchedule::Constant, 0)), [1.0; 9]);
        let decaying = Optimizer { decay_steps: 4, ..config(RateSchedule::Constant, 1) };
        assert_eq!(rates(&decaying), [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
        let both = Optimizer { decay_steps: 8, ..config(RateSchedule::Constant, 3) };
        assert_eq!(rates(&both)[..5], [0.25, 0.4375, 0.5625, 0.625, 0.5], "decay in the warm-up, too");
        let linear = rates(&config(RateSchedule::Linear, 0));
        assert_eq!((linear[0], linear[4], linear[8]), (1.0, 0.5, 0.0));
        let cosine = rates(&config(RateSchedule::Cosine, 4));
        assert_eq!(&cosine[..5], [0.2, 0.4, 0.6, 0.8, 1.0]);
        assert!((cosine[6] - 0.5).abs() < 1e-12 && cosine[8].abs() < 1e-12);
    }

    /// Three updates of one weight, worked out by hand from the paper's algorithm 2 with constant gradients 1, 1, -1.
    #[test]
    fn adamw_follows_the_paper() {
        let (rate, decay, eps, b1, b2) = (0.1, 0.01, 1e-8, 0.9, 0.999);
        let (mut w, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        let mut adapter = crate::testing::one_matrix(1.0);
        let config = Optimizer { learning_rate: rate, ..Default::default() };
        let mut adamw = AdamW::new(config, &adapter.flat);
        for (t, g) in [(1, 1.0), (2, 1.0), (3, -1.0)] {
            m = b1 * m + (1.0 - b1) * g;
            v = b2 * v + (1.0 - b2) * g * g;
            w -= rate * decay * w;
            w -= rate * (m / (1.0 - f64::powi(b1, t))) / ((v / (1.0 - f64::powi(b2, t))).sqrt() + eps);
            let mut gradients = Gradients::zeros(&adapter);
            let _ = gradients.flat.fill_(g);
            adamw.step(&mut adapter.flat, &gradients.flat, rate).unwrap();
        }
        assert!((adapter.flat.double_value(&[0]) - w).abs() < 1e-12);
        let seen = adapter.lora.parameters()[0].1.double_value(&[0, 0]);
        assert_eq!(seen, adapter.flat.double_value(&[0]), "the matrices are views of the buffer");
    }

    #[test]
    fn clipping_keeps_the_direction() {
        let adapter = crate::testing::one_matrix(1.0);
        let mut gradients = Gradients::zeros(&adapter);
        let _ = gradients.flat.fill_(3.0);
        let norm = gradients.clip(0.5);
        assert!((norm - 3.0 * (adapter.flat.numel() as f64).sqrt()).abs() < 1e-9);
        assert!((gradients.flat.norm().double_value(&[]) - 0.5).abs() < 1e-5);
        assert_eq!(gradients.clip(1.0), gradients.flat.norm().double_value(&[]));
    }
}
