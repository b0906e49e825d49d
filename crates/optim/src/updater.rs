//! The optimiser of a run (AdamW or Prodigy), and its state for checkpoints.

use super::{AdamW, Prodigy};
use anyhow::Result;
use config::{Optimizer, Rule};
use tch::Tensor;

/// The state of an optimiser. Tensors are flat, like the values that it updates.
pub struct State<'a> {
    pub tensors: Vec<(&'static str, &'a Tensor)>,
    pub numbers: Vec<(&'static str, f64)>,
    /// Updates made so far.
    pub updates: u64,
}

/// The same state, to be restored.
pub struct StateMut<'a> {
    pub tensors: Vec<(&'static str, &'a mut Tensor)>,
    pub numbers: Vec<(&'static str, &'a mut f64)>,
    pub updates: &'a mut u64,
}

pub trait Stateful {
    fn rule(&self) -> Rule;
    fn state(&self) -> State<'_>;
    fn state_mut(&mut self) -> StateMut<'_>;
}

pub enum Updater {
    AdamW(AdamW),
    Prodigy(Prodigy),
}

impl Updater {
    /// For a buffer with these values.
    pub fn new(config: &Optimizer, values: &Tensor) -> Self {
        match config.kind {
            Rule::AdamW => Self::AdamW(AdamW::new(config.clone(), values)),
            Rule::Prodigy => Self::Prodigy(Prodigy::new(config.clone(), values)),
        }
    }

    /// One update of the values, in place.
    ///
    /// # Errors
    /// The same as [`AdamW::step`].
    pub fn step(&mut self, values: &mut Tensor, gradient: &Tensor, learning_rate: f64) -> Result<()> {
        match self {
            Self::AdamW(adamw) => adamw.step(values, gradient, learning_rate),
            Self::Prodigy(prodigy) => {
                prodigy.step(values, gradient, learning_rate);
                Ok(())
            }
        }
    }

    /// Prodigy's estimate of the distance to the solution, which its learning rate is multiplied by.
    pub fn distance(&self) -> Option<f64> {
        match self {
            Self::AdamW(_) => None,
            Self::Prodigy(prodigy) => Some(prodigy.distance),
        }
    }
}

impl Stateful for Updater {
    fn rule(&self) -> Rule {
        match self {
            Self::AdamW(adamw) => adamw.rule(),
            Self::Prodigy(prodigy) => prodigy.rule(),
        }
    }

    fn state(&self) -> State<'_> {
        match self {
            Self::AdamW(adamw) => adamw.state(),
            Self::Prodigy(prodigy) => prodigy.state(),
        }
    }

    fn state_mut(&mut self) -> StateMut<'_> {
        match self {
            Self::AdamW(adamw) => adamw.state_mut(),
            Self::Prodigy(prodigy) => prodigy.state_mut(),
        }
    }
}

impl Stateful for AdamW {
    fn rule(&self) -> Rule {
        Rule::AdamW
    }

    fn state(&self) -> State<'_> {
        State { tensors: vec![("mean", &self.mean), ("square", &self.square)], numbers: vec![], updates: self.updates }
    }

    fn state_mut(&mut self) -> StateMut<'_> {
        StateMut {
            tensors: vec![("mean", &mut self.mean), ("square", &mut self.square)],
            numbers: vec![],
            updates: &mut self.updates,
        }
    }
}
