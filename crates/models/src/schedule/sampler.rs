//! A sampler as a list of linear steps.

use tch::Tensor;

/// One step of a sampler: `x' = a x + b e + sigma z`, and in the second order also what `before` says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Time in training steps, as input of the UNet; may lie between two of them.
    pub time: f64,
    pub a: f64,
    pub b: f64,
    pub sigma: f64,
    /// For a step of second order: the factors of the latents and the model's output of the step before.
    pub before: Option<(f64, f64)>,
}

impl Step {
    /// A step of first order: `x' = a x + b e + sigma z`.
    pub fn new(time: f64, a: f64, b: f64, sigma: f64) -> Self {
        Self { time, a, b, sigma, before: None }
    }

    /// latents x, model output e and noise z, all of one shape. Without z the step is taken without noise. What came before
    /// is left out: [`Walk`] has it.
    pub fn apply(&self, x: &Tensor, e: &Tensor, z: Option<&Tensor>) -> Tensor {
        let next = x * self.a + e * self.b;
        match z {
            Some(z) if self.sigma != 0.0 => next + z * self.sigma,
            _ => next,
        }
    }
}

/// The whole way from noise to image.
#[derive(Debug, Clone)]
pub struct Sampler {
    pub steps: Vec<Step>,
    /// Standard deviation of the initial latents; the noise is drawn with a deviation of 1.
    deviation: f64,
}

impl Sampler {
    /// From noise of deviation 1.
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

    /// The latents before the first step, from noise of deviation 1.
    pub fn start(&self, noise: Tensor) -> Tensor {
        if self.deviation == 1.0 { noise } else { noise * self.deviation }
    }

    /// From a step on; of a sampler whose steps know nothing of each other.
    pub fn from(&self, first: usize) -> Self {
        Self::of(self.steps.iter().skip(first).copied().collect())
    }

    pub fn is_stochastic(&self) -> bool {
        self.draws() > 0
    }

    /// The number of steps that take noise.
    pub fn draws(&self) -> usize {
        self.steps.iter().filter(|step| step.sigma != 0.0).count()
    }
}

/// Takes the steps of a sampler one after the other, and remembers what those of second order need.
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
