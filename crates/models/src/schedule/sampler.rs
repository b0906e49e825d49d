//! A sampler as a list of linear steps.

use tch::Tensor;

/// One step of a sampler: `x' = a x + b e + sigma z`; a second-order step also adds the terms of `before`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Time in training steps, the input of the UNet; may lie between two steps.
    pub time: f64,
    pub a: f64,
    pub b: f64,
    pub sigma: f64,
    /// For a second-order step: the factors of the latents and of the model's output of the step before.
    pub before: Option<(f64, f64)>,
}

impl Step {
    /// A first-order step: `x' = a x + b e + sigma z`.
    pub fn new(time: f64, a: f64, b: f64, sigma: f64) -> Self {
        Self { time, a, b, sigma, before: None }
    }

    /// Applies the step to latents x, model output e and noise z, all of the same shape. Without z, no noise is added.
    /// The terms of `before` are not added here; [`Walk`] adds them.
    pub fn apply(&self, x: &Tensor, e: &Tensor, z: Option<&Tensor>) -> Tensor {
        let next = x * self.a + e * self.b;
        match z {
            Some(z) if self.sigma != 0.0 => next + z * self.sigma,
            _ => next,
        }
    }
}

/// All steps from noise to image.
#[derive(Debug, Clone)]
pub struct Sampler {
    pub steps: Vec<Step>,
    /// Standard deviation of the initial latents; the noise is drawn with a deviation of 1.
    deviation: f64,
}

impl Sampler {
    /// A sampler whose initial noise has standard deviation 1.
    pub fn of(steps: Vec<Step>) -> Self {
        Self { steps, deviation: 1.0 }
    }

    pub(super) fn starting_at(self, deviation: f64) -> Self {
        Self { deviation, ..self }
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The latents before the first step, from noise with standard deviation 1.
    pub fn start(&self, noise: Tensor) -> Tensor {
        if self.deviation == 1.0 { noise } else { noise * self.deviation }
    }

    /// The steps from `first` on; only for samplers of first order.
    pub fn from(&self, first: usize) -> Self {
        Self::of(self.steps.iter().skip(first).copied().collect())
    }

    pub fn is_stochastic(&self) -> bool {
        self.draws() > 0
    }

    /// The number of steps that add noise.
    pub fn draws(&self) -> usize {
        self.steps.iter().filter(|step| step.sigma != 0.0).count()
    }
}

/// Takes the steps of a sampler one after the other, and stores what second-order steps need.
#[derive(Debug, Default)]
pub struct Walk {
    before: Option<(Tensor, Tensor)>,
    /// Whether the sampler is of second order.
    remembers: bool,
}

impl Walk {
    pub fn along(sampler: &Sampler) -> Self {
        Self { before: None, remembers: sampler.steps.iter().any(|step| step.before.is_some()) }
    }

    /// The latents after the step; see [`Step::apply`].
    pub fn step(&mut self, step: &Step, x: &Tensor, e: &Tensor, z: Option<&Tensor>) -> Tensor {
        let mut next = step.apply(x, e, z);
        if let (Some((of_x, of_e)), Some((x, e))) = (step.before, &self.before) {
            next = next + x * of_x + e * of_e;
        }
        if self.remembers {
            self.before = Some((x.shallow_clone(), e.shallow_clone()));
        }
        next
    }
}
