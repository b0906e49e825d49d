//! Prodigy (Mishchenko and Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", 2023): AdamW whose
//! learning rate is multiplied by a lower estimate of the distance to the solution, computed from the gradients.
//! Algorithm 4 of the paper with the options of its authors' package `prodigyopt`, on one flat buffer.

use super::{State, StateMut, Stateful};
use config::{Optimizer, Rule};
use tch::{Kind, Tensor};

pub struct Prodigy {
    config: Optimizer,
    settings: config::Prodigy,
    /// Running means of the gradient and of its square, weighted by the distance, flat.
    mean: Tensor,
    square: Tensor,
    /// The values before the first update, and the running sum of weighted gradients.
    start: Tensor,
    sum: Tensor,
    /// Updates made so far.
    updates: u64,
    /// The estimate of the distance, the largest one so far, and the numerator of the estimate.
    pub distance: f64,
    largest: f64,
    numerator: f64,
}

impl Prodigy {
    /// For a buffer with these values.
    pub fn new(config: Optimizer, values: &Tensor) -> Self {
        let settings = config.prodigy.clone().unwrap_or_default();
        let zeros = || values.zeros_like();
        let distance = settings.d0;
        Self {
            config,
            settings,
            mean: zeros(),
            square: zeros(),
            start: values.copy(),
            sum: zeros(),
            updates: 0,
            distance,
            largest: distance,
            numerator: 0.0,
        }
    }

    /// One update of the values, in place. As long as all gradients have been zero, nothing changes.
    pub fn step(&mut self, values: &mut Tensor, gradient: &Tensor, learning_rate: f64) {
        tch::no_grad(|| self.update(values, gradient, learning_rate));
    }

    fn update(&mut self, values: &mut Tensor, gradient: &Tensor, learning_rate: f64) {
        let Optimizer { betas: [beta1, beta2], weight_decay, epsilon, .. } = self.config;
        let (d, d0, beta3) = (self.distance, self.settings.d0, beta2.sqrt());
        let unbias = |beta: f64| 1.0 - beta.powi(self.updates as i32 + 1);
        let correction = if self.settings.bias_correction { unbias(beta2).sqrt() / unbias(beta1) } else { 1.0 };
        let rate = d * learning_rate * correction;

        let _ = self.mean.g_mul_scalar_(beta1).g_add_(&(gradient * (d * (1.0 - beta1))));
        let _ = self.square.g_mul_scalar_(beta2).g_add_(&(gradient.square() * (d * d * (1.0 - beta2))));
        let weight = d / d0 * if self.settings.safeguard_warmup { d } else { rate };
        let _ = self.sum.g_mul_scalar_(beta3).g_add_(&(gradient * weight));
        let gone = (gradient * (&self.start - &*values)).sum(Kind::Double).double_value(&[]);
        let numerator = self.numerator * beta3 + d / d0 * rate * gone;
        let denominator = self.sum.abs().sum(Kind::Double).double_value(&[]);
        if denominator == 0.0 {
            return;
        }
        if learning_rate > 0.0 {
            self.guess(self.settings.d_coef * numerator / denominator);
        }
        self.numerator = numerator;

        let deviation = self.square.sqrt() + self.distance * epsilon;
        let update = match beta1 {
            0.0 => gradient * self.distance,
            _ => self.mean.shallow_clone(),
        };
        if weight_decay != 0.0 {
            // at first the rate is so small that `1 - decay` would lose most of its digits
            let decay = &*values * (-weight_decay * rate);
            let _ = values.g_add_(&decay);
        }
        let _ = values.g_add_(&(update / deviation * -rate));
        self.updates += 1;
    }

    /// Updates the distance with a new estimate. The first one that is larger than `d0` is taken as it is; from then on
    /// growth is bounded.
    fn guess(&mut self, guess: f64) {
        let first = if self.distance == self.settings.d0 { self.distance.max(guess) } else { self.distance };
        self.largest = self.largest.max(guess);
        self.distance = match self.settings.growth_rate {
            0.0 => self.largest,
            rate => self.largest.min(first * rate),
        };
    }
}

impl Stateful for Prodigy {
    fn rule(&self) -> Rule {
        Rule::Prodigy
    }

    fn state(&self) -> State<'_> {
        State {
            tensors: vec![("mean", &self.mean), ("square", &self.square), ("start", &self.start), ("sum", &self.sum)],
            numbers: vec![("distance", self.distance), ("largest", self.largest), ("numerator", self.numerator)],
            updates: self.updates,
        }
    }

    fn state_mut(&mut self) -> StateMut<'_> {
        StateMut {
            tensors: vec![
                ("mean", &mut self.mean),
                ("square", &mut self.square),
                ("start", &mut self.start),
                ("sum", &mut self.sum),
            ],
            numbers: vec![
                ("distance", &mut self.distance),
                ("largest", &mut self.largest),
                ("numerator", &mut self.numerator),
            ],
            updates: &mut self.updates,
        }
    }
}
