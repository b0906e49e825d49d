//! Losses of single denoising steps. In the replay, their gradients are added to the gradient that comes from the
//! image.
//!
//! To add one, write a type with [`StepLoss`] and a line in [`crate::train::iterate`].

use anyhow::Result;
use models::{network::Layer, schedule::Step};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

/// A loss of single denoising steps. Threads may use it at the same time, each with samples of its own.
pub trait StepLoss: Sync {
    /// The tracked steps that have this loss.
    fn steps(&self) -> &BTreeSet<usize>;

    /// Whether the loss needs the cross-attention maps ([`Replayed::maps`]). They are computed only if some loss does.
    fn looks_at_maps(&self) -> bool {
        false
    }

    /// The loss of some samples at one step, as part of the batch's loss: any number of terms, each with its gradient.
    ///
    /// # Errors
    /// Errors of the networks it uses.
    fn terms(&self, seen: &Replayed) -> Result<Vec<Term>>;
}

/// A step that is run again for some samples, with gradient.
pub struct Replayed<'a> {
    pub step: &'a Step,
    /// The latents before the step, `[b, C, h, w]`; in `chained` mode a leaf of the graph.
    pub latents: &'a Tensor,
    /// The guided model output, `[b, C, h, w]`, with its graph.
    pub output: &'a Tensor,
    /// The maps of the conditional half, with their graph; empty if no loss needs them.
    pub maps: &'a [Layer],
    /// Start and length: which of the replayed samples these are.
    pub rows: (usize, usize),
    /// Number of samples of the batch that losses are means over.
    pub batch: usize,
}

/// A term of a step's loss.
pub struct Term {
    /// The name under which its values are summed over steps and samples.
    pub name: &'static str,
    /// Not weighted, and still on the device.
    pub value: Tensor,
    pub gradient: TermGradient,
}

/// How the gradient of a term reaches the adapter; weighted.
pub enum TermGradient {
    /// A scalar with a graph. In `chained` mode its gradient also reaches earlier steps through the step's input.
    Loss(Tensor),
    /// A cotangent at the model's output, `[b, C, h, w]`. It affects this step alone and does not reach earlier steps.
    AtOutput(Tensor),
}

/// Sums of loss values by name, not weighted.
pub type Values = BTreeMap<&'static str, f64>;

/// Reads all values from the device at once.
pub fn read(values: Vec<(&'static str, Tensor)>) -> Result<Values> {
    let mut sums = Values::new();
    if values.is_empty() {
        return Ok(sums);
    }
    let all: Vec<Tensor> = values.iter().map(|(_, value)| value.to_kind(Kind::Double)).collect();
    for ((name, _), value) in values.iter().zip(Vec::<f64>::try_from(&Tensor::stack(&all, 0))?) {
        *sums.entry(name).or_default() += value;
    }
    Ok(sums)
}
